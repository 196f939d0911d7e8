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
use super::tally::End;
use crate::clock::ns;
use crate::config::{LINGER_CHECK_EACH, LINGER_CHECK_MAX, LINGER_CHECK_MIN, LINGER_QUIET_MIN};
use crate::report::Straggler;
use crate::ring::sys::socket;
use crate::ring::token::{Kind, Token};

/// See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In use.
    Open,
    /// Nobody writes any more; the kernel has not taken all that was queued.
    Flushing(Linger),
    /// Our FIN is sent; the peer has not acknowledged all, or has not ended its side.
    FinSent(Linger),
    /// Over; waits for the last completion that names the socket.
    Ending(Last),
    /// The descriptor is closed; waits for the last handle.
    Closed(Last),
}

/// How a peer that is slow to take what it is owed is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Linger {
    /// What the peer had acknowledged when it was last looked at; `None` before the first look.
    acked: Option<u64>,
    /// When `acked` last went up, and at first when closing began (ns).
    progress_ns: u64,
    /// When our FIN was sent (ns); 0 before.
    fin_ns: u64,
    /// The wait before the next look; doubles up to `LINGER_CHECK_MAX` (ns).
    check_ns: u64,
}

/// How it ended, and what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    /// The reason, for the report.
    end: End,
    /// Queued bytes the kernel never took.
    unsent: u64,
    /// Bytes the peer never acknowledged.
    unacked: u64,
}

impl Last {
    /// An end that lost nothing.
    fn clean(end: End) -> Last {
        Last {
            end,
            unsent: 0,
            unacked: 0,
        }
    }
}

impl Stage {
    /// Whether a receive may be armed.
    pub(super) fn receives(&self) -> bool {
        matches!(self, Stage::Open | Stage::Flushing(_) | Stage::FinSent(_))
    }

    /// Whether bytes that come are thrown away.
    pub(super) fn discards(&self) -> bool {
        !matches!(self, Stage::Open)
    }

    /// Whether its peer is looked at every now and then.
    fn lingers(&self) -> bool {
        matches!(self, Stage::Flushing(_) | Stage::FinSent(_))
    }

