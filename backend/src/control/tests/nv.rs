//! Network virtualization: what is refused and in which words, that a document is refused whole, and what is in force and stored.

use super::super::nv::check::Spec;
use super::super::nv::object::Key;
use super::*;
use crate::control::types::{
    Config, ConfigUplink, GatewaySpec, NetworkSpec, NvDocument, ProviderSpec, RecordChange, RecordSpec,
    RouteSpec, SubnetSpec,
};

const BLUE: &str = "11111111-1111-1111-1111-111111111111";

fn network(name: &str, rdid: &str) -> NetworkSpec {
    NetworkSpec { name: name.into(), rdid: rdid.into() }
}

fn subnet(network: &str, vsid: u64, prefix: &str) -> SubnetSpec {
    let prefix = prefix.split(',').map(str::to_owned).collect();
    SubnetSpec { network: network.into(), vsid, prefix, gateway: vec![] }
}

fn record(vsid: u64, ca: &str, mac: u8, pa: &str) -> RecordSpec {
    let mac = format!("02:00:00:00:00:{mac:02x}");
    RecordSpec { vsid, ca: Some(ca.into()), mac, pa: pa.into(), ..RecordSpec::default() }
}

fn route(network: &str, prefix: &str, next_hop: &str) -> RouteSpec {
    RouteSpec { network: network.into(), prefix: prefix.into(), next_hop: next_hop.into(), metric: 0 }
}

fn provider(address: &str) -> ProviderSpec {
    ProviderSpec { address: address.into(), uplink: "up".into(), vlan: None, gateway: None }
}

fn gateway(network: &str) -> GatewaySpec {
    let (network, uplink, mode) = (network.into(), "up".into(), "forward".into());
    GatewaySpec { network, uplink, mode, vlan: None, address: None }
}

/// A switch with an uplink, blue's subnet 5001 in it, and a provider address.
fn blue_in(store: Store) -> (Switch, Fake) {
    let fake = Fake::default();
    let saved = Saved { ports: vec![stored_uplink()], ..Saved::default() };
    let mut switch = start(saved, store, &fake);
    switch.set_switch(&SwitchChange { nv: Some(Some(true)), ..SwitchChange::default() }).unwrap();
    make(&mut switch, provider("192.168.1.20/24")).unwrap();
    make(&mut switch, network("blue", BLUE)).unwrap();
    make(&mut switch, subnet("blue", 5001, "10.1.1.0/24,fd01::/64")).unwrap();
    (switch, fake)
}

fn blue() -> (Switch, Fake) {
    blue_in(Store::none())
}

fn make<S: Spec>(switch: &mut Switch, spec: S) -> Result<(), Refused> {
    let changes = switch.nv_create(&[spec])?;
    switch.nv_commit(&changes)
}

fn remove(switch: &mut Switch, key: &Key) -> Result<(), Refused> {
    let changes = switch.nv_remove(key)?;
    switch.nv_commit(&changes)
}

/// That an object is refused in these words, and nothing changed.
fn no<S: Spec>(switch: &mut Switch, spec: S, words: &str) {
    let before = switch.nv_export();
    let line = make(switch, spec).expect_err(words).to_string();
    assert_eq!(line, words);
    assert_eq!(switch.nv_export(), before);
}

