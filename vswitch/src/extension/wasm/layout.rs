//! What the host writes into a module's memory for a call, and what answers mean: the `struct`s and numbers of examples/extensions/turnpike.h.
//! Numbers are little-endian, as WebAssembly's are.

use crate::extension::change::Edit;
use crate::extension::{Change, Destination, Head, Judgement, PortCounters, Reason, Sample, Scope, Sight};
use crate::pipeline::Verdict;
use crate::port::PortKind;
use crate::{Direction, HEAD_LEN, Mac, PortId};

/// Bytes of `struct tp_frame` ahead of the frame's own.
pub(super) const FRAME_HEADER: usize = 42;

/// Bytes of `struct tp_frame`: padded to its alignment.
pub(super) const FRAME: usize = (FRAME_HEADER + HEAD_LEN).next_multiple_of(8);

/// Bytes of `struct tp_change` ahead of name and value.
pub(super) const CHANGE_HEADER: usize = 28;

/// Bytes of `struct tp_counters`.
pub(super) const COUNTERS: usize = 48;

/// The length of a value for which the module has no room.
pub(super) const TOO_LONG: u32 = u32::MAX;

/// An answer that ABI 1 does not have, in words.
pub(super) type Lie = String;

/// The fields of `struct tp_frame` ahead of the frame's bytes.
struct Fields {
    now: u64,
    pool: u64,
    len: u32,
    head_len: u32,
    vsid: u32,
    port: u16,
    from: u16,
    to: u16,
    direction: u8,
    dry: u8,
    verdict: u8,
}

impl Fields {
    fn write(&self, out: &mut [u8; FRAME_HEADER]) {
        out[0..8].copy_from_slice(&self.now.to_le_bytes());
        out[8..16].copy_from_slice(&self.pool.to_le_bytes());
        out[16..20].copy_from_slice(&self.len.to_le_bytes());
        out[20..24].copy_from_slice(&self.head_len.to_le_bytes());
        out[24..28].copy_from_slice(&self.vsid.to_le_bytes());
        out[28..30].copy_from_slice(&self.port.to_le_bytes());
        out[30..32].copy_from_slice(&self.from.to_le_bytes());
        out[32..34].copy_from_slice(&self.to.to_le_bytes());
        out[34..].copy_from_slice(&[self.direction, self.dry, self.verdict, 0, 0, 0, 0, 0]);
    }
}

/// The bytes of a frame that a module is shown.
pub(super) fn shown(head: &[u8]) -> &[u8] {
    head.get(..HEAD_LEN).unwrap_or(head)
}

fn number(port: Option<PortId>) -> u16 {
    port.map_or(0, |port| port.0)
}

/// Writes a frame that is to be judged. `out` is the module's `struct tp_frame`; false = it is too short.
pub(super) fn sight(sight: &Sight<'_>, out: &mut [u8]) -> bool {
    let head = shown(sight.head);
    let fields = Fields {
        now: sight.now,
        pool: 0,
        len: sight.len,
        head_len: head.len() as u32,
        vsid: sight.vsid.unwrap_or(0),
        port: sight.port.0,
        from: number(sight.from),
        to: 0,
        direction: u8::from(sight.direction == Direction::In),
        dry: u8::from(sight.dry),
        verdict: 0,
    };
    frame(&fields, head, out)
}

/// Writes a frame that was drawn as a sample.
pub(super) fn sample(sample: &Sample<'_>, out: &mut [u8]) -> bool {
    let head = shown(sample.head);
    let (verdict, to) = match sample.verdict {
        Verdict::Drop(_) => (1, None),
        Verdict::Refuse(_, to) => (2, Some(to)),
        Verdict::Unicast(to) => (3, Some(to)),
        Verdict::Flood(_) => (4, None),
        Verdict::Answer => (5, None),
    };
    let fields = Fields {
        now: sample.now,
        pool: sample.pool,
        len: sample.len,
        head_len: head.len() as u32,
        vsid: sample.vsid.unwrap_or(0),
        port: sample.from.0,
        from: 0,
        to: number(to),
        direction: 0,
        dry: 0,
        verdict,
    };
    frame(&fields, head, out)
}

fn frame(fields: &Fields, head: &[u8], out: &mut [u8]) -> bool {
    let Some((start, rest)) = out.split_first_chunk_mut::<FRAME_HEADER>() else { return false };
    let Some(place) = rest.get_mut(..head.len()) else { return false };
    fields.write(start);
    place.copy_from_slice(head);
    true
}

