//! The client: a process of its own on the other processor, of plain sockets and threads.
//!
//! It is told a round and a port on its standard input, does what the round's plan says, says `ready`
//! where only the stop can bring about the rest, and in the end how many replies it had. It compares
//! every byte. A reply that is wrong, or missing before the stop, ends it.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::plan::{Plan, Script, Then};
use crate::sys;

/// Bytes of a request, and of its reply.
pub const REQUEST_BYTES: usize = 64;

/// Where the server listens: an address of the loopback's that nobody else is likely to use, as a port
/// that was given up may be another program's a moment later.
pub const HOST: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// Threads that share the connections of a round.
const THREADS: usize = 4;

/// Nothing here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one round gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Replies that were whole and right.
    pub replies: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that ended by the server's reset.
    pub resets: u64,
}

impl Tally {
    /// As it is told in one line.
    pub fn parse(line: &str) -> Option<Tally> {
        let mut numbers = line.strip_prefix("done ")?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Tally {
            replies: next()?,
            connections: next()?,
            resets: next()?,
        })
    }
}

/// The counters of a round, for all threads.
#[derive(Default)]
struct Counters {
    replies: AtomicU64,
    connections: AtomicU64,
    resets: AtomicU64,
}

/// Does the rounds that it is told, until its input ends.
pub fn obey(seed: u64, cpu: usize) -> io::Result<()> {
    sys::ignore_interrupts();
    sys::pin(cpu)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers: HashMap<&str, u64> = ["round", "port"]
            .into_iter()
            .zip(line.split(' ').filter_map(|number| number.parse().ok()))
            .collect();
        let plan = Plan::of(seed, numbers["round"]);
        let counters = Counters::default();
        round(&plan, numbers["port"] as u16, &counters)?;
        let said = [&counters.replies, &counters.connections, &counters.resets];
        let said = said.map(|count| count.load(Ordering::Relaxed).to_string());
        say(&format!("done {}", said.join(" ")))?;
    }
    Ok(())
}

/// One line, at once.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// All connections of a round.
fn round(plan: &Plan, port: u16, counters: &Counters) -> io::Result<()> {
    let together = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let together = &together;
                let scripts = plan.scripts.iter().skip(number).step_by(THREADS);
                let late = plan.late * usize::from(number == 0);
                let patient = plan.is_patient();
                scope.spawn(move || {
                    let begun = before(scripts, port, counters, number);
                    together.wait();
                    let begun = begun?;
                    (0..late).try_for_each(|_| connect_late(port, counters))?;
                    after(begun, patient, counters)
                })
            })
            .collect();
        together.wait();
        say("ready")?;
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread of the load panicked"))
    })
}

/// What is done before the stop; the connections that are still there.
fn before<'a>(
    scripts: impl Iterator<Item = &'a Script>,
    port: u16,
    counters: &Counters,
    number: usize,
) -> io::Result<Vec<(Talk, Then)>> {
    let mut open = Vec::new();
    for (place, script) in scripts.enumerate() {
        let mut talk = Talk::connect(port, (number * 64 + place) as u64, counters)?;
        for _ in 0..script.bursts {
            talk.exchange(script.depth, counters)?;
        }
        match script.then {
            Then::Closes => talk.closes()?,
            Then::HalfCloses => talk.half_closes(counters)?,
            Then::Resets => talk.resets()?,
            then => {
                if matches!(then, Then::FinishesLate | Then::Stalls) {
                    talk.sends(REQUEST_BYTES / 2)?;
                }
                open.push((talk, then));
            }
        }
    }
    Ok(open)
}

