//! Two switches that know each other's certificates, and moves between them.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Switch, eventually};

/// One who signs certificates.
pub(crate) struct Authority {
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

/// Directory with the certificates of a test.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("turnpike-certs-").tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.0.path().join(file).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, file: &str, pem: &str) {
        std::fs::write(self.path(file), pem).expect("written");
    }

    pub(crate) fn authority(&self, name: &'static str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        self.write(&format!("{name}.pem"), &certificate.pem());
        Authority { name, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a switch; `change` makes it a wrong one.
    pub(crate) fn issue(&self, by: &Authority, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &by.issuer).expect("signed");
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// The arguments with which a switch shows itself.
    pub(crate) fn of(&self, name: &str, ca: &Authority) -> Vec<String> {
        let file = |name: &str| self.path(name);
        vec![
            "--cert".into(),
            file(&format!("{name}.pem")),
            "--key".into(),
            file(&format!("{name}.key")),
            "--ca".into(),
            file(&format!("{}.pem", ca.name)),
        ]
    }
}

/// Source and destination; the destination listens.
pub(crate) struct Pair {
    pub(crate) certificates: Certificates,
    pub(crate) ca: Authority,
    pub(crate) source: Switch,
    pub(crate) destination: Switch,
    pub(crate) address: String,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let certificates = Certificates::new();
        let ca = certificates.authority("ca");
        certificates.issue(&ca, "source", |_| {});
        certificates.issue(&ca, "destination", |_| {});
        let start = |host: &str| {
            let args = vec!["--host-id".to_owned(), host.to_owned()];
            Switch::start_with(SwitchOptions { workers: 1, args, ..SwitchOptions::default() })
        };
        let (source, destination) = (start("host-s"), start("host-d"));
        let mut pair = Self { certificates, ca, source, destination, address: "127.0.0.1:0".into() };
        pair.listen();
        pair
    }

    /// Lets the destination listen, where it did before if it did.
    pub(crate) fn listen(&mut self) {
        let files = self.certificates.of("destination", &self.ca);
        let args: Vec<&str> = files.iter().map(String::as_str).collect();
        let listen = [&["migrate", "listen", "--address", &self.address], &args[..]].concat();
        let view = self.destination.json(&listen);
        view["address"].as_str().expect("an address").clone_into(&mut self.address);
    }

    /// Adds the same port to both; returns its sockets.
    pub(crate) fn add(&self, name: &str, number: u8, policy: &[&str]) -> (PathBuf, PathBuf) {
        let mac = format!("52:54:00:00:00:{number:02x}");
        let plain = ["--mac", &mac, "--mtu", "9000"];
        (self.source.add_port(name, &[&plain, policy].concat()), self.destination.add_port(name, &plain))
    }

    pub(crate) fn send_command(&self, port: &str, name: &str, ca: &Authority) -> Vec<String> {
        let mut args: Vec<String> =
            ["migrate", "send", port, "--to", &self.address].map(str::to_owned).to_vec();
        args.extend(self.certificates.of(name, ca));
        args
    }

    /// `migrate send`, which runs until the migration is over.
    pub(crate) fn send(&self, port: &str) -> JoinHandle<Output> {
        let (args, api) = (self.send_command(port, "source", &self.ca), self.source.dir().join("api.sock"));
        std::thread::spawn(move || run(&api, &args))
    }

    /// Waits until a side's last migration of a port is at this step.
    #[track_caller]
    pub(crate) fn wait_step(side: &Switch, port: &str, step: &str) -> Value {
        let mut last = Value::Null;
        let reached = eventually(|| {
            let output = side.run(&["migrate", "status", port, "--json"]);
            last = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            last["step"] == step
        });
        assert!(reached, "the migration of {port} is {last}, expected {step}");
        last
    }
}

pub(crate) fn run(api: &Path, args: &[String]) -> Output {
    let mut command = std::process::Command::new(turnpike_tests::switch::binary());
    command.args(args).env("TURNPIKE_API", api).output().expect("the turnpike binary runs")
}

/// What a command said when it failed.
#[track_caller]
pub(crate) fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "it should have failed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
