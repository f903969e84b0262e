//! Metering of ports: the report over the meter entries of a port's ACL (section 9 of the semantics).
//!
//! Meter entries count whether or not anybody asked for a report. Metering is what gives the report a beginning: it adds the
//! default meters where there is no ACL, and remembers since when the numbers count. Numbers and beginning outlive the process;
//! the time during which it did not run belongs to the duration.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::port::PortKind;
use vswitch::port::acl::{Action, Address, Applies, Entry};
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::{Direction, Tally};

use super::acl::Acl;
use super::list::{Item, List};
use super::model::PortConfig;
use super::tallies::Tallies;
use super::types::{MeterEntry, MeterView};
use super::{Switch, acl};

/// Direction, local and remote address of a meter.
type Place = (String, Option<String>, Option<String>);

/// That a port is metered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metering {
    /// Since when, in milliseconds of Unix time.
    pub since_ms: i64,
    /// Whether enabling it added the default meters, which disabling it removes.
    pub defaults: bool,
}

impl Metering {
    /// Metering that begins now.
    pub(super) fn begin(defaults: bool) -> Self {
        Self { since_ms: Timestamp::now().as_millisecond(), defaults }
    }
}

/// All IPv4 and all IPv6 traffic, each way; they count nowhere yet.
pub(super) fn default_meters() -> Vec<Entry> {
    let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())].map(Address::Ip);
    let meter = |(direction, address)| Entry {
        direction,
        applies: Applies::Remote,
        address,
        action: Action::Meter,
        tally: Tally::NONE,
    };
    [Direction::Out, Direction::In].into_iter().flat_map(|d| all.map(|a| meter((d, a)))).collect()
}

/// Whether a list consists of the default meters and nothing else.
pub(super) fn is_default(list: &Acl) -> bool {
    let mut defaults = default_meters();
    defaults.sort_by_key(Item::key);
    list.items().map(Item::key).eq(defaults.iter().map(Item::key))
}

/// The tallies of a port's meters.
pub(super) fn tallies(config: &PortConfig) -> impl Iterator<Item = Tally> {
    config.acl.items().filter(|entry| entry.action == Action::Meter).map(|entry| entry.tally)
}

/// Enables metering of a port that is not metered: default meters if it has no ACL at all.
pub(super) fn enable(config: &mut PortConfig, tallies: &mut Tallies) -> Result<(), Refusal> {
    let defaults = config.acl.is_empty();
    if defaults {
        let mut meters = default_meters();
        tallies.give(&mut meters)?;
        config.acl = Arc::new(List::new(meters)?);
    }
    config.metering = Some(Metering::begin(defaults));
    Ok(())
}

/// Disables metering of a port: default meters go if it was metering that added them.
fn disable(config: &mut PortConfig) {
    if config.metering.take().is_some_and(|metering| metering.defaults) {
        let defaults: Vec<_> = default_meters().iter().map(Item::key).collect();
        config.acl = Arc::new(config.acl.without(|entry| defaults.contains(&entry.key())));
    }
}

impl Switch {
    /// Meters a port, or all guest ports and host ports. What is metered already stays as it is; the others begin at zero.
    pub fn enable_meters(&mut self, port: Option<&str>) -> Result<Vec<MeterView>, Refused> {
        let wanted = self.metered_or(port, |config| match config.device.kind() {
            PortKind::Uplink => {
                let valid = "only guest ports and host ports have it";
                Err(Refusal::NotApplicable { setting: "metering", kind: PortKind::Uplink, valid })
            }
            _ => Ok(()),
        })?;
        let fresh: Vec<_> = wanted.iter().filter(|c| c.metering.is_none()).map(|c| c.name.clone()).collect();
        self.change_meters(&fresh, enable)?;
        self.clear_meters(&fresh);
        wanted.iter().map(|config| self.meter(&config.name)).collect()
    }

    /// Ends metering of a port, or of all; the numbers are gone, and meters that were in the ACL before stay there.
    pub fn disable_meters(&mut self, port: Option<&str>) -> Result<Vec<String>, Refused> {
        let names = self.metered(port)?;
        self.change_meters(&names, |config, _| {
            disable(config);
            Ok(())
        })?;
        self.clear_meters(&names);
        Ok(names)
    }

    /// Sets the numbers and the duration of a port, or of all, to zero.
    pub fn reset_meters(&mut self, port: Option<&str>) -> Result<Vec<MeterView>, Refused> {
        let names = self.metered(port)?;
        self.change_meters(&names, |config, _| {
            config.metering = config.metering.take().map(|metering| Metering::begin(metering.defaults));
            Ok(())
        })?;
        self.clear_meters(&names);
        names.iter().map(|name| self.meter(name)).collect()
    }

