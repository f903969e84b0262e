//! Survives guest memory that vanishes.
//!
//! A front end owns the file behind guest memory and may truncate it; the next access to the mapping is then a SIGBUS.
//! The handler here puts anonymous zero pages over the faulting page of a *registered* mapping, marks the mapping as hit and
//! returns, so the access completes and the port can be stopped at leisure. A SIGBUS anywhere else is not ours and keeps its default
//! effect.
//!
//! The registry is a fixed array of atomics because a signal handler may neither lock nor allocate. When it is full, further mappings are
//! refused by `guard` returning `None`; the table has room for every region of every port that the switch can have running.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SLOTS: usize = 16 * 1024;

struct Slot {
    /// 0 = free; else the first address.
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    hit: AtomicBool,
}

static REGISTRY: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];
/// Slots at and above this were never used; bounds the handler's search.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

/// A registered mapping; unregistered when dropped.
pub(super) struct Guarded(usize);

impl Guarded {
    /// Whether a fault was caught in this mapping.
    pub(super) fn hit(&self) -> bool {
        REGISTRY[self.0].hit.load(Ordering::Relaxed)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let slot = &REGISTRY[self.0];
        slot.end.store(0, Ordering::Release);
        slot.start.store(0, Ordering::Release);
    }
}

/// Registers `len` bytes at `start`, a mapping with pages of `page` bytes that stays until the result is dropped.
pub(super) fn guard(start: usize, len: usize, page: usize) -> Option<Guarded> {
    install();
    for (index, slot) in REGISTRY.iter().enumerate() {
        if slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            slot.hit.store(false, Ordering::Relaxed);
            slot.page.store(page, Ordering::Relaxed);
            HIGH_WATER.fetch_max(index + 1, Ordering::AcqRel);
            slot.end.store(start + len, Ordering::Release);
            return Some(Guarded(index));
        }
    }
    None
}

fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: `action` is fully initialised; the handler only touches atomics and calls `mmap`, `signal` and `raise`, which
        // is allowed in a handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &REGISTRY[..HIGH_WATER.load(Ordering::Acquire)] {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        if start != 0 && (start..end).contains(&address) {
            slot.hit.store(true, Ordering::Relaxed);
            let page = slot.page.load(Ordering::Relaxed).max(4096);
            // SAFETY: the page lies in a registered guest mapping (mappings start page-aligned), whose contents are gone; replacing
            // it by zeroes invalidates no Rust object.
            let mapped = unsafe {
                libc::mmap(
                    (address & !(page - 1)) as *mut libc::c_void,
                    page,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                return;
            }
        }
    }
    // SAFETY: restoring the default and raising again is the documented way to decline a signal.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const PAGE: usize = 4096;

    /// A shared mapping of four pages of a file, unmapped when dropped.
    struct Mapping {
        file: OwnedFd,
        start: *mut u8,
    }

    impl Mapping {
        fn new() -> Self {
            let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, 4 * PAGE as u64).unwrap();
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at an address the kernel chooses.
            let start = unsafe {
                libc::mmap(std::ptr::null_mut(), 4 * PAGE, prot, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
            assert_ne!(start, libc::MAP_FAILED);
            Self { file, start: start.cast() }
        }

        fn guard(&self) -> Guarded {
            guard(self.start as usize, 4 * PAGE, PAGE).unwrap()
        }

        fn read(&self, at: usize) -> u8 {
            assert!(at < 4 * PAGE);
            // SAFETY: inside the mapping.
            unsafe { self.start.add(at).read_volatile() }
        }

        fn write(&self, at: usize, value: u8) {
            assert!(at < 4 * PAGE);
            // SAFETY: inside the mapping.
            unsafe { self.start.add(at).write_volatile(value) };
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping made in `new`.
            unsafe { libc::munmap(self.start.cast(), 4 * PAGE) };
        }
    }

    #[test]
    fn h21_memory_that_was_truncated_reads_as_zeros_and_is_reported() {
        let (cut, whole) = (Mapping::new(), Mapping::new());
        let (guarded, other) = (cut.guard(), whole.guard());
        for page in 0..4 {
            cut.write(page * PAGE + 7, 0x77);
            whole.write(page * PAGE + 7, 0x77);
        }
        assert!(!guarded.hit());
        ftruncate(&cut.file, PAGE as u64).unwrap();
        assert_eq!((cut.read(7), guarded.hit()), (0x77, false), "what is left is as it was");
        assert_eq!((cut.read(2 * PAGE + 7), guarded.hit()), (0, true));
        cut.write(3 * PAGE, 0x33);
        assert_eq!((cut.read(3 * PAGE), cut.read(4 * PAGE - 1)), (0x33, 0), "writing goes on too");
        assert_eq!((whole.read(2 * PAGE + 7), other.hit()), (0x77, false), "nobody else's memory");
        drop(guarded);
        assert!(!whole.guard().hit(), "a slot that is used again begins anew");
    }

    /// Set in the process that is to die, which runs the same test.
    const VICTIM: &str = "TURNPIKE_TEST_FAULT";

    #[test]
    fn a_fault_outside_registered_memory_still_kills() {
        if let Ok(role) = std::env::var(VICTIM) {
            return fault(&role);
        }
        let name = "guest::fault::tests::a_fault_outside_registered_memory_still_kills";
        for role in ["never guarded", "no longer guarded"] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", name]).env(VICTIM, role);
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{role}: {status}");
        }
    }

    fn fault(role: &str) {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid rlimit. Nobody wants the core.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        let (safe, cut) = (Mapping::new(), Mapping::new());
        let _installed = safe.guard();
        if role == "no longer guarded" {
            drop(cut.guard());
        }
        ftruncate(&cut.file, 0).unwrap();
        cut.read(0);
    }
}
