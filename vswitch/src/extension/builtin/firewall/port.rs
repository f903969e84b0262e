//! One port behind the firewall: the order in which a packet is judged.
//!
//! 1. A packet of a connection passes, unless it is the first of another one or its payload is known to be bad.
//! 2. What a blocked source sends beside that ends.
//! 3. What tries too many ports or hosts, or contradicts itself, ends.
//! 4. The rules decide; what they allow opens a connection if it can be answered.

use std::sync::Arc;

use super::config::{Config, Pattern};
use super::connections::{Connection, INSPECTED, Room, State, Table};
use super::packet::{Key, Packet, Part};
use super::rules::{Action, Rules};
use super::watch::{Source, Sources, Why};
use crate::Nanos;
use crate::extension::Scope;
use crate::frame::protocol;
use crate::frame::tcp::flag;

/// Between two lines about one port.
const QUIET: Nanos = 1_000_000_000;

/// Why a packet ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Denied,
    Malformed,
    NoRoom,
    Blocked(Why),
}

/// What a packet is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct By<'a> {
    pub(super) now: Nanos,
    /// Nothing is to be remembered of it.
    pub(super) dry: bool,
    pub(super) rules: &'a Rules,
    pub(super) config: &'a Config,
    pub(super) room: &'a Room,
}

/// One port.
#[derive(Debug)]
pub(super) struct Port {
    /// Those of its own settings.
    pub(super) own: Option<Arc<Rules>>,
    /// Those in force: its own, or the switch's.
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) table: Table,
    pub(super) sources: Sources,
    /// When there may be another line, and how many there were not since.
    quiet: Nanos,
    unsaid: u32,
}

impl Port {
    pub(super) fn new(seed: u64) -> Self {
        let (table, sources) = (Table::new(seed), Sources::new(seed.rotate_left(17)));
        Self { own: None, rules: None, table, sources, quiet: 0, unsaid: 0 }
    }