    /// The report of every metered port, by name.
    pub fn meters(&self) -> Vec<MeterView> {
        self.ports.values().filter_map(|entry| self.report(&entry.config)).collect()
    }

    /// The report of one port.
    pub fn meter(&self, name: &str) -> Result<MeterView, Refused> {
        let report = self.entry(name).and_then(|entry| {
            self.report(&entry.config).ok_or_else(|| Refusal::NotMetered { port: name.to_owned() })
        });
        report.map_err(|why| why.of(Object::Port(name.to_owned())))
    }

    /// The reports of all metered ports as one: meters of the same direction and address are added up.
    pub fn meter_total(&self) -> MeterView {
        let mut sums: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
        let reports = self.meters();
        for entry in reports.iter().flat_map(|report| report.entries.clone()) {
            let sum = sums.entry((entry.direction, entry.local, entry.remote)).or_default();
            *sum = (sum.0.saturating_add(entry.packets), sum.1.saturating_add(entry.bytes));
        }
        let entry = |((direction, local, remote), (packets, bytes))| MeterEntry {
            direction,
            local,
            remote,
            packets,
            bytes,
        };
        let earliest = self.ports.values().filter_map(|e| Some(e.config.metering.as_ref()?.since_ms)).min();
        let since_ms = earliest.unwrap_or_else(|| Timestamp::now().as_millisecond());
        let (since, duration_s) = since(since_ms);
        MeterView { port: None, since, duration_s, entries: sums.into_iter().map(entry).collect() }
    }

    fn report(&self, config: &PortConfig) -> Option<MeterView> {
        let (since, duration_s) = since(config.metering.as_ref()?.since_ms);
        let meters = config.acl.items().filter(|entry| entry.action == Action::Meter);
        let entry = |entry: &Entry| {
            let spec = acl::spec(entry);
            let (packets, bytes) = self.data.as_ref().map_or((0, 0), |data| data.tally(entry.tally));
            MeterEntry { direction: spec.direction, local: spec.local, remote: spec.remote, packets, bytes }
        };
        let port = Some(config.name.clone());
        Some(MeterView { port, since, duration_s, entries: meters.map(entry).collect() })
    }

    /// The named port or, without a name, each port for which `fit` has no objection.
    fn metered_or(
        &self,
        port: Option<&str>,
        fit: impl Fn(&PortConfig) -> Result<(), Refusal>,
    ) -> Result<Vec<PortConfig>, Refused> {
        let Some(name) = port else {
            let all = self.ports.values().filter(|entry| fit(&entry.config).is_ok());
            return Ok(all.map(|entry| entry.config.clone()).collect());
        };
        let found = self.entry(name).and_then(|entry| fit(&entry.config).map(|()| entry.config.clone()));
        self.noted(found, || Object::Port(name.to_owned())).map(|config| vec![config])
    }

    /// The names of the metered ones.
    fn metered(&self, port: Option<&str>) -> Result<Vec<String>, Refused> {
        let fit = |config: &PortConfig| match config.metering {
            Some(_) => Ok(()),
            None => Err(Refusal::NotMetered { port: config.name.clone() }),
        };
        Ok(self.metered_or(port, fit)?.into_iter().map(|config| config.name).collect())
    }

    fn change_meters(
        &mut self,
        names: &[String],
        change: impl Fn(&mut PortConfig, &mut Tallies) -> Result<(), Refusal>,
    ) -> Result<(), Refused> {
        let mut draft = self.draft();
        let changed = names.iter().try_for_each(|name| {
            let Some(entry) = draft.ports.get_mut(name) else { return Ok(()) };
            change(&mut entry.config, &mut draft.tallies)
        });
        let result = changed.map_err(|why| why.of(Object::Switch)).and_then(|()| self.adopt(draft));
        self.told(result)
    }

    /// Sets what the meters of these ports counted to zero.
    pub(super) fn clear_meters(&self, names: &[String]) {
        let Some(data) = &self.data else { return };
        for config in names.iter().filter_map(|name| Some(&self.ports.get(name)?.config)) {
            tallies(config).for_each(|tally| {
                data.clear_tally(tally);
            });
        }
    }
}

/// A time as it is shown, and the whole seconds since then; a clock that was set back makes that none.
fn since(ms: i64) -> (String, u64) {
    let since = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let passed = Timestamp::now().duration_since(since).as_secs();
    (format!("{since:.3}"), u64::try_from(passed).unwrap_or(0))
}
