//! The program that hands an interface's received frames to the socket, and how it is attached.
//!
//! It is five instructions: the frame goes to the socket that the map has for its queue, and where there is none on its ordinary way to the
//! host. The attachment is a descriptor: it ends with the last process that has it.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::link::interface::check;

// linux/bpf.h
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const FLAGS_GENERIC: u32 = 1 << 1;
const FLAGS_NATIVE: u32 = 1 << 2;
const REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
/// `rx_queue_index` in `xdp_md`.
const QUEUE: i16 = 16;

/// How long an attachment or a queue is waited for that somebody has just given up: the kernel does that in its own time.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What the kernel is told the program may be used under; all that it calls is free to all.
const LICENSE: &CStr = c"Apache-2.0";

/// One instruction.
#[repr(C)]
struct Instruction {
    code: u8,
    /// Target register in the low half, source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers, offset, value }
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `bpf(2)`.
///
/// # Safety
/// `attributes` is what the command takes, and every address in it is good for as long as the command says.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: as many bytes as said, which outlive the call; the kernel only reads these commands' attributes, and knows lengths shorter than its own.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>() as libc::c_uint)
    };
    check(result as libc::c_int)
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: only called with descriptors that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A program that hands what queue 0 receives to `socket`, which must be bound.
pub(super) fn load(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let attributes =
        MapCreate { kind: MAP_TYPE_XSKMAP, key_size: 4, value_size: 4, max_entries: 1, flags: 0 };
    // SAFETY: what the command takes, without addresses.
    let map = owned(unsafe { bpf(MAP_CREATE, &attributes) }?);
    let (queue, value) = (0_u32, socket.as_raw_fd() as u32);
    let attributes = MapUpdate {
        map: map.as_raw_fd() as u32,
        _padding: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: what the command takes; key and value are as long as the map's and outlive the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }?;

    let program = [
        // r2 = context.rx_queue_index
        instruction(0x61, 0x12, QUEUE, 0),
        // r1 = the map, in two halves
        instruction(0x18, 0x11, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0),
        // r3 = what to do if the map has no socket
        instruction(0xb7, 0x03, 0, XDP_PASS),
        // return bpf_redirect_map(r1, r2, r3)
        instruction(0x85, 0, 0, REDIRECT_MAP),
        instruction(0x95, 0, 0, 0),
    ];
    let mut name = [0; 16];
    name[..8].copy_from_slice(b"turnpike");
    let attributes = ProgLoad {
        kind: PROG_TYPE_XDP,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: ATTACH_XDP,
    };
    // SAFETY: what the command takes; as many instructions as said and a string with its end, all of which outlive the call.
    Ok(owned(unsafe { bpf(PROG_LOAD, &attributes) }?))
}

/// Attaches a program to an interface, in its driver if that can, else in front of the host's stack; returns what keeps it there, and whether it
/// is in the driver.
pub(super) fn attach(program: &OwnedFd, interface: libc::c_int) -> io::Result<(OwnedFd, bool)> {
    let attach = |flags| {
        let attributes = LinkCreate {
            program: program.as_raw_fd() as u32,
            target: interface as u32,
            attach_type: ATTACH_XDP,
            flags,
        };
        patiently(|| {
            // SAFETY: what the command takes, without addresses.
            unsafe { bpf(LINK_CREATE, &attributes) }.map(owned)
        })
    };
    match attach(FLAGS_NATIVE) {
        Ok(link) => Ok((link, true)),
        Err(error) if is_busy(&error) => Err(error),
        Err(error) => {
            log::info!(
                "interface {interface}: its driver takes no XDP program ({error}); attached in front of the stack"
            );
            attach(FLAGS_GENERIC).map(|link| (link, false))
        }
    }
}

/// Tries again for a while what fails because somebody else has it.
pub(super) fn patiently<R>(mut attempt: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() < end => sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// Whether somebody else has what was asked for.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
