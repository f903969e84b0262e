//! States that were put in force and with which no rings have run yet, as files: a switch that is killed in between has them again when it
//! is started. Without that the guest, whose front end connects anew, would run with the policy that was configured before it came.
//!
//! A file survives the process, which is all it is for, so it is not synced to disk: the guest stands still meanwhile. What is
//! found is judged as if it came from the front end or switch that brought it, and holds only for as long as a front end takes to come back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use vswitch::PortId;

use super::Trust;
use crate::control::Switch;

/// Directory below the state directory.
const DIRECTORY: &str = "arrivals";
/// How long front ends have to come back, after the state was put in force.
pub(super) const BACK: Duration = Duration::from_secs(10);

/// The files, or nowhere to keep them.
#[derive(Debug, Default)]
pub(in crate::control) struct Kept(Option<PathBuf>);

impl Kept {
    fn path(&self, id: PortId) -> Option<PathBuf> {
        self.0.as_ref().map(|directory| directory.join(id.to_string()))
    }

    /// Keeps a state, whole or not at all.
    pub(super) fn put(&self, id: PortId, trust: Trust, bytes: &[u8]) {
        let Some(path) = self.path(id) else { return };
        let part = path.with_extension("part");
        let content = [&[trust as u8], bytes].concat();
        if let Err(e) = fs::write(&part, content).and_then(|()| fs::rename(&part, &path)) {
            log::warn!("port {id}: its state would not be here after a crash: {e}");
        }
    }

    /// Forgets a port's state.
    pub(in crate::control) fn forget(&self, id: PortId) {
        if let Some(path) = self.path(id) {
            // Most arrivals are settled once; a file that is not there is what is wanted.
            let _ = fs::remove_file(path);
        }
    }

    /// A port's state, how it came, and how long ago; old ones are as good as none.
    fn get(&self, id: PortId) -> Option<(Trust, Vec<u8>, Duration)> {
        let path = self.path(id)?;
        let age = fs::metadata(&path).and_then(|m| m.modified()).ok()?;
        // A clock that was set back makes it new once more: it is judged by its own time, too.
        let age = SystemTime::now().duration_since(age).unwrap_or_default();
        if age >= BACK {
            return None;
        }
        let content = fs::read(&path).ok()?;
        let (trust, bytes) = content.split_first()?;
        let trust = match trust {
            0 => Trust::Seal,
            1 => Trust::Channel,
            _ => return None,
        };
        Some((trust, bytes.to_vec(), age))
    }
}

impl Switch {
    /// Keeps states that have arrived below the state directory from now on, and puts those in force again that were when the process before
    /// was killed. To be called before front ends are likely to be back.
    pub fn keep_arrivals(&mut self, state: &Path) {
        let directory = state.join(DIRECTORY);
        self.kept = Kept(Some(directory.clone()));
        let ids: Vec<PortId> = self.ports.values().map(|entry| entry.config.id).collect();
        for id in ids {
            let Some((trust, bytes, age)) = self.kept.get(id) else { continue };
            match self.arrive(id, &bytes, trust) {
                Ok(()) => self.await_front_end(id, BACK.saturating_sub(age)),
                Err(why) => log::warn!("a state that had arrived before the switch was killed: {why}"),
            }
        }
        let awaited =
            |id: &str| self.ports.values().any(|e| e.arrival.is_some() && e.config.id.to_string() == id);
        if let Err(e) = clear(&directory, awaited) {
            log::warn!("{}: {e}", directory.display());
        }
    }

    fn await_front_end(&mut self, id: PortId, time: Duration) {
        let entry = self.ports.values_mut().find(|entry| entry.config.id == id);
        if let Some(arrival) = entry.and_then(|entry| entry.arrival.as_mut()) {
            (arrival.awaited, arrival.restored, arrival.bound) = (Some(Instant::now() + time), true, true);
        }
    }

    /// Looks after states whose front ends have not come back in time.
    pub(in crate::control) fn follow_awaited(&mut self) {
        let awaited = |e: &&crate::control::Entry| e.arrival.as_ref().is_some_and(|a| a.awaited.is_some());
        let ids: Vec<PortId> = self.ports.values().filter(awaited).map(|e| e.config.id).collect();
        for id in ids {
            self.follow_port(id);
        }
        self.publish_presence();
    }
}

/// Makes the directory, with no files but those wanted.
fn clear(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for file in fs::read_dir(directory)? {
        let file = file?;
        if !file.file_name().to_str().is_some_and(&wanted) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}
