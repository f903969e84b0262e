//! What a worker does for network virtualization: what came in a tunnel is taken out before it is judged, and what goes to another host is
//! put into one when it is delivered. What is decided about frames, and every header, is [`vswitch::nv`]'s business.
//!
//! A frame that leaves its sender's TCP segmentation or checksum to others keeps both open inside a tunnel as far as a link can do the
//! rest: checksums can be completed anywhere in a frame, segments cannot be cut there. So such frames are segmented here, each segment
//! with headers of its own.

use vswitch::frame::offload::{GuestOffloads, NetHeader, Offload};
use vswitch::frame::segment::Segmenter;
use vswitch::frame::tag::Tagging;
use vswitch::nv::model::Encap;
use vswitch::nv::overlay::{Ingress, Overlay, Tunnel};
use vswitch::nv::wire::Template;
use vswitch::nv::{self, wire};
use vswitch::port::mtu;
use vswitch::trace::DropReason;
use vswitch::{Nanos, PortId};

use super::deliver::{Blocked, Context, Delivery, Errand, Patience, own_frame};
use super::join::Joining;
use super::outward::{Front, Run};
use super::{Shared, View};
use crate::guest::burst::{BURST, Burst, Untagged};
use crate::link::{LINK_HEADER, Piece};

/// Answers to the frames of one burst that are kept until its end, at most.
const MAX_ANSWERS: usize = BURST;

/// What is known of the frames of a burst for the sake of network virtualization.
pub(super) struct Customers {
    /// Frames that came out of a tunnel.
    tunnelled: u64,
    ingress: Box<[Option<Ingress>]>,
    /// Segments that go on as one frame.
    pub(super) joining: Joining,
    /// The outer headers of the last tunnel, for the rest of the burst.
    template: Option<(Tunnel, Template)>,
    /// What goes back to the sender of the burst.
    answers: Vec<Vec<u8>>,
    answer: Box<Burst>,
    /// Hosts that a flooded frame goes to.
    replicas: Vec<Tunnel>,
}

impl Default for Customers {
    fn default() -> Self {
        Self {
            tunnelled: 0,
            ingress: vec![None; BURST].into_boxed_slice(),
            joining: Joining::default(),
            template: None,
            answers: Vec::new(),
            answer: Box::default(),
            replicas: Vec::new(),
        }
    }
}

impl Customers {
    /// Begins a burst.
    pub(super) fn clear(&mut self) {
        self.tunnelled = 0;
        self.template = None;
        self.joining.clear();
    }

    /// What the outer headers of a tunnel have in common. Worked out once for a burst: within it everything stays as it is.
    fn template(&mut self, context: &Context<'_>, tunnel: &Tunnel) -> Result<Template, DropReason> {
        if let Some((of, template)) = &self.template
            && of == tunnel
        {
            return Ok(*template);
        }
        let template = nv::template(&context.view.snapshot, &context.shared.state, tunnel)?;
        self.template = Some((*tunnel, template));
        Ok(template)
    }

    /// Out of which tunnel a frame came.
    pub(super) fn ingress(&self, index: usize) -> Option<Ingress> {
        if self.tunnelled >> index & 1 == 0 { None } else { self.ingress.get(index).copied().flatten() }
    }

    /// Takes note of the tunnel that a frame came out of.
    pub(super) fn note(&mut self, index: usize, ingress: Ingress) {
        if let Some(slot) = self.ingress.get_mut(index) {
            *slot = Some(ingress);
            self.tunnelled |= 1 << index;
        }
    }
}

