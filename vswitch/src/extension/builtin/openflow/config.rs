//! The configuration: whom to call, and what to do without them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::NAME;
use crate::extension::builtin::{ConfigError, read, within};
use crate::extension::stream::{Peer, Tls};

/// Controllers of one switch.
pub(super) const MOST_CONTROLLERS: usize = 2;

/// The port of controllers (IANA).
const PORT: u16 = 6653;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    controllers: Vec<String>,
    datapath_id: String,
    #[serde(default)]
    fail_mode: Mode,
    #[serde(default)]
    flow_counts: Counts,
    #[serde(default = "packet_ins")]
    packet_ins: u32,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

const fn packet_ins() -> u32 {
    1000
}

/// What happens while no controller is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// The flow table stays in force.
    #[default]
    Secure,
    /// The switch forwards by itself.
    Standalone,
}

/// Whether each frame of an entry is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Counts {
    #[default]
    Exact,
    None,
}

#[derive(Debug)]
pub(super) struct Config {
    pub(super) peers: Vec<Peer>,
    pub(super) datapath: u64,
    pub(super) mode: Mode,
    pub(super) counted: bool,
    /// A second, of each port.
    pub(super) packet_ins: u32,
}

fn wrong(problem: impl Into<String>) -> ConfigError {
    ConfigError::new(NAME, problem)
}

impl Config {
    pub(super) fn new(config: &Value) -> Result<Self, ConfigError> {
        let written: Written = read(NAME, config)?;
        if !(1..=MOST_CONTROLLERS).contains(&written.controllers.len()) {
            let count = written.controllers.len();
            return Err(wrong(format!(
                "'controllers' names {count}; write one to {MOST_CONTROLLERS}, such as [\"tcp:192.0.2.1:6653\"]"
            )));
        }
        let digits = written.datapath_id.strip_prefix("0x").unwrap_or(&written.datapath_id).replace(':', "");
        let datapath = Some(&digits).filter(|digits| (1..=16).contains(&digits.len()));
        let datapath = datapath.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| {
            wrong(format!(
                "'datapath-id' is '{}'; write up to 16 hexadecimal digits that no other switch of the controller has",
                written.datapath_id
            ))
        })?;
        let peers = written.controllers.iter().map(|text| peer(text, &written)).collect::<Result<_, _>>()?;
        Ok(Self {
            peers,
            datapath,
            mode: written.fail_mode,
            counted: written.flow_counts == Counts::Exact,
            packet_ins: within(NAME, "packet-ins", written.packet_ins, 1, 100_000)?,
        })
    }
}

fn peer(text: &str, written: &Written) -> Result<Peer, ConfigError> {
    let valid = "write tcp: or tls: and an IP address, with a port unless it is 6653: tcp:192.0.2.1, tls:[2001:db8::1]:6654";
    let no_address = || wrong(format!("'controllers' has '{text}', which is no address; {valid}"));
    let (secured, address) = match text.split_once(':') {
        Some(("tcp", rest)) => (false, rest),
        Some(("tls" | "ssl", rest)) => (true, rest),
        _ => return Err(no_address()),
    };
    let ip = || address.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    let address: SocketAddr = address.parse().or_else(|_| ip()).map_err(|_| no_address())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(no_address());
    }
    if !secured {
        return Ok(Peer { address, tls: None });
    }
    let file = |key: &str, path: &Option<PathBuf>| match path {
        Some(path) if path.is_absolute() => Ok(path.clone()),
        Some(path) => Err(wrong(format!("'{key}' is '{}'; write an absolute path", path.display()))),
        None => Err(wrong(format!(
            "'{key}' is missing; '{text}' needs 'ca', 'certificate' and 'key', files of PEM"
        ))),
    };
    let tls = Tls {
        ca: file("ca", &written.ca)?,
        certificate: file("certificate", &written.certificate)?,
        key: file("key", &written.key)?,
        server_name: written.server_name.clone(),
    };
    Ok(Peer { address, tls: Some(tls) })
}
