//! What a port takes along when its guest migrates. No I/O, clock or threads: bytes and times come in, decisions go out.
//!
//! `state` is what is remembered, in terms of `vswitch`; `backend` fills it and puts it into force. `format` makes bytes of it and
//! judges those of strangers, `seal` says whose bytes they are.
#![forbid(unsafe_code)]

pub mod check;
pub mod format;
pub mod handoff;
pub mod seal;
pub mod state;
