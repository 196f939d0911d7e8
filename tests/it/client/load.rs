//! The loop of a load: many connections, one thread.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::peer::{Outcome, Peer};
use super::plan::Plan;
use super::tally::Tally;
use crate::args::Args;
use crate::process::say;
use crate::sys::{self, Epoll, READ, WRITE};
use crate::wire::Table;

/// The token of standard input; no connection has it.
const STDIN: u64 = u64::MAX;

/// Runs a load to its end.
pub(crate) fn load(args: Args) -> ExitCode {
    let plan = Plan::read(args);
    if plan.fds > 0 {
        let most = sys::raise_fd_limit().expect("a limit may be raised to its ceiling");
        assert!(
            most >= plan.fds,
            "needs {} descriptors, of {most}",
            plan.fds
        );
    }
    let mut load = Load::new(plan).expect("epoll is there");
    load.run().expect("epoll works");
    say(&format!("done {}", load.tally.json()));
    ExitCode::SUCCESS
}

/// A load under way.
struct Load {
    plan: Plan,
    table: Table,
    epoll: Epoll,
    tally: Tally,
    /// Connections that have not ended, by their number.
    peers: BTreeMap<u64, Peer>,
    /// Requests made by all connections together.
    asked: u64,
    /// When the first connection was opened.
    began: Instant,
    /// Reads are held back until this is false.
    silent: bool,
    /// Told to open and ask no more.
    stopped: bool,
    /// When a byte was last written; looked at while silent.
    last_write: Instant,
    /// Each of these is said once.
    said_open: bool,
    /// See `said_open`.
    said_warm: bool,
    /// See `said_open`.
    said_heard: bool,
    /// See `said_open`.
    said_stalled: bool,
    /// What standard input said of a line that is not whole yet.
    told: String,
    /// Where reads go.
    room: Vec<u8>,
}

impl Load {
    fn new(plan: Plan) -> io::Result<Load> {
        let epoll = Epoll::new()?;
        epoll.add(0, STDIN, READ)?;
        Ok(Load {
            room: vec![0; plan.read_bytes],
            silent: plan.silent,
            table: Table::new(),
            epoll,
            tally: Tally::default(),
            peers: BTreeMap::new(),
            asked: 0,
            began: Instant::now(),
            stopped: false,
            last_write: Instant::now(),
            said_open: false,
            said_warm: false,
            said_heard: false,
            said_stalled: false,
            told: String::new(),
            plan,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        while self.opens_more() || !self.peers.is_empty() {
            self.open_due();
            self.say_news();
            self.epoll.wait(self.next_timer(), &mut ready)?;
            for &(token, state) in &ready {
                match token {
                    STDIN => self.obey(),
                    number => self.serve(number, state),
                }
            }
            self.wake_rested();
            self.look_for_stall();
        }
        Ok(())
    }

    /// Whether connections are still to be opened.
    fn opens_more(&self) -> bool {
        !self.stopped && (self.tally.attempted < self.plan.connections || self.plan.per_second > 0)
    }

    /// Opens the connections that are due.
    fn open_due(&mut self) {
        if self.stopped {
            return;
        }
        let elapsed_us = self.began.elapsed().as_micros() as u64;
        let due = self.plan.connections + self.plan.per_second * elapsed_us / 1_000_000;
        while self.tally.attempted < due {
            let number = self.tally.attempted;
            self.tally.attempted += 1;
            match Peer::connect(&self.plan, number) {
                Ok(mut peer) => {
                    peer.interest = WRITE;
                    let added = self.epoll.add(peer.fd(), number, WRITE);
                    added.expect("a new socket can be watched");
                    self.peers.insert(number, peer);
                }
                Err(error) => self.not_connected(&error),
            }
        }
    }

    fn not_connected(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.tally.refused += 1,
            // It was connected, and was reset before we looked.
            io::ErrorKind::ConnectionReset => {
                self.tally.established += 1;
                self.tally.reset += 1;
            }
            _ => self.tally.error("connect", error),
        }
    }

    fn say_news(&mut self) {
        let first = self.plan.connections;
        if !self.said_open && first > 0 && self.tally.established >= first {
            self.said_open = true;
            say("open");
        }
        if !self.said_warm && self.tally.answered >= self.plan.warm {
            self.said_warm = true;
            say("warm");
        }
        if !self.said_heard && self.tally.bytes_received >= self.plan.heard {
            self.said_heard = true;
            say("heard");
        }
    }

    /// How long to wait for events at most.
    fn next_timer(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        let mut at_most = |d: Duration| next = Some(next.map_or(d, |n| n.min(d)));
        if self.opens_more() && self.plan.per_second > 0 {
            at_most(Duration::from_micros(1_000_000 / self.plan.per_second));
        }
        if self.plan.read_every.is_some() {
            let rests = self.peers.values().filter_map(|peer| peer.rests_until);
            rests.for_each(|until| at_most(until.saturating_duration_since(now)));
        }
        if let (true, Some(stall)) = (self.silent && !self.said_stalled, self.plan.stall) {
            at_most((self.last_write + stall).saturating_duration_since(now));
        }
        next
    }

    /// One readiness event of a connection.
    fn serve(&mut self, number: u64, state: u32) {
        // An earlier event of the same batch may have ended it.
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        if !peer.open {
            return match peer.handshake() {
                Ok(()) => {
                    self.tally.established += 1;
                    peer.done_asking = self.stopped;
                    self.advance(number, None);
                }
                Err(error) => {
                    self.peers.remove(&number);
                    self.not_connected(&error);
                }
            };
        }
        let reads = !self.silent && peer.rests_until.is_none();
        let mut outcome = None;
        if reads && state & !WRITE != 0 {
            let (plan, tally) = (&self.plan, &mut self.tally);
            outcome = peer.read(plan, &self.table, &mut self.room, tally);
            peer.rests_until = plan.read_every.map(|pause| Instant::now() + pause);
        }
        self.advance(number, outcome);
    }

    /// Writes what may be written, and sets what to wait for.
    fn advance(&mut self, number: u64, outcome: Option<Outcome>) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let sent = peer.sent;
        let (plan, asked) = (&self.plan, &mut self.asked);
        let outcome = outcome.or_else(|| peer.write(plan, &self.table, asked, &mut self.tally));
        if peer.sent > sent {
            self.last_write = Instant::now();
        }
        if let Some(outcome) = outcome {
            let peer = self.peers.remove(&number).expect("it was found above");
            peer.close(&self.plan, outcome, &mut self.tally);
            return;
        }
        let reads = !self.silent && peer.rests_until.is_none();
        let mut interest = 0;
        if reads {
            interest |= READ;
        }
        if peer.wants_to_write(&self.plan, self.asked) {
            interest |= WRITE;
        }
        if interest != peer.interest {
            peer.interest = interest;
            let changed = self.epoll.change(peer.fd(), number, interest);
            changed.expect("an open socket is watched");
        }
    }

