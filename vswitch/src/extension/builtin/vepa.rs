//! Virtual Ethernet port aggregator (IEEE 802.1Qbg): what guests and the host send always goes to the neighbouring switch, whose policy and
//! counters then see all of it; the neighbour sends back what is for another port of this host (reflective relay).
//!
//! | frame | goes |
//! |---|---|
//! | from a guest or the host, whatever its destination | through the uplink; dropped (`no-uplink`) while there is none |
//! | from the uplink | where the switch would send it: to local ports by address, multicast to all |
//! | from the uplink, but sent by the port that is to get it | not to that port (`reflected-to-sender`) |
//!
//! The last row is what makes reflected broadcast bearable: a guest must not hear itself. Which port sent a frame is told by its source
//! address: a port's own, and those that a port with MAC spoofing was seen to send with in that VLAN during the last
//! five minutes.
//!
//! All policy of ports stays in force, on the way out and on the way back: VLANs and private VLANs too, which the neighbour keeps apart by
//! their tags. Frames of virtual subnets do not come here (their way is network virtualization's).
//!
//! While it is enabled, frames with addresses of this host's ports are accepted from the uplink ([`Extension::reflective`]), in the networks of
//! those ports. It is the neighbour who vouches for them.
//!
//! # Threading
//! One lock. Answers for guests' own addresses stand for the flow, the others for about a second, so it is taken for each frame only of
//! multicast from the uplink, once for each port that is to get it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConfigError, lock, read, secret};
use crate::extension::change::Edit;
use crate::extension::{
    Answer, Change, Counters, Destination, Effects, Extension, Judgement, Kind, Reason, Scope, Sight, Veto,
};
use crate::frame::ethernet::{self, Outer};
use crate::hash::Seeded;
use crate::port::PortKind;
use crate::port::vlan::Vlan;
use crate::{Direction, Mac, Nanos, PortId};

/// Its name.
pub const NAME: &str = "vepa";

/// Addresses beside its own that are remembered of one port. Of more, reflected multicast may come back to it.
pub const MOST_BEHIND: usize = 256;

/// How long such an address is remembered without a frame from it.
pub const REMEMBERED: Nanos = 300 * 1_000_000_000;

/// How often the list of those is looked through.
const SWEEP: Nanos = 10 * 1_000_000_000;

