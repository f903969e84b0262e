//! What a session has seen of its connection, and what that admits.
//!
//! TCP is followed by its flags only, not by sequence numbers. So a forged RST can shorten the life of a session to
//! [`CLOSING`] but lets nothing in that the session would not have let in anyway. Pure values; no threads.

use serde::{Deserialize, Serialize};

use crate::frame::tcp::flag::{FIN, RST, SYN};
use crate::{Direction, Nanos};

/// ACK, the flag that every segment of a connection but its first SYN has (RFC 9293, 3.1).
pub(super) const ACK: u8 = 0x10;

/// The longest a session whose connection has ended lives without a packet, in nanoseconds (ten seconds).
pub const CLOSING: Nanos = 10_000_000_000;

/// How far the connection of a session is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not TCP: nothing has come from the other side yet.
    Open,
    /// TCP: the opening SYN was seen, its SYN with ACK was not.
    SynSent,
    /// Both sides have been heard; or TCP was picked up in the middle.
    Established,
    /// TCP: both sides sent FIN, or one sent RST. Lives [`CLOSING`] at most without a packet.
    Closing,
}

impl State {
    /// `open`, `syn-sent`, `established` or `closing`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SynSent => "syn-sent",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that is remembered of a connection; fits one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Track {
    pub(crate) state: State,
    /// The direction of the packet that opened it.
    pub(super) opened: Direction,
    /// Whether the other side was heard in a way that the state counts as an answer.
    pub(super) answered: bool,
    fin_opener: bool,
    fin_peer: bool,
}

/// A SYN that asks for a new connection.
pub(super) const fn asks(flags: Option<u8>) -> bool {
    matches!(flags, Some(f) if f & (SYN | ACK | RST) == SYN)
}

impl Track {
    /// A connection that begins with this packet; `None` if there is nothing to follow: RST ends connections only.
    pub(crate) fn first(opened: Direction, flags: Option<u8>) -> Option<Self> {
        let state = match flags {
            Some(f) if f & RST != 0 => return None,
            Some(_) if asks(flags) => State::SynSent,
            Some(_) => State::Established,
            None => State::Open,
        };
        let fin_opener = state == State::Established && flags.is_some_and(|f| f & FIN != 0);
        Some(Self { state, opened, answered: false, fin_opener, fin_peer: false })
    }

    /// Whether a packet is part of the connection. The opener's always are. The other side's are unless they ask for a
    /// connection of its own (the rules must say whether it may), or answer a SYN without saying so.
    pub(crate) fn admits(self, direction: Direction, flags: Option<u8>) -> bool {
        let Some(f) = flags else { return true };
        direction == self.opened || !asks(flags) && (self.state != State::SynSent || f & (ACK | RST) != 0)
    }

    /// What is remembered after an admitted packet.
    pub(crate) fn next(self, direction: Direction, flags: Option<u8>) -> Self {
        let from_peer = direction != self.opened;
        let (Some(f), true) = (flags, self.state != State::Open) else {
            return if from_peer { self.answered() } else { self };
        };
        if self.state == State::Closing {
            let again = asks(flags) && !from_peer;
            return if again { Self::first(direction, flags).unwrap_or(self) } else { self };
        }
        if f & RST != 0 {
            return Self { state: State::Closing, ..self };
        }
        let mut next = match (self.state, from_peer) {
            // Without SYN it may be about an earlier connection of the same ports (RFC 9293, 3.5.1).
            (State::SynSent, true) if f & SYN == 0 => self,
            (_, true) => self.answered(),
            (_, false) => self,
        };
        if f & (FIN | SYN) == FIN {
            next.fin_peer |= from_peer;
            next.fin_opener |= !from_peer;
            if next.fin_peer && next.fin_opener {
                next.state = State::Closing;
            }
        }
        next
    }

    /// The other side was heard.
    pub(super) fn answered(self) -> Self {
        let state = if self.state == State::Closing { State::Closing } else { State::Established };
        Self { state, answered: true, ..self }
    }

    /// Whether it may go first when room is needed: never answered, or over.
    pub(crate) fn is_weak(self) -> bool {
        !self.answered || self.state == State::Closing
    }

    /// How long the session lives without a packet when its rule says `idle`.
    pub(super) fn timeout(self, idle: Nanos) -> Nanos {
        if self.state == State::Closing { idle.min(CLOSING) } else { idle }
    }

    pub(super) fn to_bits(self) -> u8 {
        (self.state as u8)
            | u8::from(self.opened == Direction::In) << 2
            | u8::from(self.answered) << 3
            | u8::from(self.fin_opener) << 4
            | u8::from(self.fin_peer) << 5
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        let state = match bits & 3 {
            0 => State::Open,
            1 => State::SynSent,
            2 => State::Established,
            _ => State::Closing,
        };
        Self {
            state,
            opened: if bits & 4 != 0 { Direction::In } else { Direction::Out },
            answered: bits & 8 != 0,
            fin_opener: bits & 16 != 0,
            fin_peer: bits & 32 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_survives_its_byte() {
        for bits in 0..64 {
            assert_eq!(Track::from_bits(bits).to_bits(), bits);
        }
    }
}
