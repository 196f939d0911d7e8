//! The listener record: the owner of a listening socket, of its multishot accept
//! ([`accept`](super::accept)) and of the connections that were accepted and nobody has taken.
//!
//! A future of `accept` is a waker in here, so dropping one loses no connection.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Io;
use super::accept::Accept;
use super::listening::{Open, Source};
use super::sweep::Drain;
use crate::config::{ACCEPT_WAITERS, DrainPolicy};
use crate::report::{Gate, NoGate};

/// What an accept paused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The kernel refused it.
    Errno(i32),
    /// The core had as many connections as it may.
    Limit,
}

impl Pause {
    /// It in words.
    pub(crate) fn words(self) -> String {
        match self {
            Pause::Errno(errno) => io::Error::from_raw_os_error(errno).to_string(),
            Pause::Limit => "as many connections as max_connections allows".to_owned(),
        }
    }
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
    pub(super) failures: u32,
    /// How often the accept paused.
    pub(crate) pauses: u64,
    /// What it paused for last.
    pub(crate) paused_by: Option<Pause>,
    /// Whether it waits for a connection of this core to end; set and counted once for each wait.
    pub(super) at_limit: bool,
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

    /// It accepts nobody until a connection of the core has ended.
    pub(super) fn wait_at_limit(&mut self) {
        if !std::mem::replace(&mut self.at_limit, true) {
            self.pauses += 1;
            self.paused_by = Some(Pause::Limit);
        }
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
            at_limit: false,
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
            if listener.queue.len() <= self.untaken_most / 2 {
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

/// Accepted connections that wait to be taken.
impl Io {
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
