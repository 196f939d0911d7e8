//! The listener record: the owner of a listening socket, of its multishot accept and of the
//! connections that were accepted and nobody has taken.
//!
//! ```text
//!            arm                 queue full, drain: stop
//!  Off ────────────────▶ Armed ─────────────────────────▶ Stopping
//!   ▲ ▲                    │                                  │
//!   │ └─ last completion ──┴─────────── last completion ──────┘
//!   │                      │ last completion: no descriptor left, or one failure after the other
//!   └── timer, a close ── Backoff
//! ```
//! A future of `accept` is a waker in here, so dropping one loses no connection.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;

use super::conn::Origin;
use super::errors::Refusal;
use super::listening::{Open, Source};
use super::sweep::Drain;
use super::timer::{Timer, tick};
use super::{Io, gate};
use crate::clock::ns;
use crate::config::{
    ACCEPT_BACKOFF, ACCEPT_FAILURES_MOST, ACCEPT_QUEUE, ACCEPT_WAITERS, DrainPolicy,
};
use crate::report::{Gate, NoGate};
use crate::ring::driver::Completion;
use crate::ring::port::Sqe;
use crate::ring::sys::socket;
use crate::ring::token::{Kind, Token};
use crate::wheel::Key;

/// See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// No accept is in the kernel.
    Off,
    /// The accept of this generation is in the kernel.
    Armed(u32),
    /// As `Armed`, and a cancel has been sent.
    Stopping(u32),
    /// No accept is in the kernel, for want of descriptors; the timer arms it again.
    Backoff(Key),
}

/// The name of a listener's record. It outlives the record, and names no other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerId {
    /// Its place; another record's once this one is gone.
    pub(crate) index: u32,
    /// See [`Listener`].
    id: u64,
}

/// One listening socket of this core.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Open until the drain has emptied its backlog, or the last handle is gone.
    pub(super) fd: Option<Open>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Live handles.
    pub(super) handles: u32,
    /// Tells it from every other listener this core ever had.
    id: u64,
    /// The accept.
    pub(super) accept: Accept,
    /// Accepted connections that nobody has taken, oldest first.
    pub(super) queue: VecDeque<u32>,
    /// Who waits for one.
    pub(super) wakers: Vec<Waker>,
    /// Accepts that failed since the last one that gave a connection.
    failures: u32,
    /// How often the accept paused.
    pub(crate) pauses: u64,
    /// What it paused for last.
    pub(crate) paused_by: Option<i32>,
    /// An errno no waiting mends, told by every `accept` from then on.
    pub(super) failed: Option<i32>,
    /// What a stop does to its connections, where it is not the default.
    pub(super) policy: Option<Rc<DrainPolicy>>,
    /// When a connection was last accepted (ns), if ever.
    pub(super) accepted_ns: Option<u64>,
    /// The largest round-trip time of a handshake seen (ns).
    pub(super) handshake_ns: u64,
    /// Where in the stop it is.
    pub(super) drain: Drain,
    /// The gate that was let down.
    pub(crate) gate: Gate,
    /// Why none was; `None` before the stop, too.
    pub(crate) no_gate: Option<NoGate>,
    /// The window the handshakes under way were given (ns).
    pub(crate) window_ns: u64,
    /// Connections accepted since the drain began.
    pub(crate) drained: u64,
}

impl Listener {
    /// What a stop does to its connections, where it is not the default.
    pub(crate) fn policy(&self) -> Option<&DrainPolicy> {
        self.policy.as_deref()
    }

