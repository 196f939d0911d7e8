//! epoll and nothing else: one buffer for all connections, two system calls a request and one wait
//! for as many as are ready.
//!
//! Its stop is the measure for all others: send FIN on every socket, read to the end, close.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};
use crate::sys::{Epoll, room_for_events};

/// The token of the listener; connections have their index.
const LISTENER: u64 = u64::MAX;

/// The token of the bell.
const BELL: u64 = u64::MAX - 1;

/// One connection.
struct Conn {
    /// Non-blocking.
    stream: TcpStream,
    /// What did not fit in the socket; while there is some, nothing is read.
    pending: Vec<u8>,
    /// How much a sink has counted.
    taken: u64,
}

/// The loop's state.
struct Loop {
    /// Watches everything.
    epoll: Epoll,
    /// By token; an index is used again.
    conns: Vec<Option<Conn>>,
    /// The indices that are free.
    free: Vec<usize>,
    /// The one buffer.
    buffer: Vec<u8>,
    /// See `Plan`.
    mode: Mode,
    /// Whether our FINs are sent: then what comes is thrown away.
    stopping: bool,
}

pub(super) fn serve(seat: Seat) -> io::Result<()> {
    seat.listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(seat.listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
    epoll.add(seat.bell.as_raw_fd(), libc::EPOLLIN, BELL)?;
    let mut state = Loop {
        epoll,
        conns: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; BUFFER_BYTES],
        mode: seat.mode,
        stopping: false,
    };
    let mut events = room_for_events(256);
    let mut listener = Some(seat.listener);
    while !state.stopping || state.conns.len() > state.free.len() {
        let ready = state.epoll.wait(&mut events, None)?;
        for event in ready {
            match event.u64 {
                LISTENER => state.accept(listener.as_ref())?,
                BELL if !state.stopping => {
                    state.accept(listener.as_ref())?;
                    listener = None;
                    state.stop();
                }
                BELL => {}
                index => state.serve(index as usize, event.events)?,
            }
        }
    }
    Ok(())
}

impl Loop {
    /// Takes all that wait.
    fn accept(&mut self, listener: Option<&std::net::TcpListener>) -> io::Result<()> {
        let Some(listener) = listener else {
            return Ok(());
        };
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            let events = libc::EPOLLIN | libc::EPOLLRDHUP;
            self.epoll.add(stream.as_raw_fd(), events, index as u64)?;
            self.conns[index] = Some(Conn {
                stream,
                pending: Vec::new(),
                taken: 0,
            });
        }
    }

    /// Does what one connection is ready for.
    fn serve(&mut self, index: usize, events: u32) -> io::Result<()> {
        let Some(conn) = &mut self.conns[index] else {
            return Ok(());
        };
        let outcome = if self.stopping {
            conn.discard(&mut self.buffer)
        } else if self.mode == Mode::Sink {
            conn.count(&mut self.buffer)
        } else if conn.pending.is_empty() {
            conn.echo(&mut self.buffer)
        } else {
            conn.flush()
        };
        match outcome {
            Ok(true) => {}
            // The peer has finished, or is gone.
            Ok(false) | Err(_) => {
                self.conns[index] = None;
                self.free.push(index);
                return Ok(());
            }
        }
        let waits_to_write = events & libc::EPOLLOUT as u32 != 0;
        if !self.stopping && waits_to_write == conn.pending.is_empty() {
            let side = if waits_to_write {
                libc::EPOLLIN
            } else {
                libc::EPOLLOUT
            };
            let fd = conn.stream.as_raw_fd();
            self.epoll
                .change(fd, side | libc::EPOLLRDHUP, index as u64)?;
        }
        Ok(())
    }

    /// Sends FIN on every socket, after what was already read is written as far as it goes.
    fn stop(&mut self) {
        self.stopping = true;
        for (index, slot) in self.conns.iter_mut().enumerate() {
            let Some(conn) = slot else { continue };
            // A request that came before the signal is answered.
            let answered = self.mode == Mode::Sink || conn.echo(&mut self.buffer).unwrap_or(false);
            if !answered || conn.stream.shutdown(Shutdown::Write).is_err() {
                *slot = None;
                self.free.push(index);
            }
        }
    }
}

impl Conn {
    /// Reads once and writes it back; false at the end.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let count = match (&self.stream).read(buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        match (&self.stream).write(&buffer[..count]) {
            Ok(sent) => self.pending.extend_from_slice(&buffer[sent..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pending.extend_from_slice(&buffer[..count]);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Writes what was left over.
    fn flush(&mut self) -> io::Result<bool> {
        match (&self.stream).write(&self.pending) {
            Ok(sent) => drop(self.pending.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Reads once and counts; says the count at the end.
    fn count(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match (&self.stream).read(buffer) {
            Ok(0) => {
                (&self.stream).write_all(&receipt(self.taken))?;
                Ok(false)
            }
            Ok(count) => {
                self.taken += count as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Throws away what comes; false at the end.
    fn discard(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            match (&self.stream).read(buffer) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}