    /// Whether nothing more will happen.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Stage::Ending(_) | Stage::Closed(_))
    }
}

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
        match conn.stage {
            Stage::Open => self.begin_close(index),
            Stage::Closed(_) => self.free(index),
            _ => {}
        }
    }

    /// Flush, FIN, read to the end, close.
    pub(crate) fn begin_close(&mut self, index: u32) {
        self.end_request(index);
        let now_ns = self.now_ns;
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if conn.stage != Stage::Open {
            return;
        }
        conn.between = false;
        conn.peer_first = conn.incoming == Incoming::Ended;
        // What was received and never taken is thrown away like what is still to come.
        self.tally.late += conn.inbound_bytes as u64;
        drop(conn.inbound.take());
        conn.inbound_bytes = 0;
        self.lingering += 1;
        conn.stage = Stage::Flushing(Linger {
            acked: None,
            progress_ns: now_ns,
            fin_ns: 0,
            check_ns: ns(LINGER_CHECK_MIN),
        });
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
        let Stage::Closed(last) = conn.stage else {
            conn.writer.park(context, &mut self.spent_wakers);
            return Poll::Pending;
        };
        Poll::Ready(if let Some(failure) = conn.write_failure {
            Err(super::errors::write_failed(failure.errno, failure.taken))
        } else if let Incoming::Failed(errno) = conn.incoming {
            Err(io::Error::from_raw_os_error(errno))
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
        Ok(())
    }

    /// Closes every connection that is open, whoever holds it: Closing has begun.
    pub(crate) fn begin_all_closes(&mut self) {
        let open: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.stage == Stage::Open)
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
            let unsent = conn.outbound.bytes() as u64;
            let accepted = conn.origin == Origin::Accepted;
            let last = match conn.stage {
                Stage::Ending(last) => last,
                _ => last,
            };
            conn.stage = Stage::Closed(last);
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
        let last = self.losses(index, end);
        if let Some(fd) = self.conns.get(index as usize).and_then(Conn::borrow) {
            // It ends a pending receive too. Should it fail, the cancel of `end` does that.
            let _gone = socket::reset(fd);
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
        match conn.stage {
            Stage::Open => {}
            Stage::Flushing(_) | Stage::FinSent(_) if conn.is_dead() && conn.send.is_none() => {
                let end = if conn.was_reset() {
                    End::PeerReset
                } else {
                    End::Abandoned
                };
                let last = self.losses(index, end);
                self.end(index, last);
            }
            Stage::Flushing(linger) if conn.outbound.bytes() == 0 && conn.send.is_none() => {
                self.send_fin(index, linger);
            }
            Stage::Flushing(linger) | Stage::FinSent(linger) => self.linger(index, linger),
            Stage::Ending(_) => self.finish(index),
            Stage::Closed(_) => {}
        }
    }

    /// All is in the kernel's hands: our FIN goes after it.
    fn send_fin(&mut self, index: u32, linger: Linger) {
        let now_ns = self.now_ns;
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if let Some(fd) = conn.borrow() {
            // ENOTCONN: the peer has reset it; the receive's completion says so too.
            let _reset = socket::shutdown_write(fd);
        }
        conn.fin_sent = true;
        let linger = Linger {
            fin_ns: now_ns,
            ..linger
        };
        conn.stage = Stage::FinSent(linger);
        let answered = conn.incoming != Incoming::Open;
        self.arm_recv(index);
        if answered {
            self.step_closing(index);
        } else {
            // Its FIN is on the way, mostly: a look before it comes would be for nothing.
            self.look_again(index, linger);
        }
    }

    /// Looks at how far the peer is, and ends the connection or looks again later.
    fn linger(&mut self, index: u32, mut linger: Linger) {
        let now_ns = self.now_ns;
        let unacked = self.unacknowledged(index);
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let fin_sent = matches!(conn.stage, Stage::FinSent(_));
        let owed = conn.outbound.bytes() as u64 + unacked;
        let end = conn.orderly_end();
        // With the peer's FIN here, only our own may be unacknowledged: nothing is left to lose.
        if fin_sent && conn.incoming == Incoming::Ended && owed <= 1 {
            return self.end(index, Last::clean(end));
        }
        let transfer = conn
            .borrow()
            .and_then(|fd| socket::transfer(fd).ok())
            .unwrap_or_default();
        let quiet_ns = ns(LINGER_QUIET_MIN.max(2 * transfer.round_trip));
        let silent_since_ns = conn.active_ns.max(linger.fin_ns);
        let silent_ns = now_ns.saturating_sub(silent_since_ns);
        if fin_sent && owed == 0 && silent_ns >= quiet_ns {
            return self.end(index, Last::clean(end));
        }
        // What is owed says nothing here: a send in flight refills the socket as fast as the peer
        // empties it.
        if linger.acked.is_none_or(|acked| transfer.acked > acked) {
            linger.acked = Some(transfer.acked);
            linger.progress_ns = now_ns;
        } else if now_ns >= linger.progress_ns.saturating_add(self.linger_ns(index)) {
            return self.cut(index, End::Abandoned);
        }
        self.look_again(index, linger);
    }

    /// Sees to it that the peer is looked at after a pause, and by the cap of the linger time.
    fn look_again(&mut self, index: u32, mut linger: Linger) {
        // Ten thousand that linger, each looked at every few milliseconds, would be all we do.
        let all_ns = ns(LINGER_CHECK_EACH).saturating_mul(self.lingering);
        let look_ns = self.now_ns + linger.check_ns.max(all_ns);
        linger.check_ns = (linger.check_ns * 2).min(ns(LINGER_CHECK_MAX));
        let cap_ns = linger.progress_ns.saturating_add(self.linger_ns(index));
        let Some(conn) = self.conn(index) else {
            return;
        };
        match &mut conn.stage {
            Stage::Flushing(place) | Stage::FinSent(place) => *place = linger,
            Stage::Open | Stage::Ending(_) | Stage::Closed(_) => return,
        }
        self.set_conn_timer(index, look_ns.min(cap_ns));
    }

    /// How long its peer may acknowledge nothing (ns).
    fn linger_ns(&self, index: u32) -> u64 {
        let conn = self.conns.get(index as usize);
        let policy = conn.and_then(|conn| conn.policy.as_ref());
        let own_ns = policy.and_then(|policy| policy.linger_ns());
        own_ns.unwrap_or(self.linger_ns)
    }

    /// What is lost if the connection ends now; what is unsent is known only when no send is in
    /// flight any more ([`finish`](Io::finish)).
    fn losses(&self, index: u32, end: End) -> Last {
        let unacked = self.unacknowledged(index);
        let fin_sent = self
            .conns
            .get(index as usize)
            .is_some_and(|conn| conn.fin_sent);
        Last {
            end,
            unsent: 0,
            // The FIN counts as one byte in the kernel's sum and is none of ours.
            unacked: unacked.saturating_sub(u64::from(fin_sent)),
        }
    }

    /// The connection is over: whatever of it is in the kernel is called back.
    fn end(&mut self, index: u32, last: Last) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        self.lingering -= u64::from(conn.stage.lingers());
        conn.stage = Stage::Ending(last);
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
        let Stage::Ending(mut last) = conn.stage else {
            return;
        };
        if conn.in_kernel() {
            return;
        }
        last.unsent = conn.outbound.bytes() as u64;
        conn.stage = Stage::Closed(last);
        drop(conn.fd.take());
        drop(conn.inbound.take());
        conn.inbound_bytes = 0;
        if conn.recv == Recv::Starved {
            conn.recv = Recv::Off;
        }
        conn.outbound.clear(&mut self.spent_segments);
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
    }

    /// Nobody knows the record any more.
    fn free(&mut self, index: u32) {
        if let Some(mut conn) = self.conns.try_remove(index as usize) {
            self.driver.pool().forget(index);
            conn.reader.clear(&mut self.spent_wakers);
            conn.writer.clear(&mut self.spent_wakers);
        }
    }
}

