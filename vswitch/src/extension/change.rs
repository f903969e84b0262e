//! What happens to switch, ports and their cards, as extensions hear of it.
//!
//! The order for one port: `PortCreate`, one `PolicyAdd` for each policy it begins with, `NicCreate`, `NicConnect` (frames may flow from here
//! on), …, `NicDisconnect`, `NicDelete`, `PortTeardown`, `PortDelete`. A card that is unplugged and plugged again goes through the
//! part of the card only. Extensions hear of it in the order of the stack; what one of them refuses the rest do not hear of, and those
//! before it hear of the opposite.

use serde_json::Value;

use crate::port::PortKind;
use crate::{Mac, PortId};

/// Why an extension does not want something, for the operator to read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Veto(String);

impl Veto {
    /// Longest text, in bytes; the rest is cut off.
    pub const LONGEST: usize = 256;

    /// With its reason.
    pub fn new(reason: impl Into<String>) -> Self {
        let mut text: String = reason.into();
        if text.len() > Self::LONGEST {
            let end = (0..=Self::LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        Self(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

/// What is done to a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    /// It comes.
    Add,
    /// It has another value.
    Update,
    /// It goes.
    Delete,
}

/// One change.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// A port is to be made.
    PortCreate {
        /// Its number.
        port: PortId,
        /// Its name.
        name: &'a str,
        /// What is to be behind it.
        kind: PortKind,
    },
    /// A policy of a port is to change: its name as in the configuration and its value.
    Policy {
        /// The port.
        port: PortId,
        /// What is done.
        edit: Edit,
        /// Such as `vlan` or `acl`.
        name: &'a str,
        /// The value there is to be; that which goes in [`Edit::Delete`].
        value: &'a Value,
    },
    /// A setting of the switch is to change.
    Switch {
        /// Such as `rx-wait-us`.
        name: &'a str,
        /// The value there is to be.
        value: &'a Value,
    },
    /// A port is to get a card.
    NicCreate {
        /// The port.
        port: PortId,
        /// The card's address.
        mac: Mac,
        /// The largest packet it takes, in bytes.
        mtu: u16,
    },
    /// Frames may flow from now on.
    NicConnect {
        /// The port.
        port: PortId,
    },
    /// The card's address or MTU is another.
    NicUpdated {
        /// The port.
        port: PortId,
        /// The card's address.
        mac: Mac,
        /// The largest packet it takes, in bytes.
        mtu: u16,
    },
    /// No frame goes to the card any more.
    NicDisconnect {
        /// The port.
        port: PortId,
    },
    /// The card is gone.
    NicDelete {
        /// The port.
        port: PortId,
    },
    /// The port is about to go.
    PortTeardown {
        /// The port.
        port: PortId,
    },
    /// The port is gone, and its number may be given to another.
    PortDelete {
        /// The port.
        port: PortId,
    },
}

impl Change<'_> {
    /// Whether an extension may refuse it.
    pub const fn may_be_refused(&self) -> bool {
        matches!(
            self,
            Self::PortCreate { .. } | Self::Policy { .. } | Self::Switch { .. } | Self::NicCreate { .. }
        )
    }

    /// The port it is about.
    pub const fn port(&self) -> Option<PortId> {
        match *self {
            Self::PortCreate { port, .. }
            | Self::Policy { port, .. }
            | Self::NicCreate { port, .. }
            | Self::NicConnect { port }
            | Self::NicUpdated { port, .. }
            | Self::NicDisconnect { port }
            | Self::NicDelete { port }
            | Self::PortTeardown { port }
            | Self::PortDelete { port } => Some(port),
            Self::Switch { .. } => None,
        }
    }

    /// Its name, as in events and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PortCreate { .. } => "port-create",
            Self::Policy { edit: Edit::Add, .. } => "policy-add",
            Self::Policy { edit: Edit::Update, .. } => "policy-update",
            Self::Policy { edit: Edit::Delete, .. } => "policy-delete",
            Self::Switch { .. } => "switch-update",
            Self::NicCreate { .. } => "nic-create",
            Self::NicConnect { .. } => "nic-connect",
            Self::NicUpdated { .. } => "nic-updated",
            Self::NicDisconnect { .. } => "nic-disconnect",
            Self::NicDelete { .. } => "nic-delete",
            Self::PortTeardown { .. } => "port-teardown",
            Self::PortDelete { .. } => "port-delete",
        }
    }
}
