//! What a port had counted before a guest's counters took their place that may go again, each in a file of its own beside the counters.
//! Should the process be killed before that is decided, the next one puts it back. The files are not synchronized: a killed process
//! loses nothing it wrote, and one that a power cut damaged is left out.

use std::io;
use std::path::{Path, PathBuf};

use vswitch::PortId;
use vswitch::trace::DropReason;

use crate::spec::PortCounters;

/// The files' names begin with this, and end with the port's number.
const PREFIX: &str = "counters.before.";
/// The last line of a whole file.
const END: &str = "end";
/// A file is not longer, whatever it says.
const MAX_SIZE: u64 = 64 * 1024;

fn path(directory: &Path, id: PortId) -> PathBuf {
    directory.join(format!("{PREFIX}{}", id.index()))
}

/// Keeps what a port has counted.
pub(super) fn keep(directory: &Path, id: PortId, counters: &PortCounters) -> io::Result<()> {
    std::fs::write(path(directory, id), encode(counters))
}

/// It is not needed any more.
pub(super) fn forget(directory: &Path, id: PortId) {
    match std::fs::remove_file(path(directory, id)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => log::warn!("the counters kept of a port: {e}"),
        _ => {}
    }
}

/// What a process that was killed kept, whole files only.
pub(super) fn all(directory: &Path) -> io::Result<Vec<(PortId, PortCounters)>> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let file = file?;
        let name = file.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()).map(PortId);
        let Some(id) = id.filter(|_| file.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_SIZE))
        else {
            continue;
        };
        match std::fs::read_to_string(file.path()).ok().as_deref().and_then(decode) {
            Some(counters) => all.push((id, counters)),
            None => log::warn!("'{}' is not whole and is left out", file.path().display()),
        }
    }
    Ok(all)
}

fn encode(c: &PortCounters) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "out_packets {}\nout_bytes {}\nin_packets {}\nin_bytes {}\n",
        c.out_packets, c.out_bytes, c.in_packets, c.in_bytes
    );
    for (way, drops) in [("out", &c.out_drops), ("in", &c.in_drops)] {
        for (reason, count) in drops {
            let _ = writeln!(text, "{way} {} {count}", reason.name());
        }
    }
    text + END
}

fn decode(text: &str) -> Option<PortCounters> {
    let mut c = PortCounters::default();
    let mut lines = text.lines();
    if lines.next_back() != Some(END) {
        return None;
    }
    for line in lines {
        let (name, count) = line.rsplit_once(' ')?;
        let count = count.parse().ok()?;
        let single = match name {
            "out_packets" => &mut c.out_packets,
            "out_bytes" => &mut c.out_bytes,
            "in_packets" => &mut c.in_packets,
            "in_bytes" => &mut c.in_bytes,
            _ => {
                let (way, reason) = name.split_once(' ')?;
                let list = if way == "out" { &mut c.out_drops } else { &mut c.in_drops };
                // A reason that this version does not know is left out.
                let known = DropReason::ALL.iter().find(|known| known.name() == reason);
                list.extend(known.map(|known| (*known, count)));
                continue;
            }
        };
        *single = count;
    }
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s20_7_what_is_kept_is_read_back_and_half_of_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let drops = |n| DropReason::ALL.iter().map(|reason| (*reason, n)).collect();
        let counters = PortCounters {
            out_packets: 1,
            out_bytes: 2,
            in_packets: 3,
            in_bytes: u64::MAX,
            out_drops: drops(5),
            in_drops: drops(6),
        };
        keep(directory.path(), PortId(7), &counters).unwrap();
        let show = |all: &[(PortId, PortCounters)]| format!("{all:?}");
        assert_eq!(show(&all(directory.path()).unwrap()), show(&[(PortId(7), counters.clone())]));
        let text = encode(&counters);
        for length in 0..text.len() {
            assert!(decode(&text[..length]).is_none(), "{length} bytes");
        }
        forget(directory.path(), PortId(7));
        forget(directory.path(), PortId(7));
        assert!(all(directory.path()).unwrap().is_empty());
    }
}
