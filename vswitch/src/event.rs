//! What happened: the one list of events an operator can follow (`turnpike events`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::extension::FailMode;
use crate::trace::DropReason;
use crate::{Direction, Mac, PortId};

/// Something an operator may want to know, with the objects it happened to. `kind` in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A port was added.
    PortAdded {
        /// Its number.
        port: PortId,
        /// Its name.
        name: String,
    },
    /// A port was removed.
    PortRemoved {
        /// Its number.
        port: PortId,
        /// Its name.
        name: String,
    },
    /// A port's settings or policy changed.
    PortChanged {
        /// Its number.
        port: PortId,
        /// The changed settings as `name=value`.
        changes: Vec<String>,
    },
    /// A switch-wide setting changed.
    SwitchChanged {
        /// The changed settings as `name=value`.
        changes: Vec<String>,
    },
    /// A stored port could not be served when the switch started; it is tried again until it works.
    PortFailed {
        /// The port.
        port: PortId,
        /// Why, in words.
        reason: String,
    },
    /// A change was refused; everything stayed as it was.
    Refused {
        /// What the change was about.
        object: String,
        /// The refusal's stable name.
        code: String,
        /// Why, in words.
        reason: String,
    },
    /// An extension drops frames.
    ExtensionDropped {
        /// The port whose frame it is.
        port: PortId,
        /// The extension.
        extension: String,
        /// Whether the port sent the frame or was to get it.
        direction: Direction,
        /// The extension's word for it.
        reason: String,
    },
    /// An extension failed and is not asked any more until it is enabled anew.
    ExtensionFailed {
        /// The extension.
        extension: String,
        /// Why, in words.
        reason: String,
        /// Whether frames pass without it, or end.
        fail: FailMode,
    },
    /// An extension wanted more than it may: that much was not done of what it wanted added, sent or said. At most once a second.
    ExtensionLimited {
        /// The extension.
        extension: String,
        /// Frames, datagrams and lines.
        refused: u64,
    },
    /// An extension says something.
    ExtensionLog {
        /// The extension.
        extension: String,
        /// What it says.
        text: String,
    },
    /// A front end attached to a guest port.
    FrontEndConnected {
        /// The port.
        port: PortId,
    },
    /// A front end went away.
    FrontEndDisconnected {
        /// The port.
        port: PortId,
        /// Why, in words.
        reason: String,
    },
    /// A port's rings (or link) began to run.
    PortRunning {
        /// The port.
        port: PortId,
    },
    /// A port's rings (or link) stopped.
    PortStopped {
        /// The port.
        port: PortId,
    },
    /// One queue was stopped because the guest broke the rules of virtio; a driver reset starts it again.
    QueueStopped {
        /// The port.
        port: PortId,
        /// The queue's index (even: the guest receives, odd: it sends).
        queue: u16,
        /// The rule that was broken, with the offending value.
        reason: String,
    },
    /// A learned address was seen at another port.
    MacMoved {
        /// The address.
        mac: Mac,
        /// Where it was.
        from: PortId,
        /// Where it is now.
        to: PortId,
    },
    /// A port sent with an address that is configured for another port.
    MacPinned {
        /// The address.
        mac: Mac,
        /// The port that sent it.
        port: PortId,
        /// The port that owns it.
        owner: PortId,
    },
    /// The address of a port without a guest was heard elsewhere: the guest is there now.
    SeenElsewhere {
        /// The port whose address it is.
        port: PortId,
        /// The address.
        mac: Mac,
        /// The port that it was heard at: the uplink.
        at: PortId,
    },
    /// A port sent with a source address it may not use (MAC spoofing is off).
    MacSpoofed {
        /// The address.
        mac: Mac,
        /// The port that sent it.
        port: PortId,
    },
    /// A port ACL denied a frame.
    AclDenied {
        /// The port whose ACL it is.
        port: PortId,
        /// Which way the frame went.
        direction: Direction,
        /// The entry, as it is written.
        entry: String,
    },
    /// An extended rule denied a packet.
    RuleDenied {
        /// The port whose rule it is.
        port: PortId,
        /// Which way the packet went.
        direction: Direction,
        /// The rule's weight.
        weight: u32,
    },
    /// A port used an IP address that it does not own, as the source of a packet or in ARP or neighbour discovery; or said
    /// there that an address is at a MAC address other than its own.
    AddressSpoofed {
        /// The port that sent it.
        port: PortId,
        /// The address.
        address: IpAddr,
    },
    /// A port uses nearly as many IP addresses as it may.
    AddressLimitNear {
        /// The port.
        port: PortId,
        /// Addresses it uses beside those it owns.
        count: u32,
        /// How many it may use.
        limit: u32,
    },
    /// A port uses as many IP addresses as it may; what it sends from others is dropped.
    AddressLimitReached {
        /// The port.
        port: PortId,
        /// The address that was one too many.
        address: IpAddr,
        /// How many it may use.
        limit: u32,
    },
    /// A port reached its share of the forwarding table; nothing more is learned behind it.
    FdbFull {
        /// The port.
        port: PortId,
        /// Its share, in entries.
        limit: u32,
    },
    /// A guest is about to leave: its port's state was saved, and what comes for it is held.
    StateSaved {
        /// The port.
        port: PortId,
        /// The epoch of the state.
        epoch: u64,
        /// Its length in bytes.
        bytes: u64,
        /// Sessions in it.
        sessions: u64,
    },
    /// A state was put into force for a port whose guest is about to arrive.
    StateLoaded {
        /// The port.
        port: PortId,
        /// The host that saved it.
        from: String,
        /// The epoch of the state.
        epoch: u64,
        /// Whether its policy was taken; otherwise it could not be told who wrote it, and the configured policy stays.
        authenticated: bool,
        /// Sessions in it.
        sessions: u64,
    },
    /// A state was refused; nothing of it is in force.
    StateRefused {
        /// The port.
        port: PortId,
        /// Why, in words.
        reason: String,
    },
    /// A guest that was to arrive runs here now.
    GuestArrived {
        /// The port.
        port: PortId,
        /// The host it came from.
        from: String,
        /// The epoch of its state.
        epoch: u64,
    },
    /// A guest that was to arrive did not; its port is what it was before.
    ArrivalUndone {
        /// The port.
        port: PortId,
        /// Why, in words.
        reason: String,
    },
    /// A guest that was to leave is heard elsewhere; what was held for it was sent after it.
    GuestLeft {
        /// The port.
        port: PortId,
        /// The epoch of the state it left with.
        epoch: u64,
    },
    /// A guest that was to leave runs on here.
    GuestStayed {
        /// The port.
        port: PortId,
    },
    /// A move of a port between switches began, came further or ended.
    Migration {
        /// The port.
        port: PortId,
        /// Which move, as sixteen hexadecimal digits.
        id: String,
        /// This switch's side of it: `source` or `destination`.
        side: String,
        /// The other switch.
        peer: String,
        /// How far it is, or how it ended.
        step: String,
        /// Why, in words; may be empty.
        reason: String,
    },
    /// Somebody who wanted to bring ports from another switch was sent away.
    PeerRefused {
        /// Its address.
        peer: String,
        /// Why, in words.
        reason: String,
    },
    /// No lookup record or route says where a packet of a virtual subnet comes from or goes to.
    NvLookupFailed {
        /// The port that sent it.
        port: PortId,
        /// The virtual subnet that was asked.
        vsid: u32,
        /// The customer address that was asked for.
        address: IpAddr,
        /// What was not found.
        reason: DropReason,
    },
    /// A guest uses a customer address that is another's by its lookup record.
    NvConflict {
        /// The port that sent it.
        port: PortId,
        /// The virtual subnet.
        vsid: u32,
        /// The customer address.
        address: IpAddr,
        /// The guest's MAC address.
        mac: Mac,
        /// The MAC address of the guest whose it is.
        owner: Mac,
    },
    /// A customer address was learned from a guest.
    NvLearned {
        /// The port it is behind.
        port: PortId,
        /// The virtual subnet.
        vsid: u32,
        /// The customer address.
        address: IpAddr,
        /// The guest's MAC address.
        mac: Mac,
    },
    /// A customer address that was learned from one guest is used by another, and is now that one's.
    NvTaken {
        /// The port it is behind.
        port: PortId,
        /// The virtual subnet.
        vsid: u32,
        /// The customer address.
        address: IpAddr,
        /// The MAC address of the guest that has it now.
        mac: Mac,
        /// The MAC address of the guest that had it.
        from: Mac,
    },
    /// A tunnel's packet came from a host where its source is not, by its lookup record, or with another MAC address.
    NvSpoofed {
        /// The uplink.
        port: PortId,
        /// The virtual subnet.
        vsid: u32,
        /// The MAC address in the customer's frame.
        mac: Mac,
        /// The provider address it came from.
        provider: IpAddr,
    },
    /// Somebody else on the physical network says that a provider address of this host is his.
    ProviderDuplicate {
        /// The uplink.
        port: PortId,
        /// The provider address.
        address: IpAddr,
        /// His MAC address.
        mac: Mac,
    },
    /// Another host's provider address, or the router to it, cannot be reached: it does not answer, or the network says so.
    ProviderUnreachable {
        /// The uplink.
        port: PortId,
        /// The address.
        address: IpAddr,
        /// Why, in words.
        reason: String,
    },
    /// A provider address that could not be reached answers again, or nobody complains about it any more.
    ProviderReachable {
        /// The uplink.
        port: PortId,
        /// The address.
        address: IpAddr,
    },
    /// The guest asks its peers to be told where it is (RARP sent on its behalf).
    Announced {
        /// The port.
        port: PortId,
        /// The address announced.
        mac: Mac,
    },
    /// The policy store answers.
    PolicyStoreUp {
        /// Which member of it.
        member: String,
        /// Up to which of its revisions everything is in force.
        revision: i64,
    },
    /// The policy store does not answer any more; what is known of it stays in force.
    PolicyStoreLost {
        /// Why, in words.
        reason: String,
    },
    /// What was known of the policy store when the switch ended is in force until the store answers.
    PolicyRemembered {
        /// Objects, but for records.
        objects: u64,
        /// Lookup records.
        records: u64,
    },
    /// A key of the policy store has a wrong value; what it said before stays in force.
    PolicySkipped {
        /// The key.
        key: String,
        /// What is wrong, in words.
        reason: String,
    },
    /// A key of the policy store that had a wrong value has a right one, or is gone.
    PolicyMended {
        /// The key.
        key: String,
    },
    /// An address that was learned from a guest of this host is not told other hosts: somebody configured it.
    PolicyLearnedRefused {
        /// The virtual subnet.
        vsid: u32,
        /// The customer address.
        address: IpAddr,
        /// The guest's MAC address.
        mac: Mac,
        /// The MAC address of the guest whose it is.
        owner: Mac,
    },
    /// An extension is enabled from now on.
    ExtensionEnabled {
        /// The extension.
        extension: String,
        /// Its place in the stack, from 1.
        position: u64,
    },
    /// An extension is not enabled any more.
    ExtensionDisabled {
        /// The extension.
        extension: String,
    },
    /// An extension has another place in the stack.
    ExtensionMoved {
        /// The extension.
        extension: String,
        /// Its place in the stack, from 1.
        position: u64,
    },
    /// An extension has other settings of its own.
    ExtensionSet {
        /// The extension.
        extension: String,
        /// The port they are for; nothing = for the switch.
        port: Option<PortId>,
    },
    /// The module of an extension was loaded.
    ExtensionLoaded {
        /// The extension.
        extension: String,
        /// Bytes of the module.
        bytes: u64,
    },
    /// The module of an extension is gone.
    ExtensionUnloaded {
        /// The extension.
        extension: String,
    },
    /// An enabled extension could not be started with the switch; it is tried again when it is enabled anew.
    ExtensionNotStarted {
        /// The extension.
        extension: String,
        /// Why, in words.
        reason: String,
    },
    /// A port brought along what an extension remembers of it that is not enabled here; it is kept and moves on with the port.
    ExtensionOrphan {
        /// The port.
        port: PortId,
        /// The extension.
        extension: String,
        /// Bytes of it.
        bytes: u64,
    },
    /// The switch changed its process, and there an extension does not remember what it did of a port.
    ExtensionForgot {
        /// The port.
        port: PortId,
        /// The extension.
        extension: String,
        /// Why, in words.
        reason: String,
    },
    /// A port has no connectivity because it requires an extension that is not there.
    ExtensionMissing {
        /// The port.
        port: PortId,
        /// The extension.
        extension: String,
    },
    /// All extensions that a port requires are there again.
    ExtensionsMet {
        /// The port.
        port: PortId,
    },
    /// The switch's own forwarding is in the hands of a forwarding extension, or its own again.
    NativeForwarding {
        /// Whether the switch forwards by itself.
        on: bool,
    },
    /// An object of the policy store fits to no other, or to none any more, and is not in force.
    PolicyMisfit {
        /// The object.
        object: String,
        /// Why, in words.
        reason: String,
    },
    /// Objects of network virtualization changed.
    NvChanged {
        /// Each of them with `+` added, `-` removed or `~` changed before it; of many only how many.
        changes: Vec<String>,
    },
    /// A guest in a virtual subnet arrived, and its lookup records say so.
    NvGuestMoved {
        /// Its port.
        port: PortId,
        /// Its virtual subnet.
        vsid: u32,
        /// How many records it has.
        records: u64,
        /// The provider address of this host, where it is now.
        pa: IpAddr,
    },
}
