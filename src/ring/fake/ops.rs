//! The operations of a script: how each begins, how it is cancelled, and how it ends.

use super::kernel::Kernel;
use super::met::Case;
use super::peer::{NOBODY, Peer};
use super::sockets::Socket;
use crate::ring::entry::{Cqe, Sqe};

/// In the flags of a completion: more will come.
pub(super) const MORE: u32 = 2;

/// One operation that is not over.
#[derive(Debug)]
pub(super) struct Op {
    /// Its name.
    user_data: u64,
    /// What was asked.
    pub(super) sqe: Sqe,
    /// The socket it is on, if on one.
    pub(super) socket: Option<usize>,
    /// The listener it is on, if on one.
    pub(super) listener: Option<usize>,
    /// What it borrowed to read from, as it was at first. It must be the same at the end.
    pub(super) borrowed: Vec<u8>,
    /// Set when a cancel found it under way: then it ends, sooner or later.
    pub(super) doomed: bool,
    /// Bytes that a receive has brought.
    pub(super) brought: usize,
}

impl Op {
    /// A completion of it.
    pub(super) fn cqe(&self, result: i32, flags: u32) -> Cqe {
        Cqe::scripted(self.user_data, result, flags)
    }

    /// What must be as it was while it is not over.
    pub(super) fn borrows_now(&self) -> Vec<u8> {
        borrowed(&self.sqe)
    }

    /// Whether it sends.
    pub(super) fn sends(&self) -> bool {
        matches!(
            self.sqe,
            Sqe::Send { .. } | Sqe::SendAtOnce { .. } | Sqe::SendMsg { .. }
        )
    }

    /// Whether it may complete several times.
    pub(super) fn is_multishot(&self) -> bool {
        matches!(
            self.sqe,
            Sqe::Accept { multi: true, .. } | Sqe::RecvMulti { .. } | Sqe::PollMulti { .. }
        )
    }
}

/// The memory an operation borrows to read from, as it is now.
fn borrowed(sqe: &Sqe) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (from, len) in borrowed_pieces(sqe) {
        // SAFETY: whoever submits promises that this memory stays until the final completion, and
        // it is read only before that is posted. Whether the promise is kept is what is tested.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(from, len) });
    }
    bytes
}

/// Where that memory is.
fn borrowed_pieces(sqe: &Sqe) -> Vec<(*const u8, usize)> {
    match *sqe {
        Sqe::Send { from, len, .. } | Sqe::SendAtOnce { from, len, .. } => {
            vec![(from, len as usize)]
        }
        Sqe::Connect { address, len, .. } => vec![(address.cast::<u8>(), len as usize)],
        Sqe::Write { from, len, .. } => vec![(from, len as usize)],
        Sqe::SendMsg { header, .. } => named_pieces(header),
        _ => Vec::new(),
    }
}

/// The pieces of memory that a message's header names.
fn named_pieces(header: *const libc::msghdr) -> Vec<(*const u8, usize)> {
    // SAFETY: as in `borrowed`, of the header.
    let header = unsafe { &*header };
    // SAFETY: as in `borrowed`, of the vector that the header names.
    let pieces = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    let piece = |piece: &libc::iovec| (piece.iov_base.cast_const().cast::<u8>(), piece.iov_len);
    pieces.iter().map(piece).collect()
}

/// Whether `sqe` reads from the `len` bytes at `from`.
pub(super) fn reads_from(sqe: &Sqe, from: usize, len: usize) -> bool {
    let within = |(at, _): &(*const u8, usize)| (from..from + len).contains(&(*at as usize));
    borrowed_pieces(sqe).iter().any(within)
}

impl Kernel {
    /// How many sends are in flight on the socket at `at`.
    pub(super) fn sends_on(&self, at: usize) -> usize {
        let on_it = |op: &&Op| op.socket == Some(at) && op.sends();
        self.ops.iter().filter(on_it).count()
    }

