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
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes one timespec, and `time` is one. It fails only for a clock
    // that does not exist, which this one does since Linux 2.6.12; then `time` stays 0.
    let _always = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
