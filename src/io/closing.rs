//! How a connection closes, in Running as in a stop.
//!
//! ```text
//!        begin_close            all queued bytes taken:         acknowledged, and the peer's
//!        (last handle gone)     send_fin                        FIN or silence: end
//!  Open ───────────────▶ Flushing ─────────────▶ FinSent ───────────────▶ Ending ──▶ Closed
//!    │                      │                       │                        ▲  last   │
//!    │ cut                  │ cut, dead             │ cut, dead, linger cap  │  CQE    ▼
//!    └──────────────────────┴───────────────────────┴────────────────────────┘      (free)
//! ```
//! The receive stays armed until the end and what comes is thrown away: closing a socket with
//! unread bytes sends a reset, and a reset destroys the reply on its way. The descriptor is closed
//! after the last completion that names it.

#![forbid(unsafe_code)]

use std::io;
use std::task::{Context, Poll};

use super::Io;
use super::conn::{Conn, Incoming, Origin, Recv};
use super::stage::{Last, Linger, Step};
use super::tally::End;
use crate::report::Straggler;
use crate::ring::sys::socket;
use crate::ring::token::{Kind, Token};

/// The user side of closing.
impl Io {
    /// A handle is gone; with the last one the connection closes by itself.
    pub(crate) fn drop_handle(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.handles = conn.handles.saturating_sub(1);
        if conn.handles > 0 {
            return;
        }
        // Nobody is left to wait: a task is not kept in memory for as long as a peer lingers.
        conn.reader.clear(&mut self.spent_wakers);
        conn.writer.clear(&mut self.spent_wakers);
        match conn.stage.step() {
            None => self.begin_close(index),
            Some(Step::Closed(_)) => self.free(index),
            Some(_) => {}
        }
    }

    /// Flush, FIN, read to the end, close.
    pub(crate) fn begin_close(&mut self, index: u32) {
        self.end_request(index);
        let now_ns = self.now_ns;
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if !conn.stage.is_open() {
            return;
        }
        conn.between = false;
        conn.peer_first = conn.incoming == Incoming::Ended;
        // What was received and never taken is thrown away like what is still to come.
        self.tally.late += conn.drop_inbound() as u64;
        self.lanes.take_back(&mut conn.lane);
        self.lingering += 1;
        conn.stage.go(Step::Flushing(Linger::begin(now_ns)));
        conn.no_longer_plain();
        // A receive that was stopped by the limit goes on: a peer that writes before it reads
        // would otherwise wait for us as we wait for it.
        self.arm_recv(index);
        self.step_closing(index);
    }

    /// Ready when the connection is closed: Ok only if the peer's kernel has acknowledged all.
    pub(crate) fn poll_closed(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        let Some(last) = conn.stage.closed() else {
            conn.writer.park(context, &mut self.spent_wakers);
            return Poll::Pending;
        };
        Poll::Ready(if let Some(errno) = conn.write_errno {
            Err(super::errors::write_failed(errno.into(), conn.taken))
        } else if let Incoming::Failed(errno) = conn.incoming {
            Err(io::Error::from_raw_os_error(errno.into()))
        } else if last.unsent + last.unacked > 0 {
            Err(super::errors::unacknowledged(last.unsent + last.unacked))
        } else {
            Ok(())
        })
    }

    /// Sends our FIN now and keeps receiving. Only after a flush.
    pub(crate) fn finish_writing(&mut self, index: u32) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Err(super::errors::closed());
        };
        let Some(fd) = conn.borrow() else {
            return Err(super::errors::closed());
        };
        socket::shutdown_write(fd)?;
        conn.fin_sent = true;
        conn.no_longer_plain();
        Ok(())
    }

    /// Closes every connection that is open, whoever holds it: Closing has begun.
    pub(crate) fn begin_all_closes(&mut self) {
        let open: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.stage.is_open())
            .map(|(index, _)| index as u32)
            .collect();
        for index in open {
            self.begin_close(index);
        }
    }

    /// Counts every accepted connection that is not closed as abandoned: the core's time is over.
    pub(super) fn count_open_as_abandoned(&mut self) {
        let open: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.is_closed())
            .map(|(index, _)| index as u32)
            .collect();
        for index in open {
            let last = self.losses(index, End::Abandoned);
            let Some(conn) = self.conn(index) else {
                continue;
            };
            let unsent = conn.unsent() as u64;
            let accepted = conn.origin == Origin::Accepted;
            let last = match conn.stage.step() {
                Some(Step::Ending(last)) => last,
                _ => last,
            };
            conn.stage.go(Step::Closed(last));
            conn.no_longer_plain();
            self.tally.lost(last.end, unsent, last.unacked);
            if accepted {
                self.tally.closed(self.now_ns, last.end);
            }
        }
    }

    /// Resets the connection at once. What is queued, and what the peer has not acknowledged, is
    /// lost and counted.
    pub(crate) fn cut(&mut self, index: u32, end: End) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if conn.stage.is_over() {
            return;
        }
        let mut last = self.losses(index, end);
        if let Some(fd) = self.conns.get(index as usize).and_then(Conn::borrow) {
            // It ends a pending receive too. Should it fail, the cancel of `end` does that.
            last.still_connected = socket::reset(fd).is_err();
        }
        self.end(index, last);
    }
}

