//! `turnpike trace`, `capture` and `events --follow`: commands that go on while the test does something else.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::switch::binary;
use crate::{PATIENCE, Switch};

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Switch {
    /// Starts `turnpike ARGS` against this switch; it need not have reached the switch yet.
    #[track_caller]
    #[must_use]
    pub fn begin(&self, args: &[&str]) -> Watcher {
        let mut child = Command::new(binary())
            .args(args)
            .env("TURNPIKE_API", self.dir().join("api.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the turnpike binary runs");
        let lines = lines_of(child.stdout.take().expect("a pipe"));
        let errors = lines_of(child.stderr.take().expect("a pipe"));
        Watcher { child, lines, errors }
    }

    /// Starts `turnpike trace|capture ARGS` and waits until it sees what passes.
    #[track_caller]
    #[must_use]
    pub fn watch(&self, args: &[&str]) -> Watcher {
        let watcher = self.begin(args);
        let said = watcher.errors.recv_timeout(PATIENCE);
        assert_eq!(said.as_deref(), Ok("turnpike: watching"), "turnpike {}", args.join(" "));
        watcher
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Watcher {
    /// The next line.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// The next line, a JSON object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// The next line, if one comes in time.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    /// Interrupts it (as Ctrl-C does); it must end with exit code 0.
    #[track_caller]
    pub fn interrupt(&mut self) -> Vec<String> {
        self.signal(Signal::INT);
        let status = self.wait();
        assert!(status.success(), "it ended with {status}");
        self.rest()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it wrote that was not read yet, once it has ended.
    pub fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// What it wrote to stderr that was not read yet, once it has ended.
    pub fn errors(&self) -> Vec<String> {
        self.errors.iter().collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
