//! VLAN modes of a port: untagged, access, trunk and private VLAN (semantics of the Hyper-V switch; RFC 5517 for private VLANs).
//!
//! A frame belongs to one [`Segment`] from the moment it is admitted. Each mode says two things: in which segment a frame is that
//! the port sends ([`Vlan::admit`]), and which segments the port receives, tagged or not ([`Vlan::receives`]). Private VLANs are
//! nothing but this: an isolated or community port sends in its secondary VLAN and receives the primary one, a promiscuous port
//! sends in the primary VLAN and receives the secondaries it lists; so who may talk to whom holds across the uplink too.
//!
//! | mode | sends | is put in | receives |
//! |---|---|---|---|
//! | none | untagged | untagged | untagged |
//! | access | untagged | its VLAN | its VLAN, untagged |
//! | trunk | tagged with a listed VLAN, or untagged | that VLAN, or the native one | listed VLANs tagged, the native one untagged |
//! | isolated | untagged | secondary | primary |
//! | community | untagged | secondary | primary and the same secondary |
//! | promiscuous | untagged | primary | primary and the listed secondaries |
//!
//! A priority tag (VLAN 0) counts as untagged. The uplink is a trunk of all VLANs without a native one.

use std::fmt;
use std::str::FromStr;

use crate::Segment;
use crate::trace::DropReason;

/// Smallest and largest VLAN id.
pub const MIN: u16 = 1;
/// Largest VLAN id.
pub const MAX: u16 = 4094;

/// A set of VLAN ids.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// No VLAN.
    pub fn empty() -> Self {
        Self(Box::new([0; 64]))
    }

    /// Every VLAN, 1 to 4094.
    pub fn all() -> Self {
        let mut all = Self::empty();
        (MIN..=MAX).for_each(|id| all.insert(id));
        all
    }

    /// Adds a VLAN; ids above 4095 are ignored.
    pub fn insert(&mut self, id: u16) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    /// Whether the VLAN is in the set.
    #[inline]
    pub fn contains(&self, id: u16) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..4096).filter(|&id| self.contains(id))
    }
}

impl fmt::Display for VlanSet {
    /// Ranges, as they are written: `1-100,200`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|&id| id == last + 1) {
                last = next;
            }
            f.write_str(separator)?;
            separator = ",";
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port's VLAN mode. The default is `none`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Vlan {
    /// Untagged frames stay untagged.
    #[default]
    None,
    /// One VLAN, of which the guest sees nothing.
    Access(u16),
    /// VLANs the guest tags itself.
    Trunk {
        /// The VLANs it may use.
        allowed: VlanSet,
        /// The VLAN of its untagged frames; 0 = they stay untagged.
        native: u16,
    },
    /// Reaches promiscuous ports of the primary VLAN only.
    Isolated {
        /// Primary VLAN.
        primary: u16,
        /// Its own secondary VLAN.
        secondary: u16,
    },
    /// Reaches promiscuous ports and ports of the same community.
    Community {
        /// Primary VLAN.
        primary: u16,
        /// The community's secondary VLAN.
        secondary: u16,
    },
    /// Reaches every port of the primary VLAN and of the listed secondaries.
    Promiscuous {
        /// Primary VLAN.
        primary: u16,
        /// The secondary VLANs it listens to.
        secondaries: VlanSet,
    },
}

/// How a port receives a frame of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receives {
    /// Not at all.
    No,
    /// Without a tag.
    Untagged,
    /// With this VLAN's tag.
    Tagged(u16),
}

impl Vlan {
    /// The segment of a frame that the port sends with the outermost tag `tag` (`None` = no tag; VLAN 0 = priority tag).
    #[inline]
    pub fn admit(&self, tag: Option<u16>) -> Result<Segment, DropReason> {
        let id = tag.unwrap_or(0);
        let segment = match self {
            Self::Trunk { allowed, native } if id != 0 => {
                if id != *native && !allowed.contains(id) {
                    return Err(DropReason::VlanNotAllowed);
                }
                id
            }
            _ if id != 0 => return Err(DropReason::VlanNotAllowed),
            Self::None => 0,
            Self::Access(own) | Self::Trunk { native: own, .. } => *own,
            Self::Isolated { secondary, .. } | Self::Community { secondary, .. } => *secondary,
            Self::Promiscuous { primary, .. } => *primary,
        };
        Ok(Segment(u32::from(segment)))
    }

    /// Whether and how the port receives frames of a segment.
    #[inline]
    pub fn receives(&self, segment: Segment) -> Receives {
        let Ok(id) = u16::try_from(segment.0) else { return Receives::No };
        let member = match self {
            Self::None => id == 0,
            Self::Access(own) => id == *own,
            Self::Trunk { native, .. } if id == *native => true,
            Self::Trunk { allowed, .. } => {
                return if id != 0 && allowed.contains(id) { Receives::Tagged(id) } else { Receives::No };
            }
            Self::Isolated { primary, .. } => id == *primary,
            Self::Community { primary, secondary } => id == *primary || id == *secondary,
            Self::Promiscuous { primary, secondaries } => {
                id == *primary || (id != 0 && secondaries.contains(id))
            }
        };
        if member { Receives::Untagged } else { Receives::No }
    }