/// What the report says of a connection.
impl Io {
    /// The accepted connections that are open, with what each still has to send.
    pub(crate) fn open_accepted(&self) -> Vec<Straggler> {
        self.conns
            .iter()
            .filter(|(_, conn)| conn.origin == Origin::Accepted && !conn.stage.is_over())
            .map(|(index, conn)| {
                let index = index as u32;
                let peer = self.peer_name(index).map(|peer| peer.to_string());
                let unacked = self.unacknowledged(index);
                Straggler {
                    kind: "connection".to_owned(),
                    name: peer.unwrap_or_else(|| "unknown peer".to_owned()),
                    spawned_at: None,
                    detail: format!(
                        "{}; {} bytes queued, {unacked} unacknowledged",
                        conn.what_it_does(),
                        conn.outbound.bytes(),
                    ),
                }
            })
            .collect()
    }
}

impl Conn {
    /// Whether its descriptor is closed.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed(_))
    }

    /// Where it stands, in words.
    fn what_it_does(&self) -> &'static str {
        match self.stage {
            Stage::Open if self.in_request => "inside a request",
            Stage::Open => "open",
            Stage::Flushing(_) => "flushing",
            Stage::FinSent(_) => "waiting for the peer to take what was sent",
            Stage::Ending(_) | Stage::Closed(_) => "ending",
        }
    }

    /// Whether it was the peer that broke the connection.
    fn was_reset(&self) -> bool {
        let by_peer = |errno| matches!(errno, libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED);
        matches!(self.incoming, Incoming::Failed(errno) if by_peer(errno))
            || self
                .write_failure
                .is_some_and(|failure| by_peer(failure.errno))
    }

    /// The reason of a connection that ended in order.
    fn orderly_end(&self) -> End {
        if self.told {
            End::Drained
        } else if self.peer_first {
            End::ByPeer
        } else {
            End::ByHandler
        }
    }
}