#[test]
fn s14_2_what_is_wrong_with_an_object_is_said_with_what_would_be_valid() {
    let (mut switch, _) = blue();
    let it = &mut switch;
    no(it, network("red", "7"), "network 'red': '7' is not a UUID; valid: 8-4-4-4-12 hexadecimal digits");
    no(
        it,
        network("red", BLUE),
        "network 'red': routing domain 11111111-1111-1111-1111-111111111111 is that of network 'blue'; valid: a UUID of its own \
         ('uuidgen' makes one)",
    );
    no(
        it,
        network("blue", "21111111-1111-1111-1111-111111111111"),
        "network 'blue': there is one already; valid: 'turnpike nv network remove blue' first",
    );
    for vsid in [0, 4095, 16_777_215] {
        let words =
            format!("subnet '{vsid}': vsid {vsid} is out of range (reason 27); valid: 4096 to 16777214");
        no(it, subnet("blue", vsid, "10.2.0.0/16"), &words);
    }
    no(it, subnet("red", 5002, "10.2.0.0/16"), "subnet '5002': there is no network 'red'; valid: blue");
    no(
        it,
        subnet("blue", 5002, "10.0.0.0/8"),
        "subnet '5002': prefix 10.0.0.0/8 overlaps 10.1.1.0/24 of subnet 5001 in the same network; valid: a prefix outside of \
         10.1.1.0/24, or a network of its own, where it may overlap",
    );
    no(
        it,
        subnet("blue", 5002, "10.2.0.0/16,10.3.0.0/16"),
        "subnet '5002': it has 2 prefixes of IPv4; valid: one prefix of IPv4, one of IPv6, or one of each",
    );
    no(
        it,
        subnet("blue", 5002, "10.2.0.0/31"),
        "subnet '5002': prefix 10.2.0.0/31 has no room for a guest beside the router; valid: a length up to 30",
    );
    no(
        it,
        record(5002, "10.1.1.2", 1, "192.168.1.21"),
        "record '5002/10.1.1.2': there is no subnet 5002; valid: one of 'turnpike nv subnet list', or 'turnpike nv subnet add --vsid \
         5002 ...' first",
    );
    no(
        it,
        record(5001, "10.2.1.2", 1, "192.168.1.21"),
        "record '5001/10.2.1.2': customer address 10.2.1.2 is not in the subnet; valid: an address in 10.1.1.0/24, fd01::/64",
    );
    no(
        it,
        record(5001, "10.1.1.1", 1, "192.168.1.21"),
        "record '5001/10.1.1.1': 10.1.1.1 is the address of the router of subnet 5001; valid: another address of the subnet",
    );
    no(
        it,
        record(5001, "10.1.1.255", 1, "192.168.1.21"),
        "record '5001/10.1.1.255': 10.1.1.255 is not an address a guest can have; valid: a unicast address that is neither the \
         first nor the last of its subnet",
    );
    no(
        it,
        record(5001, "10.1.1.2", 1, "192.168.2.21"),
        "record '5001/10.1.1.2': no provider address of this host reaches 192.168.2.21; valid: an address in 192.168.1.0/24, or \
         a provider with a --gateway",
    );
    no(
        it,
        record(5001, "10.1.1.2", 1, "fd00::21"),
        "record '5001/10.1.1.2': no provider address of this host reaches fd00::21; valid: 'turnpike nv provider add' first, with \
         an address of the same family",
    );
    no(
        it,
        record(5001, "10.1.1.2", 1, "224.0.0.1"),
        "record '5001/10.1.1.2': provider address 224.0.0.1 cannot be on the wire; valid: a unicast address of a host",
    );
    make(it, record(5001, "10.1.1.2", 1, "192.168.1.21")).unwrap();
    no(
        it,
        record(5001, "10.1.1.2", 1, "192.168.1.22"),
        "record '5001/10.1.1.2': there is one already; valid: 'turnpike nv record remove --vsid 5001 --ca 10.1.1.2' first",
    );
    no(
        it,
        record(5001, "10.1.1.2", 2, "192.168.1.21"),
        "record '5001/10.1.1.2': 10.1.1.2 has a record with MAC address 02:00:00:00:00:01 already; valid: 02:00:00:00:00:01, or \
         remove that record first",
    );
    no(
        it,
        RecordSpec { kind: Some("dynamic".into()), ..record(5001, "10.1.1.3", 3, "192.168.1.21") },
        "record '5001/10.1.1.3': 'dynamic' is not a value of kind; valid: static, l2-only or gateway",
    );
    no(
        it,
        ProviderSpec { uplink: "two".into(), ..provider("192.168.1.30/24") },
        "provider '192.168.1.30': there is no such uplink; valid: up",
    );
    no(
        it,
        ProviderSpec { gateway: Some("10.0.0.1".into()), ..provider("192.168.1.30/24") },
        "provider '192.168.1.30': router 10.0.0.1 is not in 192.168.1.0/24; valid: a router in 192.168.1.0/24",
    );
    no(
        it,
        GatewaySpec { mode: "nat".into(), ..gateway("blue") },
        "gateway 'blue': address is missing; valid: the shared address with the length of its prefix, such as 203.0.113.5/24",
    );
}

