//! What can be told of a tunnel's packet that somebody quotes, perhaps no more than eight bytes behind its IP header.

use super::{BRIDGED_ETHERNET, GRE, GRE_KEY, TUNNEL_HEADER, VXLAN_PORT, VXLAN_VNI};
use crate::frame::protocol;
use crate::nv::model::Encap;

/// How a quoted packet was carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carried<'a> {
    /// The tunnel's kind.
    pub encap: Encap,
    /// The virtual subnet, where that much is quoted.
    pub vsid: Option<u32>,
    /// The beginning of the customer's frame, where that much is quoted.
    pub inner: Option<&'a [u8]>,
}

/// Looks at what follows a quoted packet's IP header. `None` = it was in no tunnel as this host makes them.
pub fn carried(protocol: u8, upper: &[u8]) -> Option<Carried<'_>> {
    let (gre, rest) = upper.split_first_chunk::<TUNNEL_HEADER>()?;
    let vsid = |header: &[u8; TUNNEL_HEADER]| u32::from_be_bytes([0, header[4], header[5], header[6]]);
    if protocol == GRE {
        let [k0, k1] = GRE_KEY.to_be_bytes();
        let [t0, t1] = BRIDGED_ETHERNET.to_be_bytes();
        return gre.starts_with(&[k0, k1, t0, t1]).then(|| Carried {
            encap: Encap::Nvgre,
            vsid: Some(vsid(gre)),
            inner: Some(rest),
        });
    }
    if protocol != protocol::UDP || gre[2..4] != VXLAN_PORT.to_be_bytes() {
        return None;
    }
    let Some((vxlan, rest)) = rest.split_first_chunk::<TUNNEL_HEADER>() else {
        return Some(Carried { encap: Encap::Vxlan, vsid: None, inner: None });
    };
    (vxlan[0] == VXLAN_VNI).then(|| Carried {
        encap: Encap::Vxlan,
        vsid: Some(vsid(vxlan)),
        inner: Some(rest),
    })
}
