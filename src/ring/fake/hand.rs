//! A script that is played by hand: nothing happens but what a test says, one thing at a time, so
//! that all orders of a few things can be gone through.
//!
//! Each thing answers whether it was possible. A cancel ends nothing by itself: it leaves the
//! operation to its own end or to [`Kernel::ends_cancelled`], whichever the test wants first.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::RawFd;

use super::answers::FATAL;
use super::dice::Dice;
use super::kernel::Kernel;
use super::ops::{MORE, Op};
use super::peer::Peer;
use crate::ring::entry::Sqe;
use crate::ring::token::Token;
use crate::sync::atomic::AtomicU64;

/// What a test decides.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hand {
    /// Whether a reset of our own fails.
    pub(crate) resets_fail: bool,
    /// Whether sockets take what is sent at once; else they are full, and the send waits to be ended.
    pub(crate) takes_at_once: bool,
    /// Whether an operation that is cancelled ends in that moment; else it is only told to.
    pub(crate) cancels_at_once: bool,
    /// Whether an enter takes nothing of what was submitted: the kernel is out of memory (EAGAIN).
    pub(crate) takes_nothing: bool,
    /// Whether there are no descriptors for who is in a backlog.
    pub(crate) out_of_descriptors: bool,
}

/// How a send ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it went out.
    All,
    /// Half of it did.
    Half,
    /// It failed.
    Failed(i32),
}

/// How many submissions there is room for, if there is.
const QUEUE_ROOM: usize = 64;

/// In the flags of a completion, as `answers` has it.
const BUFFER: u32 = 1;

/// A peer that does what the test says.
pub(crate) fn peer(name: u8) -> Peer {
    Peer {
        name,
        acts: VecDeque::new(),
        drinks: true,
        answers_fin: false,
        dribbles: false,
    }
}

impl Kernel {
    /// A script that is played by hand, with room for whatever is asked.
    pub(crate) fn by_hand(now_ns: &'static AtomicU64) -> Kernel {
        let mut kernel = Kernel::new(Dice::new(0), now_ns, Vec::new(), Vec::new());
        kernel.hand = Some(Hand::default());
        kernel.troubles = false;
        kernel.bounds_receives = false;
        kernel.queue_room = QUEUE_ROOM;
        kernel.completions_room = 512;
        kernel
    }

    /// What the test decides.
    pub(crate) fn hand(&mut self) -> &mut Hand {
        self.hand.get_or_insert_default()
    }

    /// Takes in the socket at `fd`, with a peer of this name.
    pub(crate) fn adopt_by_hand(&mut self, fd: RawFd, name: u8) -> usize {
        self.adopt_socket(fd, peer(name))
    }

    /// The operation on the socket at `socket`, or else the listener's, that is of this kind.
    fn op_on(&self, socket: Option<usize>, is_it: impl Fn(&Op) -> bool) -> Option<usize> {
        let on_it = |op: &Op| op.socket == socket && is_it(op);
        self.ops.iter().position(on_it)
    }

    /// Ends the send on a socket.
    pub(crate) fn sends(&mut self, socket: usize, how: Sent) -> bool {
        let Some(at) = self.op_on(Some(socket), Op::sends) else {
            return false;
        };
        let len = self.ops[at].borrowed.len();
        let dead = self.sockets[socket].dead;
        match how {
            Sent::All if !dead => self.end_send(at, len),
            Sent::Half if !dead && len > 1 => self.end_send(at, len / 2),
            Sent::Failed(errno) => {
                self.sockets[socket].failed = true;
                self.end(at, -errno, 0);
            }
            Sent::All | Sent::Half => return false,
        }
        true
    }

    /// So many bytes come and are received, by the `last` completion of that receive or not.
    pub(crate) fn says(&mut self, socket: usize, count: u64, last: bool) -> bool {
        let receive = |op: &Op| matches!(op.sqe, Sqe::RecvMulti { .. });
        let Some(at) = self.op_on(Some(socket), receive) else {
            return false;
        };
        let from = &mut self.sockets[socket];
        if from.dead || from.fin_came {
            return false;
        }
        from.arrived += count;
        self.look_at_pool();
        let (id, count) = self.fill(socket);
        let flags = BUFFER | (u32::from(id) << 16);
        if last {
            self.end(at, count as i32, flags);
        } else {
            let cqe = self.ops[at].cqe(count as i32, flags | MORE);
            self.post(cqe);
        }
        true
    }

    /// The receive on a socket meets that no buffer is left, and ends. Whether there was one.
    pub(crate) fn lacks_buffers(&mut self, socket: usize) -> bool {
        let receive = |op: &Op| matches!(op.sqe, Sqe::RecvMulti { .. });
        let at = self.op_on(Some(socket), receive);
        if let Some(at) = at {
            self.end(at, -libc::ENOBUFS, 0);
        }
        at.is_some()
    }

    /// The peer's FIN comes.
    pub(crate) fn fin_comes(&mut self, socket: usize) -> bool {
        let from = &mut self.sockets[socket];
        let possible = !from.dead && !from.fin_came;
        from.fin_came |= possible;
        if possible {
            self.receives_the_end(socket);
        }
        possible
    }

    /// The peer resets.
    pub(crate) fn reset_comes(&mut self, socket: usize) -> bool {
        let from = &mut self.sockets[socket];
        let possible = !from.dead;
        if possible {
            from.dead = true;
            from.broken_by = Some(libc::ECONNRESET);
            self.receives_the_end(socket);
        }
        possible
    }

