//! Rules of the switch, one test each, named after the rule; and properties over random input.

mod acl;
mod checksums;
mod fdb;
mod flow_cache;
mod flow_policy;
mod hostile_bytes;
mod offload_header;
mod rules;
mod rules_extended;
mod segmentation;
mod sessions;
mod support;
