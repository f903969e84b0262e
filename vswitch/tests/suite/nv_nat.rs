//! One outside address for many customer networks.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::offload::Offload;
use vswitch::frame::protocol::{ICMP, ICMPV6, TCP, UDP};
use vswitch::nv::model::Rdid;
use vswitch::nv::nat::{
    ECHO_IDLE, FIRST_PORT, Nat, Refused, Share, TCP_IDLE, TCP_TRANSITORY, TenantId, UDP_IDLE,
};

use crate::nv_wire::reference::{complete, leave_open};
use crate::packets::{ethernet, ethertype_of, fragment, framed, icmp, ip, tcp, udp, v4, v4_piece, v6};
use crate::support::{Random, SECOND, mac_of};

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;

const OUTSIDE: &str = "203.0.113.7";
const SERVER: &str = "198.51.100.9";

/// A packet between two ends; of an echo the first port is its identifier, and 0 as the second one makes it a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Flow {
    protocol: u8,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    reply: bool,
}

impl Flow {
    fn new(protocol: u8, src: (&str, u16), dst: (&str, u16)) -> Self {
        Self { protocol, src: (ip(src.0), src.1), dst: (ip(dst.0), dst.1), reply: false }
    }

    /// What answers it.
    fn back(self) -> Self {
        let echo = matches!(self.protocol, ICMP | ICMPV6);
        let (src, dst) = ((self.dst.0, self.dst.1), (self.src.0, self.src.1));
        Self { src, dst, reply: echo && !self.reply, ..self }
    }

    fn packet(self, flags: u8) -> Vec<u8> {
        let (src, dst) = (self.src.0.to_string(), self.dst.0.to_string());
        let id = if self.reply { self.dst.1 } else { self.src.1 }.to_be_bytes();
        let echo = |request: u8, reply: u8| {
            let kind = if self.reply { reply } else { request };
            icmp(kind, &[&id[..], &[0, 1], b"ping"].concat())
        };
        let upper = match self.protocol {
            TCP => tcp(self.src.1, self.dst.1, flags, b"data"),
            UDP => udp(self.src.1, self.dst.1, b"data"),
            ICMP => echo(8, 0),
            _ => echo(128, 129),
        };
        let build = if self.src.0.is_ipv4() { v4 } else { v6 };
        complete(build(&src, &dst, self.protocol, &upper))
    }

    fn frame(self, flags: u8) -> Vec<u8> {
        let packet = self.packet(flags);
        ethernet(mac_of(2), mac_of(1), &[], ethertype_of(&packet), &packet)
    }

    fn from(self, src: (IpAddr, u16)) -> Self {
        Self { src, ..self }
    }

    fn to(self, dst: (IpAddr, u16)) -> Self {
        Self { dst, ..self }
    }
}

/// An address with tenants, and a time.
struct World {
    nat: Nat,
    now: u64,
}

impl World {
    fn new(outside: &str, share: Share) -> Self {
        Self { nat: Nat::new(ip(outside), 11, share), now: 1_000 * SECOND }
    }

    fn tenant(&self, number: u128) -> TenantId {
        self.nat.admit(Rdid(number)).expect("room for a tenant")
    }

    /// Sends from inside and says what was seen outside: the source port.
    fn out(&self, tenant: TenantId, flow: Flow, flags: u8) -> Result<u16, Refused> {
        let mut frame = flow.frame(flags);
        let before = frame.clone();
        let result = self.nat.translate_out(self.now, tenant, &mut frame, &Offload::None);
        if let Err(why) = result {
            assert_eq!(frame, before, "what is refused is left alone");
            return Err(why);
        }
        let at = if matches!(flow.protocol, ICMP | ICMPV6) { 4 } else { 0 };
        let upper = 14 + if flow.src.0.is_ipv4() { 20 } else { 40 };
        let port = u16::from_be_bytes([frame[upper + at], frame[upper + at + 1]]);
        assert_eq!(
            frame,
            flow.from((self.nat.outside(), port)).frame(flags),
            "the packet that it would have been"
        );
        assert!(self.nat.ports(tenant).contains(&port));
        Ok(port)
    }