#[test]
fn s14_1_rewrite_needs_addresses_of_one_family_and_one_for_each_customer_address() {
    let (mut switch, _) = blue();
    let rewrite = |ca: &str, mac, wire: Option<&str>| RecordSpec {
        encap: Some("rewrite".into()),
        rewrite_pa: wire.map(str::to_owned),
        ..record(5001, ca, mac, "192.168.1.21")
    };
    no(
        &mut switch,
        rewrite("fd01::2", 1, None),
        "record '5001/fd01::2': rewrite would put 192.168.1.21 in the place of fd01::2; valid: addresses of one family, or nvgre \
         or vxlan as encap",
    );
    make(&mut switch, rewrite("10.1.1.2", 1, Some("192.168.1.12"))).unwrap();
    no(
        &mut switch,
        rewrite("10.1.1.3", 3, Some("192.168.1.12")),
        "record '5001/10.1.1.3': rewrite: 192.168.1.12 stands for 5001/10.1.1.2 already; valid: a provider address for each \
         customer address: another one as --rewrite-pa",
    );
    no(
        &mut switch,
        RecordSpec { rewrite_pa: Some("192.168.1.13".into()), ..record(5001, "10.1.1.3", 3, "192.168.1.21") },
        "record '5001/10.1.1.3': a rewrite address is given, and it is carried by nvgre; valid: rewrite as encap, or no rewrite \
         address",
    );
    make(&mut switch, rewrite("10.1.1.3", 3, Some("192.168.1.13"))).unwrap();
}

#[test]
fn s14_3_routes_lead_to_guests_of_the_network_and_in_no_circle() {
    let (mut switch, _) = blue();
    let it = &mut switch;
    no(
        it,
        route("blue", "10.9.0.0/16", "10.2.0.1"),
        "route 'blue/10.9.0.0/16/10.2.0.1': next hop 10.2.0.1 is in no subnet of network 'blue'; valid: a customer address of this \
         network, or 'gateway'",
    );
    no(
        it,
        route("blue", "10.9.0.0/16", "10.1.1.1"),
        "route 'blue/10.9.0.0/16/10.1.1.1': the next hop of 10.9.0.0/16 is the router itself, so that packets would go in a circle; \
         valid: the address of a guest that forwards, or 'gateway'",
    );
    no(
        it,
        route("blue", "10.1.1.128/25", "10.1.1.5"),
        "route 'blue/10.1.1.128/25/10.1.1.5': 10.1.1.128/25 is in subnet 5001, where guests are reached without a route; valid: a \
         prefix outside of the network's subnets, or a wider one",
    );
    no(
        it,
        route("blue", "::/0", "10.1.1.5"),
        "route 'blue/::/0/10.1.1.5': next hop 10.1.1.5 is of another family than ::/0; valid: an IPv6 address, or 'gateway'",
    );
    make(it, route("blue", "0.0.0.0/0", "gateway")).unwrap();
    make(it, route("blue", "10.9.0.0/16", "10.1.1.5")).unwrap();
    // A subnet that takes a route's place is no better than a route in a subnet.
    no(
        it,
        subnet("blue", 5009, "10.9.0.0/16"),
        "route 'blue/10.9.0.0/16/10.1.1.5': 10.9.0.0/16 is in subnet 5009, where guests are reached without a route; valid: a prefix \
         outside of the network's subnets, or a wider one",
    );
}

