//! Port ACLs: precedence, classes, and the compiled table against a list that is searched from end to end.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vswitch::port::acl::{Action, Address, Answer, Applies, Entry, Packet, Table};
use vswitch::{Direction, Mac, Tally};

use crate::support::{Random, mac_of, stranger};

use Action::{Allow, Deny, Meter};
use Applies::{Local, Remote};
use Direction::{In, Out};

const ME: &str = "10.1.2.3";
const PEER: &str = "10.9.8.7";

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// `any`, `any-mac`, a MAC address, an IP address or a prefix.
fn address(text: &str) -> Address {
    match text {
        "any" => Address::Any,
        "any-mac" => Address::AnyMac,
        _ => match (text.parse(), text.parse::<IpNet>()) {
            (Ok(mac), _) => Address::Mac(mac),
            (_, Ok(net)) => Address::Ip(net),
            _ => Address::Ip(ip(text).into()),
        },
    }
}

/// Entries of one direction, counted in slots 1, 2, 3 …
fn table_of(direction: Direction, entries: &[(Applies, &str, Action)]) -> Table {
    let entry = |(slot, &(applies, text, action))| Entry {
        direction,
        applies,
        address: address(text),
        action,
        tally: Tally(slot),
    };
    Table::new(&(1..).zip(entries).map(entry).collect::<Vec<_>>())
}

fn table(entries: &[(Applies, &str, Action)]) -> Table {
    table_of(Out, entries)
}

fn packet(local: &str, remote: &str) -> Packet {
    Packet { local_mac: mac_of(1), remote_mac: mac_of(2), ip: Some((ip(local), ip(remote))) }
}

/// A frame that is not IP, between ports 1 and 2.
fn bare() -> Packet {
    Packet { local_mac: mac_of(1), remote_mac: mac_of(2), ip: None }
}

/// The slot of the entry that denies; 0 = it passes.
fn denied(table: &Table, packet: &Packet) -> u32 {
    table.look(Out, packet).denied_by.map_or(0, |entry| entry.tally.0)
}

/// The same for an IP packet between these two.
fn denied_ip(table: &Table, local: &str, remote: &str) -> u32 {
    denied(table, &packet(local, remote))
}

#[test]
fn s7_no_match_is_allowed() {
    assert_eq!(Table::new(&[]).look(Out, &packet(ME, PEER)), Answer::default());
    let table = table(&[(Remote, "10.9.8.6", Deny)]);
    assert_eq!((denied_ip(&table, ME, "10.9.8.6"), denied_ip(&table, ME, PEER)), (1, 0));
}

