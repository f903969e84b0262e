//! Isolation: random tenants with the same addresses, MAC addresses and neighbouring VSIDs, on several hosts. Nothing ever reaches another
//! tenant's port, and what should arrive arrives once, at the port that a naive reader of the same records names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vswitch::Mac;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::policy::ROUTER_MAC;

use super::frames::{arp, discovery, echo, udp, who_has};
use super::world::{Happened, World, pa, pa6, record};
use crate::support::Random;

const HOSTS: usize = 3;
const TENANTS: usize = 4;

/// A guest as the test knows it.
#[derive(Clone, Debug)]
struct Guest {
    tenant: usize,
    vsid: u32,
    mac: Mac,
    cas: Vec<IpAddr>,
    /// Where it is by its records, and where its ports are: one at every host.
    at: usize,
    port: u16,
}

struct Datacentre {
    world: World,
    guests: Vec<Guest>,
    records: BTreeMap<(u32, IpAddr), Record>,
    /// By virtual subnet: its tenant and the third byte of its prefix.
    subnets: BTreeMap<u32, (usize, u8)>,
    encaps: Vec<Encap>,
    random: Random,
}

/// VSIDs that differ in one bit, or only in the byte that NVGRE shifts them by.
const VSIDS: [u32; 8] =
    [0x0000_1001, 0x0010_0100, 0x0000_1000, 0x0001_0010, 0x00ff_fffe, 0x007f_fffe, 0x0000_1101, 0x0001_0000];

impl Datacentre {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut world = World::new(HOSTS);
        let mut subnets = BTreeMap::new();
        for tenant in 0..TENANTS {
            world.network(&format!("t{tenant}"));
            for third in 0..2 {
                let vsid = VSIDS[tenant * 2 + usize::from(third)];
                // All tenants have the same plan.
                let prefixes = [format!("10.0.{third}.0/24"), format!("2001:db8:{third}::/64")];
                world.subnet(&format!("t{tenant}"), vsid, &[&prefixes[0], &prefixes[1]]);
                subnets.insert(vsid, (tenant, third));
            }
        }
        let encaps =
            (0..TENANTS).map(|_| [Encap::Nvgre, Encap::Vxlan, Encap::Rewrite][random.below(3)]).collect();
        let mut this = Self { world, guests: Vec::new(), records: BTreeMap::new(), subnets, encaps, random };
        let vsids: Vec<u32> = this.subnets.keys().copied().collect();
        for vsid in vsids {
            for n in 0..3_u8 {
                this.guest(vsid, n);
            }
        }
        this.world.publish();
        for n in 0..this.guests.len() {
            this.place(n);
        }
        this
    }

    /// Guest `n` of a virtual subnet: the same address and the same MAC address as that of all others.
    fn guest(&mut self, vsid: u32, n: u8) {
        let (tenant, third) = self.subnets[&vsid];
        let mac = Mac([2, 0, 0, 0, if self.random.once_in(2) { third } else { 0 }, n]);
        let v4 = IpAddr::from([10, 0, third, 10 + n]);
        let mut cas = vec![v4];
        if self.encaps[tenant] != Encap::Rewrite {
            cas.push(format!("2001:db8:{third}::{}", 10 + n).parse().expect("an address"));
        }
        let port = self.guests.len() as u16 + 1;
        for host in 0..HOSTS {
            self.world.guest(host, port, vsid, mac);
        }
        let at = self.random.below(HOSTS);
        self.guests.push(Guest { tenant, vsid, mac, cas, at, port });
    }

    /// All hosts hear where a guest is.
    fn place(&mut self, n: usize) {
        let guest = self.guests[n].clone();
        let encap = self.encaps[guest.tenant];
        let home = if encap != Encap::Rewrite && guest.tenant % 2 == 1 { pa6 } else { pa };
        for ca in guest.cas {
            let rewrite_pa = (encap == Encap::Rewrite).then(|| [172, 16, 0, guest.port as u8].into());
            let mac = guest.mac;
            let said =
                Record { encap, rewrite_pa, ..record(guest.vsid, &ca.to_string(), mac, home(guest.at)) };
            self.world.record(&said);
            self.records.insert((guest.vsid, ca), said);
        }
    }

    /// Where a packet of a guest to an address is to arrive, read from the records one by one.
    fn oracle(&self, from: &Guest, to: IpAddr, dst: Mac, ttl: u8) -> Option<(usize, u16)> {
        let near = self.subnets.iter().find(|&(_, &(tenant, third))| {
            let prefix = match to {
                IpAddr::V4(v4) => v4.octets()[..3] == [10, 0, third],
                IpAddr::V6(v6) => v6.segments()[..4] == [0x2001, 0xdb8, u16::from(third), 0],
            };
            prefix && tenant == from.tenant
        });
        let (&vsid, _) = near?;
        let guest = self.guests.iter().find(|guest| guest.vsid == vsid && guest.cas.contains(&to))?;
        let routed = vsid != from.vsid || dst == ROUTER_MAC;
        let itself = guest.port == from.port;
        (!(itself || routed && ttl <= 1)).then_some((guest.at, guest.port))
    }

    fn tenant_of(&self, port: u16) -> Option<usize> {
        self.guests.iter().find(|guest| guest.port == port).map(|guest| guest.tenant)
    }

    /// Whatever happened, only ports of the sender's tenant got anything, each at most once.
    fn check(&self, from: &Guest, frame: &[u8], happened: &[Happened]) -> Vec<(usize, u16)> {
        let got = super::world::receivers(happened);
        for &(host, port) in &got {
            assert_eq!(
                self.tenant_of(port),
                Some(from.tenant),
                "{from:?} reached port {port} of host {host}: {frame:02x?}"
            );
        }
        let mut once = got.clone();
        once.dedup();
        assert_eq!(got, once, "each got it once");
        got
    }
}