/// What an answer says of the judgement; `head` is what the module made of the frame's beginning.
pub(super) fn judgement(answer: u32, head: impl FnOnce() -> Option<Head>) -> Result<(Judgement, Scope), Lie> {
    let (what, scope, reason, port) = parts(answer)?;
    let judgement = match what {
        0 => Judgement::Pass,
        1 => Judgement::Drop(Reason(reason)),
        2 => Judgement::Replace(Box::new(head().ok_or("its frame is outside its memory")?)),
        _ => return Err(format!("answer {answer:#x} says {what}; valid: 0 (pass), 1 (drop), 2 (change)")),
    };
    if port != 0 || (what != 1 && reason != 0) {
        return Err(format!("answer {answer:#x} has bits that its {what} does not have"));
    }
    Ok((judgement, scope))
}

/// What an answer says of where a frame goes.
pub(super) fn destination(answer: u32) -> Result<(Destination, Scope), Lie> {
    let (what, scope, reason, port) = parts(answer)?;
    let destination = match what {
        0 => Destination::Native,
        1 => Destination::Drop(Reason(reason)),
        3 if port != 0 => Destination::Port(PortId(port)),
        3 => return Err(format!("answer {answer:#x} sends to port 0; ports begin with 1")),
        4 => Destination::All,
        _ => {
            let valid = "valid: 0 (as the switch does), 1 (drop), 3 (one port), 4 (all)";
            return Err(format!("answer {answer:#x} says {what}; {valid}"));
        }
    };
    if (what != 1 && reason != 0) || (what != 3 && port != 0) {
        return Err(format!("answer {answer:#x} has bits that its {what} does not have"));
    }
    Ok((destination, scope))
}

/// What, how long, why, where to.
fn parts(answer: u32) -> Result<(u32, Scope, u8, u16), Lie> {
    let scope = match answer >> 4 & 15 {
        0 => Scope::Flow,
        1 => Scope::Second,
        2 => Scope::Frame,
        other => {
            let valid = "valid: 0 (flow), 1 (second), 2 (frame)";
            return Err(format!("answer {answer:#x} stands for {other}; {valid}"));
        }
    };
    Ok((answer & 15, scope, (answer >> 8) as u8, (answer >> 16) as u16))
}

/// `struct tp_change` with name, and value as JSON if there is one.
pub(super) fn change(change: &Change<'_>) -> (Vec<u8>, Option<String>) {
    let (mac, mtu) = match *change {
        Change::NicCreate { mac, mtu, .. } | Change::NicUpdated { mac, mtu, .. } => (mac, mtu),
        _ => (Mac([0; 6]), 0),
    };
    let (name, value) = match change {
        Change::PortCreate { name, .. } => (*name, None),
        Change::Policy { name, value, .. } | Change::Switch { name, value } => {
            (*name, Some(value.to_string()))
        }
        _ => ("", None),
    };
    let kind: u32 = match change {
        Change::PortCreate { kind: PortKind::Guest, .. } => 1,
        Change::PortCreate { kind: PortKind::Host, .. } => 2,
        Change::PortCreate { kind: PortKind::Uplink, .. } => 3,
        _ => 0,
    };
    let mut bytes = Vec::with_capacity(CHANGE_HEADER + name.len());
    bytes.extend_from_slice(&number_of(change).to_le_bytes());
    bytes.extend_from_slice(&u32::from(number(change.port())).to_le_bytes());
    bytes.extend_from_slice(&mac.0);
    bytes.extend_from_slice(&mtu.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    let value_len = value.as_ref().map_or(0, |value| value.len() as u32);
    bytes.extend_from_slice(&value_len.to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    (bytes, value)
}

/// The value does not fit.
pub(super) fn without_value(change: &mut [u8]) {
    if let Some(len) = change.get_mut(CHANGE_HEADER - 4..CHANGE_HEADER) {
        len.copy_from_slice(&TOO_LONG.to_le_bytes());
    }
}

const fn number_of(change: &Change<'_>) -> u32 {
    match change {
        Change::PortCreate { .. } => 1,
        Change::Policy { edit: Edit::Add, .. } => 2,
        Change::Policy { edit: Edit::Update, .. } => 3,
        Change::Policy { edit: Edit::Delete, .. } => 4,
        Change::Switch { .. } => 5,
        Change::NicCreate { .. } => 6,
        Change::NicConnect { .. } => 7,
        Change::NicUpdated { .. } => 8,
        Change::NicDisconnect { .. } => 9,
        Change::NicDelete { .. } => 10,
        Change::PortTeardown { .. } => 11,
        Change::PortDelete { .. } => 12,
    }
}

/// `struct tp_counters`.
pub(super) fn counters(of: &PortCounters) -> [u8; COUNTERS] {
    let mut bytes = [0; COUNTERS];
    let numbers = [of.out_packets, of.out_bytes, of.out_drops, of.in_packets, of.in_bytes, of.in_drops];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}