#[test]
fn s7_longest_prefix_wins() {
    let entries = [
        (Remote, "10.0.0.0/8", Deny),
        (Remote, "10.9.0.0/16", Allow),
        (Remote, "10.9.8.0/24", Deny),
        (Remote, PEER, Allow),
        (Remote, "2001:db8::/32", Deny),
        (Remote, "2001:db8:0:1::/64", Allow),
    ];
    for turned in 0..entries.len() {
        let mut entries = entries;
        entries.rotate_left(turned);
        let table = table(&entries);
        let passes = |remote| denied_ip(&table, ME, remote) == 0;
        let seen = ["10.1.0.0", "10.9.0.1", "10.9.8.0", PEER, "11.0.0.0", "9.255.255.255"].map(passes);
        assert_eq!(seen, [false, true, false, true, true, true], "whatever the order");
        let passes = |remote| denied_ip(&table, "2001:db8::1", remote) == 0;
        let seen =
            ["2001:db8::9", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:2::", "2001:db9::"].map(passes);
        assert_eq!(seen, [false, true, false, true]);
    }
}

#[test]
fn s7_a_white_list_is_a_denial_of_any_with_longer_permissions() {
    let table = table(&[(Remote, "any", Deny), (Remote, "10.9.0.0/16", Allow), (Remote, "fe80::/10", Allow)]);
    assert_eq!(denied_ip(&table, ME, PEER), 0);
    assert_eq!(denied_ip(&table, ME, "192.0.2.1"), 1);
    assert_eq!(denied_ip(&table, "fe80::1", "fe80::2"), 0);
    assert_eq!(denied_ip(&table, "2001:db8::1", "2001:db8::2"), 1, "any is of both families");
    assert_eq!(denied(&table, &bare()), 0, "and not for frames that are not IP");
}

#[test]
fn s7_the_longer_of_local_and_remote_decides() {
    let table = table(&[
        (Local, "any", Deny),
        (Local, ME, Allow),
        (Remote, "10.9.0.0/16", Deny),
        (Remote, "10.9.8.0/24", Allow),
        (Remote, "192.0.2.1", Deny),
    ]);
    assert_eq!(denied_ip(&table, "10.1.2.4", "198.51.100.1"), 1, "not its own address");
    assert_eq!(denied_ip(&table, ME, "10.9.1.1"), 0, "32 bits of local beat 16 of remote");
    assert_eq!(denied_ip(&table, "10.1.2.4", "10.9.1.1"), 3, "16 bits of remote beat none of local");
    assert_eq!(denied_ip(&table, "10.1.2.4", PEER), 0, "24 bits of remote beat none of local");
    assert_eq!(denied_ip(&table, ME, "192.0.2.1"), 5, "32 bits each: denied");
}

#[test]
fn s7_on_equal_length_deny_wins() {
    for (local, remote) in [("10.0.0.0/8", "10.0.0.0/8"), ("any", "0.0.0.0/0"), (ME, PEER)] {
        assert_eq!(denied_ip(&table(&[(Local, local, Allow), (Remote, remote, Deny)]), ME, PEER), 2);
        assert_eq!(denied_ip(&table(&[(Remote, remote, Allow), (Local, local, Deny)]), ME, PEER), 2);
        assert_eq!(denied_ip(&table(&[(Local, local, Deny), (Remote, remote, Deny)]), ME, PEER), 1);
    }
    assert_eq!(denied_ip(&table(&[(Remote, "any", Allow), (Remote, "0.0.0.0/0", Deny)]), ME, PEER), 2);
    assert_eq!(denied_ip(&table(&[(Remote, PEER, Deny), (Remote, PEER, Deny)]), ME, PEER), 1, "the first");
}

#[test]
fn s7_directions_are_separate() {
    let table = table_of(In, &[(Remote, "any", Deny), (Remote, "any-mac", Meter)]);
    assert_eq!(denied_ip(&table, ME, PEER), 0);
    assert_eq!(table.look(Out, &packet(ME, PEER)), Answer::default());
    let answer = table.look(In, &packet(ME, PEER));
    assert_eq!(answer.denied_by, table.entries().first());
    assert_eq!((answer.ip_meter, answer.mac_meter), (Tally::NONE, Tally(2)));
}

#[test]
fn s7_mac_and_ip_must_both_allow() {
    let peer = mac_of(2).to_string();
    let mac = table(&[(Remote, &peer, Deny), (Remote, PEER, Allow)]);
    assert_eq!(denied_ip(&mac, ME, PEER), 1, "a permission for the IP address opens nothing");
    let ip = table(&[(Remote, &peer, Allow), (Remote, PEER, Deny)]);
    assert_eq!(denied_ip(&ip, ME, PEER), 2, "nor does one for the MAC address");
    let both = table(&[(Remote, PEER, Deny), (Remote, &peer, Deny)]);
    assert_eq!(denied_ip(&both, ME, PEER), 2, "counted once, as a MAC address");
    let neither = table(&[(Remote, PEER, Allow), (Remote, &peer, Allow)]);
    assert_eq!(denied_ip(&neither, ME, PEER), 0);
}

#[test]
fn s7_one_mac_beats_every_mac() {
    let (me, peer) = (mac_of(1).to_string(), mac_of(2).to_string());
    let list = table(&[(Remote, "any-mac", Deny), (Remote, &peer, Allow)]);
    assert_eq!(denied(&list, &bare()), 0);
    assert_eq!(denied(&list, &Packet { remote_mac: mac_of(3), ..bare() }), 1);
    assert_eq!(denied(&list, &Packet { remote_mac: Mac::BROADCAST, ..bare() }), 1);
    assert_eq!(denied(&table(&[(Local, "any-mac", Deny), (Remote, &peer, Allow)]), &bare()), 0);
    assert_eq!(denied(&table(&[(Local, "any-mac", Deny), (Remote, "any-mac", Allow)]), &bare()), 1);
    assert_eq!(denied(&table(&[(Local, &me, Allow), (Remote, &peer, Deny)]), &bare()), 2, "equal: denied");
}

#[test]
fn s7_only_mac_entries_see_frames_that_are_not_ip() {
    let peer = mac_of(2).to_string();
    let table = table(&[(Local, "any", Deny), (Remote, "any", Meter), (Remote, &peer, Meter)]);
    assert_eq!(table.look(Out, &bare()), Answer { mac_meter: Tally(3), ..Answer::default() });
}

#[test]
fn s7_group_addresses_are_addresses() {
    let broadcast = Mac::BROADCAST.to_string();
    let table =
        table(&[(Remote, "224.0.0.0/4", Deny), (Remote, "255.255.255.255", Deny), (Local, &broadcast, Deny)]);
    assert_eq!(denied_ip(&table, ME, "224.0.0.251"), 1);
    assert_eq!(denied_ip(&table, ME, "239.255.255.255"), 1);
    assert_eq!(denied_ip(&table, ME, "255.255.255.255"), 2, "the last address of all");
    assert_eq!(denied_ip(&table, ME, "255.255.255.254"), 0);
    assert_eq!(denied(&table, &Packet { local_mac: Mac::BROADCAST, ..bare() }), 3);
}

#[test]
fn s7_a_mapped_address_is_an_ipv6_address() {
    let table = table(&[(Remote, "10.0.0.0/8", Deny), (Remote, "::ffff:0:0/96", Meter)]);
    let answer = table.look(Out, &packet("::1", "::ffff:10.9.8.7"));
    assert_eq!(answer, Answer { ip_meter: Tally(2), ..Answer::default() });
}

#[test]
fn s9_a_byte_is_counted_on_one_ip_meter() {
    let table = table(&[
        (Remote, "0.0.0.0/0", Meter),
        (Remote, "10.0.0.0/8", Meter),
        (Local, "10.1.0.0/16", Meter),
        (Remote, "10.9.0.0/16", Meter),
        (Local, ME, Meter),
    ]);
    let meter = |local, remote| table.look(Out, &packet(local, remote)).ip_meter.0;
    assert_eq!(meter("192.0.2.1", "198.51.100.1"), 1);
    assert_eq!(meter("192.0.2.1", "10.1.1.1"), 2);
    assert_eq!(meter("10.1.1.1", "10.1.1.1"), 3, "16 bits of local beat 8 of remote");
    assert_eq!(meter("10.1.1.1", PEER), 4, "16 bits each: the remote one counts");
    assert_eq!(meter(ME, PEER), 5);
    assert_eq!(meter("fe80::1", "fe80::2"), 0);
    let twice = self::table(&[(Remote, "any", Meter), (Remote, "0.0.0.0/0", Meter)]);
    assert_eq!(twice.look(Out, &packet(ME, PEER)).ip_meter, Tally(1), "the same prefix: the first listed");
}

#[test]
fn s9_meters_and_permissions_do_not_touch() {
    let table = table(&[
        (Remote, "10.0.0.0/8", Meter),
        (Remote, "10.0.0.0/8", Deny),
        (Remote, PEER, Allow),
        (Local, ME, Meter),
    ]);
    let look = |local, remote| {
        let answer = table.look(Out, &packet(local, remote));
        (answer.denied_by.map_or(0, |entry| entry.tally.0), answer.ip_meter.0)
    };
    assert_eq!(look("10.1.1.1", "10.2.2.2"), (2, 1), "both on one prefix");
    assert_eq!(look("10.1.1.1", PEER), (0, 1), "a longer permission hides no meter");
    assert_eq!(look(ME, "10.2.2.2"), (2, 4), "a longer meter permits nothing");
}

#[test]
fn s23_3_mac_meters_count_beside_ip_meters() {
    let (me, peer) = (mac_of(1).to_string(), mac_of(2).to_string());
    let table = table(&[
        (Remote, "any", Meter),
        (Remote, "any-mac", Meter),
        (Local, &me, Meter),
        (Remote, &peer, Meter),
    ]);
    let meters = |packet: &Packet| {
        let answer = table.look(Out, packet);
        (answer.ip_meter.0, answer.mac_meter.0)
    };
    assert_eq!(meters(&packet(ME, PEER)), (1, 4), "one address each: the remote one counts");
    assert_eq!(meters(&bare()), (0, 4));
    assert_eq!(
        meters(&Packet { remote_mac: stranger(1), ..bare() }),
        (0, 3),
        "one address beats every address"
    );
    assert_eq!(meters(&Packet { local_mac: stranger(2), remote_mac: stranger(1), ip: None }), (0, 2));
}

#[test]
fn s6_3_what_a_local_white_list_says_of_an_address_alone() {
    let table = table(&[
        (Local, "any", Deny),
        (Local, ME, Allow),
        (Local, "fe80::/10", Allow),
        (Remote, ME, Deny),
        (Local, "10.1.2.9", Meter),
        (Local, "any-mac", Deny),
    ]);
    let by = |text| table.denies_local(Out, ip(text)).map_or(0, |entry| entry.tally.0);
    assert_eq!(by(ME), 0, "entries about the peer say nothing about it");
    assert_eq!((by("10.1.2.4"), by("10.1.2.9"), by("2001:db8::1"), by("fe80::1")), (1, 1, 1, 0));
    assert_eq!(table.denies_local(In, ip("10.1.2.4")), None);
    let equal = self::table(&[(Local, "any", Deny), (Remote, "any", Allow), (Local, "::/0", Allow)]);
    assert_eq!(equal.denies_local(Out, ip("::1")).map(|entry| entry.tally), Some(Tally(1)));
    assert_eq!(Table::default().denies_local(Out, ip(ME)), None);
}

#[test]
fn s7_only_allowing_and_denying_judges_packets() {
    let of = |entries: &[(Applies, &str, Action)]| {
        let table = table(entries);
        (table.is_empty(), table.judges_ip())
    };
    assert_eq!(of(&[]), (true, false));
    assert_eq!(of(&[(Remote, "any", Meter)]), (false, false));
    assert_eq!(of(&[(Local, "::/0", Allow)]), (false, true));
    assert_eq!(of(&[(Local, "any-mac", Deny)]), (false, false));
    assert_eq!(of(&[(Local, ME, Deny), (Local, "02:00:00:00:00:01", Deny)]), (false, true));
}

#[test]
fn s7_tables_are_equal_when_their_entries_are() {
    let one = table(&[(Local, ME, Deny), (Remote, PEER, Meter)]);
    assert_eq!(one, Table::new(one.entries()));
    assert_ne!(one, table(&[(Local, ME, Deny)]));
    assert_ne!(one, table_of(In, &[(Local, ME, Deny), (Remote, PEER, Meter)]));
    assert_eq!(Table::default(), Table::new(&[]));
}

// ---- Against a list that is searched from end to end. ----

/// How long the match is if there is one: bits of an IP prefix; 0 or 48 for a MAC address.
fn matches(address: Address, mac: Option<Mac>, ip: Option<IpAddr>) -> Option<u8> {
    match address {
        Address::Any => ip.map(|_| 0),
        Address::Ip(net) => ip.filter(|ip| net.contains(ip)).map(|_| net.prefix_len()),
        Address::AnyMac => mac.map(|_| 0),
        Address::Mac(own) => mac.filter(|&mac| mac == own).map(|_| 48),
    }
}

/// The longest match, the most `preferred` one of those, the first listed of these.
fn longest<'a, P: Ord>(
    entries: &'a [Entry],
    wanted: impl Fn(&Entry) -> bool,
    end: impl Fn(Applies) -> (Option<Mac>, Option<IpAddr>),
    preferred: impl Fn(&Entry) -> P,
) -> Option<&'a Entry> {
    let length = |entry: &'a Entry| {
        let (mac, ip) = end(entry.applies);
        matches(entry.address, mac, ip).map(|length| (length, preferred(entry), entry))
    };
    let found = entries.iter().filter(|entry| wanted(entry)).filter_map(length);
    found.rev().max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1))).map(|(_, _, entry)| entry)
}

