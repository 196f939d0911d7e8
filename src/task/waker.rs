//! Wakers: what a task hands out, for any thread, for as long as anybody likes.
//!
//! A waker is a pointer to the task and one reference. It keeps the memory, not the future. Waking
//! takes one of two ways, chosen by the thread it happens on: straight to the run queue, with no
//! atomic operation, or by the foreign queue and the alarm. No user code runs in here; a waker may
//! be cloned, used and dropped wherever something is borrowed.

use std::ptr::{self, NonNull};
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::header::Header;
use super::raw::{Task, release};
use super::state::Notify;

/// One table for all tasks, so that `Waker::will_wake` recognises a task by its address.
static WAKER: RawWakerVTable = RawWakerVTable::new(clone_waker, wake, wake_by_ref, drop_waker);

/// A waker of the task, with a reference that the caller has counted.
pub(super) fn raw_waker(pointer: NonNull<Header>) -> RawWaker {
    RawWaker::new(pointer.as_ptr().cast_const().cast(), &WAKER)
}

/// The task of a waker.
///
/// # Safety
///
/// The data is that of a waker made by [`raw_waker`].
unsafe fn task_of(data: *const ()) -> NonNull<Header> {
    // SAFETY: `raw_waker` made the data from a `NonNull`.
    unsafe { NonNull::new_unchecked(data.cast_mut().cast()) }
}

/// # Safety
///
/// As for every function of [`WAKER`]: the data is that of a waker of ours, which exists during
/// the call, and thereby a reference to the task.
unsafe fn clone_waker(data: *const ()) -> RawWaker {
    // SAFETY: the data is a waker's.
    let pointer = unsafe { task_of(data) };
    // SAFETY: the waker that is cloned keeps the task alive.
    unsafe { pointer.as_ref() }.retain();
    raw_waker(pointer)
}

/// # Safety
///
/// See [`clone_waker`]; the waker is used up.
unsafe fn wake(data: *const ()) {
    // SAFETY: the same waker, which exists until the next line.
    unsafe { wake_by_ref(data) };
    // SAFETY: the same waker, which ends here.
    unsafe { drop_waker(data) };
}

/// # Safety
///
/// See [`clone_waker`].
unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the data is a waker's.
    let pointer = unsafe { task_of(data) };
    // SAFETY: the waker keeps the task alive during the call.
    let header = unsafe { pointer.as_ref() };
    header.life.used();
    if header.shared.is_here() {
        // SAFETY: this is the owner's thread, and the waker keeps the task alive during the call.
        // The run queue keeps a copy only of a task that is not over, whose core holds a reference.
        let task = unsafe { Task::on_owner(pointer) };
        task.local().enqueue(task);
    } else if header.state.notify() == Notify::Push {
        // SAFETY: `notify` has just counted a reference for the foreign queue, and says that the
        // task is not in there. The waker keeps the task, and by it the queue, during the call.
        unsafe { header.shared.push_foreign(pointer) };
    }
}

/// # Safety
///
/// See [`clone_waker`]; the waker is used up.
unsafe fn drop_waker(data: *const ()) {
    // SAFETY: the data is a waker's.
    let pointer = unsafe { task_of(data) };
    // SAFETY: the waker's reference is given up with it.
    unsafe { release(pointer) };
}

/// The task of `waker`, if it is one of a task of any core. The waker keeps it alive.
#[inline]
pub(super) fn task_of_waker(waker: &Waker) -> Option<NonNull<Header>> {
    if !ptr::eq(waker.vtable(), &raw const WAKER) {
        return None;
    }
    // SAFETY: the table is ours, so `raw_waker` made the data.
    Some(unsafe { task_of(waker.data()) })
}

/// A waker of the task.
///
/// # Safety
///
/// The caller holds a reference to the task, which goes to the waker.
pub(super) unsafe fn waker_of(pointer: NonNull<Header>) -> Waker {
    // SAFETY: the functions of the table keep the contract of wakers, and the reference that they
    // want is the caller's.
    unsafe { Waker::from_raw(raw_waker(pointer)) }
}
