//! The few system calls that the standard library lacks.

use std::io;
use std::time::Duration;

/// Binds the calling thread, and those it starts from now on, to `cpu`.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of processors is plain bits, and all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the macro checks the bound and touches only `set`.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set lives over the call, and the length is its own.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends SIGTERM to this process.
pub fn terminate_self() {
    let pid = std::process::id() as i32;
    // SAFETY: no memory is involved. It cannot fail: the process is there, and it is our own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// Lets an interrupt from the terminal pass: the process that started this one decides.
pub fn ignore_interrupts() {
    // SAFETY: no handler is installed, and no memory is involved.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

/// Ends this process by SIGALRM after `limit`, whatever hangs.
pub fn bound(limit: Duration) {
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(limit.as_secs() as u32 + 1) };
}

/// Makes the next close of the socket a reset.
pub fn reset_on_close(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = size_of_val(&linger) as libc::socklen_t;
    // SAFETY: the option's value lives over the call, and the length is its own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
