//! Everything of one core that the kernel's completions change: the driver, the wheel, and the
//! records of listeners and connections.
//!
//! [`Io`] is borrowed for a few statements at a time and never while user code runs. So whatever
//! could run user code leaves through a list: wakers to wake, and wakers and segments to drop. The
//! turn empties the lists when the borrow is over ([`Io::take_leftovers`]).

#![forbid(unsafe_code)]

mod accept;
pub(crate) mod asks;
mod at_once;
pub(crate) mod closing;
pub(crate) mod conn;
mod course;
pub(crate) mod drain;
pub(crate) mod errors;
mod few;
mod flow;
mod gate;
mod lane;
mod linger;
pub(crate) mod listener;
pub(crate) mod listening;
pub(crate) mod outbound;
mod parked;
#[cfg(test)]
mod sequences;
#[cfg(test)]
mod sound;
mod spread;
mod stage;
mod sweep;
pub(crate) mod tally;
mod telling;
pub(crate) mod timer;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use crate::clock::ns;
use crate::config::{ACCEPT_QUEUE, COMPLETIONS_AT_ONCE, CONN_TIMER_BUDGET, Peers, TIMER_BUDGET};
use crate::kept;
use crate::panics::quietly;
use crate::report::Straggler;
use crate::ring::driver::Driver;
use crate::ring::entry::Cqe;
use crate::ring::token::{Generations, Kind};
use crate::sync::Arc;
use crate::wheel::Wheel;
use at_once::AtOnce;
use conn::Conn;
use drain::{Draining, TIMERS_BETWEEN};
use lane::Lanes;
use listener::Listener;
use listening::Listening;
use outbound::Segment;
use tally::Tally;
use timer::{Timer, ticks_gone};

/// See the module.
///
/// The compiler orders the fields. With those that each turn touches side by side, here, in the driver
/// and in the connections, an echo touched 70 lines of the cache with data and not 77, and took 0.995 of
/// the processor time, with quartiles of 0.98 to 1.01; with what is rare out of the core's loop 113 lines
/// of code and not 126, and as much time. The next task fetched while one is polled: 0.98 to 1.01 at
/// 1,000 connections. None of it is worth its price.
pub(crate) struct Io {
    /// The ring.
    pub(crate) driver: Driver,
    /// Every timer of this core.
    pub(crate) wheel: Wheel<Timer>,
    /// Every connection of this core.
    pub(crate) conns: Slab<Conn>,
    /// What connections at work have and others have not, between two uses.
    lanes: Lanes,
    /// Every listening socket of this core.
    pub(crate) listeners: Slab<Listener>,
    /// Those of the listening sockets that are open, for the coordinator.
    listening: Arc<Listening>,
    /// The books.
    pub(crate) tally: Tally,
    /// What it has done, counted; see [`Turns`](crate::report::Turns).
    pub(crate) steps: u64,
    /// This turn's time (ns).
    pub(crate) now_ns: u64,
    /// When something last happened that counts against quiet (ns).
    pub(crate) activity_ns: u64,
    /// Delayed spawns in the wheel.
    pub(crate) delayed_spawns: usize,
    /// Delayed spawns that began.
    pub(crate) timers_fired: u64,
    /// The drain, once it has begun.
    draining: Option<Box<Draining>>,
    /// How long a peer may acknowledge nothing of what it is owed (ns).
    linger_ns: u64,
    /// How many accepted connections there may be before the listeners let further ones wait.
    connections_most: u64,
    /// How many accepted connections may wait at one listener: `ACCEPT_QUEUE`, and less in tests.
    untaken_most: usize,
    /// How peers are named in the report.
    peers: Peers,
    /// Connections in the stages `Flushing` and `FinSent`.
    lingering: u64,
    /// The source of generations for all records' operations.
    generations: Generations,
    /// Records that have a send to make.
    dirty: Vec<u32>,
    /// Sends that were over when they were submitted, if the kernel does not say otherwise.
    at_once: Vec<AtOnce>,
    /// The number that the entry of the last of them has, among all that were handed over.
    last_at_once: u32,
    /// Records that wait for buffers to receive into, longest first.
    starved: VecDeque<u32>,
    /// How many connections met their limit in this turn.
    met_limit: u32,
    /// The last listener's id.
    last_listener: u64,
    /// From a deadline on, a listener whose backlog cannot be taken is closed all the same.
    last_sweep: bool,
    /// Listeners that were closed with clients in their backlog.
    refused: Vec<Straggler>,
    /// Descriptors were closed since listeners that want one were last looked at.
    fds_freed: bool,
    /// To be woken when the borrow is over.
    wakers: Vec<Waker>,
    /// Delayed spawns that are due, to be run when the borrow is over.
    due_spawns: Vec<Box<dyn FnOnce()>>,
    /// To be dropped when the borrow is over.
    spent_wakers: Vec<Waker>,
    /// To be dropped when the borrow is over: the memory may be a user's.
    spent_segments: Vec<Segment>,
    /// Completions, kept for their memory; what it holds between reaps means nothing.
    batch: Box<[Cqe]>,
}