    /// The receive on a socket, if there is one, meets that nothing more comes.
    pub(crate) fn receives_the_end(&mut self, socket: usize) -> bool {
        let receive = |op: &Op| matches!(op.sqe, Sqe::RecvMulti { .. });
        let from = &self.sockets[socket];
        let over = from.fin_came || from.broken_by.is_some() || from.reset;
        match self.op_on(Some(socket), receive) {
            Some(at) if over && from.unread() == 0 => self.receive(at, socket),
            _ => return false,
        }
        true
    }

    /// The peer acknowledges all that was sent, a FIN too.
    pub(crate) fn acknowledges(&mut self, socket: usize) -> bool {
        let from = &mut self.sockets[socket];
        let possible = !from.dead && from.unacked() > 0;
        if possible {
            from.acked = from.sent.len() as u64;
            from.fin_acked = from.fin_sent;
        }
        possible
    }

    /// The peer will take all and end in order between two looks at the socket.
    pub(crate) fn ends_between_looks(&mut self, socket: usize) {
        self.sockets[socket].ends_when_asked = true;
    }

    /// The first operation that was cancelled ends for it.
    pub(crate) fn ends_cancelled(&mut self) -> bool {
        let doomed = self.ops.iter().position(|op| op.doomed);
        doomed.is_some_and(|at| {
            self.end_cancelled(at);
            true
        })
    }

    /// The operation of this name completes: for the last time, or with `more` to come. Memory that
    /// it lets the kernel write to is written to in this moment.
    pub(crate) fn completes(&mut self, token: Token, result: i32, more: bool) -> bool {
        let Some(at) = self.place_of(token.pack()) else {
            return false;
        };
        self.fill_read(at);
        if more {
            let cqe = self.ops[at].cqe(result, MORE);
            self.post(cqe);
        } else {
            self.end(at, result, 0);
        }
        true
    }

    /// Whether the operation of this name is under way, and was cancelled.
    pub(crate) fn is_called_back(&self, token: Token) -> bool {
        let at = self.place_of(token.pack());
        at.is_some_and(|at| self.ops[at].doomed)
    }

    /// Whether submissions find room.
    pub(crate) fn has_room(&mut self, room: bool) -> bool {
        let entries = if room { QUEUE_ROOM } else { 0 };
        std::mem::replace(&mut self.queue_room, entries) != entries
    }

    /// Somebody of this name connects to the last listener.
    pub(crate) fn connects(&mut self, name: u8) -> bool {
        let last = self.listeners.last_mut().filter(|last| !last.stale());
        last.is_some_and(|last| {
            last.backlog.push_back(peer(name));
            true
        })
    }

    /// The accept takes in who is next, by its `last` completion or not.
    pub(crate) fn accepts(&mut self, last: bool) -> bool {
        let accept = |op: &Op| matches!(op.sqe, Sqe::Accept { .. });
        let Some(at) = self.op_on(None, accept) else {
            return false;
        };
        let listener = self.ops[at].listener;
        let Some(fd) = listener.and_then(|listener| self.accept_raw(listener)) else {
            return false;
        };
        if last || !self.ops[at].is_multishot() {
            self.end(at, fd, 0);
        } else {
            let cqe = self.ops[at].cqe(fd, MORE);
            self.post(cqe);
        }
        true
    }

    /// The accept fails.
    pub(crate) fn accept_fails(&mut self, errno: i32) -> bool {
        let accept = |op: &Op| matches!(op.sqe, Sqe::Accept { .. });
        let Some(at) = self.op_on(None, accept) else {
            return false;
        };
        if let Some(listener) = self.ops[at].listener {
            self.listeners[listener].broken |= FATAL.contains(&errno);
        }
        self.end(at, -errno, 0);
        true
    }

    /// Whether an accept is under way.
    pub(crate) fn is_accepting(&self) -> bool {
        let accept = |op: &Op| matches!(op.sqe, Sqe::Accept { .. });
        self.op_on(None, accept).is_some()
    }

    /// How many operations are under way, but for the poll of the alarm.
    pub(crate) fn under_way(&self) -> usize {
        let is_poll = |op: &&Op| matches!(op.sqe, Sqe::PollMulti { .. });
        self.ops.len() - self.ops.iter().filter(is_poll).count()
    }

    /// How many sockets there ever were.
    pub(crate) fn sockets_ever(&self) -> usize {
        self.sockets.len()
    }

    /// Whether the descriptor of a socket is closed.
    pub(crate) fn is_closed(&mut self, socket: usize) -> bool {
        self.look_for_closed();
        self.sockets[socket].closed
    }

    /// What went out on a socket, and how much of it is acknowledged.
    pub(crate) fn out(&self, socket: usize) -> (u64, u64) {
        let socket = &self.sockets[socket];
        (socket.sent.len() as u64, socket.acked)
    }

    /// Whether a socket is broken, by its peer or ourselves.
    pub(crate) fn is_dead(&self, socket: usize) -> bool {
        self.sockets[socket].dead
    }

    /// How many are in the backlog of the last listener.
    pub(crate) fn backlog_by_hand(&self) -> usize {
        self.listeners.last().map_or(0, |last| last.backlog.len())
    }
}
