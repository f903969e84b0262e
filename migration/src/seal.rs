#![allow(missing_docs)]
use crate::state::{PortState, Identity};
pub struct FleetKey([u8;32]);
impl FleetKey { pub fn from_bytes(b: [u8;32]) -> Self { Self(b) } }
#[derive(Debug)] pub struct SealError;
impl std::fmt::Display for SealError { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
impl std::error::Error for SealError {}
pub enum Freshness { Recent, Any }
pub struct Opened { pub state: PortState, pub authenticated: bool }
pub fn seal(b: &[u8], _: Option<&FleetKey>) -> Vec<u8> { b.to_vec() }
pub fn open(_: &[u8], _: Option<&FleetKey>, _: &Identity, _: u64, _: u64, _: Freshness) -> Result<Opened, SealError> { Err(SealError) }
pub fn peek(_: &[u8]) -> Result<Identity, SealError> { Err(SealError) }
pub fn next_epoch(k: u64, n: u64) -> u64 { n.max(k+1) }