    /// Takes an operation in.
    pub(super) fn begin_op(&mut self, sqe: Sqe, user_data: u64) {
        let mut op = Op {
            user_data,
            sqe,
            socket: None,
            listener: None,
            borrowed: borrowed(&sqe),
            doomed: false,
            brought: 0,
        };
        match sqe {
            Sqe::Accept { fd, .. } => {
                self.look_at(fd);
                let known = self.listener_at(fd);
                op.listener = Some(known.unwrap_or_else(|| self.adopt_listener(fd)));
            }
            Sqe::Connect { fd, .. } => {
                let host = self.hosts.pop_front();
                let host = host.unwrap_or_else(|| Peer::rolled(NOBODY, &mut self.dice.fork()));
                op.socket = Some(self.adopt_socket(fd, host));
            }
            Sqe::RecvMulti { fd, .. }
            | Sqe::Send { fd, .. }
            | Sqe::SendAtOnce { fd, .. }
            | Sqe::SendMsg { fd, .. } => {
                self.look_at(fd);
                op.socket = self.socket_at(fd);
                if op.socket.is_none() {
                    return self.breaks(format!("{sqe:?} on a descriptor that is closed"));
                }
            }
            _ => {}
        }
        self.look_at_begin(&op);
        let at_once = matches!(sqe, Sqe::SendAtOnce { .. });
        let socket = op.socket.filter(|_| at_once);
        self.ops.push(op);
        if let Some(socket) = socket {
            self.send_at_once(self.ops.len() - 1, socket);
        }
    }

    /// Looks for a breach of the law in an operation that begins.
    fn look_at_begin(&mut self, op: &Op) {
        let (socket, listener) = (op.socket, op.listener);
        let other = |other: &Op| {
            let same = other.socket == socket && other.listener == listener;
            same && other.sends() == op.sends()
        };
        let on_one = socket.is_some() || listener.is_some();
        if on_one && self.ops.iter().any(other) {
            self.breaks(format!("{:?} while another one is in flight", op.sqe));
        }
        if let (Sqe::RecvMulti { .. }, Some(at)) = (op.sqe, socket) {
            self.sockets[at].starved = false;
            self.sockets[at].cut_short = false;
        }
        self.look_at_memory(op);
    }

    /// A send may not read where the kernel may write, and a connect goes where it was sent.
    fn look_at_memory(&mut self, op: &Op) {
        match op.sqe {
            Sqe::Send { .. } | Sqe::SendAtOnce { .. } | Sqe::SendMsg { .. } => {
                self.look_at_pool();
                for (from, _) in borrowed_pieces(&op.sqe) {
                    let lent = self.pool.as_ref().and_then(|p| p.lent_at(from as usize));
                    if let Some(id) = lent {
                        self.breaks(format!("a send from buffer {id}, which is lent"));
                    }
                }
            }
            Sqe::Connect { .. } if op.borrowed[2..8] != ADDRESS => {
                self.breaks(format!("a connect to {:?}", op.borrowed));
            }
            _ => {}
        }
    }

    /// Takes a cancel.
    pub(super) fn cancel(&mut self, target: u64, user_data: u64) {
        let not_found = Cqe::scripted(user_data, -libc::ENOENT, 0);
        let Some(at) = self.place_of(target) else {
            self.met.count(Case::CancelTooLate);
            return self.post(not_found);
        };
        if let Some(hand) = self.hand {
            if hand.cancels_at_once {
                return self.end_cancelled(at);
            }
            self.ops[at].doomed = true;
            return self.post(Cqe::scripted(user_data, -libc::EALREADY, 0));
        }
        let op = &self.ops[at];
        match self.dice.below(8) {
            _ if self.silent => self.post(Cqe::scripted(user_data, -libc::EALREADY, 0)),
            0 | 1 if self.is_able(op) => {
                // One more on its way out, or the last.
                let case = if op.is_multishot() {
                    Case::CancelAfterMore
                } else {
                    Case::CancelMeetsItsCompletion
                };
                self.met.count(case);
                self.go_on(at);
                match self.place_of(target) {
                    Some(at) => self.end_cancelled(at),
                    None => self.post(not_found),
                }
            }
            2 | 3 => {
                self.met.count(Case::CancelUnderWay);
                self.ops[at].doomed = true;
                self.post(Cqe::scripted(user_data, -libc::EALREADY, 0));
            }
            _ => {
                self.met.count(Case::CancelEndsIt);
                self.end_cancelled(at);
            }
        }
    }

