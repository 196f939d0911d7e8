//! A waker that is worse than any that safe code can make.

use std::task::{RawWaker, RawWakerVTable, Waker};

/// A waker whose clone panics. It wakes nobody, and its destructor does nothing.
pub(crate) fn waker_that_cannot_be_cloned() -> Waker {
    fn clone(_: *const ()) -> RawWaker {
        panic!("a waker that cannot be cloned");
    }
    fn nothing(_: *const ()) {}
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, nothing, nothing, nothing);
    // SAFETY: none of the functions looks at the pointer, and each may be called by any thread.
    unsafe { Waker::new(std::ptr::null(), &TABLE) }
}
