//! Opening, refusing and closing links leaves no descriptor behind. Alone in its process, where nobody else opens any.

use std::process::Command;
use std::sync::Mutex;

use backend::link::{Packet, Tap, Xdp};
use vswitch::Mac;

/// The descriptors are those of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn no_descriptor_is_left_of_a_link_or_of_a_refusal() {
    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let name = format!("tld{:x}", std::process::id());
    if let Err(error) = Tap::open(&name, MAC, None) {
        eprintln!("skipped: no_descriptor_is_left_of_a_link_or_of_a_refusal: {error}");
        return;
    }
    let _guard = ONE_AT_A_TIME.lock();
    let before = open();
    for _ in 0..20 {
        let tap = Tap::open(&name, MAC, Some(1400)).expect("opened");
        let packet = Packet::open(&name).expect("opened");
        assert_eq!(open(), before + 2, "one descriptor each");
        Tap::open(&name, MAC, None).expect_err("held");
        Tap::open("lo", MAC, None).expect_err("not a TAP");
        Packet::open("lo").expect_err("not Ethernet");
        Packet::open("tl-missing").expect_err("missing");
        drop((tap, packet));
        assert_eq!(open(), before);
    }
}

/// Mappings of this process, and the kernel's count of locked bytes.
fn memory() -> (usize, String) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc").lines().count();
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let pinned = status.lines().find(|line| line.starts_with("VmPin")).expect("VmPin").to_owned();
    (maps, pinned)
}

#[test]
fn fifty_uplinks_over_af_xdp_leave_no_descriptor_no_mapping_and_no_program() {
    let name = format!("tlx{:x}", std::process::id());
    let peer = format!("{name}p");
    let ip = |words: &[&str]| Command::new("ip").args(words).output();
    let made = ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]);
    if !made.is_ok_and(|made| made.status.success()) {
        eprintln!(
            "skipped: fifty_uplinks_over_af_xdp_leave_no_descriptor_no_mapping_and_no_program: cannot make interfaces"
        );
        return;
    }
    let _guard = ONE_AT_A_TIME.lock();
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    drop(Xdp::open(&name).expect("opened"));
    let before = (open(), memory());
    for _ in 0..50 {
        let xdp = Xdp::open(&name).expect("opened");
        assert_eq!(open(), before.0 + 4, "socket, attachment, memory and the interface");
        drop(xdp);
        Xdp::open("tl-missing").expect_err("missing");
        assert_eq!((open(), memory()), before);
    }
    let shown = ip(&["-d", "link", "show", "dev", &name]).expect("ip").stdout;
    let _ = ip(&["link", "del", &name]);
    assert!(!String::from_utf8_lossy(&shown).contains("xdp"));
}
