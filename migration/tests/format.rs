//! The port-state format: what is written is read again, what is not a state is refused with a reason (section 20, H27).

mod common;

use common::{any_state, full, large, plain};
use migration::format::{self, FormatError};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s20_2_every_state_is_read_as_it_was_written(state in any_state()) {
        let bytes = format::encode(&state).unwrap();
        prop_assert_eq!(format::decode(&bytes).unwrap(), state);
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
    }
}