    /// The descriptor, while it is open.
    pub(super) fn borrow(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

/// The user side of listening.
impl Io {
    /// Makes a record for a listening socket and begins to accept.
    pub(crate) fn listen(
        &mut self,
        source: Source,
        address: SocketAddr,
        policy: DrainPolicy,
    ) -> ListenerId {
        self.last_listener += 1;
        let id = self.last_listener;
        let index = self.listeners.insert(Listener {
            fd: Some(self.listening.open(source, address)),
            address,
            handles: 1,
            id,
            accept: Accept::Off,
            queue: VecDeque::new(),
            wakers: Vec::new(),
            failures: 0,
            pauses: 0,
            paused_by: None,
            failed: None,
            policy: shared(policy),
            accepted_ns: None,
            handshake_ns: 0,
            drain: Drain::No,
            gate: Gate::None,
            no_gate: None,
            window_ns: 0,
            drained: 0,
        });
        let index = index as u32;
        self.arm_accept(index);
        self.join_drain(index);
        ListenerId { index, id }
    }

    /// Makes a further handle to the record, if it is still there and in use.
    #[must_use]
    pub(crate) fn add_listener_handle(&mut self, name: ListenerId) -> bool {
        match self.listeners.get_mut(name.index as usize) {
            Some(listener) if listener.id == name.id && listener.handles > 0 => {
                listener.handles += 1;
                true
            }
            _ => false,
        }
    }

    /// Gives the connections that are accepted from here on another policy.
    pub(crate) fn set_drain_policy(&mut self, index: u32, policy: DrainPolicy) {
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            listener.policy = shared(policy);
        }
    }

    /// The next connection; `None` once the stop has drained the listener.
    pub(crate) fn poll_accept(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<u32>>> {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return Poll::Ready(Ok(None));
        };
        if let Some(conn) = listener.queue.pop_front() {
            if listener.queue.len() <= ACCEPT_QUEUE / 2 {
                self.arm_accept(index);
            }
            self.take_handle(conn);
            return Poll::Ready(Ok(Some(conn)));
        }
        if let Some(errno) = listener.failed {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if listener.drain == Drain::Done {
            return Poll::Ready(Ok(None));
        }
        let waker = context.waker();
        if !listener.wakers.iter().any(|parked| parked.will_wake(waker)) {
            listener.wakers.push(waker.clone());
        }
        if listener.wakers.len() > ACCEPT_WAITERS {
            // Most of these wait no more: whoever does comes back, the others are let go.
            self.wakers.append(&mut listener.wakers);
        }
        Poll::Pending
    }

    /// A handle is gone. With the last one the socket is closed, after its backlog was taken, and
    /// what was accepted and never taken is closed in order.
    pub(crate) fn drop_listener_handle(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        listener.handles = listener.handles.saturating_sub(1);
        if listener.handles > 0 {
            return;
        }
        self.spent_wakers.append(&mut listener.wakers);
        self.close_untaken(index);
        // Without a handle nobody will take what comes: stop accepting, sweep, close.
        self.begin_sweep(index);
    }
}

/// What completions and the turn do to a listener.
impl Io {
    /// Puts the accept into the kernel, if there is none and there is room.
    pub(super) fn arm_accept(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        let wanted = listener.accept == Accept::Off
            && listener.failed.is_none()
            && listener.queue.len() < ACCEPT_QUEUE
            && matches!(listener.drain, Drain::No | Drain::Window { .. });
        let (true, Some(fd)) = (wanted, listener.fd.as_ref()) else {
            return;
        };
        let fd = fd.as_fd().as_raw_fd();
        let generation = self.generations.advance();
        listener.accept = Accept::Armed(generation);
        self.driver.submit(
            Sqe::AcceptMulti { fd },
            Token {
                kind: Kind::Accept,
                index,
                generation,
            },
        );
    }

    /// Takes the accept out of the kernel, if it is there.
    pub(super) fn stop_accept(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        match listener.accept {
            Accept::Armed(generation) => {
                listener.accept = Accept::Stopping(generation);
                self.driver.cancel(Token {
                    kind: Kind::Accept,
                    index,
                    generation,
                });
            }
            Accept::Backoff(timer) => {
                self.wheel.cancel(timer);
                listener.accept = Accept::Off;
            }
            Accept::Off | Accept::Stopping(_) => {}
        }
    }

    /// One completion of an accept. The last one may carry a connection, too.
    pub(super) fn on_accept(&mut self, completion: Completion) {
        let Completion {
            token,
            result,
            more,
            fd,
            ..
        } = completion;
        let listener = match self.listeners.get_mut(token.index as usize) {
            Some(listener)
                if matches!(listener.accept, Accept::Armed(g) | Accept::Stopping(g)
                    if g == token.generation) =>
            {
                listener
            }
            _ => return self.driver.stale(token.pack()),
        };
        if !more {
            listener.accept = Accept::Off;
        }
        match fd {
            Some(fd) => self.accepted(token.index, fd),
            None => self.on_accept_error(token.index, -result),
        }
        if !more {
            self.after_last_accept(token.index);
        }
    }

    /// The accept is out of the kernel: a listener that closes takes its backlog, another arms
    /// again.
    fn after_last_accept(&mut self, index: u32) {
        match self.listeners.get(index as usize) {
            Some(listener) if listener.drain == Drain::Sweep => self.sweep(index),
            Some(_) => self.arm_accept(index),
            None => {}
        }
    }

    /// A connection was accepted.
    pub(super) fn accepted(&mut self, index: u32, fd: OwnedFd) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        listener.accepted_ns = Some(now_ns);
        listener.failures = 0;
        let draining = listener.drain != Drain::No;
        listener.drained += u64::from(draining);
        if listener.gate == Gate::MinTtl {
            gate::open_accepted(fd.as_fd(), listener.address.is_ipv6());
        }
        if listener.fd.as_ref().is_some_and(Open::is_shared) {
            // Our own listeners hand it down; this one is not ours to set it on. It fails only on
            // a socket that is gone already, which its first receive will say.
            let _gone = SockRef::from(&fd).set_tcp_nodelay(true);
        }
        // The handshake's own measurement: nothing else was sent on this connection yet.
        if let Ok(transfer) = socket::transfer(fd.as_fd()) {
            listener.handshake_ns = listener.handshake_ns.max(ns(transfer.round_trip));
        }
        // Nor is it given out after a cut, which resets it: its place in the queue would be left to a
        // record that is another's by then.
        let orphaned = listener.handles == 0 || self.last_sweep;
        let policy = listener.policy.clone();
        if draining {
            self.note_accept_in_drain(index);
        }
        let conn = self.adopt(fd, Origin::Accepted);
        if let Some(record) = self.conn(conn) {
            record.policy = policy;
        }
        if orphaned {
            return self.begin_close(conn);
        }
        if let Some(record) = self.conn(conn) {
            record.queued = true;
        }
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            listener.queue.push_back(conn);
            self.wakers.append(&mut listener.wakers);
            if listener.queue.len() >= ACCEPT_QUEUE {
                self.stop_accept(index);
            }
        }
        self.activity_ns = now_ns;
        self.watch_in_drain(conn);
    }

