//! Counters as Prometheus text. Names start with `turnpike_`; directions are the guest's.

use std::fmt::{Display, Write as _};

use crate::control::types::{ExtensionView, PolicyStoreView, PortView, WorkerView};

/// One number of a worker.
type Pick = fn(&WorkerView) -> u64;

/// All metrics; `addresses` is the number of known MAC addresses.
pub(super) fn text(
    ports: &[PortView],
    workers: &[WorkerView],
    addresses: usize,
    store: &PolicyStoreView,
) -> String {
    let mut out = String::new();
    let port = |p: &PortView| format!("port=\"{}\"", p.name);
    family(&mut out, "ports", "gauge", "Ports of the switch", [(String::new(), ports.len())]);
    family(&mut out, "fdb_addresses", "gauge", "Known MAC addresses", [(String::new(), addresses)]);
    family(
        &mut out,
        "port_running",
        "gauge",
        "1 while the port's rings or link run",
        ports.iter().map(|p| (port(p), u8::from(p.state == "running"))),
    );
    let both = |pick: fn(&PortView) -> [u64; 2]| {
        ports.iter().flat_map(move |p| {
            let [out, r#in] = pick(p);
            [(format!("{},direction=\"out\"", port(p)), out), (format!("{},direction=\"in\"", port(p)), r#in)]
        })
    };
    let packets = both(|p| [p.counters.out_packets, p.counters.in_packets]);
    family(&mut out, "port_packets_total", "counter", "Packets as on a wire; out = the guest sends", packets);
    let bytes = both(|p| [p.counters.out_bytes, p.counters.in_bytes]);
    family(&mut out, "port_bytes_total", "counter", "Bytes of those packets, without FCS", bytes);
    let drops = ports.iter().flat_map(|p| {
        let list = |direction, drops: &std::collections::BTreeMap<String, u64>| {
            drops
                .iter()
                .map(|(reason, n)| (format!("{},direction=\"{direction}\",reason=\"{reason}\"", port(p)), *n))
                .collect::<Vec<_>>()
        };
        [list("out", &p.counters.out_drops), list("in", &p.counters.in_drops)].concat()
    });
    family(&mut out, "port_drops_total", "counter", "Frames that went nowhere, by reason", drops);
    let missed = ports.iter().flat_map(|p| {
        p.missed.iter().map(move |(cause, n)| (format!("port=\"{}\",cause=\"{cause}\"", p.name), *n))
    });
    let help = "Frames that came to a link and never reached the switch, by cause";
    family(&mut out, "port_missed_total", "counter", help, missed);
    let columns: [(&str, &str, Pick); 6] = [
        ("worker_frames_total", "Frames received from ports", |w| w.frames),
        ("worker_bursts_total", "Bursts that moved something", |w| w.bursts),
        ("worker_busy_cycles_total", "TSC cycles in bursts that moved something", |w| w.busy_cycles),
        ("worker_idle_cycles_total", "TSC cycles in empty polls", |w| w.idle_cycles),
        ("worker_sleeps_total", "Times the worker went to sleep", |w| w.sleeps),
        ("worker_wakeups_total", "Times the worker was woken by a descriptor", |w| w.wakeups),
    ];
    for (name, help, pick) in columns {
        family(
            &mut out,
            name,
            "counter",
            help,
            workers.iter().map(|w| (format!("worker=\"{}\"", w.id), pick(w))),
        );
    }
    if store.kind != "embedded" {
        policy_store(&mut out, store);
    }
    out
}

/// What extensions did; nothing while none is enabled.
pub(super) fn extensions(out: &mut String, all: &[ExtensionView]) {
    if all.is_empty() {
        return;
    }
    let label = |one: &ExtensionView| format!("extension=\"{}\"", one.name);
    let failed = all.iter().map(|one| (label(one), u8::from(one.state == "failed")));
    family(out, "extension_failed", "gauge", "1 while the extension has failed", failed);
    let drops = all.iter().flat_map(|one| {
        let of = move |(reason, n): (&String, &u64)| (format!("{},reason=\"{reason}\"", label(one)), *n);
        one.counters.dropped.iter().map(of)
    });
    family(out, "extension_drops_total", "counter", "Frames the extension dropped, by its reasons", drops);
    let frames = all.iter().flat_map(|one| {
        let c = &one.counters;
        [
            ("judged", c.judged),
            ("replaced", c.replaced),
            ("injected", c.injected),
            ("refused", c.refused),
            ("sampled", c.sampled),
        ]
        .map(|(what, n)| (format!("{},what=\"{what}\"", label(one)), n))
    });
    let help = "Frames the extension was asked about, changed, added, could not add, and had as samples";
    family(out, "extension_frames_total", "counter", help, frames);
}

/// The store of policy that hosts share.
fn policy_store(out: &mut String, store: &PolicyStoreView) {
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        family(out, &format!("policy_store_{name}"), kind, help, [(String::new(), value)]);
    };
    let number = |revision: i64| u64::try_from(revision).unwrap_or(0);
    one("up", "gauge", "1 while the policy store answers", store.up.into());
    one(
        "revision",
        "gauge",
        "Up to which revision of the store everything is in force",
        number(store.revision),
    );
    let behind = number(store.newest.saturating_sub(store.revision));
    one("behind_revisions", "gauge", "Revisions heard of that are not in force yet", behind);
    one("lag_milliseconds", "gauge", "Time since the store was heard last", store.silent_ms);
    one("skipped_keys", "gauge", "Keys with wrong values, whose last good ones stay in force", store.skipped);
    one("changes_total", "counter", "Changes of keys that were followed", store.changes);
    one("losses_total", "counter", "Times the store was lost", store.losses);
    let help = "Times everything was read again because the store had forgotten what was between";
    one("reloads_total", "counter", help, store.reloads);
    one("hosts", "gauge", "Hosts that are there", store.hosts.len() as u64);
    one("subnets", "gauge", "Virtual subnets whose records are followed", store.subnets);
    let help = "1 while what is in force was remembered when the switch ended";
    one("from_memory", "gauge", help, store.from_memory.into());
    one("reading_subnets", "gauge", "Virtual subnets whose records are still being read", store.reading);
}

fn family<V: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (String, V)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP turnpike_{name} {help}.\n# TYPE turnpike_{name} {kind}");
    for (labels, value) in values {
        let _ = if labels.is_empty() {
            writeln!(out, "turnpike_{name} {value}")
        } else {
            writeln!(out, "turnpike_{name}{{{labels}}} {value}")
        };
    }
}
