//! What flows through a connection's socket: what completions and the turn do to its record.
//!
//! The receive's life is drawn in [`conn`](super::conn).

#![forbid(unsafe_code)]

use super::Io;
use super::closing::Stage;
use super::conn::{Conn, Incoming, Recv, WriteFailure};
use super::timer::Timer;
use crate::config::{CONN_INBOUND_BYTES, HIGH_WATER_BYTES};
use crate::ring::chunk::Chunk;
use crate::ring::port::Sqe;
use crate::ring::sys::socket;
use crate::ring::token::{Kind, Token};

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
        self.driver.submit(Sqe::RecvMulti { fd }, token);
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
    pub(super) fn resume_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if conn.recv == Recv::Off && conn.inbound_bytes < CONN_INBOUND_BYTES / 2 {
            self.arm_recv(index);
        }
    }

    /// One completion of a receive.
    pub(super) fn on_recv(&mut self, token: Token, result: i32, more: bool, chunk: Option<Chunk>) {
        let now_ns = self.now_ns;
        let conn = match self.conns.get_mut(token.index as usize) {
            Some(conn)
                if matches!(conn.recv, Recv::Armed(g) | Recv::Stopping(g)
                    if g == token.generation) =>
            {
                conn
            }
            _ => return self.driver.stale(token.pack()),
        };
        if !more {
            conn.recv = Recv::Off;
        }
        match result {
            0 => self.on_fin(token.index),
            1.. => {
                conn.active_ns = now_ns;
                conn.first_byte = true;
                self.tally.received += result as u64;
                if let Some(chunk) = chunk {
                    self.deliver(token.index, chunk);
                }
            }
            _ if result == -libc::ENOBUFS => {
                conn.recv = Recv::Starved;
                self.starved.push_back(token.index);
            }
            _ if result == -libc::ECANCELED => {}
            _ => self.on_recv_error(token.index, -result),
        }
        if !more {
            self.after_last_recv(token.index);
        }
    }

    /// The receive is out of the kernel: a closing record takes its next step, an open one arms
    /// again if it has room.
    fn after_last_recv(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if conn.stage == Stage::Open {
            self.resume_recv(index);
        } else {
            // What still comes must be read: unread bytes would make the close a reset.
            self.arm_recv(index);
            self.step_closing(index);
        }
    }

    /// Bytes came: to the reader, or, if nobody will ever read again, to nobody.
    fn deliver(&mut self, index: u32, chunk: Chunk) {
        let short = self.driver.pool().is_short(index);
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if conn.stage.discards() {
            self.tally.late += chunk.len() as u64;
            return;
        }
        let chunk = if short { chunk.into_heap() } else { chunk };
        conn.inbound_bytes += chunk.len();
        conn.inbound.push_back(chunk);
        conn.reader.wake(&mut self.wakers);
        if conn.inbound_bytes >= CONN_INBOUND_BYTES {
            self.stop_recv(index);
        }
    }

    /// The peer's FIN came.
    fn on_fin(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.incoming = Incoming::Ended;
        conn.reader.wake(&mut self.wakers);
    }

    /// The receive failed: nothing more can come, and nothing that is queued can arrive.
    fn on_recv_error(&mut self, index: u32, errno: i32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        conn.incoming = Incoming::Failed(errno);
        if conn.write_failure.is_none() && conn.send.is_none() {
            let unsent = conn.outbound.bytes() as u64;
            let taken = conn.taken;
            if unsent > 0 {
                conn.write_failure = Some(WriteFailure { errno, taken });
            }
        }
        conn.reader.wake(&mut self.wakers);
        conn.writer.wake(&mut self.wakers);
    }

    /// Arms the receives that ran out of buffers, as many as there are buffers now.
    pub(crate) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        // Once for all that met the same empty ring, whether or not buffers came back meanwhile.
        self.driver.pool().grow();
        let mut ready = self.driver.pool().ready();
        while ready > 0 {
            let Some(index) = self.starved.pop_front() else {
                return;
            };
            if let Some(conn) = self.conn(index) {
                if conn.recv == Recv::Starved {
                    conn.recv = Recv::Off;
                    self.arm_recv(index);
                    ready -= 1;
                }
            }
        }
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
    pub(crate) fn flush_sends(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(index as usize) {
                conn.dirty = false;
                self.make_send(index);
            }
        }
        // Nothing in the loop marks a record dirty, so the list kept its memory and lost nothing.
        self.dirty = dirty;
    }

    /// Puts a send into the kernel, if something is queued and none is there.
    fn make_send(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let mute = conn.is_dead() || conn.stage.is_over();
        let (false, None, Some(fd)) = (mute, conn.send, conn.raw()) else {
            return;
        };
        let Some(sqe) = conn.outbound.seal(fd) else {
            return;
        };
        let generation = self.generations.advance();
        conn.send = Some(generation);
        self.driver.submit(
            sqe,
            Token {
                kind: Kind::Send,
                index,
                generation,
            },
        );
    }

    /// The completion of a send.
    pub(super) fn on_send(&mut self, token: Token, result: i32) {
        let now_ns = self.now_ns;
        let conn = match self.conns.get_mut(token.index as usize) {
            Some(conn) if conn.send == Some(token.generation) => conn,
            _ => return self.driver.stale(token.pack()),
        };
        conn.send = None;
        let count = usize::try_from(result).unwrap_or(0);
        conn.outbound.advance(count, &mut self.spent_segments);
        conn.taken += count as u64;
        self.tally.sent += count as u64;
        if result > 0 {
            conn.active_ns = now_ns;
        } else if result < 0 && result != -libc::EINTR && result != -libc::EAGAIN {
            let taken = conn.taken;
            conn.write_failure.get_or_insert(WriteFailure {
                errno: -result,
                taken,
            });
            conn.reader.wake(&mut self.wakers);
            conn.writer.wake(&mut self.wakers);
        }
        if conn.outbound.bytes() < HIGH_WATER_BYTES {
            conn.writer.wake(&mut self.wakers);
        }
        let open = matches!(conn.stage, Stage::Open);
        if conn.outbound.bytes() > 0 && !conn.stage.is_over() {
            self.make_send(token.index);
        }
        if !open {
            self.step_closing(token.index);
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
