//! Buffers whose end can be watched: freeing one poisons its memory and keeps it, so that a
//! write that comes afterwards leaves its mark.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

/// What O_DIRECT asks of an address, on any device there is.
const ALIGNMENT: usize = 4096;

/// What freed memory is filled with.
pub(crate) const POISON: u8 = 0xa5;

/// Where freed buffers stay until the test is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine(Rc<RefCell<Vec<Memory>>>);

impl Quarantine {
    /// A zeroed buffer that will be kept here.
    pub(crate) fn buffer(&self, len: usize) -> Buffer {
        Buffer {
            memory: Some(Memory::new(len)),
            quarantine: self.clone(),
        }
    }

    /// How many buffers were freed.
    pub(crate) fn freed(&self) -> usize {
        self.0.borrow().len()
    }

    /// How many buffers somebody wrote to after they were freed.
    pub(crate) fn touched(&self) -> usize {
        let freed = self.0.borrow();
        let is_touched = |memory: &&Memory| {
            let mut pieces = memory.bytes().chunks(ALIGNMENT);
            pieces.any(|piece| piece != &[POISON; ALIGNMENT][..piece.len()])
        };
        freed.iter().filter(is_touched).count()
    }

    /// Looks whether anybody wrote to a buffer after it was freed.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let (touched, count) = (self.touched(), self.freed());
        assert_eq!(touched, 0, "of {count} buffers, written to after the free");
    }
}

/// Memory lent to the kernel, poisoned and kept when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// `None` only inside `drop`.
    memory: Option<Memory>,
    /// Where the memory goes.
    quarantine: Quarantine,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.memory().layout.size()
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.memory().address.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory().address.as_ptr()
    }

    /// The bytes, while no kernel has them.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory().bytes()
    }

    /// The bytes, while no kernel has them.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("it is not dropped").bytes_mut()
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("it is not dropped")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(mut memory) = self.memory.take() {
            memory.bytes_mut().fill(POISON);
            self.quarantine.0.borrow_mut().push(memory);
        }
    }
}

/// Aligned bytes on the heap.
#[derive(Debug)]
struct Memory {
    /// The first byte; allocated with `layout`.
    address: NonNull<u8>,
    /// Not of size zero.
    layout: Layout,
}

impl Memory {
    fn new(len: usize) -> Memory {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).expect("a small buffer");
        // SAFETY: the layout's size is not zero (the line above).
        let address = unsafe { alloc_zeroed(layout) };
        let address = NonNull::new(address).unwrap_or_else(|| handle_alloc_error(layout));
        Memory { address, layout }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size in `new`, zeroed, and freed only in `drop`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.layout.size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and this is the one owner.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A test that has failed has perhaps found a kernel that still writes here.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: allocated with this layout in `new`, and this is the one owner.
        unsafe { dealloc(self.address.as_ptr(), self.layout) };
    }
}

#[test]
fn a_write_after_the_free_is_seen() {
    let quarantine = Quarantine::default();
    let mut buffer = quarantine.buffer(64 * 1024);
    let address = buffer.as_mut_ptr();
    drop(buffer);
    assert_eq!(quarantine.freed(), 1);
    quarantine.assert_untouched();
    // SAFETY: the quarantine keeps the memory, which is longer than that.
    let within = unsafe { address.add(4097) };
    // SAFETY: as above, and nobody looks at it meanwhile.
    unsafe { within.write_volatile(1) };
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        quarantine.assert_untouched();
    }));
    assert!(looked.is_err(), "the write left no mark");
}
