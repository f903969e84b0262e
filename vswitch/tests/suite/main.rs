//! Rules of the switch, one test each, named after the rule; and properties over random input.

mod checksums;
mod evasion;
mod fdb;
mod flow_cache;
mod guards;
mod headers;
mod hostile_bytes;
mod limits;
mod offload_header;
mod packets;
mod receiver;
mod rules;
mod segmentation;
mod support;
