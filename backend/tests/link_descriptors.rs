//! Opening, refusing and closing links leaves no descriptor behind. Alone in its process, where nobody else opens any.

use backend::link::{Packet, Tap};
use vswitch::Mac;

#[test]
fn no_descriptor_is_left_of_a_link_or_of_a_refusal() {
    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let name = format!("tld{:x}", std::process::id());
    if let Err(error) = Tap::open(&name, MAC, None) {
        eprintln!("skipped: no_descriptor_is_left_of_a_link_or_of_a_refusal: {error}");
        return;
    }
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