    /// Sends from outside and says who got it.
    fn receive(&self, flow: Flow, flags: u8) -> Result<(Rdid, IpAddr, u16), Refused> {
        let mut frame = flow.frame(flags);
        let before = frame.clone();
        let result = self.nat.translate_in(self.now, &mut frame, &Offload::None);
        let (_, network) =
            result.inspect_err(|_| assert_eq!(frame, before, "what is refused is left alone"))?;
        let (address, port) = if flow.src.0.is_ipv4() {
            let address = <[u8; 4]>::try_from(&frame[30..34]).expect("four bytes");
            (IpAddr::from(address), 34)
        } else {
            let address = <[u8; 16]>::try_from(&frame[38..54]).expect("sixteen bytes");
            (IpAddr::from(address), 54)
        };
        let at = port + if matches!(flow.protocol, ICMP | ICMPV6) { 4 } else { 2 };
        let port = u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!(frame, flow.to((address, port)).frame(flags), "the packet that it would have been");
        Ok((network, address, port))
    }
}

/// What an inside end sends to the server.
fn request(protocol: u8, six: bool) -> Flow {
    let (guest, server) = if six { ("fd0a::7", "2001:db8::9") } else { ("10.1.1.7", SERVER) };
    let echo = matches!(protocol, ICMP | ICMPV6);
    Flow::new(protocol, (guest, 4000), (server, if echo { 0 } else { 443 }))
}

#[test]
fn s14_11_an_answer_comes_back_to_who_asked() {
    for (six, outside, echo) in [(false, OUTSIDE, ICMP), (true, "2001:db8::7", ICMPV6)] {
        let world = World::new(outside, Share::default());
        let tenant = world.tenant(1);
        for protocol in [TCP, UDP, echo] {
            let flow = request(protocol, six);
            let port = world.out(tenant, flow, SYN).expect("a session");
            let answer = flow.from((ip(outside), port)).back();
            assert_eq!(world.receive(answer, SYN | ACK), Ok((Rdid(1), flow.src.0, 4000)), "{protocol}");
            assert_eq!(world.out(tenant, flow, ACK), Ok(port), "the session goes on");
        }
        assert_eq!(world.nat.sessions(tenant, world.now).len(), 3);
    }
}

#[test]
fn s14_11_tenants_with_the_same_addresses_are_told_apart() {
    let world = World::new(OUTSIDE, Share::default());
    let flow = request(UDP, false);
    let ports: Vec<u16> =
        (1..=64).map(|number| world.out(world.tenant(number), flow, 0).expect("a session")).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 64);
    for (number, port) in (1..).zip(&ports) {
        let answer = flow.from((ip(OUTSIDE), *port)).back();
        assert_eq!(world.receive(answer, 0), Ok((Rdid(number), flow.src.0, 4000)));
    }
    assert_eq!(world.nat.admit(Rdid(65)), None, "all ports are given away");
    assert_eq!(world.nat.admit(Rdid(3)), Some(world.tenant(3)), "who has a range keeps it");
    let ranges: Vec<_> = (1..=64).map(|number| world.nat.ports(world.tenant(number))).collect();
    assert_eq!((*ranges[0].start(), *ranges[63].end()), (FIRST_PORT, u16::MAX));
    assert!(ranges.windows(2).all(|pair| *pair[0].end() + 1 == *pair[1].start()));
}

#[test]
fn s14_11_who_goes_takes_its_sessions_along() {
    let world = World::new(OUTSIDE, Share::default());
    let (one, flow) = (world.tenant(1), request(UDP, false));
    let port = world.out(one, flow, 0).expect("a session");
    world.nat.dismiss(Rdid(1));
    let answer = flow.from((ip(OUTSIDE), port)).back();
    assert_eq!(world.receive(answer, 0), Err(Refused::NoSession));
    assert_eq!(world.out(one, flow, 0), Err(Refused::NoSession));
    let two = world.tenant(2);
    assert_eq!(two, one, "the range is free for another");
    assert_eq!(world.receive(answer, 0), Err(Refused::NoSession), "which gets nothing of the first one's");
}

