//! The system calls that tests need and the standard library has not.

mod counted;
mod epoll;
mod frames;
pub(crate) mod link;
mod namespace;
mod sandbox;
mod signals;
mod waker;
mod wedge;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub(crate) use counted::lent;
pub(crate) use epoll::{Epoll, READ, WRITE};
pub(crate) use frames::Wire;
pub(crate) use namespace::Namespace;
pub(crate) use sandbox::{
    become_another_user, drop_capabilities, enter_namespaces, make_next_child_pid_one,
    refuse_io_uring, refuse_io_uring_enter,
};
pub(crate) use signals::{
    begin_ignoring, count_deliveries, deliveries, die_with_starter, kill_thread, queue,
    signal_before_exec, signal_by_timer, signals_in, this_thread, unblock,
};
pub(crate) use waker::waker_that_cannot_be_cloned;
pub(crate) use wedge::{catch, caught_real_time_signals, prepare_to_wedge, wedge_first_thread};

/// The errno of the last call, when it returned -1.
pub(crate) fn checked(result: i32) -> io::Result<i32> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Lets the kernel kill this process when its parent's thread has ended, so
/// that a killed test run leaves no servers behind.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: this operation of prctl takes a number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    checked(result).map(drop)
}

/// Asks that this process and its children get a processor before others do,
/// or, with 0, as others do. Only the privileged may ask the first.
pub(crate) fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: setpriority takes three numbers and touches no memory.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    checked(result).map(drop)
}

/// Sends `signal` to a process that the caller has not reaped yet.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of this process.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    checked(result).map(drop)
}

/// Waits until the child `pid` has ended, without reaping it. False when it
/// still runs after `within`.
pub(crate) fn wait_for_exit(pid: u32, within: Duration) -> io::Result<bool> {
    // SAFETY: pidfd_open takes two numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = checked(fd as i32)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    wait_readable(fd.as_raw_fd(), within)
}

/// Waits until one of `fds` is readable, at most for `within`; which ones are.
pub(crate) fn wait_for_any<const N: usize>(
    fds: &[RawFd; N],
    within: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let within = within.map(|within| libc::timespec {
        tv_sec: within.as_secs() as libc::time_t,
        tv_nsec: within.subsec_nanos().into(),
    });
    let within = within.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = N as libc::nfds_t;
    // SAFETY: `polls` has as many entries as the call is told, `within` is
    // null or a live timespec, and a null mask leaves the signals as they are.
    let result = unsafe { libc::ppoll(polls.as_mut_ptr(), count, within, std::ptr::null()) };
    checked(result)?;
    Ok(polls.map(|poll| poll.revents != 0))
}

/// Waits until `fd` is readable.
fn wait_readable(fd: RawFd, within: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one live pollfd, and the count says so.
    let result = unsafe { libc::poll(&mut poll, 1, within.as_millis() as i32) };
    checked(result).map(|ready| ready == 1)
}

/// Bytes in the send queue of a TCP socket that the peer's kernel has not
/// acknowledged (`SIOCOUTQ`).
pub(crate) fn unacknowledged(fd: RawFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ by another name, writes one int,
    // and `bytes` is one.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut bytes) };
    checked(result)?;
    Ok(bytes.max(0) as u64)
}

/// The highest resident size that process `pid` has had, in bytes.
pub(crate) fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("a live process has a status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|n| n.parse().ok()).expect("VmHWM in kB");
    kib * 1024
}

/// Limits how many descriptors this process may have open.
pub(crate) fn limit_fds(most: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: `limit` is a live rlimit, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    checked(result).map(drop)
}

/// Limits how much memory this process may lock; for a ring that counts only
/// without capabilities.
pub(crate) fn limit_locked_memory(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: `limit` is a live rlimit, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
    checked(result).map(drop)
}

/// Lets this thread have its processor only while nobody else wants it.
pub(crate) fn run_only_when_idle() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: `priority` is a live sched_param, which the call only reads.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) };
    checked(result).map(drop)
}

/// Allows this process as many descriptors as it may allow itself.
pub(crate) fn raise_fd_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit, which the call fills.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live rlimit, which the call only reads.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Lets this process open no descriptor of number `most` or above, until it is
/// let again.
pub(crate) fn limit_fds_for_now(most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit, which the call fills in.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: `limit` is a live rlimit, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    checked(result).map(drop)
}

/// How many descriptors this process has open.
pub(crate) fn open_fds() -> usize {
    let listing = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    // The listing's own descriptor is in it each time.
    listing.count()
}
