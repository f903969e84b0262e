//! Sessions: what stateful rules remember.
