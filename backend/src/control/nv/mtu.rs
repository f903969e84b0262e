//! The MTU that guests of virtual subnets are offered: what the provider network carries, less what is put in front of their frames.
//!
//! Offered before a guest begins to use its device; what it has then stays, whatever is changed later.

use std::borrow::Cow;

use vswitch::nv::model::Encap;
use vswitch::nv::overlay::Reach;
use vswitch::nv::wire;
use vswitch::port::PortKind;

use super::records::RecordTable;
use crate::control::Switch;
use crate::control::model::{Device, PortConfig};

/// Smallest MTU of a port.
const LEAST: u16 = 68;

/// What is to be known for all ports.
pub(in crate::control) struct Offer {
    /// MTU of the provider network; `None` = guests are offered their ports' own.
    carried: Option<u16>,
    /// Whether a provider address is one of IPv6.
    is_ipv6: bool,
    records: Option<RecordTable>,
}

impl Switch {
    /// What guests are offered now.
    pub(in crate::control) fn nv_offered(&self) -> Offer {
        let uplinks = || self.ports.values().filter(|it| it.config.device.kind() == PortKind::Uplink);
        let used = |name: &str| self.nv.objects.providers().any(|provider| provider.uplink == name);
        let of_providers = uplinks().filter(|it| used(&it.config.name)).map(|it| it.mtu).min();
        let carried = of_providers.or_else(|| uplinks().map(|it| it.mtu).min());
        let is_ipv6 = self.nv.objects.providers().any(|provider| provider.address.addr().is_ipv6());
        Offer { carried: carried.filter(|_| self.settings.nv), is_ipv6, records: self.records.clone() }
    }
}

impl Offer {
    /// The port as its guest is to find it.
    pub(in crate::control) fn of<'a>(&self, port: &'a PortConfig) -> Cow<'a, PortConfig> {
        let (Some(carried), Some(vsid)) = (self.carried, port.policy.vsid) else {
            return Cow::Borrowed(port);
        };
        let Device::Guest { mtu, .. } = port.device else { return Cow::Borrowed(port) };
        let used = self.records.as_ref().map(|records| records.encaps(vsid)).unwrap_or_default();
        let used = if used.is_empty() { vec![Encap::default()] } else { used };
        // Without the outer Ethernet header, which the MTU of the provider network does not count.
        let most = used.into_iter().map(|encap| in_front(encap, self.is_ipv6)).max().unwrap_or(0);
        let room = carried.saturating_sub(most).max(LEAST);
        if room >= mtu {
            return Cow::Borrowed(port);
        }
        let mut port = port.clone();
        if let Device::Guest { mtu, .. } = &mut port.device {
            *mtu = room;
        }
        Cow::Owned(port)
    }
}

/// Bytes of a packet of the provider network before the customer's IP packet begins.
fn in_front(encap: Encap, is_ipv6: bool) -> u16 {
    match encap {
        Encap::Rewrite => 0,
        // What is in front of the customer's frame, less the outer Ethernet header, and the customer's own Ethernet header.
        tunnel => wire::overhead(tunnel, is_ipv6, false) as u16,
    }
}

impl RecordTable {
    /// How packets of a virtual subnet are carried.
    fn encaps(&self, vsid: u32) -> Vec<Encap> {
        let hosts = self.state().nv.records.hosts(vsid, Reach::All);
        let mut encaps: Vec<Encap> = hosts.into_iter().map(|(_, encap)| encap).collect();
        encaps.dedup();
        encaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_13_a_guest_has_1458_over_nvgre_1450_over_vxlan_and_20_less_over_ipv6() {
        assert_eq!(1500 - in_front(Encap::Nvgre, false), 1458);
        assert_eq!(1500 - in_front(Encap::Vxlan, false), 1450);
        assert_eq!(1500 - in_front(Encap::Nvgre, true), 1438);
        assert_eq!(1500 - in_front(Encap::Vxlan, true), 1430);
        assert_eq!(1500 - in_front(Encap::Rewrite, false), 1500);
    }
}
