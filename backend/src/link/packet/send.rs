//! Giving frames to the kernel: one with one system call, or many.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::bundle::Bundle;
use super::{GSO_SIZE, GSO_TYPE, Packet, SOCKET_HEADER};
use crate::link::burst::{ETHERNET_HEADER, MAX_FRAME};
use crate::link::outbox::{self, Outbox};
use crate::link::{Gather, LINK_HEADER, Link, LinkError, Piece, Sent};

impl Packet {
    /// See [`super::Link::send`].
    pub(super) fn send_one(
        &self,
        header: &[u8; LINK_HEADER],
        head: &[u8],
        rest: &[Piece],
    ) -> Result<Sent, LinkError> {
        let gather = Gather::new(&self.device.name, &header[..SOCKET_HEADER], head, rest)?;
        self.check_segments(header)?;
        // SAFETY: all zeroes is a valid `msghdr`: integers and null pointers.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = gather.vectors.as_ptr().cast_mut();
        message.msg_iovlen = gather.count;
        // SAFETY: `count` vectors are filled in and outlive the call; the kernel only reads them and what they name,
        // and answers EFAULT where nothing is mapped.
        let sent = unsafe {
            libc::sendmsg(
                self.device.socket.as_raw_fd(),
                &raw const message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent >= 0 {
            return Ok(Sent::Done);
        }
        self.refused(io::Error::last_os_error(), gather.frame_len)
    }

    /// See [`super::Link::send_all`].
    pub(super) fn send_many(&self, outbox: &Outbox, first: usize) -> Result<usize, LinkError> {
        const VECTORS: usize = 4 * outbox::CAPACITY;
        // SAFETY: all zeroes is a valid `mmsghdr`: integers and null pointers.
        let mut messages: [libc::mmsghdr; outbox::CAPACITY] = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut vectors = [Piece::of(&[]).0; VECTORS];
        // Frames of each message, and what those have instead of their fronts that are more than one.
        let mut frames = [1_u8; outbox::CAPACITY];
        let mut bundles = [const { None }; outbox::CAPACITY];
        let (mut count, mut used, mut next) = (0, 0, first);
        let bundling = self.bundles.load(Ordering::Relaxed);
        for (slot, message) in bundles.iter_mut().zip(&mut messages) {
            let Some(frame) = outbox.get(next) else { break };
            let bundle =
                if bundling { Bundle::of(outbox, next, VECTORS.saturating_sub(used + 2)) } else { None };
            let needed = frame.pieces.len() + 2;
            if used + needed > VECTORS
                || frame.len < ETHERNET_HEADER
                || frame.len > MAX_FRAME
                || self.check_segments(frame.header).is_err()
            {
                break;
            }
            let start = used;
            let mut put = |piece: Piece| {
                vectors[used] = piece.0;
                used += 1;
            };
            *slot = bundle;
            if let Some(bundle) = slot {
                put(Piece::of(&bundle.header));
                put(Piece::of(&bundle.front[..bundle.once]));
                for one in (next..next + bundle.count).filter_map(|number| outbox.get(number)) {
                    put(Piece::of(&one.front[bundle.once..]));
                    one.pieces.iter().for_each(|&piece| put(piece));
                }
                frames[count] = bundle.count as u8;
            } else {
                put(Piece::of(&frame.header[..SOCKET_HEADER]));
                put(Piece::of(frame.front));
                frame.pieces.iter().for_each(|&piece| put(piece));
            }
            message.msg_hdr.msg_iov = vectors[start..].as_mut_ptr();
            message.msg_hdr.msg_iovlen = used - start;
            next += usize::from(frames[count]);
            count += 1;
        }
        if count == 0 || (count == 1 && frames[0] == 1) {
            // One frame, or one that cannot be sent with others: its answer tells everything.
            let Some(frame) = outbox.get(first) else { return Ok(0) };
            return self
                .send_one(frame.header, frame.front, frame.pieces)
                .map(|sent| usize::from(sent == Sent::Done));
        }
        // SAFETY: `count` messages, whose vectors lie in an array that outlives the call and is not changed any more; the kernel only reads
        // them and what they name, and answers EFAULT where nothing is mapped.
        let sent = unsafe {
            libc::sendmmsg(
                self.device.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(frames.iter().take(sent).map(|&frames| usize::from(frames)).sum());
        }
        let error = io::Error::last_os_error();
        if frames[0] > 1 && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) {
            log::info!("interface '{}': takes datagrams one by one only ({error})", self.device.name);
            self.bundles.store(false, Ordering::Relaxed);
            return self.send_many(outbox, first);
        }
        let length = outbox.get(first).map_or(0, |frame| frame.len);
        self.refused(error, length).map(|_| 0)
    }

    /// What it means that the kernel did not take a frame of so many bytes.
    fn refused(&self, error: io::Error, length: usize) -> Result<Sent, LinkError> {
        let interface = || self.device.name.clone();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(Sent::Full),
            Some(libc::EFAULT) => Err(LinkError::BadMemory { interface: interface() }),
            Some(libc::EMSGSIZE) => Err(LinkError::TooLong {
                interface: interface(),
                length,
                limit: self.mtu() as usize + ETHERNET_HEADER,
            }),
            Some(libc::EINVAL) => Err(LinkError::BadFrame { interface: interface() }),
            Some(libc::ENETDOWN) if !self.is_gone() => Err(LinkError::Down { interface: interface() }),
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Err(self.device.gone()),
            _ => Err(LinkError::system(&self.device.name, "send", error)),
        }
    }

    /// A frame to be segmented whose segments could not pass: no driver need expect such a thing.
    fn check_segments(&self, header: &[u8; LINK_HEADER]) -> Result<(), LinkError> {
        // IP and transport header at their shortest, by the segmentation's kind: TCP over IPv4, over IPv6, UDP.
        let headers = match header[GSO_TYPE] & 0x7f {
            1 => 40,
            4 => 60,
            5 => 28,
            _ => return Ok(()),
        };
        let length = usize::from(u16::from_le_bytes([header[GSO_SIZE], header[GSO_SIZE + 1]])) + headers;
        let limit = self.mtu() as usize;
        if length > limit {
            let interface = self.device.name.clone();
            return Err(LinkError::TooLong {
                interface,
                length: length + ETHERNET_HEADER,
                limit: limit + ETHERNET_HEADER,
            });
        }
        Ok(())
    }
}
