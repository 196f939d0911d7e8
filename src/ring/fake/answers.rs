//! What the kernel answers: each operation that can go on does, as the dice want it.

#![forbid(unsafe_code)]

use super::kernel::Kernel;
use super::met::Case;
use super::ops::{MORE, Op};
use super::peer;
use crate::config::BUFFER_BYTES;
use crate::ring::entry::Sqe;

/// In the flags of a completion: a buffer came, whose number stands in the upper half.
const BUFFER: u32 = 1;

/// What makes an accept fail for want of something.
pub(crate) const WANTS: &[i32] = &[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];

/// What makes an accept fail because of the one connection.
pub(crate) const LOST: &[i32] = &[
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::EPERM,
    libc::ETIMEDOUT,
    libc::EINTR,
];

/// What makes an accept fail for good.
pub(crate) const FATAL: &[i32] = &[
    libc::EBADF,
    libc::EINVAL,
    libc::ENOTSOCK,
    libc::EOPNOTSUPP,
    libc::EFAULT,
];

/// What makes a send fail.
pub(crate) const SEND_FAILURES: &[i32] = &[
    libc::EPIPE,
    libc::ECONNRESET,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
];

/// What a send says that is to be made again.
pub(crate) const AGAIN: &[i32] = &[libc::EAGAIN, libc::EINTR];

/// What a send says on a connection that is broken.
const BROKEN: &[i32] = &[libc::EPIPE, libc::ECONNRESET];

/// What makes a connect fail.
const CONNECT_FAILURES: &[i32] = &[
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EADDRNOTAVAIL,
    libc::EADDRINUSE,
    libc::ENOMEM,
    libc::EINTR,
    libc::EACCES,
    libc::EPERM,
];

/// What makes a poll fail.
const POLL_FAILURES: &[i32] = &[libc::ENOMEM, libc::EINTR];

/// All of these, each with what fails by it.
pub(crate) const ERRNOS: &[(Case, &[i32])] = &[
    (Case::AcceptOutOfDescriptors, WANTS),
    (Case::AcceptBrokenConnection, LOST),
    (Case::AcceptBrokenListener, FATAL),
    (Case::RecvError, peer::BREAKS),
    (Case::SendFailed, SEND_FAILURES),
    (Case::SendAgain, AGAIN),
    (Case::SendAfterReset, BROKEN),
    (Case::ConnectFailed, CONNECT_FAILURES),
    (Case::PollFailed, POLL_FAILURES),
];

impl Kernel {
    /// An operation that can, goes on.
    pub(super) fn go_on(&mut self, at: usize) {
        let op = &self.ops[at];
        if op.doomed && (!self.is_able(op) || self.dice.chance(500)) {
            return self.end_cancelled(at);
        }
        match (op.sqe, op.socket, op.listener) {
            (Sqe::RecvMulti { .. }, Some(socket), _) => self.receive(at, socket),
            (Sqe::Send { .. } | Sqe::SendMsg { .. }, Some(socket), _) => self.send(at, socket),
            (Sqe::Connect { .. }, Some(socket), _) => self.connect(at, socket),
            (Sqe::Accept { .. }, _, Some(listener)) => self.accept(at, listener),
            _ => {}
        }
    }

    /// A receive meets what came.
    pub(super) fn receive(&mut self, at: usize, socket: usize) {
        let from = &mut self.sockets[socket];
        if from.reset {
            self.met.count(Case::RecvAfterOurReset);
            let result = self.dice.pick(&[0, -libc::ECONNRESET, -libc::ECONNABORTED]);
            return self.end(at, result, 0);
        }
        if let Some(errno) = from.broken_by.take() {
            let result = self.met.fail(Case::RecvError, errno);
            return self.end(at, result, 0);
        }
        if from.unread() == 0 {
            self.met.count(Case::RecvFin);
            return self.end(at, 0, 0);
        }
        self.look_at_pool();
        let empty = self.pool.as_ref().is_none_or(|pool| pool.is_empty());
        if empty || (self.troubles && self.dice.chance(40)) {
            let case = if empty {
                Case::RecvRingEmpty
            } else {
                Case::RecvNoBuffers
            };
            self.met.count(case);
            self.sockets[socket].starved = true;
            return self.end(at, -libc::ENOBUFS, 0);
        }
        let (id, count) = self.fill(socket);
        let flags = BUFFER | (u32::from(id) << 16);
        let is_bounded = self.count_against_bound(at, count);
        if is_bounded || self.is_full() || (self.troubles && self.dice.chance(60)) {
            self.met.count(Case::RecvLastWithBytes);
            self.sockets[socket].cut_short = self.sockets[socket].unread() > 0;
            return self.end(at, count as i32, flags);
        }
        self.met.count(Case::RecvMore);
        let cqe = self.ops[at].cqe(count as i32, flags | MORE);
        self.post(cqe);
    }