    /// Judges a packet. What an operator should know is said through `say`.
    pub(super) fn judge(
        &mut self,
        by: &By<'_>,
        packet: &Packet<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Scope, End> {
        let By { now, dry, config, room, rules } = *by;
        let source = Source::of(packet.direction, &packet.key);
        let blocked = self.sources.blocked(source, now);
        let known = self.table.find(&packet.key, now, room).copied();
        let belongs = known.filter(|one| one.admits(packet) && !packet.is_odd());
        let bad = config.watch.patterns.iter().find(|pattern| is_bad(pattern, packet));
        if let Some(pattern) = bad
            && (belongs.is_some() || blocked.is_none())
        {
            if !dry {
                self.end(&packet.key, room);
                self.sources.block(source, Why::Payload, now, now.saturating_add(pattern.block));
                self.say(now, say, || format!("payload '{}' from {source}", pattern.name));
            }
            return Err(End::Blocked(Why::Payload));
        }
        if let Some(one) = belongs {
            if !dry {
                self.goes_on(now, packet, room);
            }
            return Ok(scope(&one, packet, config));
        }
        if self.is_related(now, packet, room) {
            return Ok(if packet.part == Part::Fragment { Scope::Second } else { Scope::Frame });
        }
        if let Some(why) = blocked {
            return Err(End::Blocked(why));
        }
        if !dry && packet.tries() {
            self.watch_tries(now, packet, source, config, say)?;
        }
        if packet.is_odd() {
            return Err(End::Malformed);
        }
        let shows_ports = packet.part != Part::Fragment;
        if rules.decide(packet.direction, &packet.key, shows_ports) == Action::Deny {
            return Err(End::Denied);
        }
        match packet.part {
            // These end something, or answer what nobody asked: nothing may come back.
            Part::Segment(flags) if flags & (flag::RST | flag::FIN) != 0 => Ok(Scope::Frame),
            Part::Segment(flags) if flags & flag::SYN != 0 && !packet.is_first() => Err(End::Denied),
            Part::Answer | Part::Error(_) | Part::Notice => Ok(Scope::Frame),
            Part::Fragment => Ok(Scope::Second),
            // A connection in use does not begin anew because somebody says so; the two ends know better.
            Part::Segment(_) if known.is_some_and(|one| one.state != State::Closing) => Ok(Scope::Frame),
            Part::Segment(_) | Part::Message => self.opens(by, packet, source, say),
        }
    }

    /// What the rules allow opens a connection.
    fn opens(
        &mut self,
        by: &By<'_>,
        packet: &Packet<'_>,
        source: Source,
        say: &mut dyn FnMut(String),
    ) -> Result<Scope, End> {
        let By { now, dry, config, room, .. } = *by;
        let connection = Connection::opened(now, packet);
        if dry {
            return Ok(scope(&connection, packet, config));
        }
        if connection.half_open()
            && let Some(flood) = &config.watch.flood
            && self.sources.half_opens(source, flood)
        {
            self.sources.block(source, Why::Flood, now, now.saturating_add(flood.block));
            let most = flood.half_open;
            self.say(now, say, || format!("SYN flood: more than {most} half-open connections of {source}"));
            return Err(End::Blocked(Why::Flood));
        }
        let Self { table, sources, .. } = self;
        table.insert(now, connection, room, |gone| settle(sources, gone)).map_err(|_| End::NoRoom)?;
        if connection.half_open() {
            sources.opened(source, now);
        }
        self.goes_on(now, packet, room);
        Ok(scope(&connection, packet, config))
    }

    fn watch_tries(
        &mut self,
        now: Nanos,
        packet: &Packet<'_>,
        source: Source,
        config: &Config,
        say: &mut dyn FnMut(String),
    ) -> Result<(), End> {
        let Some(scan) = &config.watch.scan else { return Ok(()) };
        if !self.sources.tries(packet, now, scan) {
            return Ok(());
        }
        self.sources.block(source, Why::Scan, now, now.saturating_add(scan.block));
        self.say(now, say, || format!("port scan by {source}"));
        Err(End::Blocked(Why::Scan))
    }

    /// Whether a packet that is of no connection is about one: an ICMP error, or a fragment.
    fn is_related(&self, now: Nanos, packet: &Packet<'_>, room: &Room) -> bool {
        match packet.part {
            Part::Error(Some(key)) => self.table.find(&key, now, room).is_some(),
            Part::Fragment => self.table.joins(&packet.key.pair()),
            _ => false,
        }
    }

    /// A packet of a connection passes.
    fn goes_on(&mut self, now: Nanos, packet: &Packet<'_>, room: &Room) {
        let Some(one) = self.table.find_mut(&packet.key) else { return };
        let (before, opener) = (one.half_open(), Source::of(one.opener, &one.key));
        if packet.carries {
            let inspected = &mut one.inspected[packet.direction as usize];
            *inspected = inspected.saturating_add(1);
        }
        let lasts = one.advance(now, packet);
        let settled = before && !one.half_open();
        if !lasts {
            self.end(&packet.key, room);
        } else if settled {
            self.sources.settled(opener);
        }
    }

    /// A connection ends.
    fn end(&mut self, key: &Key, room: &Room) {
        if let Some(gone) = self.table.remove(key, room) {
            settle(&mut self.sources, &gone);
        }
    }

    /// Removes some of what is over.
    pub(super) fn sweep(&mut self, now: Nanos, room: &Room) {
        let Self { table, sources, .. } = self;
        table.sweep(now, room, |gone| settle(sources, gone));
    }

    /// Rules that are to be in force from now on: connections that they would not have let open end.
    pub(super) fn rule(&mut self, rules: Option<Arc<Rules>>, room: &Room) {
        let Self { table, sources, .. } = self;
        let stays = |one: &Connection| {
            rules.as_ref().is_some_and(|rules| rules.decide(one.opener, &one.key, true) == Action::Allow)
        };
        table.retain(room, stays, |gone| settle(sources, gone));
        if rules.is_none() {
            sources.clear();
        }
        self.rules = rules;
    }

    /// Takes over a connection from elsewhere, if there is room.
    pub(super) fn admit(&mut self, now: Nanos, connection: Connection, room: &Room) {
        let Self { table, sources, .. } = self;
        let taken = table.insert(now, connection, room, |gone| settle(sources, gone)).is_ok();
        if taken && connection.half_open() {
            sources.opened(Source::of(connection.opener, &connection.key), now);
        }
    }

    /// Nothing is remembered any more.
    pub(super) fn forget(&mut self, room: &Room) {
        self.table.retain(room, |_| false, |_| ());
        self.sources.clear();
    }

    /// One line, if there was none within a second.
    fn say(&mut self, now: Nanos, say: &mut dyn FnMut(String), text: impl FnOnce() -> String) {
        if now < self.quiet {
            self.unsaid = self.unsaid.saturating_add(1);
            return;
        }
        self.quiet = now.saturating_add(QUIET);
        let text = text();
        match std::mem::take(&mut self.unsaid) {
            0 => say(text),
            more => say(format!("{text} ({more} more like this)")),
        }
    }
}

/// A connection is gone.
fn settle(sources: &mut Sources, gone: &Connection) {
    if gone.half_open() {
        sources.settled(Source::of(gone.opener, &gone.key));
    }
}

fn is_bad(pattern: &Pattern, packet: &Packet<'_>) -> bool {
    pattern.protocol.is_none_or(|protocol| protocol == packet.key.protocol)
        && packet.part != Part::Fragment
        && packet.payload.starts_with(&pattern.bytes)
}

/// How long it stands that a packet of a connection passes. The cache does not tell ICMP queries apart, and what is still to be inspected must
/// be seen. For everything else it is a second: then the connection may have ended, and that it is in use must be noted.
fn scope(one: &Connection, packet: &Packet<'_>, config: &Config) -> Scope {
    let icmp = matches!(packet.key.protocol, protocol::ICMP | protocol::ICMPV6);
    let inspects = !config.watch.patterns.is_empty() && one.inspected[packet.direction as usize] < INSPECTED;
    if icmp || inspects { Scope::Frame } else { Scope::Second }
}