fn any_ca(random: &mut Random) -> IpAddr {
    let (third, last) = (random.below(3), random.below(6));
    match random.below(3) {
        0 => format!("2001:db8:{third}::{}", 9 + last).parse().expect("an address"),
        _ => [10, 0, third as u8, 9 + last as u8].into(),
    }
}

#[test]
fn s14_1_no_frame_reaches_another_customer_network_and_each_arrives_once_where_its_record_says() {
    let (mut arrived, mut refused, mut tunnelled, mut broadcasts) = (0, 0, 0, 0);
    for seed in 0..25 {
        let mut dc = Datacentre::new(seed);
        for _ in 0..1500 {
            let n = dc.random.below(dc.guests.len());
            if dc.random.once_in(40) {
                dc.guests[n].at = dc.random.below(HOSTS);
                dc.place(n);
            }
            let from = dc.guests[n].clone();
            let to = any_ca(&mut dc.random);
            let src = *from.cas.iter().find(|ca| ca.is_ipv4() == to.is_ipv4()).unwrap_or(&from.cas[0]);
            if src.is_ipv4() != to.is_ipv4() {
                continue;
            }
            let macs: Vec<Mac> = dc.guests.iter().map(|g| g.mac).chain([ROUTER_MAC]).collect();
            let dst = macs[dc.random.below(macs.len())];
            let ttl = [64, 64, 2, 1][dc.random.below(4)];
            let echoes = dc.random.once_in(2);
            let frame = if echoes {
                echo((dst, to), (from.mac, src), ttl)
            } else {
                udp((dst, to), (from.mac, src), (1, 1 + dc.random.below(3) as u16), b"data")
            };
            let ttl = if echoes { ttl } else { 64 };
            dc.world.wire.clear();
            let happened = dc.world.send(from.at, from.port, &frame);
            let got = dc.check(&from, &frame, &happened);
            let expected: Vec<_> = dc.oracle(&from, to, dst, ttl).into_iter().collect();
            assert_eq!(got, expected, "seed {seed}: {from:?} to {to}: {happened:?}");
            arrived += got.len();
            tunnelled += dc.world.wire.len();
            refused += usize::from(got.is_empty());
        }
        // Broadcasts reach every other guest of the virtual subnet, and nobody else.
        for n in 0..dc.guests.len() {
            let from = dc.guests[n].clone();
            if dc.encaps[from.tenant] == Encap::Rewrite {
                continue; // no way to say on the wire which virtual subnet it is of
            }
            let all = (Mac::BROADCAST, IpAddr::from([255, 255, 255, 255]));
            let frame = udp(all, (from.mac, from.cas[0]), (1, 2), b"all");
            let happened = dc.world.send(from.at, from.port, &frame);
            let got = dc.check(&from, &frame, &happened);
            let hosts: Vec<usize> = dc.guests.iter().filter(|g| g.vsid == from.vsid).map(|g| g.at).collect();
            let mut expected: Vec<(usize, u16)> = dc
                .guests
                .iter()
                .filter(|g| g.vsid == from.vsid)
                .flat_map(|g| (0..HOSTS).map(|host| (host, g.port)))
                .filter(|&(host, port)| (host, port) != (from.at, from.port))
                .filter(|(host, _)| *host == from.at || hosts.contains(host))
                .collect();
            expected.sort_unstable();
            assert_eq!(got, expected);
            broadcasts += 1;
        }
    }
    println!("{arrived} arrived ({tunnelled} in tunnels), {refused} did not, {broadcasts} broadcasts");
    assert!(arrived > 5000 && refused > 5000 && tunnelled > 3000 && broadcasts > 100);
}

