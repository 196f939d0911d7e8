//! Eventfds, and the poll(2) a thread without a ring waits in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// A counter that wakes whoever polls it.
#[derive(Debug)]
pub(crate) struct EventFd {
    /// A non-blocking, close-on-exec eventfd.
    fd: OwnedFd,
    /// What a model waits for in the place of the kernel. Notified with each ring.
    #[cfg(loom)]
    rung: loom::sync::Notify,
}

impl EventFd {
    /// A counter at zero.
    pub(crate) fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd(2) takes no pointer; a bad flag would be an error, not undefined.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor was made by the line above and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(EventFd {
            fd,
            #[cfg(loom)]
            rung: loom::sync::Notify::new(),
        })
    }

    /// Adds one. A counter that is full is as awake as it can be, so that error says nothing.
    pub(crate) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is 8 readable bytes; write(2) keeps no reference. The call is also
        // async-signal-safe (signal-safety(7)), which the signal action relies on.
        let _full = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        #[cfg(loom)]
        self.rung.notify();
    }

    /// Sets the counter back to zero.
    pub(crate) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` is 8 writable bytes; read(2) keeps no reference, and the descriptor is
        // non-blocking, so an empty counter is EAGAIN.
        let _empty =
            unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[cfg(all(test, loom))]
impl EventFd {
    /// Waits for a ring, or for one since the last wait.
    pub(crate) fn wait(&self) {
        self.rung.wait();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of `fds` can be read or `timeout` is over. A signal ends the wait early.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(1 << 30) as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let limit = limit
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref::<libc::timespec>);
    // SAFETY: `polled` is a live array of its own length, `limit` null or a live timespec, the
    // mask null (unchanged); ppoll(2) keeps none of them after it returns.
    let result = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            limit,
            std::ptr::null(),
        )
    };
    match check(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
