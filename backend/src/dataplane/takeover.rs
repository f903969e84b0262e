//! The data path changes its process: stopped between two frames in one, continued in another, or in the same one when that failed.
//!
//! A port's resources leave as text and descriptors. The kernel keeps what lives in it: guest memory, sockets and what waits in them,
//! TAPs. What arrives meanwhile waits in the guests' rings and in the links' buffers.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vswitch::PortId;
use vswitch::port::PortKind;
use vswitch::state::PortMemory;

use super::{Dataplane, Served, lock};
use crate::guest::connection::{Parked, ParkedText, Server};
use crate::guest::{GuestPort, tsc};
use crate::link::{Link, LinkText, Packet, Tap, Xdp};
use crate::spec::{DataplaneError, GuestSpec};
use crate::worker::{LinkPort, Port};

/// Longest wait for front ends' rings to run again before frames move without them.
const BEGIN: Duration = Duration::from_secs(2);

/// What is behind a port, as text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceText {
    /// A guest.
    Guest(ParkedText),
    /// A TAP or an uplink.
    Link(LinkText),
}

/// A port of another process that is to be served here.
pub enum Adopted {
    /// A guest.
    Guest(GuestSpec, Parked),
    /// A TAP or an uplink: its number, what it is, and its descriptors.
    Link(PortId, PortKind, LinkText, Vec<OwnedFd>),
}

/// A data path that stands still. Nothing is lost as long as this is kept.
pub struct Frozen {
    guests: Vec<(Arc<GuestPort>, Parked)>,
    ports: Vec<(PortId, Port)>,
}

impl Frozen {
    /// Every port that can be handed over, as text and descriptors.
    pub fn devices(&self) -> Vec<(PortId, DeviceText, Vec<BorrowedFd<'_>>)> {
        let guests = self.guests.iter().map(|(port, parked)| {
            let (text, fds) = parked.to_parts();
            (port.spec.id, DeviceText::Guest(text), fds)
        });
        let links = self.ports.iter().filter_map(|(id, port)| match port {
            Port::Link(port) if port.is_running() => {
                let (text, fds) = port.link.to_parts();
                Some((*id, DeviceText::Link(text), fds))
            }
            _ => None,
        });
        let mut all: Vec<_> = guests.chain(links).collect();
        // Workers get their queues in the order of the ports' numbers, as at a start.
        all.sort_by_key(|(id, ..)| *id);
        all
    }
}

impl Dataplane {
    /// Stops all rings and links between two frames, and front ends between two messages. No frame moves when this returns; no event
    /// tells of it.
    pub fn freeze(&self) -> Frozen {
        let mut served = lock(&self.served);
        let servers: Vec<_> = served.values_mut().filter_map(|served| served.server.take()).collect();
        let ports = served.iter().map(|(id, served)| (*id, served.port.clone())).collect();
        drop(served);
        // The rings run until every front end has come to a stop: a slow one costs the others nothing.
        servers.iter().for_each(Server::begin_to_park);
        let parked: Vec<_> = servers.into_iter().map(Server::park).collect();
        self.shared.publish(None, Vec::clear);
        let guests = parked.into_iter().map(crate::guest::connection::Parking::stop).collect();
        Frozen { guests, ports }
    }

    /// What is remembered of a port while nothing moves.
    pub fn memory(&self, id: PortId) -> PortMemory {
        self.shared.state.save_port(tsc::nanos(tsc::cycles()), id)
    }

    /// Goes on where [`Self::freeze`] stopped.
    pub fn thaw(&self, frozen: Frozen) {
        let (begun, running) = channel();
        for (port, parked) in frozen.guests {
            self.resume(port, parked, &begun);
        }
        await_all(begun, &running);
        let ports = frozen.ports;
        self.show(ports.iter().map(|(id, port)| (*id, port)));
    }

    /// Serves ports that another process served until now; says which of them cannot be.
    pub fn adopt(&self, all: Vec<Adopted>) -> Vec<(PortId, DataplaneError)> {
        let mut refused = Vec::new();
        let mut ports = Vec::new();
        let (begun, running) = channel();
        for adopted in all {
            let id = match &adopted {
                Adopted::Guest(spec, _) => spec.id,
                Adopted::Link(id, ..) => *id,
            };
            let made = self.make_room(id).and_then(|()| match adopted {
                Adopted::Guest(spec, parked) => Ok((self.guest_port(spec), Some(parked))),
                Adopted::Link(id, kind, text, fds) => {
                    self.link_port(id, kind, &text, fds).map(|port| (port, None))
                }
            });
            let (port, parked) = match made {
                Ok(made) => made,
                Err(error) => {
                    refused.push((id, error));
                    continue;
                }
            };
            lock(&self.served).insert(id, Served { port: port.clone(), server: None });
            if let (Port::Guest(port), Some(parked)) = (&port, parked) {
                self.resume(Arc::clone(port), parked, &begun);
            }
            ports.push((id, port));
        }
        await_all(begun, &running);
        self.show(ports.iter().map(|(id, port)| (*id, port)));
        self.refresh_link_addresses();
        refused
    }

    fn link_port(
        &self,
        id: PortId,
        kind: PortKind,
        text: &LinkText,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Port, DataplaneError> {
        let mtu = if kind == PortKind::Uplink { text.mtu } else { super::TAP_MTU.into() };
        let link: Box<dyn Link> = if text.xdp.is_some() {
            Box::new(Xdp::adopt(text, fds)?)
        } else {
            let what = "a link of another process without a descriptor";
            let source = || std::io::ErrorKind::InvalidData.into();
            let fd = fds.pop().ok_or_else(|| DataplaneError::System { what, source: source() })?;
            match kind {
                PortKind::Uplink => Box::new(Packet::adopt(text, fd)?),
                _ => Box::new(Tap::adopt(text, fd)?),
            }
        };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        Ok(Port::Link(Arc::new(LinkPort::new(id, link, mtu, self.place()))))
    }

    fn resume(&self, port: Arc<GuestPort>, parked: Parked, begun: &Sender<()>) {
        let id = port.spec.id;
        match Server::resume(port, parked, begun.clone()) {
            Ok(server) => {
                if let Some(served) = lock(&self.served).get_mut(&id) {
                    served.server = Some(server);
                }
            }
            Err(error) => log::error!("port {id} is without its front end: {error}"),
        }
    }

    /// Puts ports that are served into the view of all workers, links and rings at once: no frame finds its receiver not there yet.
    fn show<'a>(&self, ports: impl Iterator<Item = (PortId, &'a Port)>) {
        self.shared.publish(None, |table| {
            for (id, port) in ports {
                if table.len() <= id.index() {
                    table.resize(id.index() + 1, None);
                }
                table[id.index()] = Some(port.clone());
            }
        });
    }
}

/// Waits until every holder of a clone of `begun` has dropped it, or for so long.
fn await_all(begun: Sender<()>, running: &Receiver<()>) {
    drop(begun);
    // Nobody sends: this ends with an error, of one kind or the other.
    let _ = running.recv_timeout(BEGIN);
}