#[test]
fn s14_11_one_inside_end_is_one_port_to_everybody_but_only_who_was_asked_may_answer() {
    // RFC 4787, REQ-1 and REQ-8.
    let world = World::new(OUTSIDE, Share::default());
    let tenant = world.tenant(1);
    for protocol in [TCP, UDP, ICMP] {
        let flow = request(protocol, false);
        let port = world.out(tenant, flow, SYN).expect("a session");
        let other = flow.to((ip("192.0.2.1"), flow.dst.1));
        let answer = other.from((ip(OUTSIDE), port)).back();
        assert_eq!(world.receive(answer, ACK), Err(Refused::NoSession), "nobody asked it");
        assert_eq!(world.out(tenant, other, SYN), Ok(port));
        assert!(world.receive(answer, SYN | ACK).is_ok());
        let neighbour = flow.from((ip("10.1.1.8"), 4000));
        assert_ne!(world.out(tenant, neighbour, SYN), Ok(port));
        if protocol != ICMP {
            let elsewhere = flow.from((ip(OUTSIDE), port)).to((ip(SERVER), 444)).back();
            assert_eq!(world.receive(elsewhere, ACK), Err(Refused::NoSession), "from another port");
        }
        let wrong = flow.from((ip(OUTSIDE), port ^ 1)).back();
        assert_eq!(world.receive(wrong, ACK), Err(Refused::NoSession), "to another port");
    }
}

#[test]
fn s14_11_nothing_begins_outside() {
    let world = World::new(OUTSIDE, Share::default());
    let tenant = world.tenant(1);
    let flow = request(TCP, false);
    let port = world.out(tenant, flow, SYN).expect("a session");
    let back = flow.from((ip(OUTSIDE), port)).back();
    assert_eq!(world.receive(back, SYN), Err(Refused::NoSession), "a connection of the server's own");
    let echo = Flow::new(ICMP, (SERVER, 7), (OUTSIDE, 0));
    assert_eq!(world.receive(echo, 0), Err(Refused::NoSession));
    let small = flow.from((ip(OUTSIDE), 80)).back();
    assert_eq!(world.receive(small, ACK), Err(Refused::NoSession));
    let elsewhere = flow.from((ip("203.0.113.8"), port)).back();
    assert_eq!(world.receive(elsewhere, ACK), Err(Refused::NoSession), "to another address");
    // A reset ends connections only; a reply to an echo has no request.
    let other = flow.from((ip("10.1.1.7"), 5000));
    assert_eq!(world.out(tenant, other, RST), Err(Refused::NoSession));
    let reply = Flow::new(ICMP, (SERVER, 0), ("10.1.1.7", 9)).back();
    assert_eq!(world.out(tenant, Flow { reply: true, ..reply }, 0), Err(Refused::NoSession));
}

#[test]
fn s14_11_what_has_no_port_is_refused() {
    let world = World::new(OUTSIDE, Share::default());
    let tenant = world.tenant(1);
    let first = v4_piece("10.1.1.7", SERVER, UDP, 0, true, &udp(1, 2, &[0; 16]));
    let later = v4_piece("10.1.1.7", SERVER, UDP, 64, false, &[0; 16]);
    let six = v6("fd0a::7", "2001:db8::9", 44, &fragment(UDP, 64, false, &[0; 16]));
    let quoted = [&[0; 4], &v4(SERVER, "10.1.1.7", 50, &[0; 8])[..]].concat();
    for (packet, why) in [
        (first, Refused::Fragment),
        (later, Refused::Fragment),
        (six, Refused::Fragment),
        (v4("10.1.1.7", SERVER, 50, &[0; 16]), Refused::Protocol),
        (v4("10.1.1.7", SERVER, ICMP, &icmp(13, &[0; 16])), Refused::Protocol),
        (v4("10.1.1.7", SERVER, ICMP, &icmp(3, &quoted)), Refused::Protocol),
        (v4("10.1.1.7", SERVER, ICMP, &icmp(3, &[0; 8])), Refused::Unreadable),
        (v4("10.1.1.7", OUTSIDE, UDP, &udp(1, 2, b"")), Refused::ToItself),
        (v6("fd0a::7", "2001:db8::9", UDP, &udp(1, 2, b"")), Refused::Unreadable),
        (v4("10.1.1.7", SERVER, TCP, &tcp(1, 2, ACK, b""))[..30].to_vec(), Refused::Unreadable),
    ] {
        let mut frame = framed(&packet);
        frame.truncate(14 + packet.len());
        assert_eq!(world.nat.translate_out(world.now, tenant, &mut frame, &Offload::None), Err(why));
        assert_eq!(frame[14..], packet);
    }
    assert!(world.nat.sessions(tenant, world.now).is_empty());
}

#[test]
fn s14_11_a_checksum_left_open_is_translated_as_one() {
    let world = World::new(OUTSIDE, Share::default());
    let tenant = world.tenant(1);
    for protocol in [TCP, UDP] {
        let flow = request(protocol, false);
        let mut packet = flow.packet(ACK);
        let (start, offset) = leave_open(&mut packet).expect("a checksum over addresses");
        let mut frame = framed(&packet);
        let offload = Offload::Checksum { start, offset };
        world.nat.translate_out(world.now, tenant, &mut frame, &offload).expect("a session");
        assert!(complete_checksum(&mut frame[..14 + packet.len()], start, offset));
        let port = world.out(tenant, flow, ACK).expect("the session");
        assert_eq!(frame, flow.from((ip(OUTSIDE), port)).frame(ACK));
    }
}

