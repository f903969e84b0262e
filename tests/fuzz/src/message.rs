//! Whole conversations of a front end: message parser, relay, control protocol, and the rings they start. Nothing may
//! panic, hang or leak a descriptor, whatever is said.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| backend::guest::fuzzing::front_end(input));
