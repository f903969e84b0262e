//! What a front end said that is still in force: enough to bring another protocol handler to where this one is.
//!
//! A successor process (or this one, when a take-over failed) hears the journal instead of the front end, which is told nothing. Only the
//! last message of each kind counts, so a journal is bounded: a few messages for the device, seven for each ring, and the regions of
//! guest memory, which are folded into one table. The descriptors are those that came with the messages.
//!
//! Where a ring continues is not in here: it continues at the used index in its own memory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::features;
use super::memory::MAX_REGIONS;
use super::message::{Message, request};

/// Bytes of one region in a memory message, and where the first begins.
const REGION: usize = 32;
const TABLE_HEAD: usize = 8;
/// Regions of one memory table message (`VHOST_USER_MAX_RAM_SLOTS` of the library); more are added one by one.
const TABLE: usize = 32;

/// Order in which the kinds are said again: memory before the log that must cover it and the rings in it, features before the rings.
const OWNER: u32 = 0;
const PROTOCOL: u32 = 1;
const MTU: u32 = 2;
const STATUS: u32 = 3;
const MEMORY: u32 = 4;
const LOG: u32 = 5;
const FEATURES: u32 = 6;
const RINGS: u32 = 8;

/// Order of a ring's messages.
const NUM: u32 = 0;
const BASE: u32 = 1;
const ADDR: u32 = 2;
const ERR: u32 = 3;
const CALL: u32 = 4;
const KICK: u32 = 5;
const ENABLE: u32 = 6;
const PER_RING: u32 = 8;

/// A region of guest memory as the front end described it.
#[derive(Debug)]
struct Region {
    bytes: [u8; REGION],
    file: OwnedFd,
}

impl Region {
    fn word(&self, index: usize) -> u64 {
        let at = 8 * index;
        self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    fn guest(&self) -> u64 {
        self.word(0)
    }

    /// Whether an address of the front end's own is inside.
    fn has(&self, user: u64) -> bool {
        user.checked_sub(self.word(2)).is_some_and(|offset| offset < self.word(1))
    }
}

/// The journal of one connection.
#[derive(Debug)]
pub(super) struct Journal {
    /// Rings of the port.
    rings: u32,
    said: BTreeMap<u32, Message>,
    regions: Vec<Region>,
}

impl Journal {
    /// Nothing was said yet.
    pub(super) fn new(rings: usize) -> Self {
        Self { rings: rings as u32, said: BTreeMap::new(), regions: Vec::new() }
    }

    /// Takes down a message that was passed on.
    pub(super) fn record(&mut self, message: Message) {
        let first = message.u32_at(0).unwrap_or(u32::MAX);
        let known = |index: u32| index < self.rings;
        let place = match message.request {
            request::SET_OWNER => OWNER,
            request::SET_PROTOCOL_FEATURES => PROTOCOL,
            request::NET_SET_MTU => MTU,
            request::SET_STATUS => STATUS,
            request::SET_LOG_BASE => LOG,
            request::SET_FEATURES => {
                if message.u64_at(0).is_ok_and(|bits| bits & features::PROTOCOL_FEATURES == 0) {
                    // Such a front end cannot enable rings: they all are, and stay so.
                    (0..self.rings).for_each(|ring| self.enabled(ring));
                }
                FEATURES
            }
            request::RESET_OWNER => {
                self.forget(&[OWNER, PROTOCOL, FEATURES]);
                return;
            }
            request::RESET_DEVICE => {
                self.forget(&[FEATURES]);
                (0..self.rings).for_each(|index| self.forget(&[ring(index, ENABLE)]));
                return;
            }
            request::SET_MEM_TABLE | request::ADD_MEM_REG | request::REM_MEM_REG => {
                self.memory(message);
                return;
            }
            request::GET_VRING_BASE if known(first) => {
                self.forget(&[ring(first, CALL), ring(first, KICK)]);
                return;
            }
            request::SET_VRING_NUM if known(first) => ring(first, NUM),
            request::SET_VRING_ADDR if known(first) => ring(first, ADDR),
            request::SET_VRING_BASE if known(first) => ring(first, BASE),
            request::SET_VRING_ENABLE if known(first) => ring(first, ENABLE),
            // The ring's number is the lowest byte; the flag for "no descriptor" is above it.
            request::SET_VRING_ERR if known(first & 0xff) => ring(first & 0xff, ERR),
            request::SET_VRING_CALL if known(first & 0xff) => ring(first & 0xff, CALL),
            request::SET_VRING_KICK if known(first & 0xff) => ring(first & 0xff, KICK),
            _ => return,
        };
        self.put(place, message);
    }

