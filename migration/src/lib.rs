//! What a port takes along when its guest migrates. No I/O, clock or threads: bytes and times come in, decisions go out.
//!
//! `state` is what is remembered, in terms of `vswitch`; `backend` fills it and puts it into force.
#![forbid(unsafe_code)]

pub mod state;
pub mod format;
pub mod seal;