/// The machine.
impl Io {
    /// Takes the step that is due, whatever brought us here.
    pub(super) fn step_closing(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let Some(step) = conn.stage.step() else {
            return;
        };
        match step {
            Step::Flushing(_) | Step::FinSent(_) if conn.is_dead() && conn.send.is_none() => {
                let end = if conn.was_reset() {
                    End::PeerReset
                } else {
                    End::Abandoned
                };
                let last = self.losses(index, end);
                self.end(index, last);
            }
            Step::Flushing(linger) if conn.unsent() == 0 && conn.send.is_none() => {
                self.send_fin(index, linger);
            }
            Step::Flushing(linger) | Step::FinSent(linger) => self.linger(index, linger),
            Step::Ending(_) => self.finish(index),
            Step::Closed(_) => {}
        }
    }

    /// All is in the kernel's hands: our FIN goes after it.
    fn send_fin(&mut self, index: u32, linger: Linger) {
        let now_ns = self.now_ns;
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        // ENOTCONN: the peer has reset it, so there is no FIN to be acknowledged. A receive that is
        // armed says the same.
        let sent = conn.borrow().map(socket::shutdown_write);
        conn.fin_sent |= sent.is_some_and(|sent| sent.is_ok());
        let linger = Linger {
            fin_ns: now_ns,
            ..linger
        };
        conn.stage.go(Step::FinSent(linger));
        let answered = conn.incoming != Incoming::Open;
        self.arm_recv(index);
        if answered {
            self.step_closing(index);
        } else {
            // Its FIN is on the way, mostly: a look before it comes would be for nothing.
            self.look_again(index, linger);
        }
    }

    /// The connection is over: whatever of it is in the kernel is called back.
    pub(super) fn end(&mut self, index: u32, last: Last) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        self.lingering -= u64::from(conn.stage.lingers());
        conn.stage.go(Step::Ending(last));
        conn.no_longer_plain();
        conn.reader.wake(&mut self.wakers);
        if let Some(key) = conn.timer.take() {
            self.wheel.cancel(key);
        }
        if let Some(generation) = conn.send {
            self.driver.cancel(Token {
                kind: Kind::Send,
                index,
                generation,
            });
        }
        self.stop_recv(index);
        self.finish(index);
    }

    /// Closes the descriptor once no completion that names it can come.
    fn finish(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let Some(Step::Ending(mut last)) = conn.stage.step() else {
            return;
        };
        if conn.in_kernel() {
            return;
        }
        last.unsent = conn.unsent() as u64;
        conn.stage.go(Step::Closed(last));
        drop(conn.fd.take());
        conn.drop_inbound();
        if let Some(lane) = &mut conn.lane {
            lane.outbound.clear(&mut self.spent_segments);
        }
        self.lanes.take_back(&mut conn.lane);
        if conn.recv == Recv::Starved {
            conn.recv = Recv::Off;
        }
        conn.reader.wake(&mut self.wakers);
        conn.writer.wake(&mut self.wakers);
        self.fds_freed = true;
        self.tally.lost(last.end, last.unsent, last.unacked);
        if conn.origin == Origin::Accepted {
            self.tally.closed(self.now_ns, last.end);
        }
        if conn.handles == 0 {
            self.free(index);
        }
        self.end_limit();
    }

    /// Nobody knows the record any more.
    fn free(&mut self, index: u32) {
        if let Some(mut conn) = self.conns.try_remove(index as usize) {
            self.driver.pool().forget(index);
            self.lanes.take_back(&mut conn.lane);
            conn.reader.clear(&mut self.spent_wakers);
            conn.writer.clear(&mut self.spent_wakers);
        }
    }
}

/// What the report says of a connection.
impl Io {
    /// The accepted connections that are open, with what each still has to send: `most` at most, for
    /// each is some system calls, and the number of the others.
    pub(crate) fn open_accepted(&self, most: usize) -> (Vec<Straggler>, usize) {
        let is_open = |conn: &Conn| conn.origin == Origin::Accepted && !conn.stage.is_over();
        let mut open = self.conns.iter().filter(|(_, conn)| is_open(conn));
        let named = open
            .by_ref()
            .take(most)
            .map(|(index, conn)| {
                let index = index as u32;
                let peer = self.peer_name(index);
                let unacked = self.unacknowledged(index);
                Straggler {
                    kind: "connection".to_owned(),
                    name: peer
                        .map_or_else(|| "unknown peer".to_owned(), |peer| self.peers.name(peer)),
                    spawned_at: None,
                    detail: format!(
                        "{}; {} bytes queued, {unacked} unacknowledged",
                        conn.what_it_does(),
                        conn.unsent(),
                    ),
                }
            })
            .collect();
        (named, open.count())
    }
}

impl Conn {
    /// Whether its descriptor is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.stage.closed().is_some()
    }

    /// Where it stands, in words.
    fn what_it_does(&self) -> &'static str {
        match self.stage.step() {
            None if self.in_request => "inside a request",
            None => "open",
            Some(Step::Flushing(_)) => "flushing",
            Some(Step::FinSent(_)) => "waiting for the peer to take what was sent",
            Some(Step::Ending(_) | Step::Closed(_)) => "ending",
        }
    }

    /// Whether it was the peer that broke the connection.
    fn was_reset(&self) -> bool {
        let by_peer = |errno: u16| {
            matches!(
                errno.into(),
                libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED
            )
        };
        matches!(self.incoming, Incoming::Failed(errno) if by_peer(errno))
            || self.write_errno.is_some_and(by_peer)
    }

    /// The reason of a connection that ended in order.
    pub(super) fn orderly_end(&self) -> End {
        if self.told {
            End::Drained
        } else if self.peer_first {
            End::ByPeer
        } else {
            End::ByHandler
        }
    }
}
