//! Whose word a state is: forged, foreign, replayed and old ones are refused (section 20, design of the fleet key; H27).

mod common;

use common::{full, raw};
use migration::format;
use migration::seal::{FleetKey, Freshness, Opened, SealError, WINDOW_MS, next_epoch, open, peek, seal};
use migration::state::{Identity, PortState};
use vswitch::Mac;

const NOW: u64 = 1_790_000_000_000;
/// Bytes of the envelope before the state.
const HEADER: usize = 16;

fn key() -> FleetKey {
    let bytes: Vec<u8> = (0..32).collect();
    FleetKey::from_bytes(&bytes).unwrap()
}

fn other_key() -> FleetKey {
    FleetKey::from_bytes(&[7; 32]).unwrap()
}

fn state() -> PortState {
    full()
}

fn sealed(state: &PortState, key: Option<&FleetKey>) -> Vec<u8> {
    seal(&format::encode(state).unwrap(), key)
}

fn opened(bytes: &[u8], key: Option<&FleetKey>) -> Result<Opened, SealError> {
    open(bytes, key, &state().identity, 0, NOW, Freshness::Live)
}

#[test]
fn s20_2_a_sealed_state_is_believed_by_who_has_the_key() {
    let bytes = sealed(&state(), Some(&key()));
    assert_eq!(opened(&bytes, Some(&key())), Ok(Opened { state: state(), authenticated: true }));
}

#[test]
fn s20_2_without_a_key_a_state_is_read_and_not_believed() {
    let unauthenticated = Ok(Opened { state: state(), authenticated: false });
    assert_eq!(opened(&sealed(&state(), None), None), unauthenticated);
    assert_eq!(opened(&sealed(&state(), Some(&key())), None), unauthenticated);
    // Its epoch means nothing, since anybody could have written it.
    let any = open(&sealed(&state(), None), None, &state().identity, u64::MAX, 0, Freshness::Live);
    assert_eq!(any, unauthenticated);
}

#[test]
fn h27_a_state_without_a_code_is_refused_where_there_is_a_key() {
    let why = opened(&sealed(&state(), None), Some(&key())).unwrap_err();
    assert_eq!(why, SealError::NotSealed);
    assert_eq!(
        why.to_string(),
        "the state of the port is not authenticated; this switch has a fleet key and takes only states that a switch with \
         the same --fleet-key has saved"
    );
}

#[test]
fn h27_a_state_sealed_with_another_key_is_refused() {
    let why = opened(&sealed(&state(), Some(&other_key())), Some(&key())).unwrap_err();
    assert_eq!(why, SealError::Forged);
    assert_eq!(
        why.to_string(),
        "the state of the port does not verify with the fleet key of this switch: it was changed on its way, or the switch \
         that saved it has another --fleet-key"
    );
}

#[test]
fn h27_a_wider_policy_is_forged_whatever_its_checksum() {
    let honest = sealed(&state(), Some(&key()));
    let mut wider = state();
    wider.policy.rules.clear();
    wider.counters.out_bytes = 0;
    let mut forged = sealed(&wider, Some(&other_key()));
    let code = forged.len() - 32;
    forged[code..].copy_from_slice(&honest[honest.len() - 32..]);
    assert_eq!(opened(&forged, Some(&key())), Err(SealError::Forged));
    // The code taken away, or the envelope marked as one without.
    let mut stripped = honest[..honest.len() - 32].to_vec();
    stripped[10] = 0;
    assert_eq!(opened(&stripped, Some(&key())), Err(SealError::NotSealed));
}

#[test]
fn h27_a_sealed_state_with_any_bit_flipped_is_refused_even_if_its_checksum_is_right() {
    let good = sealed(&state(), Some(&key()));
    let end = good.len() - 32;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let plain = opened(&bytes, Some(&key())).unwrap_err();
        let expected = |why: &SealError| match bit / 8 {
            0..HEADER => matches!(why, SealError::Envelope(_)),
            _ => *why == SealError::Forged,
        };
        assert!(expected(&plain), "bit {bit}: {plain}");
        if (HEADER..end).contains(&(bit / 8)) {
            raw::repair(&mut bytes[HEADER..end]);
            // Flipping length or checksum and repairing it gives the state back.
            let same = bytes == good;
            assert_eq!(same, matches!(bit / 8 - HEADER, 12..20));
            assert_eq!(opened(&bytes, Some(&key())).err(), (!same).then_some(SealError::Forged), "bit {bit}");
        }
    }
}