impl Delivery {
    /// Takes frame `index`, which came from an uplink, out of its tunnel, if it is in one to this host. `None` = it is an ordinary frame.
    pub(super) fn open(
        &mut self,
        view: &View,
        shared: &Shared,
        now: Nanos,
        from: PortId,
        burst: &mut Burst,
        index: usize,
    ) -> Option<Result<Ingress, DropReason>> {
        let frame = &burst.frames[index];
        let opened = nv::open(&view.snapshot, &shared.state, now, from, frame.head(), frame.len)?;
        let result = opened.and_then(|opened| {
            let strip = usize::from(opened.strip);
            if !burst.unwrap(index, strip, opened.len) {
                return Err(DropReason::NvMalformed);
            }
            let frame = &mut burst.frames[index];
            frame.header = uncovered(&frame.header, opened.strip);
            if let Some(outer) = opened.ecn {
                wire::ecn::arrive(frame.head_mut(), outer).map_err(|_| DropReason::NvCongestion)?;
            }
            if let Some(customer) = opened.rewrite {
                // A link may leave to us whatever it likes.
                let asked = frame.header.check(frame.head(), frame.len, GuestOffloads::ALL);
                let offload = asked.map_err(|_| DropReason::BadOffload)?;
                customer.apply(frame.head_mut(), &offload)?;
            }
            Ok(opened.ingress)
        });
        if let Ok(ingress) = result {
            self.customers.note(index, ingress);
        }
        Some(result)
    }

    /// Changes a frame to what its receiver gets: routed, readdressed, tagged. `Err` = it does not get it, for this reason.
    pub(super) fn change(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        index: usize,
    ) -> Result<Option<Untagged>, DropReason> {
        let overlay = *self.plans.overlay(index);
        let tagging = self.plans.actions(index).tagging;
        let frame = &mut burst.frames[index];
        if overlay == Overlay::default() {
            return Ok(frame.retag(tagging));
        }
        let (before, offload) = (frame.keep(), frame.offload);
        let mut limit = u16::MAX;
        let result = (|| {
            if let Some(rewrite) = overlay.rewrite {
                wire::rewrite::macs(frame.head_mut(), rewrite.dst, rewrite.src);
                if rewrite.hop {
                    wire::rewrite::hop(frame.head_mut()).map_err(|_| DropReason::NvTtlExpired)?;
                }
            }
            let (snapshot, state) = (&context.view.snapshot, &context.shared.state);
            if let Some(exit) = &overlay.exit {
                return nv::exit(snapshot, state, context.now, exit, frame.head_mut(), &offload);
            }
            match overlay.tunnel {
                Some(tunnel) if tunnel.encap == Encap::Rewrite => {
                    // Routers fragment it where that is allowed.
                    limit = nv::rewrite_room(snapshot, state, context.now, &tunnel);
                    if wire::rewrite::is_whole(frame.head()) {
                        mtu::check(limit, frame.head(), frame.len, &offload)?;
                    }
                    nv::readdress(snapshot, state, &tunnel, frame.head_mut(), &offload)
                }
                // The outer frame has the provider's tag.
                Some(_) => Ok(Tagging::Keep),
                None => Ok(tagging),
            }
        })();
        match result {
            Ok(tagging) => {
                frame.retag(tagging);
                Ok(Some(before))
            }
            Err(reason) => {
                frame.restore(&before);
                if reason == DropReason::MtuExceeded {
                    self.answer_too_big(context, burst, index, limit);
                }
                Err(reason)
            }
        }
    }

    /// Puts a frame, or the segments it stands for, into the outbox behind the outer headers of its tunnel.
    pub(super) fn gather_through(&mut self, run: &mut Run<'_>, burst: &Burst, index: usize, tunnel: &Tunnel) {
        let state = &run.context.shared.state;
        let frame = &burst.frames[index];
        let limit = nv::room(state, run.context.now, tunnel, run.port.mtu);
        let (packets, bytes) = frame.offload.wire(frame.len);
        if mtu::check(limit, frame.head(), frame.len, &frame.offload).is_err() {
            self.answer_too_big(run.context, burst, index, limit);
            self.drop(run, index, packets, DropReason::MtuExceeded);
            return;
        }
        let template = match self.customers.template(run.context, tunnel) {
            Ok(template) => template,
            Err(reason) => {
                self.drop(run, index, packets, reason);
                return;
            }
        };
        if matches!(frame.offload, Offload::Tcp { .. }) {
            self.gather_segments(run, burst, index, &template);
            return;
        }
        let mut outer = [0; wire::OUTER_MAX];
        match outer_headers(&template, frame.head(), frame.len, &mut outer) {
            Some(size) => {
                let header = behind(size, &frame.offload);
                let datagram = template.is_datagram() && frame.offload == Offload::None;
                let front = Front { bytes: &outer[..size], datagram };
                self.gather(run, burst, index, header, front, (packets, bytes + size as u64));
            }
            None => self.drop(run, index, packets, DropReason::MtuExceeded),
        }
    }

