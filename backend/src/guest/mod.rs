//! Guest ports.

pub mod features;