    /// The operation of that name, if it is not over.
    pub(super) fn place_of(&self, user_data: u64) -> Option<usize> {
        self.ops.iter().position(|op| op.user_data == user_data)
    }

    /// Writes where an operation lets the kernel write by itself, as it may until its last word.
    pub(super) fn fill_read(&self, at: usize) {
        if let Sqe::Read { into, len, .. } = self.ops[at].sqe {
            // SAFETY: whoever submits promises that this memory stays until the final completion,
            // which is not posted yet. Whether the promise is kept is what is tested: memory that
            // was freed is in a quarantine.
            unsafe { std::ptr::write_bytes(into, READ, len as usize) };
        }
    }

    /// Ends an operation for its cancel.
    pub(super) fn end_cancelled(&mut self, at: usize) {
        let op = &self.ops[at];
        let (sends, len) = (op.sends(), op.borrowed.len() as u64);
        let case = match op.sqe {
            Sqe::RecvMulti { .. } => Some(Case::RecvCancelled),
            Sqe::Accept { .. } => Some(Case::AcceptCancelled),
            Sqe::Connect { .. } => Some(Case::ConnectCancelled),
            _ if sends => Some(Case::SendCancelled),
            _ => None,
        };
        if let (true, Some(at)) = (sends, op.socket) {
            self.sockets[at].failed = true;
        }
        if sends && len > 1 && self.hand.is_none() && self.dice.chance(300) {
            // A part of it was out already.
            self.met.count(Case::SendCancelledInPart);
            let part = 1 + self.dice.below(len - 1);
            return self.end_send(at, part as usize);
        }
        if let Some(case) = case {
            self.met.count(case);
        }
        self.end(at, -libc::ECANCELED, 0);
    }

    /// Ends an operation: this is its last completion.
    pub(super) fn end(&mut self, at: usize, result: i32, flags: u32) {
        let op = self.take_out(at);
        self.post(op.cqe(result, flags & !MORE));
    }

    /// An operation is over.
    pub(super) fn take_out(&mut self, at: usize) -> Op {
        let op = &self.ops[at];
        if op.borrows_now() != op.borrowed {
            let what = format!("the memory of {:?} has changed under it", op.sqe);
            self.breaks(what);
        }
        let op = self.ops.swap_remove(at);
        self.look_at_memory(&op);
        self.look_whether_open(&op);
        op
    }

    /// `len` bytes at `from` are about to be freed: nobody may be sending them.
    pub(crate) fn freed(&mut self, from: usize, len: usize) {
        if self.ops.iter().any(|op| reads_from(&op.sqe, from, len)) {
            self.breaks("memory was freed while it was being sent".to_owned());
        }
    }

    /// Whether an operation can go on.
    pub(super) fn can_go_on(&self, op: &Op) -> bool {
        !self.silent && (op.doomed || self.is_able(op))
    }

    /// Whether an operation can go on by itself.
    pub(super) fn is_able(&self, op: &Op) -> bool {
        let socket = op.socket.map(|at| &self.sockets[at]);
        match (&op.sqe, socket) {
            (Sqe::RecvMulti { .. }, Some(socket)) => socket.has_news(),
            (Sqe::Send { .. } | Sqe::SendMsg { .. }, Some(socket)) => {
                socket.dead || socket.peer.drinks
            }
            (Sqe::Accept { .. }, _) => {
                let listener = op.listener.map(|at| &self.listeners[at]);
                listener.is_some_and(|listener| !listener.backlog.is_empty())
            }
            (Sqe::Connect { .. }, _) => true,
            _ => false,
        }
    }
}

/// What a read brings.
pub(crate) const READ: u8 = 0x5a;

/// Where all connects go, as the kernel reads it behind the family: port 9 of 127.0.0.1.
const ADDRESS: [u8; 6] = [0, 9, 127, 0, 0, 1];

impl Socket {
    /// Whether a receive has something to say.
    fn has_news(&self) -> bool {
        let over = self.fin_came || self.broken_by.is_some() || self.reset;
        over || (self.unread() > 0 && !self.dead)
    }
}