fn naive<'a>(entries: &'a [Entry], direction: Direction, packet: &Packet) -> Answer<'a> {
    let ip_end = |applies| match applies {
        Local => (None, packet.ip.map(|ip| ip.0)),
        Remote => (None, packet.ip.map(|ip| ip.1)),
    };
    let mac_end = |applies| match applies {
        Local => (Some(packet.local_mac), None),
        Remote => (Some(packet.remote_mac), None),
    };
    let judges = |entry: &Entry| entry.direction == direction && entry.action != Meter;
    let meters = |entry: &Entry| entry.direction == direction && entry.action == Meter;
    let denial = |entry: &Entry| (entry.action == Deny, entry.applies == Local);
    let remote = |entry: &Entry| entry.applies == Remote;
    let mac = longest(entries, judges, mac_end, denial).filter(|entry| entry.action == Deny);
    let ip = longest(entries, judges, ip_end, denial).filter(|entry| entry.action == Deny);
    let tally = |entry: Option<&Entry>| entry.map_or(Tally::NONE, |entry| entry.tally);
    Answer {
        denied_by: mac.or(ip),
        ip_meter: tally(longest(entries, meters, ip_end, remote)),
        mac_meter: tally(longest(entries, meters, mac_end, remote)),
    }
}

fn naive_local(entries: &[Entry], direction: Direction, ip: IpAddr) -> Option<&Entry> {
    let judges =
        |entry: &Entry| entry.direction == direction && entry.action != Meter && entry.applies == Local;
    let decides = longest(entries, judges, |_| (None, Some(ip)), |entry| entry.action == Deny);
    decides.filter(|entry| entry.action == Deny)
}

