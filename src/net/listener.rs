//! One core's listening socket, as users hold it.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::config::DrainPolicy;
use crate::context::{self, Local};
use crate::error::{Error, ErrorKind};
use crate::handle::Core;
use crate::io::errors::TooLate;
use crate::net::{Listener, TcpStream};
use crate::task::{Begin, Ended};

/// One core's listening socket.
///
/// The socket's multishot accept belongs to the core, not to a future: dropping a pending
/// [`accept`](TcpListener::accept) loses no connection, and `select` over it in a loop is safe.
///
/// It stays on its core, and what it came of does not:
/// ```compile_fail,E0277
/// fn elsewhere(listener: evenfall::net::TcpListener) {
///     std::thread::spawn(move || drop(listener));
/// }
/// ```
/// ```
/// fn elsewhere(listener: evenfall::net::Listener) {
///     std::thread::spawn(move || drop(listener));
/// }
/// ```
///
/// Dropping the last handle stops listening; what was accepted and not taken is closed in order.
///
/// # Shutdown
///
/// When Draining begins the gate is let down (no new handshake begins), handshakes under way get
/// a window of three round trips, then the backlog is emptied and the socket closed. All that was
/// accepted is still given out; then `accept` gives `None`. What becomes of its connections is a
/// matter of its [`DrainPolicy`].
pub struct TcpListener {
    /// The core it belongs to.
    pub(super) local: Rc<Local>,
    /// The record's place.
    pub(super) index: u32,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Why there is no record, if there is none.
    pub(super) failed: Option<Failed>,
}

impl TcpListener {
    /// Listens at `address` on this core alone.
    ///
    /// # Errors
    ///
    /// When the address cannot be had, and when the drain is over; the error names cause and
    /// remedy.
    ///
    /// # Panics
    ///
    /// Outside of a core.
    ///
    /// # Shutdown
    ///
    /// As for [`Listener::on`]. Once the drain is over the error is of the kind
    /// [`Draining`](crate::ErrorKind::Draining), and [`TooLate`] inside its
    /// source says the phase and the time left.
    #[track_caller]
    pub fn bind(address: impl ToSocketAddrs) -> Result<TcpListener, Error> {
        let local = context::here();
        if let Some(late) = local.refuse_listener() {
            let error = Error::new(ErrorKind::Draining, "no listener is made");
            return Err(error.with_source(late.into()));
        }
        let listener = Listener::bind(address, 1, &local.shared.untaken)?;
        Ok(listener.on(&Core::of(local)))
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Gives the listener a policy for its connections at a stop. It holds for those that are
    /// accepted from here on, whichever handle of the listener gives them out.
    ///
    /// # Shutdown
    ///
    /// In Draining it holds as before it, for whoever is still in the backlog.
    #[must_use = "it gives the listener back"]
    pub fn drain_policy(self, policy: DrainPolicy) -> TcpListener {
        if self.failed.is_none() {
            self.local
                .io
                .borrow_mut()
                .set_drain_policy(self.index, policy);
        }
        self
    }

    /// The next connection; `None` once the stop has drained this listener.
    ///
    /// # Errors
    ///
    /// When the socket itself is broken, or was adopted and is closed, because every core that had
    /// taken it has dropped it. Running out of file descriptors or memory is no error: it waits until
    /// some are free, the clients wait in the backlog, and the report says how often
    /// ([`pauses`](crate::report::ListenerReport::pauses)). Nor is it one that a client was gone
    /// before it could be accepted.
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no connection.
    ///
    /// # Shutdown
    ///
    /// Gives out connections through the drain until none is left, then `None`. On a listener that
    /// was taken when the drain was over it is an error, with
    /// [`TooLate`] inside, which says the phase and the time left.
    pub async fn accept(&self) -> io::Result<Option<TcpStream>> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// See [`accept`](TcpListener::accept); the last caller's waker is kept, and those before it.
    ///
    /// # Errors
    ///
    /// As for `accept`.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<TcpStream>>> {
        if let Some(failed) = self.failed {
            return Poll::Ready(Err(failed.error()));
        }
        let index = std::task::ready!(self.local.io.borrow_mut().poll_accept(self.index, context))?;
        Poll::Ready(Ok(
            index.map(|index| TcpStream::of(self.local.clone(), index))
        ))
    }

