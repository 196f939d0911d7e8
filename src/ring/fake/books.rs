//! What a script knows at the end: what became of each connection, and what was left behind.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::kernel::Kernel;
use super::met::Case;
use super::sockets::Socket;

/// What became of one connection.
#[derive(Debug)]
pub(crate) struct Account {
    /// What was taken for sending.
    pub(crate) sent: Vec<u8>,
    /// Bytes that were received.
    pub(crate) read: u64,
    /// Whether nothing went wrong with it: then all that was handed over was taken.
    pub(crate) whole: bool,
}

impl Kernel {
    /// Closes the books, when the driver is gone; it said that it has left `leaked` operations
    /// behind. What became of each connection; an error if more was left than that.
    pub(crate) fn close(&mut self, leaked: u64) -> Result<Vec<Account>, String> {
        self.look_for_closed();
        if leaked > 0 {
            self.live_on(leaked);
        }
        if let Some(what) = self.broken() {
            return Err(what.to_owned());
        }
        if leaked == 0 && !self.ops.is_empty() {
            return Err(format!("{:?} is not over", self.ops));
        }
        if let Some(fd) = self.open_descriptor() {
            return Err(format!("descriptor {fd} is still open"));
        }
        let account = |socket: Socket| Account {
            whole: !(socket.dead || socket.failed),
            read: socket.read,
            sent: socket.sent,
        };
        Ok(self.sockets.drain(..).map(account).collect())
    }

    /// A descriptor that nobody has closed.
    fn open_descriptor(&self) -> Option<RawFd> {
        let sockets = self.sockets.iter().filter(|socket| !socket.closed);
        let listeners = self.listeners.iter().filter(|listener| !listener.closed);
        let mut open = sockets.map(|s| s.fd).chain(listeners.map(|l| l.fd));
        open.next()
    }

    /// The ring was closed too early: what it had in flight goes on as if nothing had happened. All
    /// of its memory has to be there.
    fn live_on(&mut self, leaked: u64) {
        self.met.count(Case::LeftBehind);
        if (self.ops.len() as u64) > leaked {
            self.breaks(format!("{leaked} said to be left, and {:?} are", self.ops));
        }
        if self.ops.iter().any(|op| op.borrows_now() != op.borrowed) {
            self.breaks("memory was freed that an operation left behind reads".to_owned());
        }
        for at in 0..self.ops.len() {
            self.fill_read(at);
        }
        self.look_at_pool();
        if let Some(pool) = &self.pool {
            pool.scribble_all();
        }
        self.ops.clear();
        while let Some(fd) = self.open_descriptor() {
            // SAFETY: it was found open, as the file it was at first, and whoever owned it has
            // forgotten it: it was left behind with the operations.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            self.look_for_closed();
        }
    }

    /// How many bytes were received and taken for sending, over all connections.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let read = self.sockets.iter().map(|socket| socket.read);
        let sent = self.sockets.iter().map(|socket| socket.sent.len() as u64);
        (read.sum(), sent.sum())
    }

    /// How many connections were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many bytes have arrived from the peer of that name, if there is one and they all have.
    pub(crate) fn arrived_of(&self, name: u8) -> Option<u64> {
        let mut of_name = self
            .sockets
            .iter()
            .filter(|socket| socket.peer.name == name);
        of_name.next().map(|socket| socket.arrived)
    }

    /// Whether the peer's kernel has acknowledged all that was sent by who begins with `name`.
    pub(crate) fn has_acknowledged(&self, name: u8) -> bool {
        let of_name = |socket: &&Socket| socket.sent.first() == Some(&name);
        let all = |socket: &Socket| socket.acked == socket.sent.len() as u64;
        self.sockets.iter().filter(of_name).all(all)
    }
}