const REASONS: [&str; 2] = ["no-uplink", "reflected-to-sender"];
const NO_UPLINK: Reason = Reason(0);
const REFLECTED: Reason = Reason(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

/// One instance.
#[derive(Debug)]
pub struct Vepa {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    uplink: Option<PortId>,
    ports: BTreeMap<PortId, Local>,
    /// By address and VLAN: which port sent with it that has another one, and when it last did.
    behind: HashMap<u64, (PortId, Nanos), Seeded>,
    swept: Nanos,
}

/// A port of this host.
#[derive(Debug, Default)]
struct Local {
    mac: Option<Mac>,
    vlan: Vlan,
    /// How many of the addresses are behind it.
    behind: usize,
}

impl Inner {
    /// What an address is known by that `port` sends with; `None` = the port may not send this.
    fn key(&self, outer: &Outer, port: PortId) -> Option<u64> {
        let vlan = self.ports.get(&port)?.vlan.admit(outer.tag).ok()?;
        Some(key(outer.src, vlan.0 as u16))
    }

    /// `port` sent with an address that is not its own.
    fn note(&mut self, key: u64, port: PortId, now: Nanos) {
        let known = self.behind.get(&key).map(|&(port, _)| port);
        if known != Some(port) {
            match self.ports.get_mut(&port) {
                Some(local) if local.behind < MOST_BEHIND => local.behind += 1,
                _ => return,
            }
            self.parted(known);
        }
        self.behind.insert(key, (port, now));
    }

    /// One address less is behind a port.
    fn parted(&mut self, from: Option<PortId>) {
        if let Some(local) = from.and_then(|port| self.ports.get_mut(&port)) {
            local.behind = local.behind.saturating_sub(1);
        }
    }

    fn forget(&mut self, gone: impl Fn(PortId, Nanos) -> bool) {
        let ports = &mut self.ports;
        self.behind.retain(|_, &mut (port, at)| {
            let gone = gone(port, at);
            if gone && let Some(local) = ports.get_mut(&port) {
                local.behind = local.behind.saturating_sub(1);
            }
            !gone
        });
    }

    /// Whether what came from the uplink was sent by `to`.
    fn is_from(&self, outer: &Outer, to: PortId) -> bool {
        let key = key(outer.src, outer.tag.unwrap_or(0));
        self.ports.get(&to).is_some_and(|local| local.mac == Some(outer.src))
            || self.behind.get(&key).is_some_and(|&(port, _)| port == to)
    }
}

fn key(mac: Mac, vlan: u16) -> u64 {
    mac.to_u64() | u64::from(vlan) << 48
}

impl Vepa {
    /// An instance. There is nothing to configure: it hears of the uplink and of addresses when ports are made.
    ///
    /// # Errors
    /// There is a key in the configuration.
    pub fn new(config: &Value) -> Result<Self, ConfigError> {
        let Config {} = read(NAME, config)?;
        let behind = HashMap::with_hasher(Seeded(secret()));
        Ok(Self { inner: Mutex::new(Inner { uplink: None, ports: BTreeMap::new(), behind, swept: 0 }) })
    }
}

impl Extension for Vepa {
    fn kind(&self) -> Kind {
        Kind::Forwarding
    }

    fn reasons(&self) -> &[&str] {
        &REASONS
    }

    fn judges(&self, direction: Direction) -> bool {
        direction == Direction::In
    }

    fn reflective(&self) -> bool {
        true
    }

    fn forward(&self, sight: &Sight<'_>, _: &mut Effects) -> Result<(Destination, Scope), String> {
        let mut inner = lock(&self.inner);
        if inner.uplink == Some(sight.port) {
            return Ok((Destination::Native, Scope::Flow));
        }
        let Some(uplink) = inner.uplink else { return Ok((Destination::Drop(NO_UPLINK), Scope::Flow)) };
        let Ok(outer) = ethernet::check(sight.head, sight.len) else {
            return Ok((Destination::Port(uplink), Scope::Frame));
        };
        if inner.ports.get(&sight.port).is_some_and(|local| local.mac == Some(outer.src)) {
            return Ok((Destination::Port(uplink), Scope::Flow));
        }
        if !sight.dry
            && let Some(key) = inner.key(&outer, sight.port)
        {
            inner.note(key, sight.port, sight.now);
        }
        Ok((Destination::Port(uplink), Scope::Second))
    }

    fn judge(&self, sight: &Sight<'_>, _: &mut Effects) -> Answer {
        let inner = lock(&self.inner);
        if sight.from.is_none() || sight.from != inner.uplink || sight.vsid.is_some() {
            return Answer::PASS;
        }
        // Who is behind which port may be another within the flow's life.
        let judgement = match ethernet::check(sight.head, sight.len) {
            Ok(outer) if inner.is_from(&outer, sight.port) => Judgement::Drop(REFLECTED),
            _ => Judgement::Pass,
        };
        Answer { judgement, scope: Scope::Second }
    }

    fn tick(&self, now: Nanos, _: &dyn Counters, _: &mut Effects) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        if now.saturating_sub(inner.swept) >= SWEEP {
            inner.swept = now;
            inner.forget(|_, at| now.saturating_sub(at) > REMEMBERED);
        }
        Ok(())
    }

    fn change(&self, _: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        let mut inner = lock(&self.inner);
        match *change {
            Change::PortCreate { port, kind: PortKind::Uplink, .. } => match inner.uplink {
                Some(other) if other != port => {
                    return Err(Veto::new(format!(
                        "vepa sends everything to one neighbour, and port {other} leads there: remove it first"
                    )));
                }
                _ => inner.uplink = Some(port),
            },
            Change::PortCreate { port, .. } => {
                inner.ports.insert(port, Local::default());
            }
            Change::NicCreate { port, mac, .. } | Change::NicUpdated { port, mac, .. } => {
                if let Some(local) = inner.ports.get_mut(&port) {
                    local.mac = Some(mac);
                }
            }
            Change::Policy { port, edit, name: "vlan", value } => {
                if let Some(local) = inner.ports.get_mut(&port) {
                    let text = value.as_str().filter(|_| edit != Edit::Delete);
                    local.vlan = text.and_then(|text| text.parse().ok()).unwrap_or_default();
                }
            }
            Change::NicDelete { port } => {
                if let Some(local) = inner.ports.get_mut(&port) {
                    local.mac = None;
                }
                inner.forget(|at, _| at == port);
            }
            Change::PortDelete { port } => {
                inner.forget(|at, _| at == port);
                inner.ports.remove(&port);
                inner.uplink = inner.uplink.filter(|&uplink| uplink != port);
            }
            _ => {}
        }
        Ok(())
    }

    fn status(&self, port: Option<PortId>) -> Value {
        let inner = lock(&self.inner);
        match port {
            None => json!({ "uplink": inner.uplink, "addresses-behind-ports": inner.behind.len() }),
            Some(port) => match inner.ports.get(&port) {
                Some(local) => json!({ "addresses-behind": local.behind }),
                None => Value::Null,
            },
        }
    }
}
