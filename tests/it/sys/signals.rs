//! Signals as the standard library does not send, mask or ignore them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::checked;

/// Deliveries that the handler of [`count_deliveries`] has seen.
static DELIVERIES: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_one(_signal: libc::c_int) {
    DELIVERIES.fetch_add(1, Ordering::AcqRel);
}

/// Gives `signal` a handler that counts, and nothing else.
pub(crate) fn count_deliveries(signal: i32) -> io::Result<()> {
    // SAFETY: all zeros are a value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = count_one;
    action.sa_sigaction = handler as usize;
    // SAFETY: `action` is live for the call, and its handler touches one atomic.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    checked(result).map(drop)
}

/// What the handler of [`count_deliveries`] has counted.
pub(crate) fn deliveries() -> u32 {
    DELIVERIES.load(Ordering::Acquire)
}

/// Sends `signal` to a process with a value, as sigqueue(3) does.
pub(crate) fn queue(pid: u32, signal: i32) -> io::Result<()> {
    let value = libc::sigval {
        sival_ptr: std::ptr::null_mut(),
    };
    // SAFETY: sigqueue touches no memory of this process.
    let result = unsafe { libc::sigqueue(pid as libc::pid_t, signal, value) };
    checked(result).map(drop)
}

/// Sends `signal` to one thread of a process.
pub(crate) fn kill_thread(pid: u32, thread: u32, signal: i32) -> io::Result<()> {
    // SAFETY: tgkill takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, signal) };
    checked(result as i32).map(drop)
}

/// The kernel's number of this thread.
pub(crate) fn this_thread() -> u32 {
    // SAFETY: gettid takes nothing.
    let id = unsafe { libc::gettid() };
    id.unsigned_abs()
}

/// Lets this thread take `signal`.
pub(crate) fn unblock(signal: i32) -> io::Result<()> {
    // SAFETY: all zeros are a value of this plain struct, the empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live set, and a number that is no signal an error.
    checked(unsafe { libc::sigaddset(&mut set, signal) })?;
    // SAFETY: `set` is live for the call, and the old set is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Makes `command` begin with `signals` ignored, as nohup(1) and shells do.
pub(crate) fn begin_ignoring(command: &mut Command, signals: &'static [i32]) {
    let ignore = move || {
        for signal in signals {
            // SAFETY: signal(2) with SIG_IGN touches no memory.
            if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe system calls only.
    unsafe { command.pre_exec(ignore) };
}

/// Makes the child of `command` send itself `signal` before its program begins.
pub(crate) fn signal_before_exec(command: &mut Command, signal: i32) {
    // SAFETY: raise takes a number.
    let raise = move || checked(unsafe { libc::raise(signal) }).map(drop);
    // SAFETY: the closure makes one async-signal-safe call.
    unsafe { command.pre_exec(raise) };
}

/// Makes `command` die with the thread that starts it.
pub(crate) fn die_with_starter(command: &mut Command) {
    // SAFETY: the closure makes one async-signal-safe system call.
    unsafe { command.pre_exec(super::die_with_parent) };
}

/// Lets a timer send this thread `signal` once, after `left`. The kernel
/// numbers a process's timers from 0, and this one's number is not 0.
pub(crate) fn signal_by_timer(signal: i32, left: Duration) -> io::Result<()> {
    // SAFETY: all zeros are a value of this plain struct.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_notify_thread_id = this_thread() as libc::c_int;
    event.sigev_signo = signal;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    for _ in 0..8 {
        // SAFETY: both are live for the call, which copies the one and fills
        // in the other.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        checked(result)?;
    }
    // SAFETY: all zeros are a value of this plain struct: once, not again.
    let mut times: libc::itimerspec = unsafe { std::mem::zeroed() };
    times.it_value.tv_nsec = left.as_nanos() as libc::c_long;
    // SAFETY: the timer lives as long as this process, `times` for the call.
    let result = unsafe { libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) };
    checked(result).map(drop)
}

/// The signals that process `pid` has in the mask `name` of its status
/// (`SigBlk`, `SigIgn`, `SigCgt`), each below 32: those that all programs know.
pub(crate) fn signals_in(pid: u32, name: &str) -> Vec<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("a live process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let mask = line.and_then(|line| line.strip_prefix(':'));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.expect("a mask of signals");
    // The lowest bit is signal 1.
    let has = |signal: &i32| mask >> (signal - 1) & 1 == 1;
    (1..32).filter(has).collect()
}
