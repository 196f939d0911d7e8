//! What flows through a connection's socket: what completions and the turn do to its record.
//!
//! The receive's life is drawn in [`conn`](super::conn).

#![forbid(unsafe_code)]

use std::task::Waker;

use super::Io;
use super::conn::{Conn, Incoming, Recv};
use super::lane::Lanes;
use super::outbound::Segment;
use super::timer::Timer;
use crate::config::{BUFFER_BYTES, CONN_INBOUND_BYTES, HIGH_WATER_BYTES};
use crate::ring::chunk::Chunk;
use crate::ring::driver::Driver;
use crate::ring::entry::{Cqe, Sqe};
use crate::ring::sys::socket;
use crate::ring::token::{Generations, Kind, Token};

/// Buffers that a receive takes which brings as much as a connection may hold.
const RECEIVE_BUFFERS: u32 = (CONN_INBOUND_BYTES / BUFFER_BYTES) as u32;

impl Conn {
    /// Puts a send into the kernel, if something is queued and none is there.
    fn make_send(&mut self, index: u32, generations: &mut Generations, driver: &mut Driver) {
        let mute = self.is_dead() || self.stage.is_over();
        let (false, None, Some(fd)) = (mute, self.send, self.raw()) else {
            return;
        };
        let Some(sqe) = self.lane.as_mut().and_then(|lane| lane.outbound.seal(fd)) else {
            return;
        };
        let generation = generations.advance();
        self.send = Some(generation);
        driver.submit(
            sqe,
            Token {
                kind: Kind::Send,
                index,
                generation,
            },
        );
    }

    /// The send in flight is over, and `count` bytes of it were taken, one at least. Whether that is
    /// all there is to do.
    #[inline(always)]
    pub(super) fn end_send(
        &mut self,
        count: usize,
        lanes: &mut Lanes,
        wakers: &mut Vec<Waker>,
        spent: &mut Vec<Segment>,
    ) -> bool {
        self.send = None;
        self.taken += count as u64;
        let mut unsent = 0;
        if let Some(lane) = &mut self.lane {
            unsent = lane.outbound.advance(count, spent);
            if unsent == 0 {
                lanes.rest(&mut self.lane);
            }
        }
        if unsent < HIGH_WATER_BYTES {
            self.writer.wake(wakers);
        }
        unsent == 0 && self.stage.is_open()
    }
}

/// What completions and the turn do to a connection.
impl Io {
    /// The record at `index`.
    pub(super) fn conn(&mut self, index: u32) -> Option<&mut Conn> {
        self.conns.get_mut(index as usize)
    }