    /// The same for a frame that stands for many segments. They go together: once one has gone, those that find no room are lost, which
    /// their sender's TCP notices; sending the frame again would double those that went.
    fn gather_segments(&mut self, run: &mut Run<'_>, burst: &Burst, index: usize, template: &Template) {
        let frame = &burst.frames[index];
        let (packets, _) = frame.offload.wire(frame.len);
        // The buffers are used for one frame at a time.
        self.hand_over(run);
        if run.full {
            return;
        }
        burst.linearise(index, &mut self.linear);
        let linear = std::mem::take(&mut self.linear);
        let mut scratch = std::mem::take(&mut self.segment);
        let mut outer = [0; wire::OUTER_MAX];
        let (mut at, mut gone) = (0, 0);
        let Ok(segments) = Segmenter::new(&linear, &frame.offload) else {
            self.drop(run, index, packets, DropReason::BadOffload);
            (self.linear, self.segment) = (linear, scratch);
            return;
        };
        // Datagrams go many at a time, and a link completes one checksum of what it gets at a time: theirs.
        let datagram = template.is_datagram();
        let mut segments = if datagram { segments } else { segments.leave_checksums_open() };
        loop {
            if self.outbox.is_full() || scratch.len() - at < segments.max_segment() {
                gone += self.hand_over_part(run);
                at = 0;
                if run.full {
                    break;
                }
            }
            let Some(len) = segments.next(&mut scratch[at..]) else { break };
            let segment = &scratch[at..at + len];
            match outer_headers(template, segment, len as u32, &mut outer) {
                Some(size) => {
                    let header = behind(size, &segments.segment_offload());
                    let (front, piece) = (&outer[..size], std::iter::once(Piece::of(segment)));
                    let front = Front { bytes: front, datagram };
                    self.gathered(run, index, header, front, piece, (1, (len + size) as u64));
                }
                None => self.drop(run, index, 1, DropReason::MtuExceeded),
            }
            at += len;
        }
        if !run.full {
            gone += self.hand_over_part(run);
        }
        if run.full && gone > 0 {
            run.full = false;
            self.drop(run, index, packets.saturating_sub(gone), DropReason::ReceiverFull);
        }
        (self.linear, self.segment) = (linear, scratch);
    }

    /// Hands over what is gathered; returns how many packets went.
    fn hand_over_part(&mut self, run: &mut Run<'_>) -> u64 {
        let before = run.packets;
        self.hand_over(run);
        run.packets - before
    }

    /// Sends copies of a flooded frame to the other hosts of its virtual subnet.
    pub(super) fn replicate(&mut self, context: &Context<'_>, burst: &mut Burst, index: usize) {
        let (snapshot, state) = (&context.view.snapshot, &context.shared.state);
        let Some(uplink) = snapshot.uplink() else { return };
        let mut replicas = std::mem::take(&mut self.customers.replicas);
        replicas.clear();
        replicas.extend(nv::replicas(snapshot, state, context.from, burst.frames[index].head()));
        for tunnel in &replicas {
            let overlay = Overlay { tunnel: Some(*tunnel), ..Overlay::default() };
            let sender = self.plans.replace(index, vswitch::pipeline::Actions::default(), overlay);
            self.unicast(context, burst, uplink, 1 << index, &mut Blocked::default());
            self.plans.restore(index, &sender);
        }
        self.customers.replicas = replicas;
    }

