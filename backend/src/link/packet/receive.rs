//! Taking frames from the kernel: from the ring, and from the socket what is too long for it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::ring::Ring;
use super::{FLAGS, GSO_TYPE, NEEDS_CSUM, Packet, SOCKET_HEADER};
use crate::link::burst::{BURST, ETHERNET_HEADER, FRAME_AT, LinkBurst, MAX_FRAME, VLAN_TAG};
use crate::link::interface::check;
use crate::link::{LINK_HEADER, Link, LinkError};

/// Room for one control message with `tpacket_auxdata` (40 bytes), aligned as the kernel wants it.
type Control = [u64; 8];

/// Offsets in the virtio-net header.
const HDR_LEN: usize = 2;
const CSUM_START: usize = 6;

impl Packet {
    /// See [`super::Link::receive_more`].
    pub(super) fn receive_all(&self, burst: &mut LinkBurst) -> Result<usize, LinkError> {
        // Again while more may wait, or when nothing of what came was fit to be delivered, so that 0 means that nothing waits; not for ever,
        // so that such frames cannot hold a worker. The descriptor stays readable.
        for _ in 0..8 {
            if !burst.take_in() || (burst.is_full() && burst.count() > 0) {
                break;
            }
            if burst.is_full() {
                burst.clear();
            }
            let received = match &self.ring {
                Some(ring) => self.receive_from(ring, burst).and_then(|()| self.look_for_error(burst)),
                None => self.receive_messages(burst, BURST),
            };
            match received {
                Ok(None) => break,
                Ok(Some(all)) if !all && burst.count() > 0 => break,
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {
                        if self.went_down.load(Ordering::Relaxed) && self.is_gone() {
                            return Err(self.device.gone());
                        }
                        break;
                    }
                    // A frame of an offload kind that the header cannot describe; the kernel has dropped it.
                    Some(libc::EINVAL) => {
                        self.malformed.fetch_add(1, Ordering::Relaxed);
                    }
                    // Said once. Frames may still wait from before.
                    Some(libc::ENETDOWN) => self.went_down.store(true, Ordering::Relaxed),
                    Some(libc::ENXIO | libc::ENODEV) => return Err(self.device.gone()),
                    _ => return Err(LinkError::system(&self.device.name, "receive", error)),
                },
            }
        }
        Ok(burst.count())
    }

    /// Takes messages from the socket into the burst's free slots; `Ok(None)` if none could be had, otherwise whether all slots that were
    /// offered are filled.
    fn receive_messages(&self, burst: &mut LinkBurst, most: usize) -> io::Result<Option<bool>> {
        let mut headers = [[0_u8; SOCKET_HEADER]; BURST];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; BURST];
        let mut vectors = [[const { MaybeUninit::<libc::iovec>::uninit() }; 2]; BURST];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BURST];
        let mut offered = 0;
        let (first, slots) = burst.free();
        for ((((slot, header), control), vector), message) in
            slots.take(most).zip(&mut headers).zip(&mut controls).zip(&mut vectors).zip(&mut messages)
        {
            let frame = &mut slot[FRAME_AT..FRAME_AT + MAX_FRAME];
            vector[0].write(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
            vector[1].write(libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() });
            // SAFETY: all zeroes is a valid `mmsghdr`: integers and null pointers.
            let message = message.write(unsafe { MaybeUninit::zeroed().assume_init() });
            message.msg_hdr.msg_iov = vector.as_mut_ptr().cast();
            message.msg_hdr.msg_iovlen = vector.len();
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>();
            offered += 1;
        }
        // SAFETY: `offered` messages, whose vectors are written above and whose control buffers the kernel only writes; all lie in arrays that
        // outlive the call, are not moved before the last use of `messages`, and are borrowed by nobody else meanwhile.
        let received = check(unsafe {
            libc::recvmmsg(
                self.device.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                offered as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })?;
        let received = received as usize;
        // SAFETY: the first `offered` messages are written, and the kernel filled in no more than those.
        let messages =
            unsafe { std::slice::from_raw_parts(messages.as_ptr().cast::<libc::mmsghdr>(), received) };
        burst.filled(received, offered);
        for ((number, message), socket_header) in messages.iter().enumerate().zip(&headers) {
            let index = first + number;
            let mut header = [0; LINK_HEADER];
            header[..SOCKET_HEADER].copy_from_slice(socket_header);
            let length = (message.msg_len as usize).saturating_sub(SOCKET_HEADER);
            let whole = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            self.arrived(burst, index, header, length, whole, stripped_tag(&message.msg_hdr));
        }
        Ok((received > 0).then_some(received == offered))
    }

    /// Takes note of a frame of which `length` bytes are in slot `index` of the burst.
    fn arrived(
        &self,
        burst: &mut LinkBurst,
        index: usize,
        mut header: [u8; LINK_HEADER],
        mut length: usize,
        whole: bool,
        tag: Option<[u16; 2]>,
    ) {
        if !whole {
            self.too_long.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut start = FRAME_AT;
        let mut sound = length >= ETHERNET_HEADER;
        if sound && let Some(tag) = tag {
            (start, length) = (start - VLAN_TAG, length + VLAN_TAG);
            put_tag_back(&mut burst.slot(index)[start..], &mut header, tag);
        }
        sound = sound && burst.push(index, start, length, header);
        if !sound {
            self.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks the socket for its error, which a ring does not tell: when it woke somebody, and when nothing comes. Whoever polls without a pause
    /// does not pay for a system call each time.
    fn look_for_error(&self, burst: &LinkBurst) -> io::Result<Option<bool>> {
        let before = self.fruitless.load(Ordering::Relaxed);
        let nothing = burst.count() == 0;
        self.fruitless.store(if nothing { before.wrapping_add(1) } else { 1 }, Ordering::Relaxed);
        if before == 0 || (nothing && (before < 16 || before.is_multiple_of(256))) {
            rustix::net::sockopt::socket_error(&self.device.socket)?.map_err(io::Error::from)?;
            if nothing {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
        }
        Ok(None)
    }

    /// Takes frames from the ring into the burst's free slots, and those that are too long for it from the socket.
    fn receive_from(&self, ring: &Ring, burst: &mut LinkBurst) -> io::Result<()> {
        let mut result = Ok(());
        ring.each(|place| {
            if place.in_socket {
                match self.receive_messages(burst, 1) {
                    Ok(_) => {}
                    Err(error) => result = Err(error),
                }
            } else if let Some(index) = burst.next_free() {
                let mut header = [0; LINK_HEADER];
                header[..SOCKET_HEADER].copy_from_slice(&place.header);
                let length = place.bytes.len();
                burst.slot(index)[FRAME_AT..FRAME_AT + length].copy_from_slice(place.bytes);
                burst.filled(1, BURST);
                // Cut off: the socket's buffer was full of others that wait there.
                if length < place.len {
                    self.overrun.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.arrived(burst, index, header, length, true, place.tag);
                }
            }
            result.is_ok() && !burst.is_full()
        });
        result
    }
}

/// The VLAN tag (TPID, TCI) that the kernel took off a received frame.
fn stripped_tag(message: &libc::msghdr) -> Option<[u16; 2]> {
    // SAFETY: the kernel filled in the control buffer and its length; the buffer is alive and aligned for `cmsghdr`.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: not null, so it points to a whole header within the control buffer.
        let header = unsafe { *control };
        // SAFETY: the macro's length arithmetic; no pointers.
        let whole = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as libc::c_uint) } as usize;
        let auxiliary = (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA);
        if auxiliary && header.cmsg_len >= whole {
            // SAFETY: the message's data is a whole `tpacket_auxdata`, of integers only; read without alignment.
            let data = unsafe { libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let known = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let protocol = if known { data.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
            return Some([protocol, data.tp_vlan_tci]);
        }
        // SAFETY: both belong to the same message.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    None
}

/// Makes of a frame, which begins behind room for a tag, one with the tag, and moves the offsets of its offload header.
fn put_tag_back(slot: &mut [u8], header: &mut [u8; LINK_HEADER], tag: [u16; 2]) {
    let addresses = 12;
    let checksum = header[FLAGS] & NEEDS_CSUM != 0;
    let segmented = header[GSO_TYPE] != 0;
    slot.copy_within(VLAN_TAG..VLAN_TAG + addresses, 0);
    slot[addresses..addresses + 2].copy_from_slice(&tag[0].to_be_bytes());
    slot[addresses + 2..addresses + 4].copy_from_slice(&tag[1].to_be_bytes());
    let mut shift = |at: usize| {
        let value = u16::from_le_bytes([header[at], header[at + 1]]).saturating_add(VLAN_TAG as u16);
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    if checksum {
        shift(CSUM_START);
    }
    if segmented {
        shift(HDR_LEN);
    }
}
