//! Readiness for the load program: many sockets, one thread.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::checked;

/// Interest in reading.
pub(crate) const READ: u32 = libc::EPOLLIN as u32;
/// Interest in writing.
pub(crate) const WRITE: u32 = libc::EPOLLOUT as u32;

/// A level-triggered epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll {
    /// Owned here and closed with it.
    fd: OwnedFd,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: epoll_create1 takes a number and touches no memory.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd })
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub(crate) fn change(&self, fd: RawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(&self, what: i32, fd: RawFd, token: u64, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: token,
        };
        // SAFETY: `event` is live for the call, which only reads it.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &mut event) };
        checked(result).map(drop)
    }

    /// Waits and puts the tokens and states of what is ready into `ready`.
    pub(crate) fn wait(
        &self,
        within: Option<Duration>,
        ready: &mut Vec<(u64, u32)>,
    ) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // Rounded up: a timer that is not due must not make this loop spin.
        let millis = within.map_or(-1, |d| d.as_micros().div_ceil(1000).min(60_000) as i32);
        let (fd, room) = (self.fd.as_raw_fd(), events.len() as i32);
        // SAFETY: `events` has room for as many entries as the call is told.
        let count = checked(unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), room, millis) })?;
        ready.clear();
        ready.extend(events[..count as usize].iter().map(|e| (e.u64, e.events)));
        Ok(())
    }
}
