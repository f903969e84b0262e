//! `turnpike serve`: the process that is the switch.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use vswitch::refusal::{Object, Refusal, Refused};

use super::begin::{Beginning, Begun};
use super::{Failure, NoJson, apply, file};
use crate::api::{self, Callers, Shared};
use crate::control::extension::library::Library;
use crate::control::handover::{self, lifecycle::Lifecycle};
use crate::control::model::MacPool;
#[cfg(feature = "etcd")]
use crate::control::nv::follow::Following;
use crate::control::{Host, Switch, check, host};
use crate::events::EventLog;
use crate::migrate::Migrations;
use crate::priority;
use crate::spec::{PollMode, WorkerOptions};
#[cfg(feature = "etcd")]
use crate::store::etcd;
use crate::takeover::{Giver, Outcome};

/// Most workers a switch has.
const MAX_WORKERS: usize = 64;
/// How often stopped ports are tried again.
const TICK: Duration = Duration::from_secs(5);
/// How often next hops of the provider network are asked for.
const QUESTIONS: Duration = Duration::from_millis(500);

const SIGNS: &str = "\
When it is ready it writes one line to stderr, 'turnpike ready api=PATH ports=N', and tells systemd.
SIGTERM and SIGINT stop all rings and end it with exit code 0. $RUST_LOG filters the log (default: info).";

/// How the switch runs.
#[derive(Debug, Args)]
#[command(after_help = SIGNS)]
pub(super) struct Serve {
    /// Where ports are kept over a restart; `none` keeps nothing.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/turnpike")]
    state_dir: PathBuf,

    /// Make the switch equal to this file before it begins, as `turnpike apply` would.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Take over from the switch that runs on the API socket, ports and connections with it: guests are not told, and that
    /// process ends. Refused, or on any fault before the end, it goes on unchanged.
    #[arg(long, conflicts_with = "config")]
    take_over: bool,

    /// Threads that move frames, 1 to 64 [default: one per two CPUs, 1 to 4; guests need the others].
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// CPU of each worker, such as 2,3 or 4-7 [default: the kernel places them].
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// How long a worker polls after its last frame before it sleeps: microseconds, `busy` (never sleeps) or
    /// `off` (sleeps at once).
    #[arg(long, value_name = "N|busy|off", default_value = "10")]
    poll_us: Poll,

    /// Name of this host, which also chooses its dynamic MAC addresses [default: the host's name, and addresses by
    /// its first IPv4 address].
    #[arg(long, value_name = "NAME")]
    host_id: Option<String>,

    /// Where the policy of network virtualization is kept: in this switch's own state, or in an etcd that hosts share.
    #[arg(long, value_name = "embedded|etcd://HOST:PORT[,...]", default_value = "embedded")]
    policy_store: PolicyStore,

    /// The policy store is encrypted, and certified by these (PEM).
    #[arg(long, value_name = "FILE")]
    policy_store_ca: Option<PathBuf>,

    /// This host's own certificate for the policy store (PEM).
    #[arg(long, value_name = "FILE", requires_all = ["policy_store_key", "policy_store_ca"])]
    policy_store_cert: Option<PathBuf>,

    /// The key of that certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "policy_store_cert")]
    policy_store_key: Option<PathBuf>,

    /// File of 32 random bytes, readable by its owner only and the same on every host of the fleet: states of ports are sealed
    /// with it, and a state without its seal brings no policy (see 'turnpike migrate new-key').
    #[arg(long, value_name = "FILE")]
    fleet_key: Option<PathBuf>,

    /// Serve /metrics (Prometheus text) on TCP as well, to everybody who can reach it.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// Members of this group may use the API as well.
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,

