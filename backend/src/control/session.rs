//! Sessions of stateful rules as an operator sees them. They are state, not policy: nothing here is stored.

use std::collections::BTreeMap;

use vswitch::refusal::{Object, Refused};
use vswitch::session::Shown;

use super::types::{Flushed, SessionView};
use super::{Switch, rule};

impl Switch {
    /// The sessions of one port or of all, by port, the longest idle ones last.
    pub fn sessions(&self, port: Option<&str>) -> Result<Vec<SessionView>, Refused> {
        let id = port.map(|name| {
            let entry = self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())));
            entry.map(|entry| entry.config.id)
        });
        let id = id.transpose()?;
        let names: BTreeMap<_, _> =
            self.ports.values().map(|e| (e.config.id, e.config.name.as_str())).collect();
        let all = self.data.as_ref().map(|data| data.sessions(id)).unwrap_or_default();
        let view = |shown: &Shown| {
            let key = &shown.key;
            Some(SessionView {
                // Between the removal of a port and that of its sessions there may be some of nobody.
                port: (*names.get(&key.port)?).to_owned(),
                protocol: rule::protocol_text(key.protocol),
                local: key.local.to_string(),
                local_port: key.local_port,
                remote: key.remote.to_string(),
                remote_port: key.remote_port,
                isolation_id: Some(key.segment.0).filter(|id| *id != 0),
                direction: shown.grant.opened.to_string(),
                weight: shown.grant.weight,
                state: shown.state.to_string(),
                age_ms: shown.age_ms,
                idle_ms: shown.idle_ms,
                expires_ms: shown.expires_ms,
            })
        };
        let mut views: Vec<_> = all.iter().filter_map(view).collect();
        views.sort_by(|a, b| (&a.port, a.idle_ms).cmp(&(&b.port, b.idle_ms)));
        Ok(views)
    }

    /// Ends all sessions of a port: its next packets are judged by the rules alone.
    pub fn flush_sessions(&mut self, name: &str) -> Result<Flushed, Refused> {
        let id = self.entry(name).map(|entry| entry.config.id);
        let id = self.noted(id, || Object::Port(name.to_owned()))?;
        Ok(Flushed { flushed: self.data.as_ref().map_or(0, |data| data.flush_sessions(id)) })
    }
}
