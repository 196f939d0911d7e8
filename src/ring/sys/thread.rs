//! Threads, as the kernel counts them.

/// The kernel's number of this thread: its name below `/proc/self/task`.
pub(crate) fn current_id() -> u32 {
    // SAFETY: gettid(2) takes nothing and always succeeds.
    let id = unsafe { libc::gettid() };
    id.unsigned_abs()
}
