//! Provider addresses that lookup records name, as small numbers.
//!
//! A number stands for its address for as long as any record names it, as the place of now or of before its last move. An address of
//! IP rewrite stands for one customer address alone; which one is noted here, so that what comes for it is found. So is how long packets
//! on the way there may be, where a router said that they were too long.

use std::net::{IpAddr, Ipv6Addr};

use super::overlay::PaId;
use super::table::{Handle, Key, Table};
use crate::Nanos;

/// Provider addresses at most, those of IP rewrite included.
pub const LIMIT: u32 = 65_536;

/// The table. Reading is free of locks; writing is for [`super::records::Records`], which has its own.
#[derive(Debug)]
pub struct Peers {
    table: Table,
}

impl Peers {
    pub(super) fn new(seed: u64) -> Self {
        Self { table: Table::new(seed, LIMIT) }
    }

    /// The number of an address that some record names.
    #[inline]
    pub fn find(&self, address: IpAddr) -> Option<PaId> {
        self.table.find(&key(address)).map(|(handle, _)| PaId(handle.index()))
    }

    /// The address that a number stands for.
    pub fn address(&self, id: PaId) -> Option<IpAddr> {
        self.table.read(id.0).and_then(|(_, key, _)| address(&key))
    }

    /// The address that a number stands for, and how long packets to it may be, IP header included, by a router's word: up to a time.
    #[inline]
    pub(super) fn path(&self, id: PaId) -> Option<(IpAddr, u16, Nanos)> {
        let (_, key, [_, mtu, until]) = self.table.read(id.0)?;
        Some((address(&key)?, mtu as u16, until))
    }

    /// Notes how long packets to an address may be, and until when that holds.
    pub(super) fn set_path(&self, id: PaId, mtu: u16, until: Nanos) {
        if let Some((_, _, [record, ..])) = self.table.read(id.0) {
            self.table.update(id.0, [record, mtu.into(), until]);
        }
    }

    /// The record whose customer address alone an address stands for (IP rewrite): its place in the table of records.
    pub(super) fn stands_for(&self, address: IpAddr) -> Option<u32> {
        self.table.find(&key(address)).and_then(|(_, value)| u32::try_from(value[0]).ok()?.checked_sub(1))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every number and its address, in no order.
    pub fn list(&self) -> Vec<(PaId, IpAddr)> {
        let one = |id| self.address(PaId(id)).map(|address| (PaId(id), address));
        (0..self.table.extent()).filter_map(one).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// The number of an address, a new one if need be; `None` if there are too many.
    pub(super) fn intern(&self, address: IpAddr) -> Option<PaId> {
        let key = key(address);
        let found = self.table.find(&key).map(|(handle, _)| handle);
        found.or_else(|| self.table.insert(&key, [0; 3], 0)).map(|handle: Handle| PaId(handle.index()))
    }

    /// No record names it any more.
    pub(super) fn remove(&self, id: PaId) {
        if let Some((_, key, _)) = self.table.read(id.0) {
            self.table.remove(&key);
        }
    }

    /// Notes for which record an address stands; `None` = for none, if it did for `former`.
    pub(super) fn set_record(&self, id: PaId, record: Option<u32>, former: u32) {
        let Some((_, _, value)) = self.table.read(id.0) else { return };
        let new = match record {
            Some(record) => u64::from(record) + 1,
            None if value[0] == u64::from(former) + 1 => 0,
            None => return,
        };
        if value[0] != new {
            self.table.update(id.0, [new, value[1], value[2]]);
        }
    }
}

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => [u64::from(u32::from(v4)), 0, 4],
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            [bits as u64, (bits >> 64) as u64, 6]
        }
    }
}

fn address(key: &Key) -> Option<IpAddr> {
    match key[2] {
        4 => u32::try_from(key[0]).ok().map(|bits| IpAddr::V4(bits.into())),
        6 => Some(Ipv6Addr::from(u128::from(key[1]) << 64 | u128::from(key[0])).into()),
        _ => None,
    }
}
