//! Who is there: tenants of skewed sizes that all use the same addresses, and hosts their guests are spread over at random.

use std::net::IpAddr;
use std::ops::Range;

use vswitch::Mac;
use vswitch::nv::model::{Encap, Kind, Network, Rdid, Record, Subnet};

use crate::support::Random;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) hosts: usize,
    pub(super) tenants: usize,
    pub(super) guests: usize,
}

/// Guests of a large tenant, one in a hundred.
const LARGE: usize = 300;
/// Guests of a middling one, nine in a hundred.
const MIDDLING: usize = 30;

#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) guests: Range<usize>,
    pub(super) vsids: Range<u32>,
    encap: Encap,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) tenant: usize,
    pub(super) vsid: u32,
    pub(super) mac: Mac,
    pub(super) ca: IpAddr,
    /// The host where it runs, or ran last.
    pub(super) at: usize,
    /// Its port there.
    pub(super) port: u16,
    pub(super) runs: bool,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tenants: Vec<Tenant>,
    pub(super) guests: Vec<Guest>,
    pub(super) networks: Vec<Network>,
    pub(super) subnets: Vec<Subnet>,
}

/// A host's provider address, in a subnet of its own.
pub(super) fn pa(host: usize) -> IpAddr {
    IpAddr::from([172, 16 + (host >> 8) as u8, host as u8, 10])
}

/// The host that has a provider address.
pub(super) fn host_of(pa: [u8; 4]) -> usize {
    usize::from(pa[1] - 16) << 8 | usize::from(pa[2])
}

/// What the guest numbered `k` of a virtual subnet is called, in every tenant.
pub(super) fn address(third: u8, k: usize) -> IpAddr {
    IpAddr::from([10, third, (k >> 8) as u8 + 1, k as u8])
}

impl Plan {
    pub(super) fn new(size: Size, random: &mut Random) -> Self {
        let mut this =
            Self { tenants: Vec::new(), guests: Vec::new(), networks: Vec::new(), subnets: Vec::new() };
        let mut vsid = 4096;
        for (tenant, members) in sizes(size, random).into_iter().enumerate() {
            let count = if members >= MIDDLING { 2 } else { 1 };
            let name = format!("tenant-{tenant}");
            this.networks.push(Network { name: name.clone(), rdid: Rdid(tenant as u128 + 1) });
            for third in 0..count {
                let prefixes = vec![format!("10.{third}.0.0/16").parse().expect("a prefix")];
                let subnet =
                    Subnet { network: name.clone(), vsid: vsid + third, prefixes, gateways: Vec::new() };
                this.subnets.push(subnet);
            }
            let first = this.guests.len();
            for n in 0..members {
                let third = n as u32 % count;
                let (k, third8) = (n / count as usize, third as u8);
                let mac = Mac([2, 0, 0, third8, (k >> 8) as u8, k as u8]);
                let (ca, at) = (address(third8, k), random.below(size.hosts));
                this.guests.push(Guest { tenant, vsid: vsid + third, mac, ca, at, port: 0, runs: true });
            }
            let encap = if random.once_in(2) { Encap::Nvgre } else { Encap::Vxlan };
            let (guests, vsids) = (first..this.guests.len(), vsid..vsid + count);
            this.tenants.push(Tenant { guests, vsids, encap });
            vsid += count;
        }
        this
    }

    /// A guest's record, if it is at that host.
    pub(super) fn record(&self, guest: usize, host: usize) -> Record {
        let Guest { tenant, vsid, mac, ca, .. } = self.guests[guest];
        let encap = self.tenants[tenant].encap;
        Record { vsid, ca, mac, pa: pa(host), kind: Kind::Static, encap, rewrite_pa: None, next: None }
    }

    /// The guest that has an address in a tenant's network.
    pub(super) fn owner(&self, tenant: usize, ca: IpAddr) -> Option<usize> {
        self.tenants[tenant].guests.clone().find(|&guest| self.guests[guest].ca == ca)
    }

    /// Every virtual subnet and its customer network.
    pub(super) fn all_subnets(&self) -> impl Iterator<Item = (u32, usize)> + Clone {
        let of = |(n, tenant): (usize, &Tenant)| tenant.vsids.clone().map(move |vsid| (vsid, n));
        self.tenants.iter().enumerate().flat_map(of)
    }
}

/// Guests of each tenant: few tenants have most of them.
fn sizes(size: Size, random: &mut Random) -> Vec<usize> {
    let one = |tenant: usize| match tenant % 100 {
        0 => LARGE,
        1..10 => MIDDLING,
        _ => 1 + random.below(6),
    };
    let mut sizes: Vec<usize> = (0..size.tenants).map(one).collect();
    let mut rest = size.guests.saturating_sub(sizes.iter().sum());
    while rest > 0 {
        let tenant = random.below(size.tenants);
        if sizes[tenant] < MIDDLING {
            sizes[tenant] += 1;
            rest -= 1;
        }
    }
    sizes
}
