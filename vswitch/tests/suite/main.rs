//! Rules of the switch, one test each, named after the rule; and properties over random input.

mod acl;
mod builtin_firewall;
mod builtin_sflow;
mod builtin_vepa;
mod checksums;
mod datagrams;
mod evasion;
mod extensions;
mod fdb;
mod flow_cache;
mod flow_policy;
mod guards;
mod headers;
mod hostile_bytes;
mod joining;
mod limits;
mod nv;
mod nv_nat;
mod nv_scale;
mod nv_wire;
mod offload_header;
mod packets;
mod presence;
mod receiver;
mod rules;
mod rules_extended;
mod segmentation;
mod sessions;
mod support;
mod trace_filter;
mod vlan;
#[cfg(feature = "wasm")]
mod wasm;