    /// Slow readers whose rest is over may read again.
    fn wake_rested(&mut self) {
        if self.plan.read_every.is_none() {
            return;
        }
        let now = Instant::now();
        let rested = |(&number, peer): (&u64, &Peer)| {
            peer.rests_until.filter(|&until| until <= now)?;
            Some(number)
        };
        let numbers: Vec<u64> = self.peers.iter().filter_map(rested).collect();
        for number in numbers {
            if let Some(peer) = self.peers.get_mut(&number) {
                peer.rests_until = None;
            }
            self.advance(number, None);
        }
    }

    /// A silent load that cannot write on says so.
    fn look_for_stall(&mut self) {
        let Some(stall) = self.plan.stall else { return };
        if !self.silent || self.said_stalled || self.last_write.elapsed() < stall {
            return;
        }
        self.said_stalled = true;
        say("stalled");
        if self.plan.stall_reads {
            self.begin_reading();
        }
    }

    /// Does what standard input says.
    fn obey(&mut self) {
        let mut bytes = [0; 1024];
        let count = io::stdin().read(&mut bytes).unwrap_or(0);
        if count == 0 {
            // The test lets us run on by ourselves.
            let gone = self.epoll.change(0, STDIN, 0);
            return gone.expect("standard input is watched");
        }
        self.told
            .push_str(&String::from_utf8_lossy(&bytes[..count]));
        while let Some((line, rest)) = self.told.split_once('\n') {
            let (command, rest) = (line.to_owned(), rest.to_owned());
            self.told = rest;
            match command.as_str() {
                "mark" => self.mark(),
                "read" => self.begin_reading(),
                "stop" => self.stop(),
                "give_up" => self.give_up(),
                other => panic!("what is {other:?}?"),
            }
        }
    }

    fn mark(&mut self) {
        let mut marked = 0;
        for peer in self.peers.values_mut().filter(|peer| peer.open) {
            marked += peer.mark().expect("an open socket has a send queue");
        }
        self.tally.bytes_marked = marked;
        self.stopped = true;
        say(&format!("marked {marked}"));
    }

    fn begin_reading(&mut self) {
        self.silent = false;
        self.advance_all();
    }

    fn stop(&mut self) {
        self.stopped = true;
        for peer in self.peers.values_mut() {
            peer.done_asking = true;
        }
        self.advance_all();
    }

    /// Waits no longer for handshakes that have not been answered.
    fn give_up(&mut self) {
        let before = self.peers.len();
        self.peers.retain(|_, peer| peer.open);
        self.tally.gave_up += (before - self.peers.len()) as u64;
    }

    fn advance_all(&mut self) {
        let numbers: Vec<u64> = self.peers.keys().copied().collect();
        for number in numbers {
            // One that is not open yet is advanced by its handshake.
            if self.peers.get(&number).is_some_and(|peer| peer.open) {
                self.advance(number, None);
            }
        }
    }
}
