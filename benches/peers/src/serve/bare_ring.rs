//! io_uring and nothing else: multishot accept and receive, provided buffers, the reply sent from
//! the buffer the request came in, one `enter` a turn. The limit of what a framework can reach.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::cqueue::{buffer_select, more};

use crate::ring::Ring;
use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};

/// Enough that the buffers are not what limits, few enough that they stay in the cache.
const BUFFERS: u16 = 256;

/// What an operation's user data says, in its top byte; the rest is the connection's index.
const ACCEPT: u64 = 0;
const BELL: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;

/// One connection.
struct Conn {
    /// Open until the last completion that names it.
    stream: TcpStream,
    /// Whether its receive is armed.
    receives: bool,
    /// The buffer that is being sent.
    sending: Option<u16>,
    /// Chunks that wait for the send before them.
    queue: VecDeque<(u16, usize)>,
    /// Whether the peer has finished, or is gone.
    ended: bool,
    /// How much a sink has counted.
    taken: u64,
}

/// The loop's state.
struct Loop {
    /// The only door to the kernel.
    ring: Ring,
    /// By the index in the user data; an index is used again.
    conns: Vec<Option<Conn>>,
    /// The indices that are free.
    free: Vec<usize>,
    /// Those whose receive ended because no buffer was left.
    starved: Vec<usize>,
    /// See `Plan`.
    mode: Mode,
    /// Whether our FINs are sent: then what comes is thrown away.
    stopping: bool,
}

/// Serves, and stops as the bare epoll loop does: FIN, read to the end, close.
pub(super) fn serve(seat: Seat) -> io::Result<()> {
    run(seat, false)
}

/// Serves, and stops by cancelling everything at once.
pub(super) fn serve_and_cancel_all(seat: Seat) -> io::Result<()> {
    run(seat, true)
}

fn run(seat: Seat, cancel_all: bool) -> io::Result<()> {
    let mut state = Loop {
        ring: Ring::new(256, 4096, BUFFERS, BUFFER_BYTES)?,
        conns: Vec::new(),
        free: Vec::new(),
        starved: Vec::new(),
        mode: seat.mode,
        stopping: false,
    };
    state.ring.accept(seat.listener.as_raw_fd(), ACCEPT)?;
    state.ring.poll(seat.bell.as_raw_fd(), BELL)?;
    while !state.stopping || state.conns.len() > state.free.len() {
        state.ring.enter()?;
        while let Some((data, result, flags)) = state.ring.completion() {
            let index = (data & !(0xff << 56)) as usize;
            match data & (0xff << 56) {
                ACCEPT => {
                    state.accepted(result)?;
                    if !more(flags) {
                        // A completion did not fit its queue, and has ended the accept.
                        state.ring.accept(seat.listener.as_raw_fd(), ACCEPT)?;
                    }
                }
                BELL if cancel_all => return state.cancel_all(),
                BELL => state.stop()?,
                RECEIVE => state.received(index, result, flags)?,
                _ => state.sent(index, result)?,
            }
        }
        state.feed_starved()?;
    }
    Ok(())
}

impl Loop {
    /// A connection came, or the accept ended.
    fn accepted(&mut self, result: i32) -> io::Result<()> {
        if result < 0 {
            return Ok(());
        }
        // SAFETY: the completion made this descriptor, and nobody else knows of it.
        let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(result) });
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.ring
            .receive(stream.as_raw_fd(), RECEIVE | index as u64)?;
        self.conns[index] = Some(Conn {
            stream,
            receives: true,
            sending: None,
            queue: VecDeque::new(),
            ended: false,
            taken: 0,
        });
        Ok(())
    }

    /// A chunk came, or the receive ended.
    fn received(&mut self, index: usize, result: i32, flags: u32) -> io::Result<()> {
        let Some(conn) = &mut self.conns[index] else {
            return Ok(());
        };
        conn.receives = more(flags);
        match (result, buffer_select(flags)) {
            (count @ 1.., Some(id)) if self.mode == Mode::Sink || self.stopping => {
                conn.taken += count as u64;
                self.ring.give_back(id);
            }
            (count @ 1.., Some(id)) if conn.sending.is_some() => {
                conn.queue.push_back((id, count as usize));
            }
            (count @ 1.., Some(id)) => {
                conn.sending = Some(id);
                let socket = conn.stream.as_raw_fd();
                let data = SEND | index as u64;
                self.ring.send_buffer(socket, id, count as usize, data)?;
            }
            (error, _) if error == -libc::ENOBUFS => {}
            _ => conn.ended = true,
        }
        if !conn.receives && !conn.ended {
            self.starved.push(index);
        }
        self.close_if_over(index)
    }

    /// A send is over.
    fn sent(&mut self, index: usize, result: i32) -> io::Result<()> {
        let Some(conn) = &mut self.conns[index] else {
            return Ok(());
        };
        if let Some(id) = conn.sending.take() {
            self.ring.give_back(id);
        }
        conn.ended |= result < 0;
        if let Some((id, count)) = conn.queue.pop_front() {
            if conn.ended && result < 0 {
                self.ring.give_back(id);
            } else {
                conn.sending = Some(id);
                let socket = conn.stream.as_raw_fd();
                let data = SEND | index as u64;
                self.ring.send_buffer(socket, id, count, data)?;
            }
        } else if self.stopping {
            conn.stream.shutdown(Shutdown::Write).ok();
        }
        self.close_if_over(index)
    }

    /// Closes a connection that has ended and that no operation names any more.
    fn close_if_over(&mut self, index: usize) -> io::Result<()> {
        let Some(conn) = &mut self.conns[index] else {
            return Ok(());
        };
        if !conn.ended || conn.receives || conn.sending.is_some() {
            return Ok(());
        }
        if self.mode == Mode::Sink && !self.stopping {
            conn.stream.write_all(&receipt(conn.taken))?;
        }
        self.conns[index] = None;
        self.free.push(index);
        Ok(())
    }

    /// Arms the receives that had no buffer.
    fn feed_starved(&mut self) -> io::Result<()> {
        for index in std::mem::take(&mut self.starved) {
            let Some(conn) = &mut self.conns[index] else {
                continue;
            };
            if conn.receives || conn.ended {
                continue;
            }
            conn.receives = true;
            let socket = conn.stream.as_raw_fd();
            self.ring.receive(socket, RECEIVE | index as u64)?;
        }
        Ok(())
    }

    /// Sends FIN on every socket that owes no reply; the others do it after their send.
    fn stop(&mut self) -> io::Result<()> {
        self.stopping = true;
        for conn in self.conns.iter().flatten() {
            if conn.sending.is_none() && conn.stream.shutdown(Shutdown::Write).is_err() {
                // The peer is gone; its receive ends by itself.
                continue;
            }
        }
        Ok(())
    }

    /// Cancels everything with one call, reaps, and closes the sockets.
    fn cancel_all(&mut self) -> io::Result<()> {
        let mut out = self
            .conns
            .iter()
            .flatten()
            .filter(|conn| conn.receives)
            .count();
        assert!(
            out <= 1_200,
            "ANY|ALL is quadratic: not with {out} receives"
        );
        self.ring.cancel_all()?;
        while out > 0 {
            self.ring.enter()?;
            while let Some((data, _, flags)) = self.ring.completion() {
                if data & (0xff << 56) == RECEIVE && !more(flags) {
                    out -= 1;
                }
            }
        }
        self.conns.clear();
        Ok(())
    }
}