/// An ICMP error (too big) about a packet; what it quotes is cut to 8 bytes of transport header if `short`.
fn error(about: &[u8], from: &str, to: &str, short: bool) -> Vec<u8> {
    let six = about[0] >> 4 == 6;
    let end = if short { if six { 48 } else { 28 } } else { about.len() };
    let rest = [&[0, 0, 5, 0x78], &about[..end]].concat();
    let packet = if six {
        v6(from, to, ICMPV6, &icmp(2, &rest))
    } else {
        let mut message = icmp(3, &rest);
        message[1] = 4;
        v4(from, to, ICMP, &message)
    };
    framed(&complete(packet))
}

#[test]
fn s14_13_path_mtu_discovery_works_through_the_outside_address() {
    // RFC 5508, REQ-3 to REQ-5: the error comes from any router, and quotes the packet as it was outside.
    for (six, outside, router, echo) in
        [(false, OUTSIDE, "192.0.2.254", ICMP), (true, "2001:db8::7", "2001:db8:1::1", ICMPV6)]
    {
        let world = World::new(outside, Share::default());
        let tenant = world.tenant(1);
        for protocol in [TCP, UDP, echo] {
            for short in [false, true] {
                let flow = request(protocol, six);
                let port = world.out(tenant, flow, ACK).expect("a session");
                let outer = flow.from((ip(outside), port));
                let guest = flow.src.0.to_string();
                let mut frame = error(&outer.packet(ACK), router, outside, short);
                let result = world.nat.translate_in(world.now, &mut frame, &Offload::None);
                assert_eq!(result, Ok((tenant, Rdid(1))));
                assert_eq!(frame, error(&flow.packet(ACK), router, &guest, short), "{protocol} {short}");
                // About a packet that nobody sent.
                for lie in [outer.from((ip(outside), port ^ 1)), outer.to((ip("192.0.2.77"), 443)), flow] {
                    if lie.dst.0.is_ipv4() == six {
                        continue;
                    }
                    let mut frame = error(&lie.packet(ACK), router, outside, short);
                    let result = world.nat.translate_in(world.now, &mut frame, &Offload::None);
                    assert_eq!(result, Err(Refused::NoSession));
                }
                // A guest's own error about what came from outside.
                let mut frame = error(&flow.back().packet(ACK), &guest, &flow.dst.0.to_string(), short);
                let result = world.nat.translate_out(world.now, tenant, &mut frame, &Offload::None);
                assert_eq!(result, Ok(()));
                let expected = error(&outer.back().packet(ACK), outside, &flow.dst.0.to_string(), short);
                assert_eq!(frame, expected, "{protocol} {short}");
            }
        }
    }
}

#[test]
fn s14_11_sessions_end_when_their_time_is_over() {
    for (protocol, flags, life) in
        [(UDP, 0, UDP_IDLE), (ICMP, 0, ECHO_IDLE), (TCP, SYN, TCP_TRANSITORY), (TCP, ACK, TCP_IDLE)]
    {
        let mut world = World::new(OUTSIDE, Share::default());
        let tenant = world.tenant(1);
        let flow = request(protocol, false);
        let port = world.out(tenant, flow, flags).expect("a session");
        let answer = flow.from((ip(OUTSIDE), port)).back();
        let answered = if flags == SYN { SYN | ACK } else { ACK };
        world.now += life + 1;
        assert_eq!(world.receive(answer, answered), Err(Refused::NoSession), "{protocol} {flags}");
        let port = world.out(tenant, flow, flags).expect("another session");
        let answer = flow.from((ip(OUTSIDE), port)).back();
        world.now += life;
        assert!(world.receive(answer, answered).is_ok());
        world.nat.age(world.now + life);
        let alive = world.nat.sessions(tenant, world.now).len();
        assert_eq!(alive, 1, "the answer was a packet, too");
        world.nat.age(world.now + TCP_IDLE + 1);
        assert!(world.nat.sessions(tenant, world.now).is_empty());
    }
    // RFC 5382, REQ-5: what is closed on both sides is not established any more.
    let mut world = World::new(OUTSIDE, Share::default());
    let tenant = world.tenant(1);
    let flow = request(TCP, false);
    let port = world.out(tenant, flow, SYN).expect("a session");
    let answer = flow.from((ip(OUTSIDE), port)).back();
    world.receive(answer, SYN | ACK).expect("the session's");
    world.out(tenant, flow, FIN | ACK).expect("the session's");
    world.receive(answer, FIN | ACK).expect("the session's");
    world.now += TCP_TRANSITORY + 1;
    assert_eq!(world.receive(answer, ACK), Err(Refused::NoSession));
}