/// What must be woken, run and dropped outside of the borrow.
#[derive(Default)]
pub(crate) struct Leftovers {
    /// To be woken.
    wakers: Vec<Waker>,
    /// Delayed spawns that are due, to be run.
    spawns: Vec<Box<dyn FnOnce()>>,
    /// To be dropped.
    spent_wakers: Vec<Waker>,
    /// To be dropped.
    spent_segments: Vec<Segment>,
}

impl Leftovers {
    /// Whether there is nothing to do.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let spent = self.spent_wakers.len() | self.spent_segments.len();
        self.wakers.len() | self.spawns.len() | spent == 0
    }

    /// Wakes, runs and drops; a panic of one (a foreign waker's, a destructor's) harms no other.
    pub(crate) fn settle(&mut self) {
        for waker in self.wakers.drain(..) {
            quietly(|| waker.wake());
        }
        for spawn in self.spawns.drain(..) {
            quietly(spawn);
        }
        for waker in self.spent_wakers.drain(..) {
            quietly(|| drop(waker));
        }
        for segment in self.spent_segments.drain(..) {
            quietly(|| drop(segment));
        }
    }
}

impl Io {
    /// The sockets of a core that has none yet.
    pub(crate) fn new(
        driver: Driver,
        listening: Arc<Listening>,
        now_ns: u64,
        linger: Duration,
    ) -> Io {
        Io {
            driver,
            wheel: Wheel::new(ticks_gone(now_ns)),
            conns: Slab::new(),
            lanes: Lanes::default(),
            listeners: Slab::new(),
            listening,
            tally: Tally::default(),
            steps: 0,
            now_ns,
            activity_ns: now_ns,
            delayed_spawns: 0,
            timers_fired: 0,
            draining: None,
            linger_ns: ns(linger),
            connections_most: u64::MAX,
            untaken_most: ACCEPT_QUEUE,
            peers: Peers::default(),
            lingering: 0,
            generations: Generations::default(),
            dirty: Vec::new(),
            at_once: Vec::new(),
            last_at_once: 0,
            starved: VecDeque::new(),
            met_limit: 0,
            last_listener: 0,
            last_sweep: false,
            refused: Vec::new(),
            fds_freed: false,
            wakers: Vec::new(),
            due_spawns: Vec::new(),
            spent_wakers: Vec::new(),
            spent_segments: Vec::new(),
            batch: Box::default(),
        }
    }

    /// Bounds the connections that are accepted, and says how to name peers. Before it listens.
    pub(crate) fn configure(&mut self, connections_most: usize, peers: Peers) {
        self.connections_most = connections_most.try_into().unwrap_or(u64::MAX);
        self.peers = peers;
    }

    /// Takes every completion that is there to its record or slot: sends first, so that what they
    /// free is there for what is received, then receives, one-off operations, accepts.
    #[inline(never)]
    pub(crate) fn reap(&mut self) {
        self.reap_here();
    }

    /// As `reap`, in the caller's own code: for the sleeping core; see `core::sleep`.
    #[inline(always)]
    pub(crate) fn reap_here(&mut self) {
        // A core with one busy connection finds one, each time.
        if let Some(cqe) = self.driver.collect_only() {
            self.steps += 1;
            let news = self.has_news_of_at_once();
            if cqe.kind() == Kind::Send as u8 {
                self.on_send(&cqe);
            }
            if news {
                self.end_only_at_once();
            }
            self.take_other(&cqe);
        } else {
            self.reap_many();
        }
        self.driver.pool().note_lent();
        if self.fds_freed {
            self.end_all_backoffs();
        }
    }