    /// Accepts connections and runs `handler` on each, every one in a task of its own, until the
    /// stop has drained the listener and all handlers have ended.
    ///
    /// An error or a panic of a handler ends its own connection and nothing else.
    ///
    /// # Errors
    ///
    /// As for [`accept`](TcpListener::accept).
    ///
    /// # Cancellation
    ///
    /// Dropping it stops accepting; handlers that run go on.
    ///
    /// # Shutdown
    ///
    /// Serves what is in the backlog, too; ends when the last handler has.
    #[track_caller]
    pub fn serve<F, Fut>(&self, handler: F) -> impl Future<Output = io::Result<()>>
    where
        F: Fn(TcpStream) -> Fut + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        self.serve_limited(usize::MAX, handler)
    }

    /// As [`serve`](TcpListener::serve), with at most `limit` handlers at a time (0 counts as 1).
    /// Further connections wait, accepted or in the kernel's backlog.
    ///
    /// # Errors
    ///
    /// As for [`accept`](TcpListener::accept).
    #[track_caller]
    pub fn serve_limited<F, Fut>(
        &self,
        limit: usize,
        handler: F,
    ) -> impl Future<Output = io::Result<()>>
    where
        F: Fn(TcpStream) -> Fut + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let site = std::panic::Location::caller();
        async move {
            let active = Rc::new(Active::default());
            let handler = Rc::new(handler);
            loop {
                active.below(limit.max(1)).await;
                let Some(stream) = self.accept().await? else {
                    break;
                };
                active.begin();
                let handler = handler.clone();
                // A handler's error is the connection's own, and the connection is closed by it.
                let task = Begin::new(move || handler(stream), active.clone());
                // Refused only in Closing, when no accept gives a connection any more.
                let _refused = self.local.spawn(task, crate::task::Kind::Essential, site);
            }
            active.below(1).await;
            Ok(())
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if self.failed.is_none() {
            self.local.io.borrow_mut().drop_listener_handle(self.index);
        }
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpListener")
            .field("core", &self.local.index)
            .field("address", &self.address)
            .finish()
    }
}

/// The place of a listener that has no record.
pub(super) const NO_RECORD: u32 = u32::MAX;

/// Why a listener has no record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failed {
    /// The kernel refused the socket.
    Errno(i32),
    /// The drain was over.
    TooLate(TooLate),
    /// It was adopted, and every core that had it has let go of it: it is closed.
    LetGo(SocketAddr),
}

impl Failed {
    /// What every `accept` says.
    fn error(self) -> io::Error {
        match self {
            Failed::Errno(errno) => io::Error::from_raw_os_error(errno),
            Failed::TooLate(late) => late.into(),
            Failed::LetGo(address) => io::Error::new(
                io::ErrorKind::NotConnected,
                format!(
                    "the adopted listener at {address} is closed: every core that had taken it \
                     has dropped it; keep one core's handle, or adopt the socket anew"
                ),
            ),
        }
    }
}

/// How many handlers run, and who waits for one to end. There is one waiter: `serve` itself.
#[derive(Default)]
struct Active {
    /// Handlers that run.
    count: Cell<usize>,
    /// `serve`, while it waits.
    waiter: Cell<Option<Waker>>,
}

impl Active {
    /// Counts one handler more, until it has [`ended`](Ended::ended).
    fn begin(&self) {
        self.count.set(self.count.get() + 1);
    }

    /// Waits until fewer than `limit` run.
    async fn below(&self, limit: usize) {
        poll_fn(|context| {
            if self.count.get() < limit {
                return Poll::Ready(());
            }
            let replaced = self.waiter.replace(Some(context.waker().clone()));
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

impl Ended for Active {
    fn ended(&self) {
        self.count.set(self.count.get() - 1);
        if let Some(waker) = self.waiter.take() {
            // It may be a foreign one, and a handler that ends by a panic must not meet a second.
            crate::panics::quietly(|| waker.wake());
        }
    }
}