    /// How log lines are written to stderr.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    #[command(flatten)]
    pub(super) no_json: NoJson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Where the policy of network virtualization is kept.
#[derive(Clone, Debug)]
enum PolicyStore {
    Embedded,
    /// Members of an etcd, `HOST:PORT` each.
    Etcd(Vec<String>),
}

impl FromStr for PolicyStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let bad = || "write embedded, or etcd://HOST:PORT[,HOST:PORT...]".to_owned();
        if !cfg!(feature = "etcd") {
            return Err("this program was built without etcd; write embedded".into());
        }
        let members = text.strip_prefix("etcd://").ok_or_else(bad)?.trim_end_matches('/').split(',');
        let is_member = |member: &&str| {
            let (host, port) = member.rsplit_once(':').unwrap_or_default();
            let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let is_host = match in_brackets {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => {
                    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
                }
            };
            is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        let members: Vec<&str> = members.collect();
        if !members.iter().all(is_member) {
            return Err(bad());
        }
        Ok(Self::Etcd(members.into_iter().map(str::to_owned).collect()))
    }
}

#[derive(Clone, Debug)]
struct CpuList(Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let bad = || format!("'{list}' is not a list of CPUs; write 2,3 or 4-7");
        let number = |n: &str| n.parse::<usize>().ok().filter(|n| *n < 4096).ok_or_else(bad);
        let mut cpus = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            cpus.extend(number(first)?..=number(last)?);
        }
        if cpus.is_empty() { Err(bad()) } else { Ok(Self(cpus)) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Poll(PollMode);

impl FromStr for Poll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "busy" => Ok(Self(PollMode::Busy)),
            "off" => Ok(Self(PollMode::Micros(0))),
            n => match n.parse() {
                Ok(us @ 0..=1_000_000) => Ok(Self(PollMode::Micros(us))),
                _ => Err("write 0 to 1000000 microseconds, 'busy' or 'off'".into()),
            },
        }
    }
}