fn random_direction(random: &mut Random) -> Direction {
    if random.once_in(2) { In } else { Out }
}

/// Addresses that often share many bits, and now and then the ends of the range.
fn random_ip(random: &mut Random) -> IpAddr {
    let spread = match random.below(16) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 0,
        _ => random.next() & random.next() & 0x0001_8003_0081_0183,
    };
    if random.once_in(2) {
        Ipv4Addr::from(spread as u32).into()
    } else {
        Ipv6Addr::from(u128::from(spread) << 64 | u128::from(spread.rotate_left(9))).into()
    }
}

fn random_mac(random: &mut Random) -> Mac {
    if random.once_in(8) { Mac::BROADCAST } else { mac_of(random.below(8) as u16) }
}

fn random_net(random: &mut Random) -> IpNet {
    match random_ip(random) {
        IpAddr::V4(ip) => Ipv4Net::new(ip, random.below(33) as u8).expect("up to 32").trunc().into(),
        IpAddr::V6(ip) => Ipv6Net::new(ip, random.below(129) as u8).expect("up to 128").trunc().into(),
    }
}

fn random_entry(random: &mut Random, slot: usize) -> Entry {
    Entry {
        direction: random_direction(random),
        applies: if random.once_in(2) { Local } else { Remote },
        address: match random.below(12) {
            0 => Address::Any,
            1 => Address::AnyMac,
            2..=4 => Address::Mac(random_mac(random)),
            _ => Address::Ip(random_net(random)),
        },
        action: [Allow, Deny, Meter][random.below(3)],
        tally: Tally(slot as u32 + 1),
    }
}

