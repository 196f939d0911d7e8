//! Memory straight from the kernel: zeroed, on pages of its own, and none before it is touched.
//!
//! An allocator that is asked for zeroed memory on a page writes the zeros itself, and by that
//! touches every page.

use std::io;
use std::ptr::NonNull;

/// Maps `bytes` bytes, which are not 0.
pub(crate) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: without an address and without MAP_FIXED the kernel chooses a place where nothing is.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Gives the pages back.
///
/// # Safety
///
/// `map` gave `start` for as many `bytes`, and nobody uses them any more, the kernel neither.
pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It fails on no mapping that `map` has made.
    let _unmapped = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_touched_is_no_memory() {
        const PAGES: usize = 64;
        const PAGE: usize = 4096;
        let start = map(PAGES * PAGE).expect("memory");
        // SAFETY: inside of what was mapped just now.
        let sixth = unsafe { start.add(5 * PAGE) };
        // SAFETY: as above, and nobody else has it.
        unsafe { sixth.write(1) };
        let mut present = [0u8; PAGES];
        let bytes = PAGES * PAGE;
        // SAFETY: `present` has a place for each page; mincore(2) keeps no reference.
        let result = unsafe { libc::mincore(start.as_ptr().cast(), bytes, present.as_mut_ptr()) };
        assert_eq!(result, 0, "mincore: {}", io::Error::last_os_error());
        let touched: Vec<usize> = (0..PAGES).filter(|page| present[*page] & 1 == 1).collect();
        assert_eq!(touched, [5]);
        // SAFETY: mapped above, and not used again.
        unsafe { unmap(start, bytes) };
    }
}
