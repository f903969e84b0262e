//! A switch of its own for each test, run as the real program, and its command line.
#![allow(dead_code, unreachable_pub, reason = "every test file includes this and uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program.
pub const TURNPIKE: &str = env!("CARGO_BIN_EXE_turnpike");

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program in `directory` with `$TURNPIKE_API` set.
pub fn run(directory: &Path, api: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(TURNPIKE);
    command.args(args);
    finish(command.current_dir(directory).env("TURNPIKE_API", api))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Done {
    let out = command.env_remove("RUST_LOG").stdin(Stdio::null()).output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Done { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// A directory for one test, open to everybody as /run/turnpike may be.
pub fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    directory
}

/// A running switch. Killed when dropped.
pub struct Daemon {
    child: Child,
    pub directory: PathBuf,
    pub api: PathBuf,
    pub ready: String,
}

impl Daemon {
    /// Starts a switch with its state and API socket in `directory` and waits until it is ready.
    pub fn start(directory: &Path, more: &[&str]) -> Self {
        Self::try_start(directory, more)
            .unwrap_or_else(|stderr| panic!("the switch did not get ready: {stderr}"))
    }

    /// The same; what it wrote to stderr if it ended instead.
    pub fn try_start(directory: &Path, more: &[&str]) -> Result<Self, String> {
        let api = directory.join("api.sock");
        #[allow(clippy::zombie_processes, reason = "waited for when dropped")]
        let mut child = Command::new(TURNPIKE)
            .args(["serve", "--workers", "1"])
            .args(if more.contains(&"--state-dir") { &[][..] } else { &["--state-dir", "state"] })
            .args(more)
            .current_dir(directory)
            .env("TURNPIKE_API", &api)
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            if stderr.read_line(&mut line).expect("UTF-8") == 0 {
                let _ = child.wait();
                return Err(seen);
            }
            if line.starts_with("turnpike ready ") {
                // The rest of the log must not fill the pipe.
                std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
                let ready = line.trim_end().to_owned();
                return Ok(Self { child, directory: directory.to_owned(), api, ready });
            }
            seen.push_str(&line);
        }
    }

    /// Runs a client command.
    pub fn run(&self, args: &[&str]) -> Done {
        run(&self.directory, &self.api, args)
    }

    /// Runs a client command that must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
        done.stdout
    }

    /// Runs a client command with `--json`.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).expect("JSON")
    }

    /// Everything an operator can see of the configuration.
    pub fn seen(&self) -> serde_json::Value {
        let (switch, mut ports) = (self.json(&["switch", "show"]), self.json(&["port", "list"]));
        for port in ports.as_array_mut().expect("a list") {
            // What the data path reports about its devices changes by itself.
            for key in ["state", "fault", "counters", "worker"] {
                port.as_object_mut().expect("an object").remove(key);
            }
        }
        serde_json::json!([switch, ports])
    }

    /// Sends a signal by name and waits for the end; the exit code.
    pub fn end(mut self, signal: &str) -> i32 {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|s| s.success()));
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the switch did not end");
    }

    /// One raw HTTP request; status and body.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http(&self.api, method, path, body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One raw HTTP request; status and body.
pub fn http(api: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(api).expect("the switch listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let length = body.len();
    // The answer may come before a refused body was sent completely.
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}