fn random_packet(random: &mut Random) -> Packet {
    let local = random_ip(random);
    let family = |ip: &IpAddr| ip.is_ipv4() == local.is_ipv4();
    let remote = std::iter::repeat_with(|| random_ip(random)).find(family).expect("half of them are");
    Packet {
        local_mac: random_mac(random),
        remote_mac: random_mac(random),
        ip: (!random.once_in(8)).then_some((local, remote)),
    }
}

#[test]
fn s7_a_table_says_what_its_list_says() {
    let mut random = Random(7);
    let (mut denied, mut metered) = (0, 0);
    for round in 0..2_500 {
        let many = random.below(if round % 50 == 0 { 600 } else { 40 });
        let entries: Vec<Entry> = (0..many).map(|slot| random_entry(&mut random, slot)).collect();
        let table = Table::new(&entries);
        for _ in 0..50 {
            let (direction, packet) = (random_direction(&mut random), random_packet(&mut random));
            let answer = table.look(direction, &packet);
            assert_eq!(answer, naive(&entries, direction, &packet), "{direction} {packet:?} {entries:?}");
            denied += u32::from(answer.denied_by.is_some());
            metered += u32::from(answer.ip_meter != Tally::NONE && answer.mac_meter != Tally::NONE);
            if let Some((ip, _)) = packet.ip {
                assert_eq!(table.denies_local(direction, ip), naive_local(&entries, direction, ip), "{ip}");
            }
        }
    }
    assert!(denied > 10_000 && metered > 10_000, "{denied} denied and {metered} on two meters of 125,000");
}

