//! The end that takes over.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vswitch::PortId;
use vswitch::refusal::{self, Object, Refusal, Refused};

use super::wire::{Channel, ChannelError};
use super::{Step, VERSION};
use crate::api::{ErrorBody, ErrorDetail, TAKE_OVER_PATH, TAKE_OVER_PROTOCOL};
use crate::control::nv::document;
use crate::control::takeover::Arrived;
use crate::migrate::view::NewListener;
use crate::store::Saved;

/// Time for the running switch to answer: it may have a change under way.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time for each device while nothing runs.
const HURRY: Duration = Duration::from_secs(3);
/// Longest head and body of a refusal.
const MAX_ANSWER: usize = 64 * 1024;

/// A running switch that hands over to this process.
#[derive(Debug)]
pub struct Claim {
    channel: Channel,
    api: String,
}

/// What the running switch is.
#[derive(Debug)]
pub struct Offered {
    /// Settings and ports.
    pub saved: Saved,
    /// The ports whose guests are there.
    pub present: BTreeSet<PortId>,
    /// The last number given to a port.
    pub last_id: u16,
    /// The counters.
    pub counters: File,
    /// The version of the program that runs.
    pub program: String,
}

/// What the running switch served.
#[derive(Debug)]
pub struct Devices {
    /// The ports.
    pub arrived: Vec<Arrived>,
    /// The API's listener and, if there is one, that of the metrics.
    pub listeners: Vec<OwnedFd>,
    /// Where ports of other switches are taken.
    pub taking: Option<(NewListener, OwnedFd)>,
}

impl Claim {
    /// Asks the switch at `api` to hand over.
    pub fn ask(api: &Path) -> Result<(Self, Offered), Refused> {
        let api = api.to_string_lossy().into_owned();
        let failed = |reason: String| Refusal::TakeOverFailed { reason }.of(Object::Api(api.clone()));
        let stream = UnixStream::connect(&api).map_err(|e| failed(format!("no switch answers: {e}")))?;
        upgrade(&stream).map_err(failed)?;
        let channel = Channel::new(stream).map_err(|e| failed(e.to_string()))?;
        let offered = offered(&channel).map_err(|e| failed(e.to_string()))?;
        Ok((Self { channel, api: api.clone() }, offered))
    }

    /// Says that this process is prepared, and receives the devices. Nothing moves from here on.
    pub fn devices(&self) -> Result<Devices, Refused> {
        let receive = || -> Result<Devices, ChannelError> {
            self.channel.send(&Step::Prepared, &[], HURRY)?;
            let mut arrived = Vec::new();
            // The first comes when all front ends are between two messages.
            let mut limit = PATIENCE;
            loop {
                match self.channel.receive(Some(limit))? {
                    (Step::Device { id, device, memory, extensions }, fds) => {
                        arrived.push(Arrived { id, device, fds, memory: *memory, extensions });
                    }
                    (Step::Frozen { devices, listening }, mut listeners) if devices == arrived.len() => {
                        let taking = listening.and_then(|asked| Some((asked, listeners.pop()?)));
                        return Ok(Devices { arrived, listeners, taking });
                    }
                    (step, _) => return Err(ChannelError::unexpected(&step)),
                }
                limit = HURRY;
            }
        };
        receive().map_err(|e| self.refused(&e.to_string()))
    }

    /// Says that nothing is missing, and waits for the word to start.
    pub fn ready(&self) -> Result<(), Refused> {
        let talk = || {
            self.channel.send(&Step::Ready, &[], HURRY)?;
            match self.channel.receive(Some(HURRY))? {
                (Step::Go, _) => Ok(()),
                (step, _) => Err(ChannelError::unexpected(&step)),
            }
        };
        talk().map_err(|e: ChannelError| self.refused(&e.to_string()))
    }

    /// Says that the rings run: the other process ends.
    pub fn running(&self) {
        if let Err(e) = self.channel.send(&Step::Running, &[], HURRY) {
            // It can only have been killed: it waits for this word without a limit.
            log::warn!("the process before was not there to be told: {e}");
        }
    }

    /// Gives up: the other process goes on.
    pub fn give_up(&self, reason: &Refused) {
        let _ = self.channel.send(&Step::Failed { reason: reason.to_string() }, &[], HURRY);
    }

    /// A refusal for this reason.
    pub fn refused(&self, reason: &str) -> Refused {
        Refusal::TakeOverFailed { reason: reason.to_owned() }.of(Object::Api(self.api.clone()))
    }
}

/// Asks over HTTP. Reads no byte of what follows the answer.
fn upgrade(mut stream: &UnixStream) -> Result<(), String> {
    let io = |e: std::io::Error| format!("the running switch broke off: {e}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    let body = format!("{{\"version\":{VERSION}}}");
    let request = format!(
        "POST {TAKE_OVER_PATH} HTTP/1.1\r\nHost: turnpike\r\nConnection: Upgrade\r\nUpgrade: \
         {TAKE_OVER_PROTOCOL}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(io)?;
        head.extend(byte);
        if head.len() > MAX_ANSWER {
            return Err("the running switch broke off: its answer does not end".into());
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.starts_with("http/1.1 101 ") {
        return Ok(());
    }
    let status = head.lines().next().unwrap_or_default().to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|n| n.trim().parse::<usize>().ok()).unwrap_or(0).min(MAX_ANSWER);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(io)?;
    Err(match serde_json::from_slice(&body) {
        // A switch of before there were take-overs.
        Ok(ErrorBody { error: ErrorDetail { code, .. } }) if code == "unknown-route" => {
            "the running switch is of a version that cannot hand over".into()
        }
        Ok(ErrorBody { error: ErrorDetail { object, message, reason, hint, .. } }) => {
            refusal::line(&object, &message, reason, &hint)
        }
        Err(_) => format!("the running switch answered '{status}'"),
    })
}

fn offered(channel: &Channel) -> Result<Offered, ChannelError> {
    let (step, fds) = channel.receive(Some(PATIENCE))?;
    let Step::Offer { program, settings, last_id, ports: count, nv: documents } = step else {
        return Err(ChannelError::unexpected(&step));
    };
    let counters = fds.into_iter().next().map(File::from);
    let counters = counters.ok_or_else(|| ChannelError::Unknown("an offer without counters".into()))?;
    let (mut ports, mut present) = (Vec::new(), BTreeSet::new());
    while ports.len() < count {
        match channel.receive(Some(PATIENCE))? {
            (Step::Port(port), _) => {
                let (port, is_present) = port.judge().map_err(ChannelError::Unknown)?;
                present.extend(is_present.then_some(port.id));
                ports.push(port);
            }
            (step, _) => return Err(ChannelError::unexpected(&step)),
        }
    }
    let mut nv = Vec::new();
    for _ in 0..documents {
        match channel.receive(Some(PATIENCE))? {
            (Step::Nv(document), _) => {
                let objects = document::objects(&document);
                nv.append(&mut objects.map_err(|refused| ChannelError::Unknown(refused.to_string()))?);
            }
            (step, _) => return Err(ChannelError::unexpected(&step)),
        }
    }
    Ok(Offered { saved: Saved { settings, ports, nv }, present, last_id, counters, program })
}
