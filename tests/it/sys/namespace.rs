//! A network of its own, for what is started in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::checked;

/// A net namespace. It lives as long as this, or as whatever runs in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// What names it.
    file: File,
}

impl Namespace {
    /// The one this thread is in.
    pub(crate) fn here() -> io::Result<Namespace> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Namespace { file })
    }

    /// A new one, with nothing in it; this thread stays where it is.
    pub(crate) fn new() -> io::Result<Namespace> {
        let here = Namespace::here()?;
        // SAFETY: unshare takes a number and touches no memory.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        let new = Namespace::here();
        here.enter()?;
        new
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What `act` gives, done there: what it opens, starts and spawns is of
    /// that network for good.
    pub(crate) fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        let here = Namespace::here().expect("this thread is in some network");
        self.enter().expect("an own network can be entered");
        let result = act();
        here.enter().expect("there is a way back");
        result
    }

    fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes two numbers and touches no memory.
        checked(unsafe { libc::setns(self.fd(), libc::CLONE_NEWNET) }).map(drop)
    }
}
