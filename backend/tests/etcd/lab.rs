//! An etcd in a directory of its own, and a follower that remembers what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backend::control::nv::check::Spec;
use backend::control::nv::object::{Change, Key, Object, RecordKey};
use backend::control::types::RecordSpec;
use backend::events::EventLog;
use backend::store::etcd::{Options, Store, Tls};
use backend::store::policy::{Follower, RecordChange, SharedStore, Status};
use serde_json::{Value, json};
use vswitch::nv::model::Record;
use vswitch::refusal::NvRefusal;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long records are kept that nobody needs any more.
pub const LAB_GRACE: Duration = Duration::from_millis(700);
const PREFIX: &str = "/turnpike/v1/";

/// The program `name`, if it is there.
fn program(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port()
}

/// An etcd.
pub struct Etcd {
    binary: PathBuf,
    control: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    authority: Option<(PathBuf, PathBuf, PathBuf)>,
}

impl Etcd {
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// One that knows its clients by their certificates.
    pub fn start_with(authority: Option<&Authority>) -> Option<Self> {
        let (binary, control) = (program("etcd", "ETCD")?, program("etcdctl", "ETCDCTL")?);
        let directory = tempfile::tempdir().expect("a directory");
        let authority = authority.map(|it| (it.path("ca.pem"), it.path("own.pem"), it.path("own.key")));
        let mut etcd = Self { binary, control, directory, port: free_port(), child: None, authority };
        etcd.restart();
        Some(etcd)
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.authority.is_some() { "https" } else { "http" }, self.port)
    }

    pub fn member(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn restart(&mut self) {
        let (url, peer) = (self.url(), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(self.directory.path().join("data"));
        command.args(["--name", "t", "--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("t={peer}"), "--log-level", "error"]);
        if let Some((ca, certificate, key)) = &self.authority {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("etcd starts"));
        let start = Instant::now();
        while !self.control(&["endpoint", "health"]).status.success() {
            assert!(start.elapsed() < PATIENCE, "etcd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets it run where nobody looks for it, for as long as `work` takes.
    pub fn restart_elsewhere(&mut self, work: impl FnOnce(&Self)) {
        let port = std::mem::replace(&mut self.port, free_port());
        self.restart();
        work(self);
        self.kill();
        self.port = port;
        self.restart();
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        let id = rustix::process::Pid::from_raw(id.cast_signed()).expect("a process");
        rustix::process::kill_process(id, signal).expect("a signal");
    }

    /// Makes it hang.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Makes it another store.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.directory.path().join("data")).expect("its data");
    }

    fn control(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.control);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "--command-timeout", "5s"]);
        if let Some((ca, certificate, key)) = &self.authority {
            command.arg("--cacert").arg(ca).arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.args(args).stdin(Stdio::null()).output().expect("etcdctl runs")
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.control(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn put_text(&self, key: &str, value: &str) {
        self.done(&["put", &format!("{PREFIX}{key}"), "--", value]);
    }

    pub fn put(&self, key: &str, value: &Value) {
        self.put_text(key, &value.to_string());
    }

    pub fn delete(&self, key: &str) {
        self.done(&["del", &format!("{PREFIX}{key}")]);
    }

    pub fn get(&self, key: &str) -> Option<String> {
        let text = self.done(&["get", "--print-value-only", &format!("{PREFIX}{key}")]);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub fn compact(&self) {
        let status: Value =
            serde_json::from_str(&self.done(&["endpoint", "status", "-w", "json"])).expect("JSON");
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        self.done(&["compact", &revision]);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is between a host and an etcd, and can be cut.
pub struct Relay {
    port: u16,
    streams: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Relay {
    pub fn new(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (to, streams) = (etcd.member(), Arc::new(Mutex::new(Some(Vec::new()))));
        let open = streams.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&to).expect("etcd");
                if let Some(streams) = &mut *open.lock().unwrap_or_else(PoisonError::into_inner) {
                    for (from, into) in [(&near, &far), (&far, &near)] {
                        let (from, into) = (from.try_clone().expect("a socket"), into.try_clone());
                        let into = into.expect("a socket");
                        streams.push(from.try_clone().expect("a socket"));
                        std::thread::spawn(move || pass_on(from, into));
                    }
                }
            }
        });
        Self { port, streams }
    }

    pub fn member(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Nothing passes any more, until it is mended.
    pub fn cut(&self) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner).take();
        for stream in streams.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }
}

fn pass_on(mut from: TcpStream, mut into: TcpStream) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if into.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}

/// What the value of record `n` is.
pub fn record(n: usize, pa: &str) -> Value {
    record_in(5001, n, pa)
}

/// The same in another virtual subnet.
pub fn record_in(vsid: u32, n: usize, pa: &str) -> Value {
    let ca = format!("10.1.{}.{}", n / 200, n % 200 + 2);
    let mac = format!("02:00:00:00:{:02x}:{:02x}", n / 256, n % 256);
    json!({"vsid": vsid, "ca": ca, "mac": mac, "pa": pa})
}

/// Record `n` itself.
pub fn object(n: usize, pa: &str) -> Object {
    serde_json::from_value::<RecordSpec>(record(n, pa)).expect("a record").judge().expect("a good one")
}

/// What a follower was told.
#[derive(Clone, Default)]
pub struct Seen {
    pub records: BTreeMap<RecordKey, Record>,
    pub objects: BTreeMap<Key, Object>,
    pub whole: BTreeSet<u32>,
}

impl Seen {
    /// At which of these addresses a record is.
    pub fn pa(&self, ca: &str) -> Option<&'static str> {
        let record = self.records.get(&RecordKey::Address(5001, ca.parse().expect("an address")))?;
        let known = ["192.168.1.1", "192.168.1.2", "192.168.1.7", "192.168.1.9"];
        known.into_iter().find(|known| *known == record.pa.to_string())
    }
}

#[derive(Default)]
struct Memory(Mutex<Seen>, AtomicUsize);

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Follower for Memory {
    fn records(&self, changes: &[RecordChange]) -> usize {
        self.with(|seen| {
            for (key, record) in changes {
                match record {
                    Some(record) => seen.records.insert(*key, *record),
                    None => seen.records.remove(key),
                };
            }
        });
        0
    }

    fn room(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn forget(&self, vsids: &BTreeSet<u32>) {
        self.with(|seen| seen.records.retain(|key, _| !vsids.contains(&key.vsid())));
    }

    fn whole(&self, vsids: &BTreeSet<u32>) {
        self.with(|seen| vsids.clone_into(&mut seen.whole));
    }

    fn held(&self) -> Vec<RecordKey> {
        self.with(|seen| seen.records.keys().copied().collect())
    }

    fn objects(&self, changes: &[(Key, Option<Object>)]) {
        self.with(|seen| {
            for (key, object) in changes {
                match object {
                    Some(object) => seen.objects.insert(key.clone(), object.clone()),
                    None => seen.objects.remove(key),
                };
            }
        });
    }

    fn loaded(&self, objects: Vec<Object>, unreadable: &[Key]) {
        self.with(|seen| {
            seen.objects.retain(|key, _| unreadable.contains(key));
            seen.objects.extend(objects.into_iter().map(|object| (object.key(), object)));
        });
    }
}

/// A runtime to wait with.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A host that follows an etcd.
pub struct Lab {
    memory: Arc<Memory>,
    events: Arc<EventLog>,
    store: Store,
}

impl Lab {
    pub fn new(etcd: &Etcd) -> Self {
        Self::with_name(etcd, "a")
    }

    pub fn with_name(etcd: &Etcd, name: &str) -> Self {
        Self::begin(etcd, name, None)
    }

    pub fn with_tls(etcd: &Etcd, tls: Option<Tls>) -> Self {
        Self::begin(etcd, "a", tls)
    }

    /// One that follows the store through a relay.
    pub fn through(relay: &Relay, vsids: &[u32]) -> Self {
        let lab = Self::at(relay.member(), "relayed", None, usize::MAX);
        lab.follow(vsids);
        lab
    }

    fn begin(etcd: &Etcd, name: &str, tls: Option<Tls>) -> Self {
        let lab = Self::with_room(etcd, name, tls, usize::MAX);
        lab.follow(&[5001]);
        lab
    }

    /// One that follows no records yet, and has room for so many.
    pub fn with_room(etcd: &Etcd, name: &str, tls: Option<Tls>, room: usize) -> Self {
        Self::at(etcd.member(), name, tls, room)
    }

    fn at(member: String, name: &str, tls: Option<Tls>, room: usize) -> Self {
        let memory = Arc::new(Memory(Mutex::default(), AtomicUsize::new(room)));
        let events = Arc::new(EventLog::default());
        let options = Options { members: vec![member], tls, host: name.to_owned(), grace: LAB_GRACE };
        let store = Store::start(&options, memory.clone(), events.clone()).expect("it starts");
        store.handle().present(json!({"host": name}).to_string().into_bytes());
        Self { memory, events, store }
    }

    /// Needs the records of these virtual subnets.
    pub fn follow(&self, vsids: &[u32]) {
        self.store.handle().follow(vsids.iter().copied().collect());
    }

    /// Misses the record of an address.
    pub fn look_up(&self, vsid: u32, ca: &str) {
        let of = vswitch::nv::records::Of::Address(ca.parse().expect("an address"));
        self.store.handle().look_up(vec![(vsid, of)]);
    }

    /// Learns an address from a guest, or forgets it.
    pub fn publish(&self, key: RecordKey, record: Option<Record>) {
        self.store.handle().publish(vec![(key, record)], false);
    }

    pub fn all(&self) -> Result<Vec<Record>, NvRefusal> {
        runtime().block_on(self.store.handle().all())
    }

    pub fn find(&self, keys: Vec<RecordKey>) -> Result<Vec<Record>, NvRefusal> {
        runtime().block_on(self.store.handle().find(keys))
    }

    pub fn status(&self) -> &Status {
        self.store.handle().status()
    }

    pub fn seen(&self) -> Seen {
        self.memory.with(|seen| seen.clone())
    }

    /// Waits until what was seen is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !self.memory.with(|seen| is_so(seen)) {
            let seen = self.memory.with(|seen| (seen.records.len(), seen.objects.len()));
            assert!(start.elapsed() < PATIENCE, "not in time: {what}: {seen:?}, {:?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait(&self, what: &str, is_so: impl Fn(&Status) -> bool) {
        let start = Instant::now();
        while !is_so(self.status()) {
            assert!(start.elapsed() < PATIENCE, "not in time: {what}: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has this to say of itself, sooner or later.
    pub fn carry(&self, changes: Vec<Change>) {
        self.store.handle().carry(changes);
    }

    pub fn until_down(&self) {
        self.wait("it is lost", |status| !status.is_up());
    }

    pub fn commit(&self, changes: Vec<Change>) -> Result<i64, NvRefusal> {
        runtime().block_on(self.store.handle().commit(changes))
    }

    /// Whether there was an event of this kind.
    pub fn told(&self, kind: &str) -> bool {
        self.events.since(0).iter().any(|record| record.body.get("kind").is_some_and(|it| it == kind))
    }
}

/// Somebody who vouches for an etcd and for hosts.
pub struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a certificate");
        let issuer = rcgen::Issuer::new(params, key);
        let own_key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]);
        let mut params = params.expect("parameters");
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let own = params.signed_by(&own_key, &issuer).expect("a certificate");
        let it = Self { directory };
        for (name, text) in
            [("ca.pem", ca.pem()), ("own.pem", own.pem()), ("own.key", own_key.serialize_pem())]
        {
            std::fs::write(it.path(name), text).expect("a file");
        }
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How a host connects, with a certificate of its own or none.
    pub fn options(&self, known: bool) -> Tls {
        let own = known.then(|| (self.path("own.pem"), self.path("own.key")));
        Tls { ca: self.path("ca.pem"), own }
    }
}
