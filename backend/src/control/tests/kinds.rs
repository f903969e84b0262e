//! What a switch of each kind connects.

use super::*;

#[test]
fn an_internal_switch_has_no_uplink_and_a_private_one_no_host_port() {
    let (mut switch, _, dir) = fresh();
    let uplink = NewUplink { name: "up".into(), device: "lo".into(), driver: None };
    switch.set_switch(&kind(SwitchKind::Private)).unwrap();
    assert_eq!(
        refused(&mut switch, |s| s.add_port(&tap("h"))),
        "port 'h': a private switch has no host port; valid: 'turnpike switch set --kind internal' (or external) first"
    );
    refused(&mut switch, |s| s.add_uplink(&uplink));
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.set_switch(&kind(SwitchKind::Internal)).unwrap();
    switch.add_port(&tap("h")).unwrap();
    assert_eq!(
        refused(&mut switch, |s| s.add_uplink(&uplink)),
        "uplink 'up': an internal switch has no uplink; valid: 'turnpike switch set --kind external' first"
    );
    assert_eq!(
        refused(&mut switch, |s| s.set_switch(&kind(SwitchKind::Private))),
        "switch: cannot be private with host port 'h'; valid: remove these first (a private switch \
         connects guests only)"
    );
    switch.set_switch(&kind(SwitchKind::External)).unwrap();
    assert_eq!(
        refused(&mut switch, |s| s.add_uplink(&uplink)),
        "uplink 'up': interface 'lo': it is not Ethernet; valid: another Ethernet interface, or this one when that is mended"
    );
}

#[test]
fn an_external_switch_has_exactly_one_uplink() {
    let saved = Saved { ports: vec![stored_uplink()], ..Saved::default() };
    let mut switch = start(saved, Store::none(), &Fake::default());
    let second = NewUplink { name: "two".into(), device: "eth9".into(), driver: None };
    assert_eq!(
        refused(&mut switch, |s| s.add_uplink(&second)),
        "uplink 'two': an external switch has exactly one uplink and 'up' is it; valid: 'turnpike uplink remove up' first"
    );
    assert_eq!(
        refused(&mut switch, |s| s.set_switch(&kind(SwitchKind::Internal))),
        "switch: cannot be internal with uplink 'up'; valid: remove these first (an internal switch \
         connects guests and the host only)"
    );
    assert_eq!(
        refused(&mut switch, |s| s.remove_port("up")),
        "port 'up': this is an uplink; valid: 'turnpike uplink remove up'"
    );
    assert_eq!(
        refused(&mut switch, |s| s.add_port(&NewPort { tap: Some("eth8".into()), ..tap("t") })),
        "port 't': interface 'eth8' is used by port 'up'; valid: an interface that is free"
    );
    switch.remove_uplink("up").unwrap();
    switch.set_switch(&kind(SwitchKind::Internal)).unwrap();
}
