//! The model as the data path follows it, and the data path's words as those of the model.

use std::collections::{BTreeMap, BTreeSet};

use vswitch::port::Port;
use vswitch::refusal::Refusal;
use vswitch::snapshot::Snapshot;

use super::extension::Extensions;
use super::model::{Device, PortConfig, Settings};
use super::path::DataPath;
use super::{DEFAULT_MTU, Entry, host, nv};
use crate::spec::DataplaneError;

/// The switch as the data path follows it.
pub(super) fn compile(
    epoch: u64,
    settings: &Settings,
    ports: &BTreeMap<String, Entry>,
    nv: &mut nv::Nv,
    extensions: &Extensions,
) -> Snapshot {
    // Names of virtual machines are known to the data path as numbers that hold for one snapshot.
    let vms: BTreeSet<&str> = ports.values().filter_map(|e| e.config.policy.vm.as_deref()).collect();
    let vms: BTreeMap<&str, u64> = vms.into_iter().zip(1..).collect();
    let port = |Entry { config, mtu, present, unmet, .. }: &Entry| Port {
        present: *present,
        unmet: *unmet,
        id: config.id,
        kind: config.device.kind(),
        mac: config.mac,
        mtu: *mtu,
        vm: config.policy.vm.as_deref().and_then(|name| vms.get(name).copied()),
        policy: config.compiled(),
    };
    let snapshot = Snapshot::new(epoch, settings.compiled(), ports.values().map(port).collect())
        .with_extensions(extensions.stack());
    if settings.nv { snapshot.with_nv(nv.policy(ports)) } else { snapshot }
}

/// Begins to serve a port.
pub(super) fn serve(data: &dyn DataPath, config: &PortConfig) -> Result<(), DataplaneError> {
    // Checked when the port was made and when it was read back.
    data.add(config, config.device.feature_bits().unwrap_or(0))
}

/// The MTU that a port begins with, in bytes.
pub(super) fn initial_mtu(device: &Device) -> u16 {
    match device {
        Device::Guest { mtu, .. } => *mtu,
        Device::Host { interface } | Device::Uplink { interface, .. } => {
            host::interface_mtu(interface).unwrap_or(DEFAULT_MTU)
        }
    }
}

/// The data path's error as a refusal with the same text.
pub(super) fn system(error: &DataplaneError) -> Refusal {
    match error {
        DataplaneError::Socket { path, reason } => {
            Refusal::SocketUnusable { path: path.to_string_lossy().into_owned(), reason: reason.clone() }
        }
        DataplaneError::Interface { interface, reason } => {
            Refusal::InterfaceUnusable { interface: interface.clone(), reason: reason.clone() }
        }
        DataplaneError::System { what, source } => {
            Refusal::System { what: (*what).to_owned(), reason: source.to_string() }
        }
    }
}
