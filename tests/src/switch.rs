//! The process under test: started, configured through its command line, watched, stopped.
//!
//! Every switch has its own directory with its sockets, state and API, so tests run side by side.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::frame::Mac;
use crate::{PATIENCE, eventually};

/// How `turnpike serve` is started. The default sleeps quickly and keeps its state in the test's directory.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// `--workers`.
    pub workers: usize,
    /// `--poll-us`.
    pub poll_us: String,
    /// More arguments.
    pub args: Vec<String>,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self { workers: 2, poll_us: "20".to_owned(), args: Vec::new() }
    }
}

/// A running switch. Dropping it kills it and fails the test if it had died or panicked before.
#[derive(Debug)]
pub struct Switch {
    dir: TempDir,
    options: SwitchOptions,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
}

impl Switch {
    /// Starts a switch and waits until it is ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(SwitchOptions::default())
    }

    /// Starts a switch with options of the test's choice.
    #[must_use]
    pub fn start_with(options: SwitchOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("turnpike-test-").tempdir().expect("a temporary directory");
        let log = Arc::default();
        let child = Mutex::new(spawn(dir.path(), &options, &log));
        Self { dir, options, child, log }
    }

    /// The switch's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.lock().expect("lock").id()
    }

    /// What the switch wrote to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("lock").clone()
    }

    /// Runs `turnpike ARGS` against this switch.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(binary())
            .args(args)
            .env("TURNPIKE_API", self.dir().join("api.sock"))
            .output()
            .expect("the turnpike binary runs")
    }

    /// Runs a command that must succeed; returns its stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "turnpike {}: {}: {stderr}", args.join(" "), output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command with `--json` that must succeed; returns the document.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("turnpike {}: {e}: {text}", args.join(" ")))
    }

    /// `port show NAME`.
    #[track_caller]
    pub fn port(&self, name: &str) -> Value {
        self.json(&["port", "show", name])
    }

    /// One counter of a port: `out_packets`, `out_bytes`, `in_packets`, `in_bytes`.
    #[track_caller]
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        let port = self.port(name);
        port["counters"][counter].as_u64().unwrap_or_else(|| panic!("no counter {counter} in {port}"))
    }

    /// Drops of a port by reason: `direction` is `out` or `in`.
    #[track_caller]
    pub fn drops(&self, name: &str, direction: &str, reason: &str) -> u64 {
        self.port(name)["counters"][format!("{direction}_drops")][reason].as_u64().unwrap_or(0)
    }

    /// All drops of a port in both directions.
    #[track_caller]
    pub fn all_drops(&self, name: &str) -> u64 {
        let counters = &self.port(name)["counters"];
        let sum = |key: &str| {
            counters[key].as_object().map_or(0, |map| map.values().filter_map(Value::as_u64).sum::<u64>())
        };
        sum("out_drops") + sum("in_drops")
    }

    /// Waits until a counter (as a function of `port show`) has the value; fails with what it is instead.
    #[track_caller]
    pub fn wait_counter(&self, name: &str, counter: &str, want: u64) {
        let mut last = 0;
        let reached = eventually(|| {
            last = self.counter(name, counter);
            last == want
        });
        assert!(reached, "{counter} of port {name} is {last}, expected {want}");
    }

    /// Waits until a port is in a state.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) {
        let mut last = Value::Null;
        let reached = eventually(|| {
            last = self.port(name)["state"].clone();
            last == state
        });
        assert!(reached, "port {name} is {last}, expected {state}");
    }

    /// Adds a guest port; returns the path of its socket.
    #[track_caller]
    pub fn add_port(&self, name: &str, args: &[&str]) -> PathBuf {
        let socket = self.dir().join(format!("{name}.sock"));
        let path = socket.to_str().expect("UTF-8");
        self.ok(&[&["port", "add", name, "--socket", path], args].concat());
        socket
    }

    /// The socket of a port, which is added with this many queue pairs if there is none.
    #[track_caller]
    pub fn socket_of(&self, name: &str, pairs: usize) -> PathBuf {
        let output = self.run(&["port", "show", name, "--json"]);
        if !output.status.success() {
            return self.add_port(name, &["--queues", &pairs.to_string(), "--mtu", "9000"]);
        }
        let port: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        PathBuf::from(port["socket"].as_str().expect("a guest port has a socket"))
    }

    /// A port's MAC address.
    #[track_caller]
    pub fn mac(&self, name: &str) -> Mac {
        let port = self.port(name);
        let text = port["mac"].as_str().unwrap_or_else(|| panic!("no mac in {port}"));
        let bytes: Vec<u8> =
            text.split([':', '-']).map(|part| u8::from_str_radix(part, 16).expect("hexadecimal")).collect();
        bytes.try_into().unwrap_or_else(|_| panic!("'{text}' is no MAC address"))
    }

    /// Events so far, as JSON.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let text = self.ok(&["events", "--json"]);
        let lines = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let values = lines.map(|value| value.expect("JSON"));
        values.flat_map(|value| if let Value::Array(list) = value { list } else { vec![value] }).collect()
    }

    /// Whether an event of this kind happened.
    #[track_caller]
    pub fn has_event(&self, kind: &str) -> bool {
        self.events().iter().any(|event| event.to_string().contains(&format!("\"{kind}\"")))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    /// Sends SIGTERM and returns how the process ended.
    #[track_caller]
    pub fn terminate(&self) -> ExitStatus {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.lock().expect("lock").try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the switch does not end on SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process at once (SIGKILL).
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("lock");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the process again in the same directory after [`Switch::terminate`] or [`Switch::kill`].
    pub fn start_again(&self) {
        let mut child = self.child.lock().expect("lock");
        assert!(child.try_wait().expect("wait").is_some(), "the switch still runs");
        *child = spawn(self.dir.path(), &self.options, &self.log);
    }

    /// Starts a successor that takes over from the running process, which must then end with exit code 0.
    pub fn take_over(&self) {
        self.take_over_by(self.options.workers);
    }

    /// As [`Self::take_over`], by a successor with so many workers.
    pub fn take_over_by(&self, workers: usize) {
        let mut child = self.child.lock().expect("lock");
        let mut options = self.options.clone();
        options.workers = workers;
        options.args.push("--take-over".to_owned());
        let successor = spawn(self.dir.path(), &options, &self.log);
        let mut before = std::mem::replace(&mut *child, successor);
        drop(child);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = before.try_wait().expect("wait") {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = before.kill();
                panic!("the process before does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "the process before ended with {status}");
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child.lock().expect("lock").try_wait().expect("wait").is_none()
    }

    /// What the process holds: names of its threads and targets of its descriptors, sorted; for comparing.
    #[must_use]
    pub fn holdings(&self) -> Vec<String> {
        let thread = |path: PathBuf| {
            std::fs::read_to_string(path.join("comm")).ok().map(|name| name.trim().to_owned())
        };
        let threads =
            self.proc_entries("task").into_iter().filter_map(thread).map(|name| format!("thread {name}"));
        let target = |path: PathBuf| std::fs::read_link(path).ok()?.to_str().map(str::to_owned);
        // "socket:[12345]": the number is no part of the kind.
        let kind = |target: String| target.replace(|c: char| c.is_ascii_digit(), "");
        let fds = self.proc_entries("fd").into_iter().filter_map(target).map(kind);
        let mut all: Vec<_> = threads.chain(fds.map(|kind| format!("descriptor {kind}"))).collect();
        // The pool that serves the API keeps a few threads for some seconds after they were needed.
        all.retain(|item| item != "thread tokio-rt-worker");
        all.sort();
        all
    }

    /// Memory of its own (not shared with guests) that the process uses, in KiB.
    #[must_use]
    pub fn private_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    /// CPU time the process used so far, in ticks of 10 ms.
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("/proc");
        let fields = stat.rsplit_once(')').expect("a command name").1.split_whitespace();
        // utime and stime are fields 14 and 15 of the line, 12 and 13 behind the command name.
        fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
    }

    fn proc_entries(&self, kind: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(format!("/proc/{}/{kind}", self.pid()));
        entries.map_or(Vec::new(), |list| list.filter_map(Result::ok).map(|entry| entry.path()).collect())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let child = self.child.get_mut().expect("lock");
        let ended = child.try_wait().ok().flatten();
        let _ = child.kill();
        let _ = child.wait();
        let log = self.log();
        let bad = match ended {
            Some(status) if !status.success() => Some(format!("the switch died: {status}")),
            _ if log.contains("panicked at") => Some("the switch panicked".to_owned()),
            _ => None,
        };
        if std::thread::panicking() || bad.is_some() {
            let from = log.char_indices().rev().nth(20_000).map_or(0, |(at, _)| at);
            eprintln!("--- log of the switch\n{}--- end of log", &log[from..]);
        }
        if let Some(bad) = bad
            && !std::thread::panicking()
        {
            panic!("{bad}");
        }
    }
}

/// The binary: `$TURNPIKE_BIN`, or `turnpike` in the directory the tests were built into.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TURNPIKE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let found = test.ancestors().skip(1).map(|dir| dir.join("turnpike")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no turnpike binary beside {}; run `cargo build -p turnpike`, or set TURNPIKE_BIN",
            test.display()
        )
    })
}

fn spawn(dir: &Path, options: &SwitchOptions, log: &Arc<Mutex<String>>) -> Child {
    let own = ["--state-dir".into(), dir.join("state").into_os_string()];
    let state = if options.args.iter().any(|arg| arg == "--state-dir") { &[][..] } else { &own[..] };
    let mut child = Command::new(binary())
        .arg("serve")
        .arg("--api")
        .arg(dir.join("api.sock"))
        .args(state)
        .args(["--workers", &options.workers.to_string(), "--poll-us", &options.poll_us])
        .args(&options.args)
        .env_remove("TURNPIKE_API")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the turnpike binary runs");
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let (sender, ready) = std::sync::mpsc::channel();
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if line.starts_with("turnpike ready ") {
                let _ = sender.send(());
            }
            let mut log = log.lock().expect("lock");
            // A switch that talks for ever must not fill the tester's memory.
            if log.len() < 16 << 20 {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
    if ready.recv_timeout(PATIENCE).is_err() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the switch did not say that it is ready; its log is above, or it said nothing");
    }
    child
}