    /// A receive brings `count` bytes more. Whether it has met its bound: of a kernel that knows of
    /// none it is asked for one buffer.
    fn count_against_bound(&mut self, at: usize, count: usize) -> bool {
        let op = &mut self.ops[at];
        op.brought += count;
        let Sqe::RecvMulti { bytes_most, .. } = op.sqe else {
            return false;
        };
        let is_met = bytes_most > 0 && op.brought >= bytes_most as usize;
        match (self.bounds_receives, is_met) {
            (false, _) => self.met.count(Case::RecvOneBuffer),
            (true, true) => self.met.count(Case::RecvBounded),
            (true, false) => return false,
        }
        true
    }

    /// Puts some of what came into the next buffer. Which one, and how much.
    pub(super) fn fill(&mut self, socket: usize) -> (u16, usize) {
        let from = &mut self.sockets[socket];
        let mut count = (from.unread() as usize).min(BUFFER_BYTES);
        if from.peer.dribbles {
            count = 1;
        } else if self.hand.is_none() && self.dice.chance(200) {
            count = 1 + self.dice.below(count as u64) as usize;
        }
        let bytes = peer::stream(from.peer.name, from.read, count);
        from.read += bytes.len() as u64;
        let pool = self.pool.as_mut().expect("a pool");
        (pool.fill(&bytes), bytes.len())
    }

    /// A send goes out, wholly, in part or not at all.
    fn send(&mut self, at: usize, socket: usize) {
        if self.sockets[socket].dead {
            self.sockets[socket].failed = true;
            let errno = self.dice.pick(BROKEN);
            let result = self.met.fail(Case::SendAfterReset, errno);
            return self.end(at, result, 0);
        }
        if let Some(errno) = self.plan.sends.pop_front() {
            self.sockets[socket].failed = true;
            return self.end(at, -errno, 0);
        }
        let len = self.ops[at].borrowed.len() as u64;
        match self.dice.below(60) {
            0 if self.troubles => {
                self.sockets[socket].failed = true;
                let errno = self.dice.pick(SEND_FAILURES);
                let result = self.met.fail(Case::SendFailed, errno);
                self.end(at, result, 0);
            }
            1..4 if self.troubles => {
                let errno = self.dice.pick(AGAIN);
                let result = self.met.fail(Case::SendAgain, errno);
                self.end(at, result, 0);
            }
            4..16 if len > 1 => {
                self.met.count(Case::SendShort);
                let part = 1 + self.dice.below(len - 1);
                self.end_send(at, part as usize);
            }
            _ => {
                self.met.count(Case::SendWhole);
                self.end_send(at, len as usize);
            }
        }
    }

    /// A send goes out at once, as far as the socket takes it: all of it says nothing.
    pub(super) fn send_at_once(&mut self, at: usize, socket: usize) {
        let peer_drinks = self.sockets[socket].peer.drinks;
        let len = self.ops[at].borrowed.len() as u64;
        match self.dice.below(60) {
            _ if self.sockets[socket].dead => self.send(at, socket),
            _ if self.hand.is_some_and(|hand| hand.takes_at_once) => self.end_silently(at, socket),
            _ if self.hand.is_some() || !peer_drinks => {
                self.met.count(Case::SendAtOnceFull);
                self.end(at, -libc::EAGAIN, 0);
            }
            0 if self.troubles => {
                self.sockets[socket].failed = true;
                let errno = self.dice.pick(SEND_FAILURES);
                let result = self.met.fail(Case::SendAtOnceFailed, errno);
                self.end(at, result, 0);
            }
            1..6 if len > 1 => {
                self.met.count(Case::SendAtOnceShort);
                let part = 1 + self.dice.below(len - 1);
                self.end_send(at, part as usize);
            }
            _ => {
                self.met.count(Case::SendAtOnceWhole);
                self.end_silently(at, socket);
            }
        }
    }

