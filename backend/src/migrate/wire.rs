//! How switches put their words on the channel. One *packet* for each message:
//!
//! | bytes | content |
//! |---|---|
//! | 4 | length h of the head; 0 = nothing but a sign of life, and the packet ends here |
//! | 4 | length n of the state |
//! | h | the head, JSON ([`Head`]) |
//! | n | the state, sealed; only with a `state` message |
//!
//! Numbers are little-endian. Every length is bounded before anything is read, memory grows with what has come and not with what was
//! announced, and each packet must be complete within [`PATIENCE`] of its first byte, so a slow, lying or silent peer costs a connection
//! for that long and nothing else.

use std::io;
use std::time::Duration;

use migration::check::{Manifest, Problem};
use migration::handoff::{Body, Message};
use migration::seal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes of a head at most; 1,024 owned addresses are less than 64 KiB.
const MAX_HEAD: usize = 256 * 1024;
/// Time for one packet.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often each side gives a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the other side is gone.
pub const SILENCE: Duration = Duration::from_secs(8);

/// A message with what belongs to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The message.
    pub message: Message,
    /// Name of the port.
    pub port: String,
    /// With an offer: what the port needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Box<Manifest>>,
    /// With a refusal or a reservation: what does not fit, as errors or warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    /// A sign of life.
    Alive,
    /// A message, with a state if it is one.
    Message(Head, Vec<u8>),
}

fn bad(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", PATIENCE.as_secs()))
}

/// Reads a packet. Not to be given up half way: what was read would be lost.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Packet> {
    let mut first = [0];
    let silent =
        || io::Error::new(io::ErrorKind::TimedOut, format!("it was silent for {} s", SILENCE.as_secs()));
    timeout(SILENCE, from.read_exact(&mut first)).await.map_err(|_| silent())??;
    timeout(PATIENCE, rest(from, first[0])).await.map_err(|_| late("a packet did not arrive"))?
}

async fn rest(from: &mut (impl AsyncRead + Unpin), first: u8) -> io::Result<Packet> {
    let mut head = [first, 0, 0, 0];
    from.read_exact(&mut head[1..]).await?;
    let head = u32::from_le_bytes(head) as usize;
    if head == 0 {
        return Ok(Packet::Alive);
    }
    let state = from.read_u32_le().await? as usize;
    if head > MAX_HEAD {
        return Err(bad(format!("a head of {head} bytes, at most {MAX_HEAD}")));
    }
    if state > seal::MAX_SIZE {
        return Err(bad(format!("a state of {state} bytes, at most {}", seal::MAX_SIZE)));
    }
    let bytes = exactly(from, head).await?;
    let head: Head = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not a head: {e}")))?;
    let is_state = matches!(head.message.body, Body::State { .. });
    if is_state != (state > 0) {
        return Err(bad("a state without its message, or the other way round"));
    }
    Ok(Packet::Message(head, exactly(from, state).await?))
}

/// Reads so many bytes into memory that grows with them.
async fn exactly(from: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes a packet and says how many bytes it has.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), head: &Head, state: &[u8]) -> io::Result<u64> {
    let json = serde_json::to_vec(head)?;
    if json.len() > MAX_HEAD || state.len() > seal::MAX_SIZE {
        return Err(bad("too large to be said"));
    }
    let mut bytes = Vec::with_capacity(8 + json.len() + state.len());
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend((state.len() as u32).to_le_bytes());
    bytes.extend(&json);
    bytes.extend(state);
    write_all(to, &bytes).await?;
    Ok(bytes.len() as u64)
}

/// Writes a sign of life.
pub async fn alive(to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    write_all(to, &[0; 4]).await
}

async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let all = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    timeout(PATIENCE, all).await.map_err(|_| late("it did not take a packet"))?
}

#[cfg(test)]
mod tests {
    use migration::handoff::MigrationId;

    use super::*;

    fn head(body: Body) -> Head {
        Head {
            message: Message { id: MigrationId(7), attempt: 1, body },
            port: "web".into(),
            manifest: None,
            problems: Vec::new(),
        }
    }

    fn packet(lengths: [u32; 2], rest: &[u8]) -> Vec<u8> {
        [&lengths[0].to_le_bytes()[..], &lengths[1].to_le_bytes()[..], rest].concat()
    }

    async fn refusal(bytes: &[u8]) -> String {
        read(&mut &bytes[..]).await.expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        alive(&mut bytes).await.unwrap();
        let state = head(Body::State { epoch: 9 });
        write(&mut bytes, &state, &[1, 2, 3]).await.unwrap();
        let offer = head(Body::Offer { saved: None });
        write(&mut bytes, &offer, &[]).await.unwrap();
        let mut from = &bytes[..];
        assert_eq!(read(&mut from).await.unwrap(), Packet::Alive);
        assert_eq!(read(&mut from).await.unwrap(), Packet::Message(state, vec![1, 2, 3]));
        assert_eq!(read(&mut from).await.unwrap(), Packet::Message(offer, Vec::new()));
        assert_eq!(read(&mut from).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn lengths_that_lie_are_refused_before_anything_is_read() {
        assert!(refusal(&packet([u32::MAX, 0], &[])).await.contains("a head of 4294967295 bytes"));
        assert!(refusal(&packet([2, u32::MAX], b"{}")).await.contains("a state of 4294967295 bytes"));
        assert!(refusal(&packet([2, 0], b"{}")).await.starts_with("not a head"));
        let offer = serde_json::to_vec(&head(Body::Offer { saved: None })).unwrap();
        let lengths = [offer.len() as u32, 5];
        let both = packet(lengths, &[&offer[..], b"state"].concat());
        assert!(refusal(&both).await.starts_with("a state without its message"));
        let state = serde_json::to_vec(&head(Body::State { epoch: 1 })).unwrap();
        assert!(refusal(&packet([state.len() as u32, 0], &state)).await.starts_with("a state without"));
        // Announced, and never sent.
        let short = packet([state.len() as u32, 1000], &[&state[..], b"short"].concat());
        assert_eq!(read(&mut &short[..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn h27_one_byte_a_second_is_cut() {
        let (mut slow, mut reader) = tokio::io::duplex(64);
        let began = tokio::time::Instant::now();
        tokio::spawn(async move {
            for byte in packet([1000, 0], &[b' '; 1000]) {
                if slow.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = read(&mut reader).await.unwrap_err();
        assert_eq!(error.to_string(), "a packet did not arrive within 10 s");
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn h27_a_peer_that_is_silent_or_does_not_read_is_cut() {
        let (keep, mut reader) = tokio::io::duplex(64);
        assert_eq!(read(&mut reader).await.unwrap_err().to_string(), "it was silent for 8 s");
        drop(keep);
        let (mut writer, keep) = tokio::io::duplex(64);
        let error = write(&mut writer, &head(Body::State { epoch: 1 }), &[0; 1000]).await.unwrap_err();
        assert_eq!(error.to_string(), "it did not take a packet within 10 s");
        drop(keep);
    }
}