/// The same with guests that lie: about their own addresses, about others', in ARP and neighbour discovery, and frames of random bytes.
#[test]
fn s14_1_guests_that_lie_reach_no_other_customer_network_either() {
    for seed in 100..115 {
        let mut dc = Datacentre::new(seed);
        for n in 0..dc.guests.len() {
            if dc.random.once_in(3) {
                let guest = dc.guests[n].clone();
                let l2 = Record {
                    kind: Kind::L2Only,
                    encap: if dc.encaps[guest.tenant] == Encap::Vxlan { Encap::Vxlan } else { Encap::Nvgre },
                    ..record(guest.vsid, "0.0.0.0", guest.mac, pa(guest.at))
                };
                dc.world.record(&l2);
            }
        }
        for _ in 0..1500 {
            let n = dc.random.below(dc.guests.len());
            let from = dc.guests[n].clone();
            let other = dc.guests[dc.random.below(dc.guests.len())].clone();
            let (src, to) = (any_ca(&mut dc.random), any_ca(&mut dc.random));
            let dst = [other.mac, ROUTER_MAC, Mac::BROADCAST, Mac([0x33, 0x33, 0xff, 0, 0, 0x10])]
                [dc.random.below(4)];
            let (v4, v4_too): (IpAddr, IpAddr) = (
                [10, 0, dc.random.below(2) as u8, 10].into(),
                [10, 0, 0, 9 + dc.random.below(5) as u8].into(),
            );
            let v6 = |random: &mut Random| {
                format!("2001:db8:{}::{}", random.below(2), 9 + random.below(5)).parse().expect("an address")
            };
            let (six, six_too): (IpAddr, IpAddr) = (v6(&mut dc.random), v6(&mut dc.random));
            let mut frame = match dc.random.below(6) {
                0 => who_has(v4, (from.mac, v4_too)),
                1 => arp(dst, 2, (from.mac, v4), (other.mac, v4_too)),
                2 => discovery(135, six, (from.mac, six_too), (dst, six)),
                3 => discovery(136, six, (from.mac, six), (dst, six_too)),
                4 if src.is_ipv4() == to.is_ipv4() => udp((dst, to), (from.mac, src), (1, 2), b"lie"),
                _ => udp((dst, v4), (from.mac, v4_too), (68, 67), b"lie"),
            };
            if dc.random.once_in(4) {
                let at = 12 + dc.random.below(frame.len() - 12);
                frame[at] = dc.random.next() as u8;
            }
            let happened = dc.world.send(from.at, from.port, &frame);
            dc.check(&from, &frame, &happened);
        }
    }
}

/// Bytes on the wire are changed at random: what comes out of the tunnels reaches only guests to whom a record of the network leads.
#[test]
fn h30_changed_tunnels_reach_nobody_whom_their_virtual_subnet_does_not_name() {
    let mut got = 0;
    for seed in 200..208 {
        let mut dc = Datacentre::new(seed);
        for _ in 0..4000 {
            let n = dc.random.below(dc.guests.len());
            let from = dc.guests[n].clone();
            let to = dc.guests[dc.random.below(dc.guests.len())].clone();
            if from.vsid != to.vsid || from.at == to.at || dc.encaps[from.tenant] == Encap::Rewrite {
                continue;
            }
            dc.world.wire.clear();
            dc.world.send(
                from.at,
                from.port,
                &udp((to.mac, to.cas[0]), (from.mac, from.cas[0]), (1, 2), b"x"),
            );
            let Some(mut frame) = dc.world.wire.first().cloned() else { continue };
            frame[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, to.at as u8]);
            for _ in 0..=dc.random.below(3) {
                let at = dc.random.below(frame.len());
                frame[at] ^= 1 << dc.random.below(8);
            }
            for what in dc.world.arrive(to.at, &frame) {
                if let Happened::Got(_, port, inner) = what {
                    let receiver = dc.guests.iter().find(|g| g.port == port).expect("a guest");
                    // Of another tenant only if the very VSID was changed to one of its own, and then from a record of its own.
                    assert!(receiver.tenant == from.tenant, "{inner:02x?}");
                    got += 1;
                }
            }
        }
    }
    assert!(got > 100, "{got}");
}
