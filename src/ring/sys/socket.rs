//! What sockets need beyond the `socket2` crate.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{SockFilter, SockRef};

use super::check;
#[cfg(test)]
use crate::ring::fake::calls;

/// How a connected TCP socket is doing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfer {
    /// The smoothed round-trip time.
    pub(crate) round_trip: Duration,
    /// Bytes the peer has acknowledged since the connection began, SYN and FIN included.
    pub(crate) acked: u64,
    /// Whether it is over at both sides, be it in order or by a reset.
    pub(crate) is_over: bool,
}

/// The state of a connection that is over (`TCP_CLOSE` of the kernel's `tcp_states.h`).
const TCP_CLOSE: u8 = 7;

/// See [`Transfer`].
pub(crate) fn transfer(fd: BorrowedFd<'_>) -> io::Result<Transfer> {
    #[cfg(test)]
    if let Some(answer) = calls::transfer(fd) {
        return answer;
    }
    let info = tcp_info(fd)?;
    Ok(Transfer {
        round_trip: Duration::from_micros(u64::from(info.tcpi_rtt)),
        acked: info.tcpi_bytes_acked,
        is_over: info.tcpi_state == TCP_CLOSE,
    })
}

/// Connections in the backlog of a listening socket that nobody has accepted.
pub(crate) fn backlog(fd: BorrowedFd<'_>) -> io::Result<u32> {
    #[cfg(test)]
    if let Some(answer) = calls::backlog(fd) {
        return answer;
    }
    // Of a socket that listens this field says that, and not what its name says (tcp_get_info).
    tcp_info(fd).map(|info| info.tcpi_unacked)
}

/// The next connection in the backlog of a listening socket.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[cfg(test)]
    if let Some(answer) = calls::accept(fd) {
        return answer;
    }
    SockRef::from(&fd).accept().map(|(fd, _)| OwnedFd::from(fd))
}

/// What the kernel knows of a TCP socket.
fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is `size` writable bytes, and the kernel writes at most `size` of them.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    // SAFETY: zeroed at first; every bit pattern of this plain struct of integers is a value.
    Ok(unsafe { info.assume_init() })
}

/// Bytes written to the socket that the peer's kernel has not acknowledged, a FIN counted as one.
pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    #[cfg(test)]
    if let Some(answer) = calls::unacknowledged(fd) {
        return answer;
    }
    int_ioctl(fd, libc::TIOCOUTQ)
}

/// Bytes that have arrived and nobody has read.
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<u64> {
    #[cfg(test)]
    if let Some(answer) = calls::unread(fd) {
        return answer;
    }
    int_ioctl(fd, libc::FIONREAD)
}

/// An ioctl that answers with one int.
fn int_ioctl(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<u64> {
    let mut answer: libc::c_int = 0;
    // SAFETY: both requests this file passes write one int, and `answer` is one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut answer) })?;
    Ok(u64::try_from(answer).unwrap_or(0))
}

/// Sends the FIN after all that was written.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(test)]
    if let Some(answer) = calls::shutdown_write(fd) {
        return answer;
    }
    // SAFETY: shutdown(2) takes plain numbers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Resets a connection: RST to the peer, every pending operation on the socket ends.
///
/// connect(2) with AF_UNSPEC is the only call that does both while a receive is pending: SO_LINGER
/// with close(2) sends nothing as long as the ring holds the file.
pub(crate) fn reset(fd: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(test)]
    if let Some(answer) = calls::reset(fd) {
        return answer;
    }
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let size = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nobody` is a live sockaddr of `size` bytes; connect(2) copies it.
    check(unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size) }).map(drop)
}

/// Puts a filter before the socket: what it gives 0 for is dropped.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, filter: &[SockFilter]) -> io::Result<()> {
    #[cfg(test)]
    if let Some(answer) = calls::attach_filter() {
        return answer;
    }
    SockRef::from(&fd).attach_filter(filter)
}

/// Lets in only packets whose time-to-live is at least `hops`; 0 lets in all.
pub(crate) fn set_min_ttl(fd: BorrowedFd<'_>, v6: bool, hops: i32) -> io::Result<()> {
    #[cfg(test)]
    if let Some(answer) = calls::set_min_ttl() {
        return answer;
    }
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    };
    // SAFETY: `hops` is a live int of the size given; the kernel copies it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const hops).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}
