//! What must be true of the records between two turns, whatever has happened; for tests.

#![forbid(unsafe_code)]

use super::Io;
use super::accept::Accept;
use super::conn::{Conn, Incoming, Origin, Recv};
use super::listener::Listener;
use super::sweep::Drain;

impl Io {
    /// Has no more than so many accepted connections wait at a listener. Before it listens.
    pub(crate) fn limit_untaken(&mut self, most: usize) {
        self.untaken_most = most;
    }

    /// Whether a listener that is not closing accepts nobody, for nobody takes those it has.
    pub(crate) fn holds_back(&self) -> bool {
        self.listeners.iter().any(|(_, listener)| {
            let full = listener.queue.len() >= self.untaken_most;
            full && listener.accept == Accept::Off && listener.drain == Drain::No
        })
    }

    /// What in the books contradicts something else, if anything does.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let queued = self.queued_wrong();
        let counts = self.counted_wrong();
        let record = self.conns.iter().find_map(|(index, conn)| {
            let what = conn.contradiction()?;
            Some(format!("record {index} {what}"))
        });
        let listener = self.waits_in_vain();
        queued
            .or(counts)
            .or(record)
            .or(listener)
            .or_else(|| self.forgotten())
    }

    /// Who waits in a listener's queue is there, and knows it.
    fn queued_wrong(&self) -> Option<String> {
        let queues = self.listeners.iter().map(|(_, listener)| &listener.queue);
        let waits = |conn: &Conn| conn.queued && conn.handles == 0 && conn.stage.is_open();
        let mut wrong = queues.flatten().filter(|index| {
            let conn = self.conns.get(**index as usize);
            !conn.is_some_and(waits)
        });
        let index = wrong.next()?;
        Some(format!(
            "a listener gives out record {index}, which is not its"
        ))
    }

    /// A listener that let clients wait accepts again when there is room.
    fn waits_in_vain(&self) -> Option<String> {
        let has_room = self.tally.open < self.connections_most;
        let waits = |listener: &Listener| {
            listener.accept == Accept::Off
                && listener.drain == Drain::No
                && listener.fd.is_some()
                && listener.failed.is_none()
                && listener.queue.len() < self.untaken_most / 2
        };
        let mut listeners = self.listeners.iter();
        let (index, _) = listeners.find(|(_, listener)| has_room && waits(listener))?;
        Some(format!("listener {index} accepts nobody, and might"))
    }

    /// What is counted is there.
    fn counted_wrong(&self) -> Option<String> {
        let count = |which: &dyn Fn(&Conn) -> bool| {
            let those = self.conns.iter().filter(|(_, conn)| which(conn));
            those.count() as u64
        };
        let open = count(&|conn| conn.origin == Origin::Accepted && !conn.is_closed());
        let lingering = count(&|conn| conn.stage.lingers());
        if open != self.tally.open {
            return Some(format!("{open} are open, counted are {}", self.tally.open));
        }
        let counted = self.lingering;
        (lingering != counted).then(|| format!("{lingering} linger, counted are {counted}"))
    }

    /// Who wants buffers, or has a send to make, is in its list.
    fn forgotten(&self) -> Option<String> {
        let starved =
            |index: u32, conn: &Conn| conn.recv == Recv::Starved && !self.starved.contains(&index);
        let dirty = |index: u32, conn: &Conn| conn.dirty && !self.dirty.contains(&index);
        let mut records = self.conns.iter().map(|(index, conn)| (index as u32, conn));
        let (index, _) = records.find(|(index, conn)| {
            let forgotten = starved(*index, conn) || dirty(*index, conn);
            forgotten && conn.stage.receives()
        })?;
        Some(format!("record {index} is not in its list"))
    }
}

impl Conn {
    /// What in the record contradicts something else.
    fn contradiction(&self) -> Option<&'static str> {
        if self.is_closed() && self.in_kernel() {
            return Some("is closed, and the kernel has an operation of it");
        }
        let has_met_nothing = self.stage.is_open()
            && self.incoming == Incoming::Open
            && self.write_errno.is_none()
            && !self.told
            && !self.fin_sent;
        if self.is_plain() != has_met_nothing {
            return Some("is taken for what it is not");
        }
        if self.is_closed() != self.fd.is_none() {
            return Some("has no descriptor, or one too many");
        }
        if self.is_closed() && (self.unsent() > 0 || self.inbound_bytes() > 0) {
            return Some("is closed, and has bytes");
        }
        if self.handles == 0 && !self.queued && self.stage.is_open() {
            return Some("is nobody's, and open");
        }
        None
    }
}
