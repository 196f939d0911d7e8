//! Threads that do not move any more.

use std::io;

use super::checked;

/// Waits for ever, in whatever thread is told to. Other signals are handled
/// meanwhile.
extern "C" fn wait_for_ever(_signal: libc::c_int) {
    loop {
        // SAFETY: pause takes nothing, and is async-signal-safe.
        unsafe { libc::pause() };
    }
}

/// Does nothing about it.
extern "C" fn pass_over(_signal: libc::c_int) {}

/// Makes SIGUSR2 wedge the thread that gets it.
pub(crate) fn prepare_to_wedge() -> io::Result<()> {
    handle(libc::SIGUSR2, wait_for_ever)
}

/// Makes `signal` do nothing where nobody else has taken it over.
pub(crate) fn catch(signal: i32) -> io::Result<()> {
    handle(signal, pass_over)
}

/// Every `handler` here makes async-signal-safe calls only, or none.
fn handle(signal: i32, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: all zeros are a value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // SAFETY: `action` is live for the call, and its handler may run at any
    // time: this function's comment says what those do.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    checked(result).map(drop)
}

/// Wedges the first thread of this process.
pub(crate) fn wedge_first_thread() -> io::Result<()> {
    // SAFETY: getpid takes nothing.
    let first = unsafe { libc::getpid() };
    // SAFETY: tgkill takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, first, first, libc::SIGUSR2) };
    checked(result as i32).map(drop)
}

/// The real-time signals that this process has a handler for, as a mask.
pub(crate) fn caught_real_time_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The lowest bit is signal 1; 32 and 33 are the C library's.
    mask.expect("SigCgt is a mask") >> 33
}
