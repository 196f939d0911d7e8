//! The gate: how a listener stops new handshakes without breaking those under way.
//!
//! Accepting until the backlog is empty and then closing still resets every client whose handshake
//! completes between the two. With the gate down no handshake begins any more, those under way
//! complete into the backlog, and after a window of a few round trips the backlog is all there is.
//!
//! Two rungs: a classic BPF program on the listener that drops SYN without ACK (where attaching
//! one is permitted), else a minimum time-to-live of 255, which the kernel checks for SYNs
//! but not for the handshakes it already knows; accepted sockets inherit it and are set back.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use socket2::SockFilter;

use crate::report::Gate;
use crate::ring::sys::socket;

/// The offset of the flags in a TCP header; the filter sees the packet from that header on.
const TCP_FLAGS: u32 = 13;
/// SYN and ACK in those flags.
const SYN_ACK: u32 = 0x12;
/// SYN alone.
const SYN: u32 = 0x02;

/// "Drop every SYN without ACK, keep the rest", in classic BPF.
fn filter() -> [SockFilter; 5] {
    let op = |code: u32| code as u16;
    [
        // A = flags
        SockFilter::new(
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS),
            0,
            0,
            TCP_FLAGS,
        ),
        // A &= SYN|ACK
        SockFilter::new(
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K),
            0,
            0,
            SYN_ACK,
        ),
        // A == SYN? then the next, else the one after it
        SockFilter::new(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, SYN),
        // drop
        SockFilter::new(op(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        // keep
        SockFilter::new(op(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
    ]
}

/// Lets the gate of a listener down and says which one it is.
pub(super) fn close(fd: BorrowedFd<'_>, v6: bool) -> Gate {
    if socket::attach_filter(fd, &filter()).is_ok() {
        return Gate::Bpf;
    }
    // An IPv6 listener may be reached over IPv4 as well (dual stack): both, where both exist.
    let hops = 255;
    let by_hops = socket::set_min_ttl(fd, v6, hops).is_ok();
    if v6 && by_hops {
        let _only_v6 = socket::set_min_ttl(fd, false, hops);
    }
    if by_hops { Gate::MinTtl } else { Gate::None }
}

/// Sets a socket that was accepted behind the time-to-live gate back to what it should be.
pub(super) fn open_accepted(fd: BorrowedFd<'_>, v6: bool) {
    // These fail only on a socket that is gone already, which its first receive will say.
    let _gone = socket::set_min_ttl(fd, v6, 0);
    if v6 {
        let _only_v6 = socket::set_min_ttl(fd, false, 0);
    }
}