#[test]
fn s14_2_what_others_need_is_not_removed() {
    let (mut switch, _) = blue();
    make(&mut switch, record(5001, "10.1.1.2", 1, "192.168.1.21")).unwrap();
    let line = |result: Result<(), Refused>| result.expect_err("needed").to_string();
    assert_eq!(
        line(remove(&mut switch, &Key::Network("blue".into()))),
        "network 'blue': subnet 5001 needs it; valid: remove what needs it first"
    );
    assert_eq!(
        line(remove(&mut switch, &Key::Subnet(5001))),
        "subnet '5001': a record needs it; valid: remove what needs it first"
    );
    assert_eq!(
        line(switch.remove_uplink("up")),
        "uplink 'up': provider 192.168.1.20 needs it; valid: remove what needs it first"
    );
    assert_eq!(
        line(remove(&mut switch, &Key::Subnet(7777))),
        "subnet '7777': there is none; valid: one of those in 'turnpike nv subnet list'"
    );
    for key in ["record", "subnet", "network", "provider"] {
        let key = match key {
            "record" => Key::Record(RecordKey::Address(5001, [10, 1, 1, 2].into())),
            "subnet" => Key::Subnet(5001),
            "network" => Key::Network("blue".into()),
            _ => Key::Provider([192, 168, 1, 20].into()),
        };
        remove(&mut switch, &key).unwrap();
    }
    assert_eq!(switch.nv_export(), NvDocument::default());
    switch.remove_uplink("up").unwrap();
}

#[test]
fn s14_2_a_record_may_change_where_it_is_and_nothing_of_what_it_is() {
    let (mut switch, fake) = blue();
    make(&mut switch, record(5001, "10.1.1.2", 1, "192.168.1.21")).unwrap();
    let found = |fake: &Fake| {
        let of = vswitch::nv::records::Of::Address([10, 1, 1, 2].into());
        fake.1.nv.records.find(5001, of).expect("the record").1
    };
    assert!(!found(&fake).local);
    let change = RecordChange {
        vsid: 5001,
        ca: Some("10.1.1.2".into()),
        pa: Some("192.168.1.20".into()),
        ..RecordChange::default()
    };
    let changes = switch.nv_set_record(&change).unwrap();
    switch.nv_commit(&changes).unwrap();
    assert!(found(&fake).local, "the data path knows that it is here");
    // When the provider address goes, it is no longer.
    remove(&mut switch, &Key::Provider([192, 168, 1, 20].into())).unwrap();
    assert!(!found(&fake).local);
    let gone = RecordChange { ca: Some("10.1.1.3".into()), ..change };
    assert_eq!(
        switch.nv_set_record(&gone).expect_err("none").to_string(),
        "record '5001/10.1.1.3': there is none; valid: one of those in 'turnpike nv record list'"
    );
}

fn document() -> NvDocument {
    NvDocument {
        network: vec![network("blue", BLUE), network("red", "21111111-1111-1111-1111-111111111111")],
        subnet: vec![
            subnet("blue", 5001, "10.1.1.0/24"),
            subnet("red", 6001, "10.1.1.0/24"),
            subnet("red", 6002, "10.2.0.0/16"),
        ],
        route: vec![route("red", "0.0.0.0/0", "10.2.0.9")],
        provider: vec![provider("192.168.1.20/24")],
        gateway: vec![gateway("blue")],
        record: (2..200).map(|n| record(6001, &format!("10.1.1.{n}"), n as u8, "192.168.1.21")).collect(),
    }
}

