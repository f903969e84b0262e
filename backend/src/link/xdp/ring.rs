//! One ring of an `AF_XDP` socket: fixed places in memory that kernel and switch share, one of them putting in, the other taking out.
//!
//! Invariants: an index of the kernel's is only ever used as a distance, and never believed to be more than the ring has places; a place is
//! found by the index's low bits. So whatever the kernel writes, no memory beyond the ring is touched.
//!
//! Threading: whoever holds a [`Producer`] or [`Consumer`] is the only one of this side. What each has done is in the shared memory, so another
//! process goes on where this one stopped.

use std::io;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Most bytes that the kernel may have in front of a ring's places.
const MOST_BEFORE: u64 = 4096;

/// A mapping of memory that others write to, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) base: NonNull<u8>,
    pub(super) len: usize,
}

// SAFETY: an address and a length; who may touch what is the business of those who hold it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on, all of them backed by memory at once.
    pub(super) fn new(file: &OwnedFd, len: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping wherever there is room.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, of this length; whoever had addresses in it has them no more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The shared part of a ring with places of type `T`, which are plain integers.
#[derive(Debug)]
pub(super) struct Ring<T> {
    memory: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    places: usize,
    mask: u32,
    _of: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps the ring with `count` places, a power of two, which the socket has at `page_offset`.
    pub(super) fn map(
        socket: &OwnedFd,
        offsets: &libc::xdp_ring_offset,
        page_offset: libc::off_t,
        count: u32,
    ) -> io::Result<Self> {
        if offsets.desc > MOST_BEFORE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let len = offsets.desc as usize + count as usize * size_of::<T>();
        Self::over(Mapping::new(socket, len, page_offset)?, offsets, count)
    }

    fn over(memory: Mapping, offsets: &libc::xdp_ring_offset, count: u32) -> io::Result<Self> {
        let places = offsets.desc as usize;
        let fits = |word: u64| word.is_multiple_of(4) && word + 4 <= offsets.desc;
        let sound = count.is_power_of_two()
            && fits(offsets.producer)
            && fits(offsets.consumer)
            && fits(offsets.flags)
            && places.is_multiple_of(align_of::<T>())
            && count as usize * size_of::<T>() + places <= memory.len;
        if !sound {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let [producer, consumer, flags] =
            [offsets.producer, offsets.consumer, offsets.flags].map(|at| at as usize);
        Ok(Self { memory, producer, consumer, flags, places, mask: count - 1, _of: PhantomData })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `over` has checked that the word lies in the mapping, aligned; both sides access it atomically only.
        unsafe { AtomicU32::from_ptr(self.memory.base.add(at).cast().as_ptr()) }
    }

    fn place(&self, index: u32) -> NonNull<T> {
        let number = (index & self.mask) as usize;
        // SAFETY: the masked number is below the count of places, which lie in the mapping, as `over` has checked.
        unsafe { self.memory.base.add(self.places + number * size_of::<T>()).cast() }
    }

    /// Whether the kernel wants to be told that there is something new.
    fn wants_wake_up(&self) -> bool {
        // What was published comes before the look at the flag: a kernel that sets it looks at the ring again.
        fence(Ordering::SeqCst);
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end where things are put in.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    next: u32,
    /// Places that are free, at least.
    room: u32,
}

impl<T: Copy> Producer<T> {
    /// Goes on where the producer is.
    pub(super) fn new(ring: Ring<T>) -> Self {
        let next = ring.word(ring.producer).load(Ordering::Relaxed);
        Self { ring, next, room: 0 }
    }

    /// What the other end has not taken yet of what was published.
    pub(super) fn waiting(&self) -> u32 {
        let taken = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.ring.word(self.ring.producer).load(Ordering::Relaxed).wrapping_sub(taken)
    }

    /// Puts something in; false if there is no room. The other end sees it when it is published.
    pub(super) fn put(&mut self, value: T) -> bool {
        if self.room == 0 {
            let taken = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
            self.room = (self.ring.mask + 1).saturating_sub(self.next.wrapping_sub(taken));
            if self.room == 0 {
                return false;
            }
        }
        // SAFETY: the place is in the mapping, and ours until it is published: the other end has taken what was there.
        unsafe { self.ring.place(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
        self.room -= 1;
        true
    }

    /// Lets the other end see what was put in.
    pub(super) fn publish(&self) {
        self.ring.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel wants to be told that there is something new.
    pub(super) fn wants_wake_up(&self) -> bool {
        self.ring.wants_wake_up()
    }
}

/// The end where things are taken out.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
    /// Things that are there, at least.
    there: u32,
}

impl<T: Copy> Consumer<T> {
    /// Goes on where the consumer is.
    pub(super) fn new(ring: Ring<T>) -> Self {
        let next = ring.word(ring.consumer).load(Ordering::Relaxed);
        Self { ring, next, there: 0 }
    }

    /// Takes the oldest thing out. Its place goes back with [`Consumer::release`].
    pub(super) fn take(&mut self) -> Option<T> {
        if self.there == 0 {
            let put = self.ring.word(self.ring.producer).load(Ordering::Acquire);
            self.there = put.wrapping_sub(self.next).min(self.ring.mask + 1);
            if self.there == 0 {
                return None;
            }
        }
        // SAFETY: the place is in the mapping, and any bits are a valid `T`; the other end does not write there before it is released.
        let value = unsafe { self.ring.place(self.next).read() };
        self.next = self.next.wrapping_add(1);
        self.there -= 1;
        Some(value)
    }

    /// Gives the places of what was taken out to the other end.
    pub(super) fn release(&self) {
        self.ring.word(self.ring.consumer).store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const OFFSETS: libc::xdp_ring_offset =
        libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 192, flags: 128 };

    fn memory(len: u64) -> OwnedFd {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len).unwrap();
        file
    }

    /// Both ends of a ring of eight places.
    fn ends(start: u32) -> (Producer<u64>, Consumer<u64>) {
        let file = memory(4096);
        let ring = || Ring::map(&file, &OFFSETS, 0, 8).unwrap();
        for at in [OFFSETS.producer, OFFSETS.consumer] {
            ring().word(at as usize).store(start, Ordering::Relaxed);
        }
        (Producer::new(ring()), Consumer::new(ring()))
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_of_bounded_length(
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 3), any::<u32>()],
            steps in prop::collection::vec((any::<bool>(), 1_usize..12), 0..60),
        ) {
            let (mut producer, mut consumer) = ends(start);
            // What the other end sees; what it has taken but not given back.
            let (mut queue, mut next) = (VecDeque::new(), 0_u64);
            for (put, count) in steps {
                if put {
                    for _ in 0..count {
                        prop_assert_eq!(producer.put(next), queue.len() < 8);
                        if queue.len() < 8 {
                            queue.push_back(next);
                            next += 1;
                        }
                    }
                    producer.publish();
                    prop_assert_eq!(producer.waiting() as usize, queue.len());
                } else {
                    for _ in 0..count {
                        prop_assert_eq!(consumer.take(), queue.pop_front());
                    }
                    consumer.release();
                }
            }
        }
    }

    #[test]
    fn what_is_not_published_is_not_seen_and_a_place_not_released_not_used_again() {
        let (mut producer, mut consumer) = ends(5);
        assert!(producer.put(1));
        assert_eq!((consumer.take(), producer.waiting()), (None, 0));
        producer.publish();
        assert_eq!((consumer.take(), producer.waiting()), (Some(1), 1));
        assert_eq!((2..=9).filter(|&value| producer.put(value)).count(), 7, "one is taken, not released");
        consumer.release();
        assert!(producer.put(9));
    }

    #[test]
    fn indices_that_nobody_could_have_written_lead_nowhere() {
        let (mut producer, mut consumer) = ends(0);
        consumer.ring.word(OFFSETS.producer as usize).store(u32::MAX - 7, Ordering::Relaxed);
        consumer.take();
        assert_eq!(consumer.there, 7, "never more than there are places");
        producer.ring.word(OFFSETS.consumer as usize).store(77, Ordering::Relaxed);
        assert!(!producer.put(1), "more taken than there was: no room");
    }

    #[test]
    fn another_holder_goes_on_where_the_first_stopped() {
        let file = memory(4096);
        let ring = || Ring::<u64>::map(&file, &OFFSETS, 0, 8).unwrap();
        let mut producer = Producer::new(ring());
        (0..5).for_each(|value| assert!(producer.put(value)));
        producer.publish();
        let mut consumer = Consumer::new(ring());
        assert_eq!((consumer.take(), consumer.take()), (Some(0), Some(1)));
        consumer.release();
        drop((producer, consumer));
        let (mut producer, mut consumer) = (Producer::new(ring()), Consumer::new(ring()));
        assert!(producer.put(5));
        producer.publish();
        assert_eq!(std::iter::from_fn(|| consumer.take()).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn a_layout_that_does_not_hold_is_refused() {
        let file = memory(4096);
        let refused = |change: fn(&mut libc::xdp_ring_offset), count| {
            let mut offsets = OFFSETS;
            change(&mut offsets);
            let len = 4096;
            let mapping = Mapping::new(&file, len, 0).unwrap();
            Ring::<u64>::over(mapping, &offsets, count).is_err()
        };
        assert!(!refused(|_| (), 8));
        assert!(refused(|_| (), 0) && refused(|_| (), 7) && refused(|_| (), 512));
        assert!(refused(|o| o.producer = 190, 8) && refused(|o| o.consumer = 192, 8));
        assert!(refused(|o| o.flags = u64::from(u32::MAX), 8) && refused(|o| o.desc = 196, 8));
        assert!(Ring::<u64>::map(&file, &libc::xdp_ring_offset { desc: 1 << 40, ..OFFSETS }, 0, 8).is_err());
    }

    #[test]
    fn the_kernel_says_whether_it_wants_to_be_woken() {
        let (producer, _) = ends(0);
        assert!(!producer.wants_wake_up());
        producer.ring.word(OFFSETS.flags as usize).store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.wants_wake_up());
    }
}