impl Serve {
    pub(super) fn run(self, api: &Path) -> super::Outcome {
        start_log(self.log_format);
        raise_descriptor_limit();
        priority::set(priority::CONTROL);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure(format!("the runtime cannot start: {e}")))?;
        runtime.block_on(self.serve(api)).map_err(Failure::from)
    }

    async fn serve(self, api: &Path) -> Result<(), Refused> {
        let mut terminate = signals(SignalKind::terminate())?;
        let mut interrupt = signals(SignalKind::interrupt())?;
        let (workers, options) = self.worker_options()?;
        if let Some(cpus) = &options.cpus {
            priority::leave(cpus, &allowed_cpus());
        }
        let callers = self.callers()?;
        let config = self.config.as_deref().map(file::read).transpose()?;
        let fleet_key = self.fleet_key.as_deref().map(handover::read_key).transpose()?;
        let events = Arc::new(EventLog::default());
        let logger = {
            let events = events.clone();
            std::thread::Builder::new().name("event-log".into()).spawn(move || events.log_until_closed()).ok()
        };
        let host_name = host::name();
        let directory = (self.state_dir != Path::new("none")).then_some(self.state_dir.as_path());
        let library = Library::open(directory).map_err(|e| {
            let about = Object::State(self.state_dir.to_string_lossy().into_owned());
            Refusal::StateUnusable { reason: format!("the modules of extensions: {e}") }.of(about)
        })?;
        let host = Host {
            library,
            pool: MacPool::of(self.host_id.as_deref(), host::first_ipv4(), &host_name),
            id: self.host_id.unwrap_or(host_name),
        };
        let lifecycle = Lifecycle::new(events.clone());
        let policy_store = policy_store(
            &self.policy_store,
            self.policy_store_ca,
            self.policy_store_cert.zip(self.policy_store_key),
            &host.id,
        )?;
        let beginning = Beginning {
            shares_policy: policy_store.is_some(),
            api,
            directory,
            metrics: self.metrics,
            workers,
            options,
            host,
            events: events.clone(),
            lifecycle: lifecycle.clone(),
        };
        let Begun { mut switch, listener, metrics, mut socket, taking } =
            if self.take_over { beginning.succeed().await? } else { beginning.start(&callers).await? };
        if let Some(key) = fleet_key {
            switch.set_fleet_key(key);
        }
        if let Some(directory) = directory {
            switch.keep_arrivals(directory);
        }
        if let Some(config) = &config {
            for line in apply::lines(&switch.apply(config, false)?) {
                log::info!("configuration: {line}");
            }
        }
        let ports = switch.port_count();
        let (stop, stopping) = watch::channel(false);
        let listeners: Vec<_> = [Some(listener.as_fd()), metrics.as_ref().map(AsFd::as_fd)]
            .into_iter()
            .flatten()
            .map(|fd| fd.try_clone_to_owned())
            .collect::<Result<_, _>>()
            .map_err(|e| {
                Refusal::System { what: "listener".into(), reason: e.to_string() }.of(Object::Switch)
            })?;
        let giver = Arc::new(Giver::new(callers.own_uid, directory.map(Path::to_owned), listeners));
        let (paused, mut outcome) = (giver.paused(), giver.outcome());
        let switch = Arc::new(Mutex::new(switch));
        let shared = Shared {
            giver,
            migrations: Migrations::new(switch.clone(), events.clone(), stopping.clone(), paused.clone()),
            switch,
            events: events.clone(),
            stopping: stopping.clone(),
        };
        if let Some((asked, socket)) = taking {
            // What the one before could read this one may not: everything else goes on.
            if let Err(why) = shared.migrations.resume(asked, socket).await {
                log::error!("ports of other switches are no longer taken: {why}");
            }
        }
        // Ends before the switch does.
        #[cfg(feature = "etcd")]
        let follows = policy_store.map(|options| follow_policy(&options, &shared)).transpose()?;
        let follower = lifecycle.start(&shared.switch).map_err(|e| {
            Refusal::System { what: "thread".into(), reason: e.to_string() }.of(Object::Switch)
        })?;
        let mut servers = tokio::task::JoinSet::new();
        let router = api::router(shared.clone());
        servers.spawn(api::serve_unix(listener, callers, router, paused, stopping.clone()));
        if let Some(listener) = metrics {
            servers.spawn(api::serve_metrics(
                listener,
                api::metrics_router(shared.clone()),
                stopping.clone(),
            ));
        }
        servers.spawn(repeat(TICK, shared.switch.clone(), stopping.clone(), Switch::tick));
        servers.spawn(repeat(QUESTIONS, shared.switch.clone(), stopping, |switch| switch.ask_next_hops()));

        eprintln!("turnpike ready api={} ports={ports}", api.display());
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let signal = tokio::select! {
            _ = terminate.recv() => Some("SIGTERM"),
            _ = interrupt.recv() => Some("SIGINT"),
            _ = outcome.wait_for(|outcome| *outcome == Outcome::TakenOver) => None,
        };
        if let Some(signal) = signal {
            log::info!("stopping ({signal})");
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            socket.remove();
        } else {
            // Everything belongs to the successor now, what systemd is told included.
            socket.leave();
        }
        stop.send_replace(true);
        while servers.join_next().await.is_some() {}
        drop(follower);
        #[cfg(feature = "etcd")]
        drop(follows);
        let _ = tokio::task::spawn_blocking(move || {
            shared.switch.lock().unwrap_or_else(PoisonError::into_inner).stop();
        })
        .await;
        events.close();
        if let Some(logger) = logger {
            let _ = logger.join();
        }
        Ok(())
    }

    /// How many workers there are, and how they are run.
    fn worker_options(&self) -> Result<(usize, WorkerOptions), Refused> {
        let cpus = self.cpus.as_ref().map(|list| list.0.clone());
        let default = || (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 4);
        let workers = self.workers.or(cpus.as_ref().map(Vec::len)).unwrap_or_else(default);
        let option = Object::Option("--workers");
        check::range("workers", workers as u64, 1, MAX_WORKERS as u64, "").map_err(|why| why.of(option))?;
        if let Some(cpus) = &cpus {
            let refuse = |value: String, valid: String| {
                Refusal::BadValue { setting: "cpus".into(), value, valid }.of(Object::Option("--cpus"))
            };
            let allowed = allowed_cpus();
            if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                let all = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                return Err(refuse(cpu.to_string(), format!("CPUs this process may use: {all}")));
            }
            if cpus.len() != workers {
                let given = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                return Err(refuse(given, format!("one CPU for each of the {workers} workers")));
            }
        }
        Ok((workers, WorkerOptions { cpus, poll: self.poll_us.0 }))
    }

    fn callers(&self) -> Result<Callers, Refused> {
        let group = match &self.api_group {
            None => None,
            Some(name) => {
                let id = host::group_id(name).ok_or_else(|| {
                    let valid = "a group of this host, by name or number".into();
                    Refusal::BadValue { setting: "group".into(), value: name.clone(), valid }
                        .of(Object::Option("--api-group"))
                })?;
                Some((name.clone(), id))
            }
        };
        Ok(Callers { own_uid: nix::unistd::geteuid().as_raw(), group })
    }
}

