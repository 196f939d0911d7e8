//! Every call into libc that the crate makes, each behind a safe function.
//!
//! The functions take and give owned or borrowed descriptors, so no caller can name a descriptor
//! that is not open. Errors are the kernel's errno, untouched.

pub(crate) mod clock;
pub(crate) mod dead_man;
pub(crate) mod event;
pub(crate) mod forward;
pub(crate) mod pages;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod thread;

use std::io;

/// Turns the -1 of a libc call into the errno behind it.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The locked-memory limit of this process in bytes, for the message of a refused ring.
pub(crate) fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit that the call fills in; getrlimit(2) keeps no reference.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// What a clock of the kernel's says (ns); 0 if there is no such clock.
#[inline]
fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes one timespec, and `time` is one; it keeps no reference. If it
    // fails `time` stays 0.
    let _always = unsafe { libc::clock_gettime(clock, &raw mut time) };
    // None of the clocks that are asked for is ever negative.
    (time.tv_sec as u64).wrapping_mul(1_000_000_000) + time.tv_nsec as u64
}
