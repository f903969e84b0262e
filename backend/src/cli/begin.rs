//! How `turnpike serve` comes to its switch: from its state directory, or from the process that runs it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use vswitch::refusal::{Object, Refusal, Refused};

use crate::api::{self, Callers};
use crate::control::handover::lifecycle::Lifecycle;
use crate::control::takeover::store_as;
use crate::control::{Host, Switch};
use crate::dataplane::Dataplane;
use crate::events::EventLog;
use crate::migrate::view::NewListener;
use crate::spec::WorkerOptions;
use crate::store::{Saved, Store};
use crate::takeover::{Claim, Devices, Offered};
use crate::tally::Tallies;

/// What the switch is made of.
pub(super) struct Beginning<'a> {
    /// Whether the policy of network virtualization is in a store that hosts share.
    pub(super) shares_policy: bool,
    /// Where the API is.
    pub(super) api: &'a Path,
    /// The state directory, if there is one.
    pub(super) directory: Option<&'a Path>,
    /// `--metrics`.
    pub(super) metrics: Option<SocketAddr>,
    /// Number of workers.
    pub(super) workers: usize,
    /// How they are run.
    pub(super) options: WorkerOptions,
    /// Who this host is.
    pub(super) host: Host,
    /// Where events go.
    pub(super) events: Arc<EventLog>,
    /// Who follows ports on the move.
    pub(super) lifecycle: Arc<Lifecycle>,
}

/// A switch that runs, with its listeners.
pub(super) struct Begun {
    pub(super) switch: Switch,
    pub(super) listener: UnixListener,
    pub(super) metrics: Option<TcpListener>,
    pub(super) socket: Socket,
    /// Where the process before took ports of other switches.
    pub(super) taking: Option<(NewListener, OwnedFd)>,
}

impl Beginning<'_> {
    /// Starts the switch that the state directory describes.
    pub(super) async fn start(self, callers: &Callers) -> Result<Begun, Refused> {
        let none = || Ok((Store::none(), Saved::default()));
        let (store, mut saved) = self.directory.map_or_else(none, Store::open)?;
        if self.shares_policy {
            // What is left from when they were kept here is not what the hosts agree on.
            saved.nv.retain(|object| object.key().is_local());
            // What was known of that is, until they say something else.
            saved.nv.extend(store.remembered().into_iter().filter(|object| !object.key().is_local()));
        }
        let tallies = Tallies::open(self.directory, self.workers)?;
        let listener = api::bind(self.api, callers)?;
        let socket = Socket::of(self.api);
        let metrics = match self.metrics {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|e| cannot_listen(address, &e))?),
            None => None,
        };
        let (options, sink, keeper) = (self.options, self.lifecycle.clone(), self.lifecycle.clone());
        let mut switch = Switch::start(self.host, store, saved, self.events, move |snapshot| {
            Dataplane::start(&options, tallies, snapshot, sink, keeper)
        })?;
        if self.shares_policy {
            switch.share_policy(true);
        }
        Ok(Begun { switch, listener, metrics, socket, taking: None })
    }

    /// Becomes the switch that runs on the API socket. Blocks; nothing else is to be done meanwhile.
    pub(super) async fn succeed(self) -> Result<Begun, Refused> {
        let (claim, offered) = Claim::ask(self.api)?;
        log::info!("taking over from version {}, {} ports", offered.program, offered.saved.ports.len());
        self.take(&claim, offered).await.inspect_err(|refused| claim.give_up(refused))
    }

    async fn take(self, claim: &Claim, offered: Offered) -> Result<Begun, Refused> {
        let failed = |what: &str, e: std::io::Error| claim.refused(&format!("{what}: {e}"));
        let Offered { saved, present, last_id, counters, program: _ } = offered;
        let none = || Ok((Store::none(), Saved::default()));
        let (store, stored) = self.directory.map_or_else(none, Store::open)?;
        store_as(&store, &stored, &saved, self.shares_policy)?;
        let (tallies, mut pending) = Tallies::succeed(self.directory, self.workers, counters)
            .map_err(|e| failed("the counters", e))?;
        let bound = match self.metrics {
            None => None,
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Some(listener),
                // By the running switch, it may be, which hands it over.
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => None,
                Err(e) => return Err(cannot_listen(address, &e)),
            },
        };
        let tallies = Arc::new(tallies);
        let (options, counted) = (self.options, Arc::clone(&tallies));
        let (sink, keeper) = (self.lifecycle.clone(), self.lifecycle);
        let mut switch = Switch::prepare(self.host, store, saved, self.events, move |snapshot| {
            Dataplane::start(&options, counted, snapshot, sink, keeper)
        })?;
        if self.shares_policy {
            switch.share_policy(false);
        }
        switch.expect_ports(&present, last_id);

        let Devices { arrived, listeners, taking } = claim.devices()?;
        pending.absorb(&tallies).map_err(|e| failed("the counters", e))?;
        let mut listeners = listeners.into_iter();
        let Some(listener) = listeners.next() else { return Err(claim.refused("no API socket came")) };
        let listener = UnixListener::from_std(listener.into()).map_err(|e| failed("the API socket", e))?;
        let metrics = match (self.metrics, bound) {
            (Some(address), None) => {
                let came = listeners.next().map(std::net::TcpListener::from);
                let same = came.filter(|came| came.local_addr().is_ok_and(|there| there == address));
                let taken = || cannot_listen(address, &std::io::ErrorKind::AddrInUse.into());
                Some(TcpListener::from_std(same.ok_or_else(taken)?).map_err(|e| failed("the metrics", e))?)
            }
            (_, bound) => bound,
        };
        claim.ready()?;
        // Nothing is refused any more: the other process waits for our word or our end.
        switch.take_devices(arrived);
        let _ = sd_notify::notify(&[NotifyState::MainPid(std::process::id())]);
        claim.running();
        if let Err(e) = pending.settle(&tallies) {
            log::error!("the counters are kept in a file of another name until the next start: {e}");
        }
        Ok(Begun { switch, listener, metrics, socket: Socket::of(self.api), taking })
    }
}

/// The API socket, known by its inode: another switch may have put its own in the same place.
pub(super) struct Socket {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl Socket {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: inode(path) }
    }

    /// It is another process's now.
    pub(super) fn leave(&mut self) {
        self.inode = None;
    }

    pub(super) fn remove(&self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Socket {
    /// A start that is refused after the socket was made leaves none behind.
    fn drop(&mut self) {
        self.remove();
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn cannot_listen(address: SocketAddr, e: &std::io::Error) -> Refused {
    let (address, reason) = (address.to_string(), e.to_string());
    Refusal::CannotListen { address, reason }.of(Object::Option("--metrics"))
}
