//! One-way streams: each connection writes as fast as the server takes it, and the server's count
//! at the end has to be ours.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{opcode, types::Timespec};

use crate::load::{connect, pattern};
use crate::ring::Ring;
use crate::sys::{self, Usage, Who};

/// The end of a run.
const TIMER: u64 = 1 << 56;

/// The bytes of one write.
const WRITE_BYTES: usize = pattern::LONGEST;

/// The connections, each with one write under way.
pub struct Streams {
    /// The only door to the kernel.
    ring: Ring,
    /// Each with the bytes the kernel has taken.
    links: Vec<(TcpStream, u64)>,
    /// Writes that are not over.
    under_way: usize,
}

/// What a run gave.
pub struct Flow {
    /// Bytes that the kernel took.
    pub bytes: u64,
    /// How long the run was.
    pub elapsed: Duration,
    /// What the load itself used.
    pub load: Usage,
}

impl Streams {
    /// Connects, and begins to write.
    pub fn connect(port: u16, count: usize) -> io::Result<Streams> {
        let mut streams = Streams {
            ring: Ring::new(256, 1024, 1, 4096)?,
            links: Vec::new(),
            under_way: 0,
        };
        for index in 0..count {
            streams.links.push((connect(port, index)?, 0));
            streams.write(index)?;
        }
        Ok(streams)
    }

    /// Queues the next write of a connection.
    fn write(&mut self, index: usize) -> io::Result<()> {
        let (stream, taken) = &self.links[index];
        let bytes = pattern::at(pattern::salt(index), *taken, WRITE_BYTES);
        let socket = stream.as_raw_fd();
        self.under_way += 1;
        self.ring.send_and_tell(socket, bytes, index as u64)
    }

    /// Writes for `length`.
    pub fn run(&mut self, length: Duration) -> io::Result<Flow> {
        self.measure(length, |_| Ok(0))
    }

    /// Writes for `length` after a [`rest`](Streams::rest), and rests again, which counts.
    pub fn slice(&mut self, length: Duration) -> io::Result<Flow> {
        for index in 0..self.links.len() {
            self.write(index)?;
        }
        self.measure(length, Streams::rest)
    }

    /// Lets the writes under way end, and gives the bytes that they brought.
    pub fn rest(&mut self) -> io::Result<u64> {
        let mut bytes = 0;
        while self.under_way > 0 {
            self.ring.enter()?;
            while let Some((data, result, _)) = self.ring.completion() {
                bytes += self.wrote(data as usize, result)?;
            }
        }
        Ok(bytes)
    }

    /// Writes for `length`, and then does `last`, whose bytes count too.
    fn measure(
        &mut self,
        length: Duration,
        last: fn(&mut Streams) -> io::Result<u64>,
    ) -> io::Result<Flow> {
        let limit = Timespec::from(length);
        let timer = opcode::Timeout::new(&raw const limit)
            .build()
            .user_data(TIMER);
        // SAFETY: the kernel reads the timespec when the operation is submitted, by the `enter`
        // below at the latest; `limit` lives to the end of this function.
        unsafe { self.ring.push(&timer)? };
        let before = sys::usage(Who::Thread)?;
        let start = Instant::now();
        let mut bytes = 0;
        let mut over = false;
        while !over {
            self.ring.enter()?;
            while let Some((data, result, _)) = self.ring.completion() {
                if data == TIMER {
                    over = true;
                    continue;
                }
                bytes += self.wrote(data as usize, result)?;
                self.write(data as usize)?;
            }
        }
        bytes += last(self)?;
        Ok(Flow {
            bytes,
            elapsed: start.elapsed(),
            load: sys::usage(Who::Thread)?.since(before),
        })
    }

    /// Counts a write that is over.
    fn wrote(&mut self, index: usize, result: i32) -> io::Result<u64> {
        if result <= 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        self.under_way -= 1;
        self.links[index].1 += result as u64;
        Ok(result as u64)
    }

    /// Lets the last writes end, and compares the server's count with ours on every connection.
    pub fn finish(mut self) -> io::Result<()> {
        self.rest()?;
        for (stream, _) in &self.links {
            stream.shutdown(Shutdown::Write)?;
        }
        for (stream, taken) in &mut self.links {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut count = [0; 8];
            stream.read_exact(&mut count)?;
            let counted = u64::from_be_bytes(count);
            if counted != *taken {
                let text = format!("the server counted {counted} bytes of {taken}");
                return Err(io::Error::other(text));
            }
        }
        Ok(())
    }
}