    /// An accept failed: for want of descriptors it waits, for a broken listener it says so, and
    /// for one broken connection it goes on; but it waits, too, where that does not end.
    fn on_accept_error(&mut self, index: u32, errno: i32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        if errno == libc::ECANCELED {
            // Our own doing.
            return;
        }
        listener.failures += 1;
        let shut = listener.fd.as_ref().is_some_and(Open::was_shut);
        let is_accident = listener.failures < ACCEPT_FAILURES_MOST;
        match Refusal::of(errno) {
            // The coordinator has ended the listening while this core was stuck: nobody is left in
            // the backlog. If the core does not know of the stop yet, it will in its next turn.
            Refusal::Listener if shut && errno == libc::EINVAL => {
                if let Drain::Window { .. } = listener.drain {
                    listener.drain = Drain::Sweep;
                }
            }
            Refusal::Listener => {
                listener.failed = Some(errno);
                self.wakers.append(&mut listener.wakers);
            }
            Refusal::Connection | Refusal::Empty if is_accident => {}
            _ if listener.accept == Accept::Off && listener.drain != Drain::Sweep => {
                self.pause_accept(index, errno, ACCEPT_BACKOFF);
            }
            // The sweep that follows meets it again.
            _ => {}
        }
    }

    /// Arms the accept again, or goes on with the sweep, after `pause`; or when descriptors are
    /// freed.
    pub(super) fn pause_accept(&mut self, index: u32, errno: i32, pause: Duration) {
        let at_ns = self.now_ns + ns(pause);
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            let timer = self.wheel.insert(tick(at_ns), Timer::Accept { index });
            listener.accept = Accept::Backoff(timer);
            listener.pauses += 1;
            listener.paused_by = Some(errno);
        }
    }

    /// The pause of a listener without descriptors is over.
    pub(super) fn end_backoff(&mut self, index: u32) {
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            if let Accept::Backoff(timer) = listener.accept {
                self.wheel.cancel(timer);
                listener.accept = Accept::Off;
                self.after_last_accept(index);
            }
        }
    }

    /// Descriptors were closed: listeners that wait for some need not wait any longer.
    pub(super) fn end_all_backoffs(&mut self) {
        if !std::mem::take(&mut self.fds_freed) {
            return;
        }
        let waiting: Vec<u32> = self
            .listeners
            .iter()
            .filter(|(_, listener)| matches!(listener.accept, Accept::Backoff(_)))
            .map(|(index, _)| index as u32)
            .collect();
        for index in waiting {
            self.end_backoff(index);
        }
    }

    /// Takes a connection out of the queue it waits in.
    pub(super) fn leave_queue(&mut self, conn: u32) {
        for (_, listener) in &mut self.listeners {
            listener.queue.retain(|queued| *queued != conn);
        }
        if let Some(record) = self.conn(conn) {
            record.queued = false;
        }
    }

    /// Closes in order what was accepted and will never be taken.
    pub(super) fn close_untaken(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        for conn in std::mem::take(&mut listener.queue) {
            if let Some(record) = self.conn(conn) {
                record.queued = false;
            }
            self.begin_close(conn);
        }
    }
}

/// A policy to be shared by a listener and its connections; the default needs no memory.
fn shared(policy: DrainPolicy) -> Option<Rc<DrainPolicy>> {
    (policy != DrainPolicy::default()).then(|| Rc::new(policy))
}