    /// As `reap`, of however many there are.
    #[inline(never)]
    fn reap_many(&mut self) {
        // Taken out for as long as it is looked at; see `ring::port::Port::reap`.
        let mut batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            batch = vec![Cqe::default(); COMPLETIONS_AT_ONCE].into();
        }
        loop {
            let found = self.driver.collect(&mut batch);
            let count = found.count;
            let came = &batch[..count];
            self.steps += count as u64;
            let news = count < batch.len() && self.has_news_of_at_once();
            if found.may_have(Kind::Send) {
                self.take_sends(came);
            }
            if news {
                self.end_at_once();
            }
            for cqe in came {
                self.take_other(cqe);
            }
            if count < batch.len() {
                break;
            }
        }
        self.batch = batch;
    }

    /// Takes a completion that is none of a send.
    #[inline(always)]
    fn take_other(&mut self, cqe: &Cqe) {
        if cqe.kind() == Kind::Recv as u8 {
            self.on_recv(cqe);
        } else if cqe.kind() != Kind::Send as u8 {
            self.on_rare(*cqe);
        }
    }

    /// Takes the completions of sends.
    #[inline(never)]
    fn take_sends(&mut self, came: &[Cqe]) {
        for cqe in came {
            if cqe.kind() == Kind::Send as u8 {
                self.on_send(cqe);
            }
        }
    }

    /// A completion that is neither a send's nor a receive's.
    #[cold]
    #[inline(never)]
    fn on_rare(&mut self, cqe: Cqe) {
        let Some(completion) = self.driver.decode(cqe) else {
            return;
        };
        match completion.token.kind {
            Kind::Slot => self.driver.complete_slot(&completion, &mut self.wakers),
            Kind::Accept => self.on_accept(completion),
            // The reap takes the first two, and the driver the others.
            Kind::Send | Kind::Recv | Kind::Wake | Kind::Cancel => {}
        }
    }

    /// Moves time to this turn's, and fires what is due by that; see `fire`.
    #[inline]
    pub(crate) fn expire(&mut self) {
        self.wheel.advance(ticks_gone(self.now_ns));
        if !self.wheel.is_empty() {
            self.fire();
            #[cfg(test)]
            if !self.due_spawns.is_empty() {
                crate::ring::fake::strike(crate::ring::fake::Place::Timers);
            }
        }
    }

    /// Fires the timers that are due, up to a budget. What is due beyond that waits, in its order, for
    /// the next turn.
    fn fire(&mut self) {
        let mut of_conns = 0;
        for _ in 0..TIMER_BUDGET {
            if of_conns >= CONN_TIMER_BUDGET {
                return;
            }
            let Some(timer) = self.wheel.pop_expired() else {
                return;
            };
            self.steps += 1;
            match timer {
                Timer::Wake(waker) | Timer::Interval(waker) => self.wakers.push(waker),
                Timer::Spawn(spawn) => {
                    self.delayed_spawns -= 1;
                    self.timers_fired += 1;
                    self.due_spawns.push(spawn);
                }
                Timer::Conn { index } => {
                    of_conns += 1;
                    self.on_conn_timer(index);
                }
                Timer::Accept { index } => self.end_backoff(index),
            }
        }
    }

    /// A connection's one timer is due.
    fn on_conn_timer(&mut self, index: u32) {
        if let Some(conn) = self.conn(index) {
            conn.timer = None;
            if conn.stage.is_open() {
                self.on_drain_timer(index);
            } else {
                self.step_closing(index);
            }
        }
    }

    /// Moves what must happen outside of the borrow to `leftovers`.
    pub(crate) fn take_leftovers(&mut self, leftovers: &mut Leftovers) {
        leftovers.wakers.append(&mut self.wakers);
        leftovers.spawns.append(&mut self.due_spawns);
        leftovers.spent_wakers.append(&mut self.spent_wakers);
        leftovers.spent_segments.append(&mut self.spent_segments);
    }

    /// When the wheel wants a turn (ns).
    #[inline]
    pub(crate) fn timer_wake_ns(&self) -> Option<u64> {
        self.wheel.next_deadline().map(timer::tick_start_ns)
    }

    /// Whether what completed, or the time, asks for a turn.
    #[inline]
    pub(crate) fn wants_turn(&self) -> bool {
        let due = self
            .timer_wake_ns()
            .is_some_and(|due_ns| due_ns <= self.now_ns);
        due || self.has_leftovers()
            || !(self.dirty.is_empty() && self.starved.is_empty() && self.at_once.is_empty())
    }

    /// Whether something waits to be woken, run or dropped.
    #[inline]
    pub(crate) fn has_leftovers(&self) -> bool {
        // One question, for a core with one connection asks it five times for each request.
        let spent = self.spent_wakers.len() | self.spent_segments.len();
        self.wakers.len() | self.due_spawns.len() | spent != 0
    }

    /// Takes every timer but the connections' own out of the wheel, to be dropped outside of the
    /// borrow. `goes_on` is called now and then.
    pub(crate) fn end_all_timers(&mut self, goes_on: &dyn Fn()) -> Vec<Timer> {
        let mut looked = 0;
        let mut ended = self.wheel.extract(&mut |_, timer| {
            looked += 1;
            if looked % TIMERS_BETWEEN == 0 {
                goes_on();
            }
            !matches!(timer, Timer::Conn { .. })
        });
        // What is due and was not reached by the budget is in no slot of the wheel any more.
        while let Some(timer) = self.wheel.pop_expired() {
            match timer {
                Timer::Conn { index } => self.on_conn_timer(index),
                other => ended.push(other),
            }
        }
        self.delayed_spawns -= ended.iter().filter(|timer| timer.is_spawn()).count();
        ended
    }

    /// Whether every connection and every listener is closed.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners_closed() && self.conns.iter().all(|(_, conn)| conn.is_closed())
    }

    /// Closes the ring. How many operations the kernel still held: if there are any, all they may
    /// touch is leaked on purpose, the sockets too.
    pub(crate) fn close(&mut self) -> u64 {
        self.count_open_as_abandoned();
        let leaked = self.driver.close();
        if leaked > 0 {
            kept::for_ever(std::mem::take(&mut self.conns));
            kept::for_ever(std::mem::take(&mut self.listeners));
        }
        leaked
    }

    /// Whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }
}

impl Drop for Io {
    /// An `Io` that nobody closed, because its core could not even end, must not free what the
    /// kernel may still write to.
    fn drop(&mut self) {
        self.close();
    }
}