#[test]
fn h27_without_a_key_a_flipped_bit_is_found_by_the_checksum() {
    let good = sealed(&state(), None);
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let why = opened(&bytes, None).unwrap_err();
        let envelope = matches!(why, SealError::Envelope(_));
        assert_eq!(envelope, bit / 8 < HEADER, "bit {bit}: {why}");
    }
}

#[test]
fn h27_an_envelope_cut_anywhere_is_refused() {
    for (key, bytes) in [(Some(key()), sealed(&state(), Some(&key()))), (None, sealed(&state(), None))] {
        for length in 0..bytes.len() {
            let why = opened(&bytes[..length], key.as_ref()).unwrap_err();
            assert!(matches!(why, SealError::Envelope(_)), "{length}: {why}");
        }
        assert!(opened(&[&bytes[..], b"x"].concat(), key.as_ref()).is_err());
    }
}

#[test]
fn h27_what_is_no_envelope_is_told_apart() {
    let text = |edit: fn(&mut Vec<u8>)| {
        let mut bytes = seal(b"state", None);
        edit(&mut bytes);
        opened(&bytes, None).unwrap_err().to_string()
    };
    let begin = "this is not a sealed state of a port: ";
    assert_eq!(text(Vec::clear), format!("{begin}it has 0 bytes; the envelope alone has 16"));
    assert_eq!(
        text(|b| b[1] = 0),
        format!(
            "{begin}it begins with [89, 00, 50, 53, 4c, 0d, 0a, 1a] instead of [89, 54, 50, 53, 4c, 0d, 0a, 1a]"
        )
    );
    assert_eq!(text(|b| b[8] = 2), format!("{begin}its envelope has version 2; this switch opens version 1"));
    let kinds = "0.0 (none) and 1.0 (HMAC-SHA256) are known";
    assert_eq!(text(|b| b[10] = 2), format!("{begin}its code is of kind 2.0; {kinds}"));
    assert_eq!(text(|b| b[11] = 1), format!("{begin}its code is of kind 0.1; {kinds}"));
    assert_eq!(text(|b| b[10] = 1), format!("{begin}it says that it has 53 bytes, but 21 are there"));
    assert_eq!(
        text(|b| b[12..16].fill(0xff)),
        format!("{begin}it says that it has {} bytes, but 21 are there", 16 + u64::from(u32::MAX))
    );
    assert_eq!(text(|_| ()), "5 bytes are not a port's state; its header alone has 20");
    // Raw states have no envelope.
    assert!(matches!(opened(&format::encode(&state()).unwrap(), None), Err(SealError::Envelope(_))));
}

#[test]
fn h27_another_ports_state_is_refused_with_and_without_a_key() {
    for key in [Some(key()), None] {
        let bytes = sealed(&state(), key.as_ref());
        let mac = Mac([0x52, 0x54, 0, 0, 0, 2]);
        for expected in
            [Identity { name: "db".into(), ..state().identity }, Identity { mac, ..state().identity }]
        {
            let why = open(&bytes, key.as_ref(), &expected, 0, NOW, Freshness::Live).unwrap_err();
            assert_eq!(
                why.to_string(),
                format!(
                    "the state is that of port 'web' with address 52:54:00:00:00:01; this is port '{}' with address {}",
                    expected.name, expected.mac
                )
            );
        }
    }
}

#[test]
fn h27_a_replayed_state_is_refused() {
    let bytes = sealed(&state(), Some(&key()));
    let at = |known| open(&bytes, Some(&key()), &state().identity, known, NOW, Freshness::Live);
    assert!(at(NOW - 1).is_ok());
    for known in [NOW, NOW + 1, u64::MAX] {
        let why = at(known).unwrap_err();
        assert_eq!(why, SealError::Replayed { epoch: NOW, known });
        assert_eq!(
            why.to_string(),
            format!(
                "the state of the port has epoch {NOW}, but epoch {known} is known already; only a newer one is taken"
            )
        );
    }
    let offline = open(&bytes, Some(&key()), &state().identity, NOW, NOW, Freshness::Offline);
    assert!(matches!(offline, Err(SealError::Replayed { .. })), "a file is no way round it");
}