#[test]
fn h30_a_tenant_cannot_take_ports_or_sessions_from_another() {
    let share = Share { ports: 8, sessions: 20 };
    let mut world = World::new(OUTSIDE, share);
    let (greedy, other) = (world.tenant(1), world.tenant(2));
    let flow = request(UDP, false);
    let port = world.out(other, flow, 0).expect("a session");
    for n in 0..8 {
        world.out(greedy, flow.from((flow.src.0, n)), 0).expect("a port");
    }
    for n in 8..1000 {
        assert_eq!(world.out(greedy, flow.from((flow.src.0, n)), 0), Err(Refused::NoPort));
    }
    // Another protocol has ports of its own.
    assert!(world.out(greedy, request(TCP, false), ACK).is_ok());
    // Many remote ends of one port: sessions that nobody answered go first, the oldest of them before others.
    for n in 0..200 {
        world.now += SECOND / 100;
        world.out(greedy, flow.from((flow.src.0, 0)).to((ip(SERVER), n)), 0).expect("a session");
        assert!(world.nat.sessions(greedy, world.now).len() <= 20);
    }
    let answer = flow.from((ip(OUTSIDE), port)).back();
    assert!(world.receive(answer, 0).is_ok());

    // Those that were answered stay; there is no room for more then, until they expire.
    let world = World::new(OUTSIDE, Share { ports: 100, sessions: 20 });
    let tenant = world.tenant(1);
    for n in 0..20 {
        let flow = flow.from((flow.src.0, n));
        let port = world.out(tenant, flow, 0).expect("a session");
        world.receive(flow.from((ip(OUTSIDE), port)).back(), 0).expect("an answer");
    }
    assert_eq!(world.out(tenant, flow, 0), Err(Refused::Full));
    let world = World { now: world.now + UDP_IDLE + 1, ..world };
    assert!(world.out(tenant, flow, 0).is_ok(), "without anybody having aged the table");
}

#[test]
fn s14_11_nonsense_shares_are_made_valid() {
    for share in [Share { ports: 0, sessions: 0 }, Share { ports: u16::MAX, sessions: 1 }] {
        let world = World::new(OUTSIDE, share);
        let tenant = world.tenant(1);
        assert!(world.out(tenant, request(UDP, false), 0).is_ok());
    }
    let world = World::new(OUTSIDE, Share { ports: u16::MAX, sessions: 1 });
    assert_eq!(world.nat.ports(world.tenant(1)), FIRST_PORT..=u16::MAX);
    assert_eq!(world.nat.admit(Rdid(2)), None);
}

/// No two live sessions of all tenants have one protocol, outside port and remote end, nor two inside ends one protocol and outside port.
fn assert_unique(world: &World, tenants: &[TenantId]) {
    let mut remotes = HashSet::new();
    let mut insides = HashMap::new();
    for tenant in tenants {
        for session in world.nat.sessions(*tenant, world.now) {
            assert!(world.nat.ports(*tenant).contains(&session.outside));
            assert!(remotes.insert((session.protocol, session.outside, session.remote)), "{session:?}");
            let one = (*tenant, session.inside);
            assert_eq!(*insides.entry((session.protocol, session.outside)).or_insert(one), one);
        }
    }
}

/// A random packet from inside.
fn any_flow(random: &mut Random) -> Flow {
    let protocol = [TCP, UDP, ICMP][random.below(3)];
    let guest = IpAddr::from([10, 1, 1, random.below(4) as u8]);
    let server = IpAddr::from([198, 51, 100, random.below(3) as u8]);
    let port = if protocol == ICMP { 0 } else { 80 + random.below(2) as u16 };
    Flow { protocol, src: (guest, 1 + random.below(4) as u16), dst: (server, port), reply: false }
}

