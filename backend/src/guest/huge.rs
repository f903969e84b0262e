//! Large tables in huge pages.
//!
//! A flow cache, the forwarding database or a million lookup records are megabytes that are looked into at random, so most look-ups would
//! miss the TLB, which costs more than the look-up itself. The kernel gives huge pages to those who ask (`madvise` is how it is set up
//! nearly everywhere), for whole aligned pieces of 2 MiB; so large allocations are aligned to that, and asked for.
//!
//! What is to be zeroed is left to the system's allocator: it gets such memory zeroed from the kernel, page by page as it is used.

use std::alloc::{GlobalAlloc, Layout, System};

/// Size of a huge page, and from which size on they are asked for.
const HUGE: usize = 2 << 20;

/// The alignment that C's allocator gives anything.
const ANYTHING: usize = 16;

/// The system's allocator, which asks for huge pages.
#[derive(Clone, Copy, Debug)]
pub struct HugePages;

/// Whether memory of this layout is C's: all four operations below decide by this alone.
fn large(layout: Layout) -> bool {
    layout.size() >= HUGE && layout.align() <= HUGE
}

// SAFETY: memory of a large layout comes from C's `posix_memalign` or `calloc` and goes to `free`; every other memory comes from and goes to the
// system's allocator with the layout it was asked for. Which of the two depends on the layout only, and `realloc` between the two copies.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !large(layout) {
            // SAFETY: the caller's own promise.
            return unsafe { System.alloc(layout) };
        }
        let mut memory = std::ptr::null_mut();
        // SAFETY: `memory` may be written; `HUGE` is a power of two and a multiple of a pointer's size.
        if unsafe { libc::posix_memalign(&raw mut memory, HUGE, layout.size()) } != 0 {
            return std::ptr::null_mut();
        }
        // SAFETY: the range is what was just allocated, and begins at a page; advice changes nothing in it.
        unsafe { libc::madvise(memory, layout.size(), libc::MADV_HUGEPAGE) };
        memory.cast()
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if large(layout) {
            // SAFETY: a large layout's memory is from `posix_memalign` or `calloc`.
            unsafe { libc::free(memory.cast()) }
        } else {
            // SAFETY: the caller's own promise, and not large, so from the system's allocator with this layout.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !large(layout) {
            // SAFETY: the caller's own promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        if layout.align() <= ANYTHING {
            // SAFETY: any size may be asked for; the alignment is what `calloc` gives.
            return unsafe { libc::calloc(1, layout.size()).cast() };
        }
        // SAFETY: the caller's own promise, and if there is memory, it has this size.
        unsafe {
            let memory = self.alloc(layout);
            if !memory.is_null() {
                memory.write_bytes(0, layout.size());
            }
            memory
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, is no overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !large(layout) && !large(wanted) {
            // SAFETY: the caller's own promise, and from the system's allocator.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller promises that the size is not zero.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are valid for the smaller of the two sizes and do not overlap; the old memory is freed once, by its layout.
            unsafe {
                std::ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_begins_at_a_huge_page_and_small_memory_where_it_may() {
        for (size, aligned) in [(HUGE - 1, false), (HUGE, true), (5 * HUGE + 7, true)] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: the size is not zero; the memory is used within it and freed with its layout.
            unsafe {
                let memory = HugePages.alloc(layout);
                assert!(!memory.is_null());
                memory.write(1);
                memory.add(size - 1).write(1);
                assert!(!aligned || memory.addr().is_multiple_of(HUGE), "{size}");
                let memory = HugePages.realloc(memory, layout, size + 4096);
                assert_eq!(memory.add(size - 1).read(), 1);
                HugePages.dealloc(memory, Layout::from_size_align(size + 4096, 8).unwrap());
            }
        }
    }

    #[test]
    fn memory_of_any_origin_is_freed_alike() {
        let layout = Layout::from_size_align(3 * HUGE, 8).unwrap();
        // SAFETY: as above.
        unsafe {
            let zeroed = HugePages.alloc_zeroed(layout);
            assert_eq!(zeroed.add(3 * HUGE - 1).read(), 0);
            HugePages.dealloc(zeroed, layout);
        }
    }
}
