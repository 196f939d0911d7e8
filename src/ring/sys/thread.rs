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

/// Processor time another thread of this process has used (ns), by its number; 0 if it is gone.
pub(crate) fn cpu_ns_of(thread: u32) -> u64 {
    /// What marks a clock of one thread, rather than of a process, that counts what it ran: see
    /// clock_getres(2), and `pthread_getcpuclockid`, which makes the same number.
    const OF_THREAD: libc::clockid_t = 0b110;
    super::read_clock((!thread << 3) as libc::clockid_t | OF_THREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_is_seen_to_by_another() {
        let (before_ns, thread) = (cpu_ns(), current_id());
        while cpu_ns() < before_ns + 2_000_000 {}
        let seen_ns = std::thread::spawn(move || cpu_ns_of(thread));
        let seen_ns = seen_ns.join().expect("it ends");
        assert!((before_ns + 2_000_000..=cpu_ns()).contains(&seen_ns));
    }

    #[test]
    fn a_thread_that_is_gone_has_used_nothing() {
        let ended = std::thread::spawn(current_id).join().expect("it ends");
        // A join returns a moment before the kernel takes the thread off its list.
        let began = std::time::Instant::now();
        while cpu_ns_of(ended) != 0 {
            assert!(began.elapsed().as_secs() < 30, "it is still there");
            std::thread::yield_now();
        }
    }
}