#[test]
fn s14_11_every_answer_goes_where_a_naive_table_says() {
    type Outer = (u8, u16, (IpAddr, u16));
    let life = |protocol| match protocol {
        TCP => TCP_IDLE,
        UDP => UDP_IDLE,
        _ => ECHO_IDLE,
    };
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut world = World::new(OUTSIDE, Share { ports: 64, sessions: 512 });
        let tenants: Vec<TenantId> = (0..3).map(|number| world.tenant(number)).collect();
        // By what is seen outside: whose it is, and when the last packet came.
        let mut live: HashMap<Outer, (usize, (IpAddr, u16), u64)> = HashMap::new();
        for step in 0..3_000 {
            world.now += random.below(20) as u64 * SECOND;
            live.retain(|outer, (_, _, seen)| world.now - *seen <= life(outer.0));
            if random.once_in(50) {
                world.nat.age(world.now);
            }
            let flow = any_flow(&mut random);
            let whose = random.below(3);
            if random.once_in(2) {
                let port = world.out(tenants[whose], flow, ACK).expect("room for all");
                let same =
                    |((protocol, _, _), (tenant, inside, _)): (&Outer, &(usize, (IpAddr, u16), u64))| {
                        *protocol == flow.protocol && *tenant == whose && *inside == flow.src
                    };
                for known in live.iter().filter(|(outer, entry)| same((outer, entry))) {
                    assert_eq!(known.0.1, port, "one port to everybody");
                }
                let outer = (flow.protocol, port, flow.dst);
                if let Some((tenant, inside, _)) = live.insert(outer, (whose, flow.src, world.now)) {
                    assert_eq!((tenant, inside), (whose, flow.src), "taken from another");
                }
            } else {
                // An answer to a session that there is, was, or never was.
                let port = if random.once_in(4) {
                    FIRST_PORT + random.below(200) as u16
                } else {
                    let index = random.below(live.len().max(1));
                    live.keys().nth(index).map_or(FIRST_PORT, |outer| outer.1)
                };
                let outer = (flow.protocol, port, flow.dst);
                let answer = flow.from((ip(OUTSIDE), port)).back();
                let expected =
                    live.get(&outer).map(|(tenant, inside, _)| (Rdid(*tenant as u128), inside.0, inside.1));
                assert_eq!(world.receive(answer, ACK).ok(), expected, "step {step}");
                if let Some((_, _, seen)) = live.get_mut(&outer) {
                    *seen = world.now;
                }
            }
            if step % 100 == 0 {
                assert_unique(&world, &tenants);
                let sessions: usize = tenants.iter().map(|t| world.nat.sessions(*t, world.now).len()).sum();
                assert_eq!(sessions, live.len());
            }
        }
    }
}

#[test]
fn s14_11_a_full_table_stays_right() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut world = World::new(OUTSIDE, Share { ports: 5, sessions: 9 });
        let tenants: Vec<TenantId> = (0..3).map(|number| world.tenant(number)).collect();
        let mut refused = HashSet::new();
        for _ in 0..3_000 {
            world.now += random.below(10) as u64 * SECOND;
            let flow = any_flow(&mut random);
            let whose = random.below(3);
            let flags = [SYN, ACK, FIN | ACK, RST][random.below(4)];
            if random.once_in(2) {
                let sent = world.out(tenants[whose], flow, flags);
                let known = world.nat.sessions(tenants[whose], world.now);
                let found = known
                    .iter()
                    .find(|s| s.protocol == flow.protocol && s.inside == flow.src && s.remote == flow.dst);
                assert_eq!(
                    found.map(|session| session.outside).ok_or(()),
                    sent.map_err(|why| {
                        refused.insert(format!("{why:?}"));
                    })
                );
            } else {
                let port = FIRST_PORT + random.below(15) as u16;
                let of = TenantId::clone(&tenants[usize::from(port - FIRST_PORT) / 5]);
                let known = world.nat.sessions(of, world.now);
                let found = known
                    .iter()
                    .find(|s| s.protocol == flow.protocol && s.outside == port && s.remote == flow.dst);
                let answer = flow.from((ip(OUTSIDE), port)).back();
                let got = world.receive(answer, ACK);
                assert_eq!(
                    got.ok().map(|(_, address, port)| (address, port)),
                    found.map(|session| session.inside)
                );
            }
            assert_unique(&world, &tenants);
            assert!(tenants.iter().all(|t| world.nat.sessions(*t, world.now).len() <= 9));
        }
        assert!(refused.len() >= 2, "ports and sessions ran out: {refused:?}");
    }
}