    // === what the switch itself says ===

    /// Answers a frame in the place of whom it asked.
    pub(super) fn answer(&mut self, context: &Context<'_>, burst: &Burst, index: usize) {
        let Context { view, shared, now, from, .. } = *context;
        burst.linearise(index, &mut self.linear);
        let (frame, len) = (&self.linear, self.linear.len() as u32);
        let mut bytes = Vec::new();
        if nv::answer(&view.snapshot, &shared.state, now, from, frame, len, &mut bytes) {
            self.keep_answer(bytes);
        }
    }

    /// Tells the host that a frame came from, which is dropped for `reason`, if its receiver is not at this one.
    pub(super) fn tell(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        index: usize,
        ingress: &Ingress,
        reason: DropReason,
    ) {
        let (snapshot, state) = (&context.view.snapshot, &context.shared.state);
        if !nv::tells(snapshot, state, context.now, ingress, reason, burst.frames[index].head()) {
            return;
        }
        burst.linearise(index, &mut self.linear);
        let mut bytes = Vec::new();
        if nv::not_here(snapshot, state, ingress, &self.linear, &mut bytes) {
            self.keep_answer(bytes);
        }
    }

    /// Tells the sender of a frame how long its packets may be.
    fn answer_too_big(&mut self, context: &Context<'_>, burst: &Burst, index: usize, mtu: u16) {
        let Context { view, shared, from, .. } = *context;
        burst.linearise(index, &mut self.linear);
        let mut bytes = Vec::new();
        if nv::too_big(&view.snapshot, &shared.state, from, &self.linear, mtu, &mut bytes) {
            self.keep_answer(bytes);
        }
    }

    fn keep_answer(&mut self, bytes: Vec<u8>) {
        if self.customers.answers.len() < MAX_ANSWERS {
            self.customers.answers.push(bytes);
        }
    }

    /// Gives the burst's sender what the switch answered. To be called at its end: plans are no longer needed then.
    pub(super) fn deliver_answers(&mut self, context: &Context<'_>) {
        if self.customers.answers.is_empty() {
            return;
        }
        let context = Context { patience: Patience::Expired, errand: Errand::Flood, ..*context };
        let mut answers = std::mem::take(&mut self.customers.answers);
        let mut burst = std::mem::take(&mut self.customers.answer);
        self.plans.clear();
        for bytes in answers.drain(..) {
            own_frame(&mut burst, &bytes);
            self.watch.begin(1);
            self.deliver(&context, &burst, context.from, 1, &mut Blocked::default());
        }
        burst.clear();
        (self.customers.answer, self.customers.answers) = (burst, answers);
    }
}

/// Writes the outer headers of one frame; `None` = with them it is longer than a packet can be.
fn outer_headers(
    template: &Template,
    head: &[u8],
    len: u32,
    out: &mut [u8; wire::OUTER_MAX],
) -> Option<usize> {
    // DF is set, so the identification says nothing (RFC 6864, section 4.1).
    template.emit(wire::entropy(head, len), len as usize, wire::tos(head), 0, out)
}

/// The virtio-net header of a frame with `size` bytes in front of it.
fn behind(size: usize, offload: &Offload) -> [u8; LINK_HEADER] {
    offload.moved(i16::try_from(size).unwrap_or_default()).header(0).emit()
}

/// A frame's request once `strip` bytes are gone from its front. What concerned only those is done: their checksum is the kernel's affair.
fn uncovered(header: &NetHeader, strip: u16) -> NetHeader {
    match header.csum_start.checked_sub(strip) {
        Some(csum_start) if header.gso_type == 0 => NetHeader { csum_start, ..*header },
        _ if header.gso_type == 0 => NetHeader::default(),
        // Tunnels that are still to be segmented cannot be described by this header at all.
        _ => *header,
    }
}
