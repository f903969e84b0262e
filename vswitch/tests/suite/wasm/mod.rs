//! Extensions in WebAssembly: what ABI 1 means, and what hostile modules may not do.

mod abi;
mod hostile;
mod loading;
mod samples;
mod storms;
mod support;
