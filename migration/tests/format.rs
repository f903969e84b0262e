//! The port-state format: what is written is read again, what newer versions say travels on, what is damaged is refused (section 20).

mod common;

use std::path::PathBuf;

use common::raw::{self, Fields};
use common::{any_state, full, large, plain};
use migration::format::{self, FormatError};
use migration::state::{PortState, UnknownField};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s20_2_every_state_is_read_as_it_was_written(state in any_state()) {
        let bytes = format::encode(&state).unwrap();
        prop_assert_eq!(format::decode(&bytes).unwrap(), state);
        // The bytes are what the documentation says, by a reader made from nothing else.
        prop_assert_eq!(raw::state(format::VERSION, &raw::group(&raw::top(&bytes))), bytes);
    }
}

#[test]
fn s20_2_the_whole_and_the_least_state_are_read_as_they_were_written() {
    for state in [plain(), full(), large(10_000, 1_000)] {
        assert_eq!(format::decode(&format::encode(&state).unwrap()), Ok(state));
    }
}

#[test]
fn h27_a_state_cut_anywhere_is_refused() {
    let bytes = format::encode(&full()).unwrap();
    for length in 0..bytes.len() {
        let why = format::decode(&bytes[..length]).unwrap_err();
        let expected = if length < format::HEADER {
            FormatError::TooShort { length }
        } else {
            FormatError::Length { said: bytes.len() as u32, length }
        };
        assert_eq!(why, expected);
        if length >= format::HEADER {
            let mut repaired = bytes[..length].to_vec();
            raw::repair(&mut repaired);
            let why = format::decode(&repaired).unwrap_err();
            assert!(
                matches!(why, FormatError::Truncated { .. } | FormatError::Missing { .. }),
                "{length}: {why}"
            );
        }
    }
}

#[test]
fn h27_a_state_with_any_bit_flipped_is_refused() {
    let bytes = format::encode(&full()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let why = format::decode(&flipped).unwrap_err();
        let expected = match bit / 8 {
            0..8 => matches!(why, FormatError::Magic { .. }),
            8..10 => matches!(why, FormatError::Version { .. }),
            12..16 => matches!(why, FormatError::Length { .. }),
            _ => matches!(why, FormatError::Checksum { .. }),
        };
        assert!(expected, "bit {bit}: {why}");
    }
}

/// What version 1.N+1 might write: new fields in front of, between and behind those of version 1.0, at top level and in groups.
fn newer() -> Vec<u8> {
    let add = |fields: &mut Fields, numbers: &[u16]| {
        fields.extend(numbers.iter().map(|&number| (number, format!("new {number}").into_bytes())));
        fields.sort();
    };
    let mut bytes = format::encode(&full()).unwrap();
    for group in [1, 4, 5, 6, 7] {
        bytes = raw::edited(&bytes, group, |fields| add(fields, &[0, 16, 20 + group, 0x7fff]));
    }
    // Fields of version 1.0 that are not there leave their neighbours where they are.
    bytes = raw::without(&bytes, 5, 8);
    raw::state(
        (1, 1),
        &raw::group(&{
            let mut all = raw::top(&bytes);
            add(&mut all, &[0, 13, 500, 0x7fff]);
            all
        }),
    )
}

#[test]
fn s20_2_what_a_newer_version_says_survives_a_stay_on_this_one() {
    let bytes = newer();
    let mut state = format::decode(&bytes).unwrap();
    assert_eq!(state.unknown.len(), 4 + 5 * 4);
    let field = |group, number| UnknownField { group, number, bytes: format!("new {number}").into_bytes() };
    for there in [field(0, 0), field(0, 500), field(1, 16), field(5, 25), field(6, 0x7fff)] {
        assert!(state.unknown.contains(&there), "{there:?}");
    }
    // All but the writer's minor version is as it was.
    let again = format::encode(&state).unwrap();
    assert_eq!(raw::state((1, 1), &raw::group(&raw::top(&again))), bytes);
    // And what this version changes meanwhile is changed.
    state.counters.out_packets += 1;
    state.sessions.clear();
    let moved = format::decode(&format::encode(&state).unwrap()).unwrap();
    assert_eq!(moved, state);
}

#[test]
fn s20_2_what_a_newer_version_says_of_metering_goes_with_it() {
    let mut state = format::decode(&newer()).unwrap();
    state.metering = None;
    let read = format::decode(&format::encode(&state).unwrap()).unwrap();
    state.unknown.retain(|field| field.group != 6);
    assert_eq!(read, state);
}