#[test]
fn s14_2_a_half_right_document_is_refused_whole_with_everything_that_is_wrong_in_it() {
    let (switch, _) = blue();
    let before = switch.nv_export();
    let mut bad = document();
    bad.subnet[1].prefix = vec!["10.2.3.0/24".into()];
    bad.record[0].vsid = 4000;
    bad.record[7].mac = "01:00:00:00:00:00".into();
    bad.record.push(record(6001, "10.1.1.50", 99, "192.168.1.21"));
    let refused = switch.nv_import(&bad).expect_err("refused");
    let lines: Vec<_> = refused.why.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines[..3],
        [
            "subnet '6002': prefix 10.2.0.0/16 overlaps 10.2.3.0/24 of subnet 6001 in the same network; valid: a prefix outside of \
             10.2.3.0/24, or a network of its own, where it may overlap",
            "route 'red/0.0.0.0/0/10.2.0.9': next hop 10.2.0.9 is in no subnet of network 'red'; valid: a customer address of this \
             network, or 'gateway'",
            "record '4000/10.1.1.2': vsid 4000 is out of range (reason 27); valid: 4096 to 16777214",
        ]
    );
    assert_eq!(lines.len(), 100, "and not without end");
    bad = document();
    bad.record.push(record(6001, "10.1.1.50", 99, "192.168.1.21"));
    assert_eq!(
        switch.nv_import(&bad).expect_err("refused").to_string(),
        "record '6001/10.1.1.50': 10.1.1.50 has a record with MAC address 02:00:00:00:00:32 already; valid: 02:00:00:00:00:32, or \
         remove that record first"
    );
    bad.record.last_mut().unwrap().mac = "02:00:00:00:00:32".into();
    assert_eq!(
        switch.nv_import(&bad).expect_err("refused").to_string(),
        "record '6001/10.1.1.50': there is one already; valid: 'remove one of the two' first"
    );
    assert_eq!(switch.nv_export(), before);
}

#[test]
fn s14_2_what_is_exported_is_imported_and_importing_it_again_changes_nothing() {
    let (mut switch, _) = blue();
    make(&mut switch, record(5001, "10.1.1.7", 7, "192.168.1.21")).unwrap();
    let changes = switch.nv_import(&document()).unwrap();
    switch.nv_commit(&changes).unwrap();
    let exported = switch.nv_export();
    assert_eq!(exported.record.len(), 198, "and the record that is not in it is gone");
    assert_eq!(switch.nv_import(&exported).unwrap(), []);
    assert_eq!(switch.nv_import(&document()).unwrap(), []);
    let gone = switch.nv_import(&NvDocument::default()).unwrap();
    let position = |noun| gone.iter().position(|change| change.key.noun() == noun).unwrap();
    assert!(position("record") < position("subnet") && position("subnet") < position("network"));
    switch.nv_commit(&gone).unwrap();
    assert_eq!(switch.nv_export(), NvDocument::default());
}

#[test]
fn s14_everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut switch, _) = blue_in(Store::open(directory.path()).unwrap().0);
    let changes = switch.nv_import(&document()).unwrap();
    switch.nv_commit(&changes).unwrap();
    let exported = switch.nv_export();
    drop(switch);
    let (store, saved) = Store::open(directory.path()).unwrap();
    let saved = Saved { ports: vec![stored_uplink()], ..saved };
    let fake = Fake::default();
    let mut switch = start(saved, store, &fake);
    assert_eq!(switch.nv_export(), exported);
    assert!(switch.show().nv, "the setting, too");
    remove(&mut switch, &Key::Gateway("blue".into())).unwrap();
    drop(switch);
    assert_eq!(Store::open(directory.path()).unwrap().1.nv.len(), 206 - 1);
}

#[test]
fn s14_a_change_that_cannot_be_stored_changes_nothing() {
    let (mut switch, _) = blue();
    switch.store = Store::failing();
    let before = switch.nv_export();
    let line =
        make(&mut switch, record(5001, "10.1.1.2", 1, "192.168.1.21")).expect_err("not stored").to_string();
    assert!(line.contains("the change could not be stored: no space left on device"), "{line}");
    assert_eq!(switch.nv_export(), before);
}

