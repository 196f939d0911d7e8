//! Threads, as the kernel counts them.

/// The kernel's number of this thread: its name below `/proc/self/task`.
pub(crate) fn current_id() -> u32 {
    // SAFETY: gettid(2) takes nothing and always succeeds.
    let id = unsafe { libc::gettid() };
    id.unsigned_abs()
}

/// Processor time this thread has used (ns). It stands still while the thread waits, and while
/// another one has its processor.
pub(crate) fn cpu_ns() -> u64 {
    // Since Linux 2.6.12.
    super::read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}