#[test]
fn s20_2_a_newer_field_that_must_be_known_is_refused_by_its_number() {
    let bytes = format::encode(&full()).unwrap();
    for (group, name) in
        [(0, "the state"), (1, "identity"), (4, "device"), (5, "policy"), (6, "metering"), (7, "counters")]
    {
        let text = format::decode(&raw::with(&bytes, group, 0x8fff, b"x")).unwrap_err().to_string();
        assert!(text.starts_with(&format!("field 36863 of {name} at offset ")), "{text}");
        assert!(text.contains("must not be ignored"), "{text}");
        assert!(format::decode(&raw::with(&bytes, group, 0x7fff, b"x")).is_ok());
    }
}

#[test]
fn s20_2_another_major_version_is_refused_by_name() {
    let bytes = format::encode(&full()).unwrap();
    for major in [0, 2, 0xffff] {
        let why = format::decode(&raw::state((major, 0), &raw::group(&raw::top(&bytes)))).unwrap_err();
        assert_eq!(why, FormatError::Version { major });
        assert_eq!(
            why.to_string(),
            format!("the state has format version {major}; this switch reads version 1")
        );
    }
}

#[test]
fn s20_2_a_state_that_nobody_could_read_is_not_written() {
    let with = |change: fn(&mut PortState)| {
        let mut state = full();
        change(&mut state);
        format::encode(&state).unwrap_err()
    };
    let text = with(|state| state.device.mtu = 9001).to_string();
    assert!(
        text.starts_with("device.mtu at offset ") && text.ends_with(" is 9001; valid: 68 to 9000 bytes"),
        "{text}"
    );
    // An address of the wrong family would be read as something else.
    let mixed = with(|state| state.sessions[0].remote = "2001:db8::1".parse().unwrap());
    assert!(!mixed.to_string().is_empty());
    assert_eq!(
        with(|state| {
            let field = |number| UnknownField { group: 0, number, bytes: Vec::new() };
            state.unknown = vec![field(101), field(100)];
        }),
        FormatError::Order {
            group: "the state",
            number: 100,
            before: 101,
            offset: format::encode(&full()).unwrap().len() + 6
        }
    );
    let field = UnknownField { group: 3, number: 100, bytes: vec![1] };
    let lost = format::encode(&PortState { unknown: vec![field], ..full() });
    assert_eq!(lost, Err(FormatError::NotSame), "field 3 is no group, so there is no place for it");
    let huge = UnknownField { group: 0, number: 100, bytes: vec![0; format::MAX_SIZE] };
    let length = format::encode(&full()).unwrap().len() + 6 + format::MAX_SIZE;
    let refused = format::encode(&PortState { unknown: vec![huge], ..full() });
    assert_eq!(refused, Err(FormatError::TooLarge { length, limit: format::MAX_SIZE }));
}

/// Name of a file that version 1 wrote, and what it says. They never change: a later version adds its own.
type Golden = (&'static str, fn() -> PortState);

const GOLDEN: [Golden; 2] = [("v1-plain", plain), ("v1-full", full)];

/// What states of version 1 did not have yet, as they are shown without it.
const LATER: [&str; 1] = ["        require_extension: [],\n"];

fn golden(name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.{extension}"))
}

#[test]
fn s20_2_files_of_version_1_are_read_and_written_for_ever() {
    for (name, state) in GOLDEN {
        let bytes = std::fs::read(golden(name, "bin")).unwrap();
        assert_eq!(format::decode(&bytes), Ok(state()), "{name}");
        assert_eq!(format::encode(&state()).unwrap(), bytes, "{name}");
        let text = std::fs::read_to_string(golden(name, "txt")).unwrap();
        let said = LATER.iter().fold(format!("{:#?}\n", state()), |said, later| said.replace(later, ""));
        assert_eq!(said, text, "{name}");
    }
    let newer = self::newer();
    assert_eq!(std::fs::read(golden("v1.1-with-newer-fields", "bin")).unwrap(), newer);
}

#[test]
#[ignore = "writes golden files that are missing, for a new version of the format"]
fn golden_files_are_written() {
    let write = |path: PathBuf, content: &[u8]| {
        if !path.exists() {
            std::fs::write(&path, content).unwrap();
        }
    };
    for (name, state) in GOLDEN {
        write(golden(name, "bin"), &format::encode(&state()).unwrap());
        write(golden(name, "txt"), format!("{:#?}\n", state()).as_bytes());
    }
    write(golden("v1.1-with-newer-fields", "bin"), &newer());
}