#[test]
fn s14_a_switch_is_made_equal_to_a_file_with_its_customer_networks() {
    let (mut switch, fake) = blue();
    let saved = switch.save();
    assert_eq!(saved.nv, switch.nv_export());
    assert_eq!(switch.apply(&saved, false).unwrap().changes, []);
    let uplink = ConfigUplink { name: "up".into(), device: "eth8".into(), ..ConfigUplink::default() };
    let config = Config {
        switch: SwitchChange { nv: Some(Some(true)), ..SwitchChange::default() },
        uplink: vec![uplink.clone()],
        nv: document(),
        ..Config::default()
    };
    let lines = switch.apply(&config, false).unwrap().changes;
    let lines: Vec<_> = lines.iter().map(|d| format!("{} {}: {}", d.op, d.object, d.text)).collect();
    assert!(
        lines.contains(&"+ network 'red': rdid 21111111-1111-1111-1111-111111111111".to_owned()),
        "{lines:?}"
    );
    assert_eq!((fake.1.nv.records.len(), switch.nv_export().record.len()), (198, 198));
    // An uplink that something is at cannot go with it.
    let refused =
        switch.apply(&Config { uplink: vec![], ..config }, false).expect_err("no uplink").to_string();
    assert!(refused.contains("there is no such uplink"), "{refused}");
    // What a file does not say is at its default.
    switch.apply(&Config { uplink: vec![uplink], ..Config::default() }, false).unwrap();
    assert_eq!((switch.nv_export(), fake.1.nv.records.len()), (NvDocument::default(), 0));
}

#[test]
fn s14_13_a_guest_of_a_virtual_subnet_is_offered_what_the_provider_network_leaves() {
    let (mut switch, fake) = blue();
    let dir = tempfile::tempdir().unwrap();
    let vsid = PolicyChange { vsid: Some(Some(5001)), ..PolicyChange::default() };
    switch.ports.get_mut("up").unwrap().mtu = 1500;
    let offered = |switch: &Switch, mtu| {
        let new = NewPort { policy: vsid.clone(), mtu: Some(mtu), ..guest(&dir, "g") };
        let config = switch.check_port(&new).unwrap();
        match &switch.nv_offered().of(&config).device {
            Device::Guest { mtu, .. } => *mtu,
            _ => 0,
        }
    };
    assert_eq!((offered(&switch, 1500), offered(&switch, 1400)), (1458, 1400));
    switch.ports.get_mut("up").unwrap().mtu = 9000;
    assert_eq!(offered(&switch, 1500), 1500, "jumbo frames on the provider network leave room enough");
    switch.ports.get_mut("up").unwrap().mtu = 1500;
    make(
        &mut switch,
        RecordSpec { encap: Some("vxlan".into()), ..record(5001, "10.1.1.2", 1, "192.168.1.21") },
    )
    .unwrap();
    assert_eq!(offered(&switch, 1500), 1450);
    switch.set_switch(&SwitchChange { nv: Some(Some(false)), ..SwitchChange::default() }).unwrap();
    assert_eq!(offered(&switch, 1500), 1500);
    drop(fake);
}

#[test]
fn s20_5_the_records_of_a_guest_that_arrived_say_that_it_is_here() {
    let (mut switch, fake) = blue();
    let dir = tempfile::tempdir().unwrap();
    let policy = PolicyChange { vsid: Some(Some(5001)), ..PolicyChange::default() };
    let mac = Some("02:00:00:00:00:01".into());
    switch.add_port(&NewPort { mac, policy, ..guest(&dir, "g") }).unwrap();
    for (ca, mac) in [("10.1.1.2", 1), ("fd01::2", 1), ("10.1.1.3", 3)] {
        make(&mut switch, record(5001, ca, mac, "192.168.1.21")).unwrap();
    }
    let config = switch.ports["g"].config.clone();
    switch.nv_arrived(&config);
    let there: Vec<_> = switch.nv_records(None).into_iter().map(|it| (it.ca.unwrap(), it.pa)).collect();
    let place = |ca: &str| there.iter().find(|it| it.0 == ca).map(|it| it.1.as_str());
    assert_eq!((place("10.1.1.2"), place("fd01::2")), (Some("192.168.1.20"), Some("192.168.1.20")));
    assert_eq!(place("10.1.1.3"), Some("192.168.1.21"), "that of another guest stays");
    let of = vswitch::nv::records::Of::Address([10, 1, 1, 2].into());
    assert!(fake.1.nv.records.find(5001, of).unwrap().1.local);
    let epochs = fake.notes().epochs.len();
    switch.nv_arrived(&config);
    assert_eq!(fake.notes().epochs.len(), epochs, "once");
}