    /// Ends a send that went out whole and says nothing of it.
    fn end_silently(&mut self, at: usize, socket: usize) {
        let bytes = self.take_out(at).borrowed;
        self.sockets[socket].sent.extend_from_slice(&bytes);
    }

    /// Ends a send of which `count` bytes went out. They are read now, and no sooner.
    pub(super) fn end_send(&mut self, at: usize, count: usize) {
        let op = &self.ops[at];
        if matches!(op.sqe, Sqe::SendMsg { .. }) {
            self.met.count(Case::SendSeveral);
        }
        if let Some(socket) = op.socket {
            let bytes = op.borrows_now();
            self.sockets[socket].sent.extend_from_slice(&bytes[..count]);
        }
        self.end(at, count as i32, 0);
    }

    /// A connect is done, or fails.
    fn connect(&mut self, at: usize, socket: usize) {
        if self.dice.chance(250) {
            self.sockets[socket].dead = true;
            let errno = self.dice.pick(CONNECT_FAILURES);
            let result = self.met.fail(Case::ConnectFailed, errno);
            return self.end(at, result, 0);
        }
        self.met.count(Case::ConnectDone);
        self.end(at, 0, 0);
    }

    /// An accept fails, or takes somebody in.
    fn accept(&mut self, at: usize, listener: usize) {
        if let Some(errno) = self.plan.accepts.pop_front() {
            self.listeners[listener].broken = FATAL.contains(&errno);
            return self.end(at, -errno, 0);
        }
        let (case, errnos) = match self.dice.below(200) {
            0..10 if self.troubles => (Case::AcceptOutOfDescriptors, WANTS),
            10..16 if self.troubles => (Case::AcceptBrokenConnection, LOST),
            16 if self.troubles => (Case::AcceptBrokenListener, FATAL),
            _ => return self.take_in(at, listener),
        };
        match case {
            Case::AcceptBrokenConnection => drop(self.listeners[listener].backlog.pop_front()),
            Case::AcceptBrokenListener => self.listeners[listener].broken = true,
            _ => {}
        }
        let errno = self.dice.pick(errnos);
        let result = self.met.fail(case, errno);
        self.end(at, result, 0);
    }

    /// An accept takes somebody in.
    fn take_in(&mut self, at: usize, listener: usize) {
        let Some(fd) = self.accept_raw(listener) else {
            return;
        };
        if !self.ops[at].is_multishot() || self.is_full() || self.dice.chance(80) {
            self.met.count(Case::AcceptLastWithConnection);
            return self.end(at, fd, 0);
        }
        self.met.count(Case::AcceptMore);
        let cqe = self.ops[at].cqe(fd, MORE);
        self.post(cqe);
    }

    /// Completes the poll of the alarm; `false` if none is there.
    pub(super) fn ring_alarm(&mut self) -> bool {
        let polls = |op: &Op| matches!(op.sqe, Sqe::PollMulti { .. });
        let Some(at) = self.ops.iter().position(polls) else {
            return false;
        };
        if self.dice.chance(150) {
            let errno = self.dice.pick(POLL_FAILURES);
            let result = self.met.fail(Case::PollFailed, errno);
            self.end(at, result, 0);
        } else if self.dice.chance(300) {
            self.met.count(Case::PollLast);
            self.end(at, libc::POLLIN.into(), 0);
        } else {
            self.met.count(Case::PollMore);
            let cqe = self.ops[at].cqe(libc::POLLIN.into(), MORE);
            self.post(cqe);
        }
        true
    }
}
