//! A port's state as a stranger may send it: as it is, sealed, and with header and checksum made right, so that what is behind them is
//! reached. What is taken is written again byte for byte and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migration::format::{self, HEADER, MAGIC, VERSION};
use migration::seal::{self, FleetKey, Freshness};
use migration::state::Identity;
use vswitch::Mac;

fuzz_target!(|input: &[u8]| {
    let _ = format::decode(input);
    let expected = Identity { name: "web".into(), mac: Mac([0x52, 0x54, 0, 0, 0, 1]) };
    let key = FleetKey::from_bytes(&[7; FleetKey::LENGTH]).expect("of the right length");
    for key in [None, Some(&key)] {
        let _ = seal::open(input, key, &expected, 0, 1_790_000_000_000, Freshness::Live);
    }

    // The input is a state without its magic number, version, length and checksum.
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.0.to_le_bytes());
    bytes.extend_from_slice(&VERSION.1.to_le_bytes());
    bytes.extend_from_slice(&((HEADER + input.len()) as u32).to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes);
    sum.update(input);
    bytes.extend_from_slice(&sum.finalize().to_le_bytes());
    bytes.extend_from_slice(input);
    let Ok(state) = format::decode(&bytes) else { return };
    assert_eq!(format::encode(&state).expect("what was read can be written"), bytes);

    let sealed = seal::seal(&bytes, Some(&key));
    let now = state.epoch;
    let opened = seal::open(&sealed, Some(&key), &state.identity, 0, now, Freshness::Live);
    match opened {
        Ok(opened) => assert!(opened.authenticated && opened.state == state),
        Err(why) => assert!(now == 0 && matches!(why, seal::SealError::Replayed { .. }), "{why}"),
    }
});