/// Prints nanoseconds: `cargo test --release -p turnpike-vswitch -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, asserts nothing about them; run with --release"]
fn figures_of_port_acls() {
    let mut random = Random(1);
    for many in [10, 1_000, 4_000] {
        let wide = |random: &mut Random| Ipv4Addr::from(random.next() as u32);
        let entries: Vec<Entry> = (0..many)
            .map(|slot| {
                let mut entry = random_entry(&mut random, slot);
                let long = random.next();
                entry.address = match random.below(3) {
                    0 => Address::Mac(Mac::from_u64(long)),
                    1 => Address::Ip(
                        Ipv4Net::new(wide(&mut random), (long % 33) as u8).expect("<33").trunc().into(),
                    ),
                    _ => {
                        let ip = Ipv6Addr::from(u128::from(long) << 64 | u128::from(random.next()));
                        Address::Ip(Ipv6Net::new(ip, (long % 129) as u8).expect("<129").trunc().into())
                    }
                };
                entry
            })
            .collect();
        let start = Instant::now();
        let table = Table::new(&entries);
        let built = start.elapsed();
        // Half of the packets use addresses of entries.
        let mut pick = |v6: bool| -> IpAddr {
            let known = entries.get(random.below(many)).and_then(|entry| match entry.address {
                Address::Ip(net) if matches!(net, IpNet::V6(_)) == v6 => Some(net.addr()),
                _ => None,
            });
            match known {
                Some(ip) => ip,
                None if v6 => Ipv6Addr::from(u128::from(random.next()) << 64).into(),
                None => wide(&mut random).into(),
            }
        };
        let packets: Vec<Packet> = (0..4096)
            .map(|n| {
                let macs = [pick(false), pick(false)].map(|ip| match ip {
                    IpAddr::V4(ip) => Mac::from_u64(u64::from(u32::from(ip)) << 12),
                    IpAddr::V6(_) => Mac::BROADCAST,
                });
                let ip = (pick(n % 2 == 0), pick(n % 2 == 0));
                Packet { local_mac: macs[0], remote_mac: macs[1], ip: Some(ip) }
            })
            .collect();
        // Short runs, the best of which nothing else disturbed.
        let mut each = u128::MAX;
        for _ in 0..100 {
            let start = Instant::now();
            for packet in &packets {
                black_box(table.look(Out, black_box(packet)));
            }
            each = each.min(start.elapsed().as_nanos() / packets.len() as u128);
        }
        println!("port ACL of {many}: {each} ns a look-up, built in {built:?}");
    }
}
