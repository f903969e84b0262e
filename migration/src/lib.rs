//! What a port takes along when its guest migrates: the place of the state format, the compatibility checks and the handoff between
//! `vswitch`, whose state they read, and `backend`, which carries it. No port is handed over yet, so nothing is here yet.
#![forbid(unsafe_code)]
