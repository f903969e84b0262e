//! What every uplink does, whichever driver it has: each test runs over `AF_PACKET` and over `AF_XDP`.

use std::time::Duration;

use backend::link::packet::MAX_UNICAST;
use backend::link::{Link, LinkBurst, LinkError, MAX_FRAME, MAX_PIECES, Packet, Piece, Sent, Xdp};
use backend::spec::DataplaneError;
use vswitch::Mac;

use crate::lab::{
    MAC_A, NO_OFFLOAD, Namespace, PATIENCE, Veth, can_run, collect, eventually, frame, ip, is_gone_error,
    is_local, link_value, run, send, tagged, tcp_to_segment, unique,
};

/// An uplink of either driver.
pub(crate) trait Uplink: Link {
    fn open(interface: &str) -> Result<Self, LinkError>
    where
        Self: Sized;
    fn mac(&self) -> Mac;
    fn mtu(&self) -> u32;
    fn is_promiscuous(&self) -> bool;
}

macro_rules! uplink {
    ($type:ty) => {
        impl Uplink for $type {
            fn open(interface: &str) -> Result<Self, LinkError> {
                <$type>::open(interface)
            }

            fn mac(&self) -> Mac {
                self.mac()
            }

            fn mtu(&self) -> u32 {
                self.mtu()
            }

            fn is_promiscuous(&self) -> bool {
                self.is_promiscuous()
            }
        }
    };
}
uplink!(Packet);
uplink!(Xdp);

/// Both ends of a veth pair.
pub(crate) fn pair<U: Uplink>() -> (Veth, U, U) {
    let veth = Veth::new();
    let a = U::open(&veth.a).expect("one end");
    let b = U::open(&veth.b).expect("other end");
    assert!(eventually(|| a.is_up() && b.is_up()), "a veth pair has a carrier when both ends are up");
    (veth, a, b)
}

/// Runs a test over both drivers.
macro_rules! over_both {
    ($(fn $name:ident<$driver:ident>() $body:block)*) => {$(
        #[test]
        fn $name() {
            fn over<$driver: Uplink>() $body
            if !can_run(stringify!($name)) {
                return;
            }
            over::<Packet>();
            over::<Xdp>();
        }
    )*};
}

over_both! {
fn frames_pass_an_uplink_byte_for_byte_and_in_order<U>() {
    let (_veth, a, b) = pair::<U>();
    let frames: Vec<_> = [14, 60, 64, 191, 192, 193, 1000, 1513, 1514].map(frame).into();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for bytes in &frames {
            send(from, &NO_OFFLOAD, bytes);
        }
        let received = collect(to, frames.len(), PATIENCE, is_local);
        assert_eq!(received.iter().map(|r| &r.1).collect::<Vec<_>>(), frames.iter().collect::<Vec<_>>());
        assert!(received.iter().all(|r| r.0[1] == 0), "nothing is to be segmented");
    }
}
}
