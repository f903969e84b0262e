//! Network virtualization as its operator knows it.

pub mod check;
pub mod object;
pub mod objects;