/// The rest, in an order in which nobody waits for what only comes later.
fn after(mut open: Vec<(Talk, Then)>, patient: bool, counters: &Counters) -> io::Result<()> {
    for (talk, then) in &mut open {
        if *then == Then::FinishesLate {
            // Where the stop cuts, the other half comes too late.
            match talk.sends(REQUEST_BYTES / 2) {
                Err(error) if patient || !ended(&error) => return Err(error),
                _ => {}
            }
        }
    }
    for (mut talk, then) in open {
        let alone = then == Then::GoesOn;
        match talk.last_until_the_end(alone, counters) {
            Ok(()) => {}
            Err(error) if ended(&error) && !patient => {
                counters.resets.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
        // Who goes on may have asked when the end was under way to it.
        if talk.received < talk.sent && patient && then != Then::GoesOn {
            return Err(io::Error::other("a stop took away a reply"));
        }
    }
    Ok(())
}

/// Whether the server has ended the connection, by a reset.
fn ended(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    kinds.contains(&error.kind())
}

/// Connects while all is coming to its end: whatever comes of it is right.
fn connect_late(port: u16, counters: &Counters) -> io::Result<()> {
    let Ok(mut stream) = TcpStream::connect_timeout(&(HOST, port).into(), PATIENCE) else {
        return Ok(());
    };
    counters.connections.fetch_add(1, Ordering::Relaxed);
    stream.set_read_timeout(Some(PATIENCE))?;
    // It fails where the connection was reset already.
    stream.shutdown(Shutdown::Write).ok();
    let mut ignored = Vec::new();
    match stream.read_to_end(&mut ignored) {
        Err(error) if !ended(&error) => Err(error),
        _ => Ok(()),
    }
}

/// One connection, and how far it has come.
struct Talk {
    /// Blocking, with a limit to each read.
    stream: TcpStream,
    /// Makes its bytes differ from all others'.
    salt: u64,
    /// Bytes sent.
    sent: u64,
    /// Bytes received, all of them right.
    received: u64,
}

impl Talk {
    fn connect(port: u16, salt: u64, counters: &Counters) -> io::Result<Talk> {
        let stream = TcpStream::connect_timeout(&(HOST, port).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        counters.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Talk {
            stream,
            salt,
            sent: 0,
            received: 0,
        })
    }

    /// The byte at this place of the stream.
    fn byte(&self, place: u64) -> u8 {
        let mixed = (place ^ self.salt << 20).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 56) as u8
    }

    /// Sends the next bytes.
    fn sends(&mut self, count: usize) -> io::Result<()> {
        let bytes: Vec<u8> = (self.sent..self.sent + count as u64)
            .map(|place| self.byte(place))
            .collect();
        self.stream.write_all(&bytes)?;
        self.sent += count as u64;
        Ok(())
    }

    /// Reads once; false at the end.
    fn reads(&mut self, counters: &Counters) -> io::Result<bool> {
        let mut room = [0; 64 * 1024];
        let count = self.stream.read(&mut room)?;
        let right = (self.received..).map(|place| self.byte(place));
        if !room[..count]
            .iter()
            .copied()
            .zip(right)
            .all(|(is, right)| is == right)
        {
            return Err(io::Error::other("a byte of a reply is wrong"));
        }
        let replies = |received: u64| received / REQUEST_BYTES as u64;
        let before = replies(self.received);
        self.received += count as u64;
        let whole = replies(self.received) - before;
        counters.replies.fetch_add(whole, Ordering::Relaxed);
        Ok(count > 0)
    }

    /// So many requests at once, and all their replies.
    fn exchange(&mut self, depth: usize, counters: &Counters) -> io::Result<()> {
        self.sends(depth * REQUEST_BYTES)?;
        while self.received < self.sent {
            if !self.reads(counters)? {
                return Err(io::Error::other("a connection ended before the stop"));
            }
        }
        Ok(())
    }

    fn closes(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("a reply that nobody asked for")),
        }
    }

    fn half_closes(mut self, counters: &Counters) -> io::Result<()> {
        self.sends(8 * REQUEST_BYTES)?;
        self.stream.shutdown(Shutdown::Write)?;
        while self.reads(counters)? {}
        if self.received < self.sent {
            return Err(io::Error::other("a half-closed connection lost a reply"));
        }
        Ok(())
    }

    fn resets(mut self) -> io::Result<()> {
        self.sends(REQUEST_BYTES / 2)?;
        sys::reset_on_close(&self.stream)
    }

    /// Until the stop ends it: with exchanges, or silently.
    fn last_until_the_end(&mut self, goes_on: bool, counters: &Counters) -> io::Result<()> {
        loop {
            if goes_on && self.received == self.sent {
                self.sends(4 * REQUEST_BYTES)?;
            }
            if !self.reads(counters)? {
                return Ok(());
            }
        }
    }
}
