#![allow(missing_docs)]
use crate::state::PortState;
pub const MAX_SIZE: usize = 8 << 20;
#[derive(Debug)] pub struct FormatError;
impl std::fmt::Display for FormatError { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
impl std::error::Error for FormatError {}
pub fn encode(_: &PortState) -> Result<Vec<u8>, FormatError> { Err(FormatError) }
