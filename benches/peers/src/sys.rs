//! The few system calls that the standard library lacks; besides `ring`, the only file with unsafe
//! code.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

/// What a call that gives -1 on failure gave.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Binds the calling thread, and those it starts from now on, to these processors.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: a set of processors is plain bits, and all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: the macro checks the bound and touches only `set`.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set lives over the call, and the length is its own.
    checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// The set that holds SIGTERM only.
fn term() -> libc::sigset_t {
    // SAFETY: plain bits; `sigemptyset` below makes them a valid set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: the set is ours and was made empty above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
    set
}

/// Blocks SIGTERM on this thread and all it starts, so that [`wait_for_term`] gets it.
pub fn block_term() -> io::Result<()> {
    let set = term();
    // SAFETY: the set lives over the call; no old set is asked for.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// Waits for a SIGTERM that [`block_term`] holds back.
pub fn wait_for_term() -> io::Result<()> {
    let set = term();
    let mut signal = 0;
    // SAFETY: both live over the call.
    let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// The clock that all processes of a machine share, in ns.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer is ours and of the right type; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The calling thread, as the kernel and its tools name it.
pub fn thread_id() -> i32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Interrupts a child that was not waited for yet, as Ctrl-C does.
pub fn interrupt(pid: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; the child is a zombie at the worst, so the id is still its own.
    checked(unsafe { libc::kill(pid as i32, libc::SIGINT) })?;
    Ok(())
}

/// Sends SIGTERM to a child that was not waited for yet.
pub fn terminate(pid: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; the child is a zombie at the worst, so the id is still its own.
    checked(unsafe { libc::kill(pid as i32, libc::SIGTERM) })?;
    Ok(())
}

/// What a process used of the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// In user mode, in µs.
    pub user_us: u64,
    /// In the kernel, in µs.
    pub sys_us: u64,
}

impl Usage {
    /// All of it, in µs.
    pub fn total_us(self) -> u64 {
        self.user_us + self.sys_us
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            sys_us: self.sys_us.saturating_sub(earlier.sys_us),
        }
    }
}

/// Of whom [`usage`] tells.
#[derive(Clone, Copy)]
pub enum Who {
    /// The whole process.
    Process,
    /// The calling thread.
    Thread,
}

/// What was used up to now.
pub fn usage(who: Who) -> io::Result<Usage> {
    let who = match who {
        Who::Process => libc::RUSAGE_SELF,
        Who::Thread => libc::RUSAGE_THREAD,
    };
    // SAFETY: plain numbers, all of which may be zero.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is ours and of the right type.
    checked(unsafe { libc::getrusage(who, &raw mut usage) })?;
    Ok(of(&usage))
}

/// The two times of a `rusage`.
fn of(usage: &libc::rusage) -> Usage {
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Usage {
        user_us: us(usage.ru_utime),
        sys_us: us(usage.ru_stime),
    }
}

/// Waits for a child, and gives its exit code (minus the signal, if one ended it) and all it used.
pub fn wait_for_child(pid: u32) -> io::Result<(i32, Usage)> {
    let mut status = 0;
    // SAFETY: plain numbers, all of which may be zero.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both buffers are ours and of the right type.
    checked(unsafe { libc::wait4(pid as i32, &raw mut status, 0, &raw mut usage) })?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    };
    Ok((code, of(&usage)))
}

/// A descriptor that becomes readable when the process ends.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = checked(fd as i32)?;
    // SAFETY: the call made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until `fd` is readable; false if it is not within `limit`.
pub fn wait_readable(fd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, ours.
    let ready = checked(unsafe { libc::poll(&raw mut entry, 1, limit.as_millis() as i32) })?;
    Ok(ready > 0)
}

/// Starts a child that the kernel kills when the calling thread ends, so that an interrupted bench
/// leaves no server behind.
pub fn spawn_tied(command: &mut Command) -> io::Result<Child> {
    let tie = || {
        // SAFETY: no memory is involved.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        Ok(())
    };
    // SAFETY: between fork and exec only one system call is made, and it allocates nothing.
    unsafe { command.pre_exec(tie) };
    command.spawn()
}

/// Ends this process by SIGALRM after `limit`, whatever hangs.
pub fn bound(limit: Duration) {
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(limit.as_secs() as u32 + 1) };
}

/// A descriptor that [`ring_bell`] makes readable.
pub fn bell() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `bell` readable.
pub fn ring_bell(bell: &OwnedFd) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the eight bytes live over the call.
    let wrote = unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    checked(wrote as i32)?;
    Ok(())
}

/// Raises the limit of open descriptors as far as this process may, and gives it.
pub fn raise_nofile(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the buffer is ours and of the right type.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit {
        rlim_cur: wanted,
        rlim_max: limit.rlim_max.max(wanted),
    };
    // SAFETY: the buffer lives over the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        return Ok(wanted);
    }
    // Not privileged: up to the hard limit everybody may.
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the buffer lives over the call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// The bytes that the allocator has lent out, in all its arenas.
pub fn heap_bytes() -> u64 {
    // SAFETY: reads the allocator's own books, under its locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

/// An epoll instance, level-triggered.
pub struct Epoll {
    /// Open as long as this lives.
    fd: OwnedFd,
}

impl Epoll {
    /// A new one, empty.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is involved.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call made this descriptor, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd })
    }

    /// Watches `fd` for `events`, which are reported with `token`.
    pub fn add(&self, fd: RawFd, events: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Watches `fd` for other events.
    pub fn change(&self, fd: RawFd, events: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// One `epoll_ctl`.
    fn control(&self, verb: i32, fd: RawFd, events: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: the event lives over the call.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), verb, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events, for ever if there is no limit, and gives those there are.
    pub fn wait<'a>(
        &self,
        events: &'a mut [libc::epoll_event],
        limit: Option<Duration>,
    ) -> io::Result<&'a [libc::epoll_event]> {
        let limit_ms = limit.map_or(-1, |limit| limit.as_millis().min(i32::MAX as u128) as i32);
        let room = events.len() as i32;
        // SAFETY: the buffer is as long as is said.
        let found =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), room, limit_ms) };
        match checked(found) {
            Ok(found) => Ok(&events[..found as usize]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }
}

/// Room for the events of one [`Epoll::wait`].
pub fn room_for_events(count: usize) -> Vec<libc::epoll_event> {
    vec![libc::epoll_event { events: 0, u64: 0 }; count]
}