    /// The primary VLAN and the secondaries that this mode ties to it.
    pub fn private(&self) -> Option<(u16, Vec<u16>)> {
        match self {
            Self::Isolated { primary, secondary } | Self::Community { primary, secondary } => {
                Some((*primary, vec![*secondary]))
            }
            Self::Promiscuous { primary, secondaries } => Some((*primary, secondaries.iter().collect())),
            _ => None,
        }
    }
}

/// Why a text is not a VLAN mode. Each has a reason number of the Hyper-V switch ([`VlanError::reason`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VlanError {
    /// The word before the colon is unknown.
    #[error("'{0}' is not a VLAN mode")]
    Mode(String),
    /// An id is not a number from 1 to 4094.
    #[error("{field} VLAN '{value}' is out of range")]
    Id {
        /// Which id: access, native, primary, secondary or trunk.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// Something is missing after the colon.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A list where one secondary is expected.
    #[error("'{0}' is a list; an isolated or community port has one secondary VLAN")]
    List(String),
    /// Primary and secondary are equal.
    #[error("primary and secondary VLAN are both {0}")]
    Same(u16),
    /// More than the mode takes.
    #[error("'{0}' is more than this mode takes")]
    Extra(String),
}

impl VlanError {
    /// The number of this reason in the Hyper-V switch.
    pub fn reason(&self) -> u16 {
        match self {
            Self::Mode(_) => 45,
            Self::Id { field: "access", .. } => 36,
            Self::Id { field: "trunk", .. } => 38,
            Self::Id { field: "native", .. } => 39,
            Self::Id { field: "primary", .. } => 40,
            Self::Id { .. } => 41,
            Self::Missing("secondary VLANs") => 44,
            Self::Missing(_) => 46,
            Self::List(_) => 42,
            Self::Same(_) => 43,
            Self::Extra(_) => 33,
        }
    }
}

fn id(field: &'static str, text: &str) -> Result<u16, VlanError> {
    let value = text.parse().ok().filter(|id| (MIN..=MAX).contains(id));
    value.ok_or_else(|| VlanError::Id { field, value: text.to_owned() })
}

fn set(field: &'static str, text: &str) -> Result<VlanSet, VlanError> {
    let mut set = VlanSet::empty();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (id(field, first)?, id(field, last)?);
        if first > last {
            return Err(VlanError::Id { field, value: part.to_owned() });
        }
        (first..=last).for_each(|id| set.insert(id));
    }
    Ok(set)
}

impl FromStr for Vlan {
    type Err = VlanError;

    /// `none`, `access:ID`, `trunk:LIST[/NATIVE]`, `isolated:PRI/SEC`, `community:PRI/SEC`, `promiscuous:PRI/SEC[,SEC…]`.
    fn from_str(text: &str) -> Result<Self, VlanError> {
        let (mode, rest) = text.split_once(':').unwrap_or((text, ""));
        let (left, right) = match rest.split_once('/') {
            Some((left, right)) => (left, Some(right)),
            None => (rest, None),
        };
        let given = |what| if left.is_empty() { Err(VlanError::Missing(what)) } else { Ok(left) };
        let pair = |primary| {
            let text =
                right.filter(|text| !text.is_empty()).ok_or(VlanError::Missing("the secondary VLAN"))?;
            if text.contains([',', '-']) {
                return Err(VlanError::List(text.to_owned()));
            }
            let secondary = id("secondary", text)?;
            if primary == secondary { Err(VlanError::Same(primary)) } else { Ok(secondary) }
        };
        match mode {
            "none" | "access" if right.is_some() => {
                Err(VlanError::Extra(format!("/{}", right.unwrap_or_default())))
            }
            "none" if !rest.is_empty() => Err(VlanError::Extra(rest.to_owned())),
            "none" => Ok(Self::None),
            "access" => Ok(Self::Access(id("access", given("the VLAN")?)?)),
            "trunk" => {
                let allowed = set("trunk", given("the list of VLANs")?)?;
                let native = match right {
                    None | Some("0") => 0,
                    Some(text) => id("native", text)?,
                };
                Ok(Self::Trunk { allowed, native })
            }
            "isolated" | "community" => {
                let primary = id("primary", given("the primary VLAN")?)?;
                let secondary = pair(primary)?;
                Ok(if mode == "isolated" {
                    Self::Isolated { primary, secondary }
                } else {
                    Self::Community { primary, secondary }
                })
            }
            "promiscuous" => {
                let primary = id("primary", given("the primary VLAN")?)?;
                let list =
                    right.filter(|text| !text.is_empty()).ok_or(VlanError::Missing("secondary VLANs"))?;
                let secondaries = set("secondary", list)?;
                if secondaries.contains(primary) {
                    return Err(VlanError::Same(primary));
                }
                Ok(Self::Promiscuous { primary, secondaries })
            }
            _ => Err(VlanError::Mode(mode.to_owned())),
        }
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Access(id) => write!(f, "access:{id}"),
            Self::Trunk { allowed, native: 0 } => write!(f, "trunk:{allowed}"),
            Self::Trunk { allowed, native } => write!(f, "trunk:{allowed}/{native}"),
            Self::Isolated { primary, secondary } => write!(f, "isolated:{primary}/{secondary}"),
            Self::Community { primary, secondary } => write!(f, "community:{primary}/{secondary}"),
            Self::Promiscuous { primary, secondaries } => write!(f, "promiscuous:{primary}/{secondaries}"),
        }
    }
}