    /// The messages to say again, in order; none asks for an acknowledgement.
    pub(super) fn into_messages(mut self) -> Vec<Message> {
        let in_memory = |message: &Message| {
            // Descriptor table, used ring, available ring, as the front end addresses them.
            [8, 16, 24].iter().all(|at| {
                message.u64_at(*at).is_ok_and(|user| self.regions.iter().any(|region| region.has(user)))
            })
        };
        // The front end has let go of the memory under these: they do not run, and are given anew before they do.
        let stale: Vec<u32> = (0..self.rings)
            .filter(|index| self.said.get(&ring(*index, ADDR)).is_some_and(|message| !in_memory(message)))
            .collect();
        for index in stale {
            self.forget(&[ring(index, ADDR), ring(index, KICK)]);
        }
        let negotiated = self.said.get(&FEATURES).and_then(|message| message.u64_at(0).ok());
        if negotiated.is_some_and(|bits| bits & features::PROTOCOL_FEATURES == 0) {
            (0..self.rings).for_each(|index| self.forget(&[ring(index, ENABLE)]));
        }
        self.regions.sort_by_key(Region::guest);
        let rest = self.regions.split_off(self.regions.len().min(TABLE));
        let mut messages = Vec::with_capacity(self.said.len() + rest.len() + 1);
        let after = self.said.split_off(&MEMORY);
        messages.extend(self.said.into_values());
        if !self.regions.is_empty() {
            let mut table = Message::new(request::SET_MEM_TABLE, &(self.regions.len() as u64).to_ne_bytes());
            for region in self.regions {
                table.payload.extend_from_slice(&region.bytes);
                table.fds.push(region.file);
            }
            messages.push(table);
        }
        for region in rest {
            let mut add = Message::new(request::ADD_MEM_REG, &[0; TABLE_HEAD]);
            add.payload.extend_from_slice(&region.bytes);
            add.fds.push(region.file);
            messages.push(add);
        }
        messages.extend(after.into_values());
        messages
    }

    fn put(&mut self, place: u32, message: Message) {
        let mut kept = Message::new(message.request, &message.payload);
        kept.fds = message.fds;
        self.said.insert(place, kept);
    }

    fn enabled(&mut self, index: u32) {
        let bytes = (1u64 << 32 | u64::from(index)).to_ne_bytes();
        self.put(ring(index, ENABLE), Message::new(request::SET_VRING_ENABLE, &bytes));
    }

    fn forget(&mut self, places: &[u32]) {
        for place in places {
            self.said.remove(place);
        }
    }

    fn memory(&mut self, message: Message) {
        let Message { request, payload, fds, .. } = message;
        if request == request::SET_MEM_TABLE {
            self.regions.clear();
        }
        let regions = payload.get(TABLE_HEAD..).unwrap_or_default().chunks_exact(REGION);
        let mut bytes = regions.filter_map(|bytes| <[u8; REGION]>::try_from(bytes).ok());
        if request == request::REM_MEM_REG {
            if let Some(gone) = bytes.next() {
                // Address, size and the front end's own address say which; the offset need not be repeated.
                self.regions.retain(|region| region.bytes[..24] != gone[..24]);
            }
            return;
        }
        let room = MAX_REGIONS.saturating_sub(self.regions.len());
        self.regions.extend(bytes.zip(fds).take(room).map(|(bytes, file)| Region { bytes, file }));
    }
}

const fn ring(index: u32, kind: u32) -> u32 {
    RINGS + index * PER_RING + kind
}

#[cfg(test)]
mod tests;
