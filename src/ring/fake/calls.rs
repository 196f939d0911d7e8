//! The calls on sockets that do not go through the ring: what a script says to them.
//!
//! Each is asked by the function of the same name in `ring::sys::socket`, and answers `None` where
//! no script is installed or the script does not know the descriptor: then the kernel is asked.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::kernel::Kernel;
use super::met::Case;
use crate::ring::sys::socket::Transfer;

/// What `answer` says of the socket at `fd`, if a script is there and knows it.
fn ask<T>(
    fd: BorrowedFd<'_>,
    answer: impl FnOnce(&mut Kernel, usize) -> io::Result<T>,
) -> Option<io::Result<T>> {
    let script = super::installed()?;
    let mut kernel = script.borrow_mut();
    let at = kernel.socket_at(fd.as_raw_fd())?;
    Some(answer(&mut kernel, at))
}

/// An errno as an answer.
fn refuse<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

pub(crate) fn transfer(fd: BorrowedFd<'_>) -> Option<io::Result<Transfer>> {
    ask(fd, |kernel, at| {
        let socket = &mut kernel.sockets[at];
        let ends = socket.ends_when_asked;
        if ends {
            socket.acked = socket.sent.len() as u64;
            socket.fin_acked = socket.fin_sent;
            socket.fin_came = true;
        }
        Ok(Transfer {
            round_trip: socket.round_trip,
            // The SYN counts, and so does the FIN.
            acked: socket.acked + 1 + u64::from(socket.fin_acked),
            is_over: socket.dead || ends,
        })
    })
}

pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> Option<io::Result<u64>> {
    ask(fd, |kernel, at| Ok(kernel.sockets[at].unacked()))
}

pub(crate) fn unread(fd: BorrowedFd<'_>) -> Option<io::Result<u64>> {
    ask(fd, |kernel, at| Ok(kernel.sockets[at].unread()))
}

pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> Option<io::Result<()>> {
    ask(fd, |kernel, at| {
        if kernel.sends_on(at) > 0 {
            kernel.breaks("a FIN was sent while a send was in flight".to_owned());
        }
        let socket = &mut kernel.sockets[at];
        if socket.dead {
            return refuse(libc::ENOTCONN);
        }
        socket.fin_sent = true;
        Ok(())
    })
}

pub(crate) fn reset(fd: BorrowedFd<'_>) -> Option<io::Result<()>> {
    ask(fd, |kernel, at| {
        let fails = match kernel.hand {
            Some(hand) => hand.resets_fail,
            None => kernel.dice.chance(50),
        };
        let socket = &mut kernel.sockets[at];
        if fails {
            socket.failed = true;
            kernel.met.count(Case::ResetFails);
            return refuse(libc::EINTR);
        }
        socket.dead = true;
        socket.reset = true;
        Ok(())
    })
}

pub(crate) fn backlog(fd: BorrowedFd<'_>) -> Option<io::Result<u32>> {
    let script = super::installed()?;
    let kernel = script.borrow();
    let at = kernel.listener_at(fd.as_raw_fd())?;
    Some(Ok(kernel.listeners[at].backlog.len() as u32))
}

/// A listener that was never asked to accept is not known yet: nobody is in its backlog.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> Option<io::Result<OwnedFd>> {
    let script = super::installed()?;
    let mut kernel = script.borrow_mut();
    let Some(at) = kernel.listener_at(fd.as_raw_fd()) else {
        return Some(refuse(libc::EAGAIN));
    };
    if kernel.hand.is_some() && kernel.listeners[at].broken {
        return Some(refuse(libc::EINVAL));
    }
    let waits = !kernel.listeners[at].backlog.is_empty();
    if waits {
        if let Some(errno) = kernel.plan.accepts.pop_front() {
            return Some(refuse(errno));
        }
    }
    let lot = match kernel.hand {
        Some(hand) => 2 + u64::from(!hand.out_of_descriptors),
        None => kernel.dice.below(30),
    };
    match lot {
        0 => return Some(refuse(libc::EINTR)),
        1 => return Some(refuse(libc::ECONNABORTED)),
        2 if waits => {
            kernel.met.count(Case::SweepOutOfDescriptors);
            return Some(refuse(libc::EMFILE));
        }
        _ => {}
    }
    Some(match kernel.accept_one(at) {
        Some(fd) => {
            kernel.met.count(Case::AcceptSwept);
            Ok(fd)
        }
        None => refuse(libc::EAGAIN),
    })
}

pub(crate) fn attach_filter() -> Option<io::Result<()>> {
    let script = super::installed()?;
    let mut kernel = script.borrow_mut();
    if kernel.dice.chance(500) {
        kernel.met.count(Case::FilterAttached);
        return Some(Ok(()));
    }
    kernel.met.count(Case::FilterRefused);
    Some(refuse(libc::EPERM))
}

pub(crate) fn set_min_ttl() -> Option<io::Result<()>> {
    let script = super::installed()?;
    let mut kernel = script.borrow_mut();
    if kernel.dice.chance(700) {
        return Some(Ok(()));
    }
    kernel.met.count(Case::HopsRefused);
    Some(refuse(libc::ENOPROTOOPT))
}