/// How to reach the store that hosts share, if they do.
#[cfg(feature = "etcd")]
fn policy_store(
    store: &PolicyStore,
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
    host: &str,
) -> Result<Option<etcd::Options>, Refused> {
    let PolicyStore::Etcd(members) = store else {
        let (what, valid) =
            ("policy-store".to_owned(), "etcd://HOST:PORT as --policy-store as well".to_owned());
        return match ca {
            Some(_) => Err(Refusal::Missing { what, valid }.of(Object::Option("--policy-store-ca"))),
            None => Ok(None),
        };
    };
    // It is a part of the key that says that this host is there.
    check::name(host).map_err(|why| why.of(Object::Option("--host-id")))?;
    let tls = ca.map(|ca| etcd::Tls { ca, own });
    let (members, host) = (members.clone(), host.to_owned());
    Ok(Some(etcd::Options { members, tls, host, grace: etcd::GRACE }))
}

#[cfg(not(feature = "etcd"))]
#[allow(clippy::unnecessary_wraps, reason = "the same signature with and without etcd")]
fn policy_store(
    _: &PolicyStore,
    _: Option<PathBuf>,
    _: Option<(PathBuf, PathBuf)>,
    _: &str,
) -> Result<Option<()>, Refused> {
    Ok(None)
}

/// Begins to follow the store that hosts share.
#[cfg(feature = "etcd")]
fn follow_policy(options: &etcd::Options, shared: &Shared) -> Result<etcd::Store, Refused> {
    let lock = || shared.switch.lock().unwrap_or_else(PoisonError::into_inner);
    let records = lock().record_table().ok_or_else(|| Refusal::Stopping.of(Object::Switch))?;
    let following = Following::new(Arc::downgrade(&shared.switch), records);
    let store = etcd::Store::start(options, Arc::new(following), shared.events.clone())?;
    lock().set_policy_store(Arc::new(store.handle().clone()));
    Ok(store)
}

/// Calls `work` again and again, on a thread that may block, until the switch stops.
async fn repeat(
    pause: Duration,
    switch: Arc<Mutex<Switch>>,
    mut stopping: watch::Receiver<bool>,
    work: impl Fn(&mut Switch) + Send + Copy + 'static,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|s| *s) => return,
        }
        let switch = switch.clone();
        let _ = tokio::task::spawn_blocking(move || {
            work(&mut switch.lock().unwrap_or_else(PoisonError::into_inner));
        })
        .await;
    }
}

fn signals(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Refused> {
    signal(kind).map_err(|e| {
        Refusal::System { what: "signal handler".into(), reason: e.to_string() }.of(Object::Switch)
    })
}

/// CPUs the kernel lets this process use; when it does not tell, any of the first 4096.
fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    list.trim().parse().map_or_else(|_: String| (0..4096).collect(), |CpuList(cpus)| cpus)
}

/// A port needs a few descriptors (socket, kicks, calls, memory) and there may be a thousand: takes all that this process may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        log::warn!("the limit of open descriptors stays at {:?}: {error}", limit.current);
    }
}

fn start_log(format: LogFormat) {
    use std::io::Write;
    let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if format == LogFormat::Json {
        log.format(|out, record| {
            let line = serde_json::json!({
                "time": jiff::Timestamp::now().to_string(),
                "level": record.level().as_str().to_lowercase(),
                "target": record.target(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
    }
    log.init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_have_numbers_and_ranges() {
        assert_eq!("2,4-6".parse::<CpuList>().unwrap().0, [2, 4, 5, 6]);
        for bad in ["", "a", "3-", "5-4", "1,,2", "0-99999999999"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
