//! One connection between two switches: a task that reads and one that writes, so that neither a slow peer nor a long packet keeps a
//! migration from hearing of its port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::tls::{Broken, explain};
use super::wire::{self, HEARTBEAT, Head, Packet};

/// Time for a TCP connection and for the handshake on it.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// Packets that wait to be written, or to be heard.
const QUEUE: usize = 8;

/// A message with the state that may belong to it.
pub(super) type Heard = (Head, Vec<u8>);

/// A connection. Dropped, it says what it was told to say, for a bounded time, and ends.
pub(super) struct Link {
    pub(super) peer: String,
    said: mpsc::Sender<(Head, Arc<Vec<u8>>)>,
    heard: mpsc::Receiver<Result<Heard, Broken>>,
    bytes: Arc<AtomicU64>,
    reader: JoinHandle<()>,
}

impl Link {
    /// Runs a connection that has been made; `who` is the other side in sentences.
    pub(super) fn over<S>(stream: S, peer: String, who: &'static str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut from, mut to) = split(stream);
        let (said, mut to_say) = mpsc::channel::<(Head, Arc<Vec<u8>>)>(QUEUE);
        let (tell, heard) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicU64::new(0));
        let (failed, counted) = (tell.clone(), Arc::clone(&bytes));
        tokio::spawn(async move {
            let mut beat = interval(HEARTBEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let error = loop {
                let written = tokio::select! {
                    packet = to_say.recv() => match packet {
                        Some((head, state)) => wire::write(&mut to, &head, &state).await,
                        None => break None,
                    },
                    _ = beat.tick() => wire::alive(&mut to).await.map(|()| 4),
                };
                match written {
                    Ok(length) => counted.fetch_add(length, Ordering::Relaxed),
                    Err(error) => break Some(error),
                };
            };
            if let Some(error) = error {
                // The reader knows better why, if the other side has said so.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = failed.try_send(Err(explain(who, &error)));
            }
            let _ = timeout(HANDSHAKE, to.shutdown()).await;
        });
        let counted = Arc::clone(&bytes);
        let reader = tokio::spawn(async move {
            loop {
                let packet = match wire::read(&mut from).await {
                    Ok(Packet::Alive) => continue,
                    Ok(Packet::Message(head, state)) => {
                        counted.fetch_add(8 + state.len() as u64, Ordering::Relaxed);
                        Ok((head, state))
                    }
                    Err(error) => Err(explain(who, &error)),
                };
                let over = packet.is_err();
                if tell.send(packet).await.is_err() || over {
                    return;
                }
            }
        });
        Self { peer, said, heard, bytes, reader }
    }

    /// Connects, and shows and sees certificates.
    pub(super) async fn connect(
        address: SocketAddr,
        server: ServerName<'static>,
        connector: &TlsConnector,
    ) -> Result<Self, Broken> {
        const WHO: &str = "the destination";
        let failed = |reason: String| Broken { reason, lasting: false };
        let late = |_| failed(format!("{WHO} at {address} did not answer within {} s", HANDSHAKE.as_secs()));
        let stream = timeout(HANDSHAKE, TcpStream::connect(address)).await.map_err(late)?;
        let stream = stream.map_err(|e| failed(format!("{WHO} at {address} cannot be reached: {e}")))?;
        // Messages are few and small, and each is waited for.
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let stream = timeout(HANDSHAKE, connector.connect(server, stream)).await.map_err(late)?;
        Ok(Self::over(stream.map_err(|e| explain(WHO, &e))?, address.to_string(), WHO))
    }

    /// Says something; whether that can still be done is heard.
    pub(super) fn say(&self, head: Head, state: Arc<Vec<u8>>) {
        if self.said.try_send((head, state)).is_err() {
            log::warn!("a message to {} was not sent: the connection has ended or does not move", self.peer);
        }
    }

    /// What the other side says next; an error is the last word.
    pub(super) async fn hear(&mut self) -> Result<Heard, Broken> {
        let ended = || Err(Broken { reason: "the connection has ended".into(), lasting: false });
        self.heard.recv().await.unwrap_or_else(ended)
    }

    /// Bytes that went over it, in both directions.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