    /// Puts the receive into the kernel, if there is none and something may come.
    pub(super) fn arm_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let wanted =
            conn.recv == Recv::Off && conn.incoming == Incoming::Open && conn.stage.receives();
        let (true, Some(fd)) = (wanted, conn.raw()) else {
            return;
        };
        let generation = self.generations.advance();
        conn.recv = Recv::Armed(generation);
        let token = Token {
            kind: Kind::Recv,
            index,
            generation,
        };
        self.driver.submit(
            Sqe::RecvMulti {
                fd,
                bytes_most: CONN_INBOUND_BYTES as u32,
            },
            token,
        );
    }

    /// Takes the receive out of the kernel, if it is there.
    pub(super) fn stop_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if let Recv::Armed(generation) = conn.recv {
            conn.recv = Recv::Stopping(generation);
            self.driver.cancel(Token {
                kind: Kind::Recv,
                index,
                generation,
            });
        }
    }

    /// Arms a receive that was stopped by the limit, once half of it is free again.
    ///
    /// Those that wait for buffers come first: armed at once, what has just been read took the next
    /// buffers as well, turn after turn. Of 64 streams some brought 110 MiB in the time in which half
    /// of them brought 7 or less, and rate and processor time were no better for it.
    ///
    /// A stream that is read in shares has a small window: Linux (6.16) lets it grow only when its reader
    /// empties it, and the acknowledgements then pull the data on the reader's core, which took 1.1 to 1.5
    /// of the processor time of a bare ring with 64 streams. Eight shares in a row, armed at once, took
    /// 0.9 to 1.0, but some streams got nothing at all of 512 MiB; eight in a row in their order, fair
    /// again, 1.2. Measured more closely (`benches/results/paired.md`) one share takes 1.04 to 1.10: its
    /// core sends 2.6 times as many acknowledgements for as many bytes. Shares of 256 KiB took 0.97 of
    /// that and of 512 KiB 0.94 to 0.98; but a share is also what a stream brings in a turn, and what one
    /// that nobody reads may hold. So one it is, of 128 KiB.
    pub(super) fn resume_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if conn.recv != Recv::Off || !conn.has_room() {
            return;
        }
        if self.starved.is_empty() {
            self.arm_recv(index);
        } else if conn.incoming == Incoming::Open && conn.stage.receives() {
            conn.recv = Recv::Starved;
            self.starved.push_back(index);
        }
    }

    /// A connection has met its limit.
    #[cold]
    fn stop_full(&mut self, index: u32) {
        self.met_limit += 1;
        self.stop_recv(index);
    }

    /// One completion of a receive.
    #[inline(always)]
    pub(super) fn on_recv(&mut self, cqe: &Cqe) {
        let token = Token::of_kind(cqe.user_data, Kind::Recv);
        let index = token.index;
        // As nearly always: bytes came for a connection in use, and more will.
        let bytes = cqe.more() && cqe.result > 0;
        if let (true, Some(conn)) = (bytes, self.conns.get_mut(index as usize)) {
            let usual = conn.recv == Recv::Armed(token.generation) && conn.is_plain();
            if usual && !self.driver.pool().is_short(index) {
                conn.active_ns = self.now_ns;
                conn.first_byte = true;
                if let Some(lane) = conn.free_lane() {
                    if let Some(chunk) = self.driver.chunk(cqe, index) {
                        self.tally.received += chunk.len() as u64;
                        lane.put_first_inbound(chunk);
                        conn.reader.wake(&mut self.wakers);
                        return;
                    }
                } else if let Some(chunk) = self.driver.chunk(cqe, index) {
                    self.tally.received += chunk.len() as u64;
                    if conn.deliver(chunk, &mut self.lanes, &mut self.wakers) {
                        self.stop_full(index);
                    }
                    return;
                }
            }
        }
        self.on_recv_with_care(cqe, token);
    }

    /// As `on_recv`, whatever came to whom.
    #[cold]
    fn on_recv_with_care(&mut self, cqe: &Cqe, token: Token) {
        let index = token.index;
        let now_ns = self.now_ns;
        if !cqe.more() {
            self.driver.count_last(cqe.result);
        }
        let chunk = self.driver.chunk(cqe, index);
        let conn = match self.conns.get_mut(index as usize) {
            Some(conn) if conn.recv.is_of(token.generation) => conn,
            _ => return self.driver.stale(cqe.user_data),
        };
        if !cqe.more() {
            conn.recv = Recv::Off;
        }
        let Some(chunk) = chunk else {
            return self.on_recv_end(index, cqe);
        };
        conn.active_ns = now_ns;
        conn.first_byte = true;
        self.tally.received += chunk.len() as u64;
        if !conn.stage.is_open() || self.driver.pool().is_short(index) {
            self.deliver_with_care(index, chunk);
        } else if conn.deliver(chunk, &mut self.lanes, &mut self.wakers) {
            self.stop_full(index);
        }
        if !cqe.more() {
            self.after_last_recv(index);
        }
    }

    /// A completion of a receive that brought no bytes.
    #[cold]
    fn on_recv_end(&mut self, index: u32, cqe: &Cqe) {
        match cqe.result {
            0 => self.on_fin(index),
            1.. => {}
            _ if cqe.result == -libc::ENOBUFS => {
                if let Some(conn) = self.conns.get_mut(index as usize) {
                    conn.recv = Recv::Starved;
                    self.tally.ran_out += 1;
                    self.starved.push_back(index);
                }
            }
            _ if cqe.result == -libc::ECANCELED => {}
            _ => self.on_recv_error(index, -cqe.result),
        }
        if !cqe.more() {
            self.after_last_recv(index);
        }
    }

    /// The receive is out of the kernel: a closing record takes its next step, an open one arms
    /// again if it has room.
    fn after_last_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if conn.stage.is_open() {
            self.resume_recv(index);
        } else {
            // What still comes must be read: unread bytes would make the close a reset.
            self.arm_recv(index);
            self.step_closing(index);
        }
    }

    /// Bytes came that nobody will ever read, or while buffers are short: then they are copied.
    fn deliver_with_care(&mut self, index: u32, chunk: Chunk) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if !conn.stage.is_open() {
            self.tally.late += chunk.len() as u64;
            return;
        }
        if conn.deliver(chunk.into_heap(), &mut self.lanes, &mut self.wakers) {
            self.stop_recv(index);
        }
    }

    /// The peer's FIN came.
    fn on_fin(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.incoming = Incoming::Ended;
        conn.no_longer_plain();
        conn.reader.wake(&mut self.wakers);
    }

    /// The receive failed: nothing more can come, and nothing that is queued can arrive.
    fn on_recv_error(&mut self, index: u32, errno: i32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let errno = errno as u16;
        conn.incoming = Incoming::Failed(errno);
        conn.no_longer_plain();
        if conn.send.is_none() && conn.unsent() > 0 {
            conn.write_errno.get_or_insert(errno);
        }
        conn.reader.wake(&mut self.wakers);
        conn.writer.wake(&mut self.wakers);
    }

    /// Arms the receives that ran out of buffers, as many as there are buffers for now. Whether more of
    /// them wait, and may find some: then the core is not to sleep. Whoever was armed may have nothing
    /// to receive, so that no completion would ever bring the others their turn.
    #[inline]
    pub(crate) fn feed_starved(&mut self) -> bool {
        let met_limit = std::mem::take(&mut self.met_limit);
        !self.starved.is_empty() && self.feed_some(met_limit)
    }

    /// As `feed_starved`, where there are some; so many connections have met their limit in this turn.
    ///
    /// If those had half of the buffers, streams are what wants them, each as many as it may hold: then
    /// only as many are armed as find that many, and few buffers go round. Armed all at once, most of
    /// 64 streams met an empty ring in every turn: a quarter of all completions.
    fn feed_some(&mut self, met_limit: u32) -> bool {
        let pool = self.driver.pool();
        let in_bulk = 2 * met_limit * RECEIVE_BUFFERS >= pool.out() && !pool.is_held();
        // Once for all that met the same empty ring, whether or not buffers came back meanwhile.
        if in_bulk {
            pool.narrow();
        } else {
            pool.grow();
        }
        let each = if in_bulk { RECEIVE_BUFFERS } else { 1 };
        let mut ready = pool.ready();
        // With none at all it is a task that gives the next one back, and that takes a turn anyway.
        let may_find_some = ready > 0;
        while ready > 0 {
            let Some(index) = self.starved.pop_front() else {
                return false;
            };
            if let Some(conn) = self.conn(index) {
                if conn.recv == Recv::Starved {
                    conn.recv = Recv::Off;
                    // Its limit may have stopped it at the same moment: then it waits for its reader.
                    // Fed all the same it would hold all that its peer cares to send.
                    if conn.has_room() {
                        self.arm_recv(index);
                    }
                    if self.is_armed(index) {
                        ready = ready.saturating_sub(each);
                    }
                }
            }
        }
        may_find_some && !self.starved.is_empty()
    }

    /// Whether the kernel receives for the record.
    fn is_armed(&self, index: u32) -> bool {
        let conn = self.conns.get(index as usize);
        conn.is_some_and(|conn| matches!(conn.recv, Recv::Armed(_)))
    }

    /// Remembers that the record has a send to make at the end of this turn.
    pub(super) fn mark_dirty(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize) {
            if !conn.dirty {
                conn.dirty = true;
                self.dirty.push(index);
            }
        }
    }

    /// Makes one send for each record that has bytes queued and none in flight.
    #[inline]
    pub(crate) fn flush_sends(&mut self) {
        if let [index] = self.dirty[..] {
            self.dirty.clear();
            let may_be_at_once = self.draining.is_none();
            self.flush_one(index, may_be_at_once);
        } else if !self.dirty.is_empty() {
            self.flush_now();
        }
    }

    /// As `flush_sends`, where there are some.
    #[inline(never)]
    fn flush_now(&mut self) {
        let may_be_at_once = self.draining.is_none();
        // By their places: what a drain of the list costs, a core with one connection would pay for
        // each request.
        for at in 0..self.dirty.len() {
            let index = self.dirty[at];
            self.flush_one(index, may_be_at_once);
        }
        self.dirty.clear();
    }

    /// Makes one send for the record.
    #[inline(always)]
    fn flush_one(&mut self, index: u32, may_be_at_once: bool) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.dirty = false;
        if may_be_at_once && conn.may_send_at_once() {
            let sealed = conn.seal_at_once(index, self.now_ns, &mut self.generations);
            if let Some((from, fd, sent)) = sealed {
                let len = sent.len;
                let sqe = || Sqe::SendAtOnce { fd, from, len };
                self.driver.submit_made(sqe, sent.token());
                self.at_once.push(sent);
                self.last_at_once = self.driver.last_handed();
                return;
            }
        }
        conn.make_send(index, &mut self.generations, &mut self.driver);
    }

    /// The completion of a send: of one that failed, was short, or was waited for.
    #[inline]
    pub(super) fn on_send(&mut self, cqe: &Cqe) {
        let token = Token::of_kind(cqe.user_data, Kind::Send);
        let now_ns = self.now_ns;
        self.driver.count_last(cqe.result);
        let conn = match self.conns.get_mut(token.index as usize) {
            Some(conn) if conn.send == Some(token.generation) => conn,
            _ => return self.driver.stale(cqe.user_data),
        };
        let count = usize::try_from(cqe.result).unwrap_or(0);
        if count == 0 {
            return self.on_empty_send(token.index, -cqe.result);
        }
        conn.active_ns = now_ns;
        self.tally.sent += count as u64;
        if !conn.end_send(
            count,
            &mut self.lanes,
            &mut self.wakers,
            &mut self.spent_segments,
        ) {
            self.after_send(token.index);
        }
    }

    /// A send is over that took nothing: it failed, or is to be tried again.
    #[cold]
    fn on_empty_send(&mut self, index: u32, errno: i32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.send = None;
        if let Some(lane) = &mut conn.lane {
            lane.outbound.advance(0, &mut self.spent_segments);
        }
        if errno > 0 && errno != libc::EINTR && errno != libc::EAGAIN {
            conn.write_errno.get_or_insert(errno as u16);
            conn.no_longer_plain();
            conn.reader.wake(&mut self.wakers);
            conn.writer.wake(&mut self.wakers);
        }
        self.after_send(index);
    }

    /// A send is over and more is queued, or the record is closing.
    #[cold]
    pub(super) fn after_send(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let open = conn.stage.is_open();
        conn.make_send(index, &mut self.generations, &mut self.driver);
        if !open {
            self.note_unacked(index);
            self.step_closing(index);
        }
    }

    /// Starts or moves the record's one timer.
    pub(super) fn set_conn_timer(&mut self, index: u32, at_ns: u64) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if let Some(key) = conn.timer.take() {
            self.wheel.cancel(key);
        }
        let timer = Timer::Conn { index };
        conn.timer = Some(self.wheel.insert(super::timer::tick(at_ns), timer));
    }

    /// What the kernel knows of bytes on their way to the peer; 0 when the socket is gone.
    pub(super) fn unacknowledged(&self, index: u32) -> u64 {
        self.conns
            .get(index as usize)
            .and_then(Conn::borrow)
            .and_then(|fd| socket::unacknowledged(fd).ok())
            .unwrap_or(0)
    }
}