#[test]
fn h27_a_switch_that_never_saw_the_port_takes_no_old_bill() {
    let bytes = sealed(&state(), Some(&key()));
    let at = |now, freshness| open(&bytes, Some(&key()), &state().identity, 0, now, freshness);
    assert!(at(NOW + WINDOW_MS, Freshness::Live).is_ok());
    let why = at(NOW + WINDOW_MS + 1, Freshness::Live).unwrap_err();
    assert_eq!(why, SealError::Stale { epoch: NOW, age_ms: WINDOW_MS + 1 });
    assert_eq!(
        why.to_string(),
        format!(
            "the state of the port was saved 600 s ago (epoch {NOW}); during a move at most 600 s are taken, an older one only \
             by 'turnpike migrate import'"
        )
    );
    assert!(at(NOW + 365 * 86_400_000, Freshness::Offline).is_ok());
    for freshness in [Freshness::Live, Freshness::Offline] {
        assert!(at(NOW - WINDOW_MS, freshness).is_ok());
        let why = at(NOW - WINDOW_MS - 1000, freshness).unwrap_err();
        assert_eq!(why, SealError::Future { epoch: NOW, ahead_ms: WINDOW_MS + 1000 });
        assert_eq!(
            why.to_string(),
            format!(
                "the state of the port was saved 601 s in the future (epoch {NOW}); at most 600 s are taken: set the clocks of \
                 both hosts"
            )
        );
    }
}

#[test]
fn h27_nothing_inside_is_read_before_the_code_is_right() {
    // Content that is no state at all: the refusal is about the code, not about the content.
    let bytes = seal(b"not a state", Some(&other_key()));
    assert_eq!(opened(&bytes, Some(&key())), Err(SealError::Forged));
    assert!(matches!(opened(&seal(b"not a state", Some(&key())), Some(&key())), Err(SealError::Format(_))));
}

#[test]
fn s20_2_whose_a_state_is_can_be_asked_without_the_key() {
    for key in [Some(key()), None] {
        assert_eq!(peek(&sealed(&state(), key.as_ref())), Ok(state().identity));
    }
    assert!(matches!(peek(b"rubbish"), Err(SealError::Envelope(_))));
    assert!(matches!(peek(&seal(b"not a state", None)), Err(SealError::Format(_))));
}

#[test]
fn s20_2_epochs_only_grow() {
    assert_eq!(next_epoch(0, NOW), NOW);
    assert_eq!(next_epoch(NOW - 5, NOW), NOW);
    assert_eq!(next_epoch(NOW, NOW), NOW + 1);
    assert_eq!(next_epoch(NOW + 5, NOW), NOW + 6, "the clock was set back");
    // Two saves in one millisecond are told apart, and each is taken after the other.
    let mut epoch = 0;
    for _ in 0..3 {
        let known = epoch;
        epoch = next_epoch(known, NOW);
        let bytes = sealed(&PortState { epoch, ..state() }, Some(&key()));
        assert!(open(&bytes, Some(&key()), &state().identity, known, NOW, Freshness::Live).is_ok());
    }
}

#[test]
fn s20_2_a_key_has_32_bytes_and_is_not_shown() {
    for length in [0, 31, 33, 64] {
        let why = FleetKey::from_bytes(&vec![1; length]).unwrap_err();
        assert_eq!(why.to_string(), format!("the fleet key has {length} bytes; it must have 32"));
    }
    assert_eq!(format!("{:?}", key()), "FleetKey(..)");
}

#[test]
fn s20_2_the_sealed_file_of_version_1_is_opened_for_ever() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-full-sealed.bin");
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(opened(&bytes, Some(&key())), Ok(Opened { state: state(), authenticated: true }));
    assert_eq!(sealed(&state(), Some(&key())), bytes);
}

#[test]
fn s20_2_the_whole_fits_what_a_front_end_may_bring() {
    const { assert!(migration::seal::MAX_SIZE <= 8 << 20) };
    assert_eq!(seal(&vec![0; format::MAX_SIZE], Some(&key())).len(), migration::seal::MAX_SIZE);
}
