//! The queues and the clock of a script, and the law it checks.
//!
//! ```text
//!  push ─▶ submitted? ──enter──▶ operations ──step──▶ completions ──reap──▶ driver
//!           (bounded)                │    ▲              │ full
//!                                 cancel  └ more         ▼
//!                                                     overflow
//! ```
//! A *step* is one thing that happens, chosen by the dice among all that could: an operation goes
//! on, a peer acts, an acknowledgement comes. Steps happen inside of `enter` only, a few in each,
//! and as many as it takes where the driver waits.

#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::dice::Dice;
use super::hand::Hand;
use super::lent::LentPool;
use super::met::{Case, Met};
use super::ops::Op;
use super::peer::Peer;
use super::sockets::{Listening, Socket};
use crate::config::CONN_INBOUND_BYTES;
use crate::ring::entry::{Cqe, Sqe};
use crate::ring::port::Wait;
use crate::ring::token::{Kind, Token};
use crate::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What decides.
    pub(super) dice: Dice,
    /// The time, which moves here and nowhere else (ns).
    now_ns: &'static AtomicU64,
    /// Entries that no enter has submitted.
    queue: VecDeque<(Sqe, u64)>,
    /// How many fit there.
    pub(crate) queue_room: usize,
    /// Operations that are not over.
    pub(super) ops: Vec<Op>,
    /// The names of all operations there ever were.
    named: HashSet<u64>,
    /// Completions that no reap has taken.
    completions: VecDeque<Cqe>,
    /// How many fit there.
    pub(crate) completions_room: usize,
    /// Those that did not fit. They follow, in their order, when there is room.
    overflow: VecDeque<Cqe>,
    /// The buffers to receive into.
    pub(super) pool: Option<LentPool>,
    /// All connections there ever were.
    pub(super) sockets: Vec<Socket>,
    /// All listeners there ever were.
    pub(super) listeners: Vec<Listening>,
    /// Who will come.
    pub(super) arrivals: VecDeque<Peer>,
    /// Who will be found at the addresses that are connected to, in the order of the ports.
    pub(super) hosts: VecDeque<Peer>,
    /// How many connections were accepted.
    pub(super) accepted: u64,
    /// Enters so far.
    enters: u64,
    /// All completions so far, mixed into one number.
    digest: u64,
    /// How often somebody slept who had nothing to wait for but to be called.
    pub(crate) calls: u64,
    /// Whether clients may wait in a backlog while the driver sleeps: connections have a limit.
    pub(crate) limited: bool,
    /// Whether it makes trouble: no errors come of the kernel's own when not.
    pub(super) troubles: bool,
    /// Whether it ends a receive at its bound, as Linux 6.17 and later do; else with its first buffer.
    pub(super) bounds_receives: bool,
    /// Whether it has fallen silent: nothing that is in flight goes on or ends.
    pub(super) silent: bool,
    /// What the next operations of a kind end with, before the dice are asked.
    pub(crate) plan: Plan,
    /// What was met.
    pub(crate) met: Met,
    /// What a test decides in the place of the dice, if it is played by hand.
    pub(super) hand: Option<Hand>,
    /// The first breach of the law.
    broken: Option<String>,
}

/// Errnos by which operations are to fail, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Of accepts, which leave the backlog as it is.
    pub(crate) accepts: VecDeque<i32>,
    /// Of sends, which take nothing.
    pub(crate) sends: VecDeque<i32>,
}

impl Kernel {
    /// A script of these dice, whose clock is `now_ns`, with peers that will come.
    pub(crate) fn new(
        mut dice: Dice,
        now_ns: &'static AtomicU64,
        arrivals: Vec<Peer>,
        hosts: Vec<Peer>,
    ) -> Kernel {
        let tight = dice.chance(500);
        let queue_room = if tight { 1 + dice.below(4) } else { 64 };
        let tight = dice.chance(300);
        let completions_room = if tight { 1 + dice.below(4) } else { 512 };
        Kernel {
            troubles: dice.chance(800),
            bounds_receives: dice.chance(500),
            dice,
            now_ns,
            queue: VecDeque::new(),
            queue_room: queue_room as usize,
            ops: Vec::new(),
            named: HashSet::new(),
            completions: VecDeque::new(),
            completions_room: completions_room as usize,
            overflow: VecDeque::new(),
            pool: None,
            sockets: Vec::new(),
            listeners: Vec::new(),
            arrivals: arrivals.into(),
            hosts: hosts.into(),
            accepted: 0,
            enters: 0,
            digest: 0,
            calls: 0,
            limited: false,
            silent: false,
            plan: Plan::default(),
            met: Met::default(),
            hand: None,
            broken: None,
        }
    }

    /// From now on it makes no trouble but what is planned, and has room for all.
    pub(crate) fn calm(&mut self) {
        self.troubles = false;
        self.queue_room = 64;
        self.completions_room = 512;
    }

    /// How many wait in backlogs.
    pub(crate) fn waiting(&self) -> usize {
        self.listeners.iter().map(|l| l.backlog.len()).sum()
    }

    /// Notes a breach of the law; the first one counts.
    pub(super) fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// What broke the law of the ring, if anything did:
    ///
    /// - no two operations of one name, ever; no cancel of what never was;
    /// - no operation on a descriptor that is closed, and none closed with an operation on it;
    /// - one send, one receive and one accept at a time on a socket;
    /// - what a send or a connect reads is the same at its end as at its beginning, was not freed
    ///   meanwhile, and is in no buffer that is the kernel's; no FIN before a send's end;
    /// - no buffer lent twice, nor other than whole;
    /// - no receive and no accept forgotten that has ended by itself.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// From now on nothing that is in flight goes on or ends, as if a device did not answer.
    pub(crate) fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// A number that is the same for the same completions in the same order.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes the pool's ring.
    pub(super) fn take_pool(&mut self, address: u64, entries: u16) {
        self.pool = Some(LentPool::new(address, entries));
    }

    /// See `Port::push`.
    pub(super) fn push(&mut self, sqe: &Sqe, user_data: u64) -> bool {
        if self.queue.len() >= self.queue_room {
            self.met.count(Case::SubmissionQueueFull);
            return false;
        }
        self.queue.push_back((*sqe, user_data));
        true
    }

    /// See `Port::has_unseen`.
    pub(super) fn has_unseen(&self) -> bool {
        !(self.completions.is_empty() && self.overflow.is_empty())
    }

    /// See `Port::unsubmitted`.
    pub(super) fn unsubmitted(&self) -> u32 {
        self.queue.len() as u32
    }

    /// See `Port::has_all_fitted`.
    pub(super) fn has_all_fitted(&self) -> bool {
        self.overflow.is_empty()
    }

    /// Whether one completion is there, and no more.
    pub(super) fn has_only_one(&self) -> bool {
        self.completions.len() == 1
    }

    /// See `Port::reap`.
    pub(super) fn reap(&mut self, batch: &mut [Cqe]) -> usize {
        let count = self.completions.len().min(batch.len());
        for (place, cqe) in batch.iter_mut().zip(self.completions.drain(..count)) {
            *place = cqe;
        }
        count
    }

    /// See `Port::catch_up`.
    pub(super) fn catch_up(&mut self, enters_most: u32) {
        for _ in 0..self.dice.below(u64::from(enters_most) + 1) {
            self.enter(Wait::No);
        }
    }

    /// See `Port::enter`.
    pub(super) fn enter(&mut self, wait: Wait) {
        self.enters += 1;
        // A look costs a call for each socket.
        if self.enters % ENTERS_BETWEEN_LOOKS == 0 {
            self.look_for_closed();
        }
        self.look_at_pool();
        self.flush_overflow();
        if let Some(hand) = self.hand {
            if !hand.takes_nothing {
                self.submit();
            }
            return;
        }
        if self.troubles && self.dice.chance(30) {
            // EAGAIN, and EBUSY with completions waiting.
            self.met.count(Case::SubmissionRefused);
        } else {
            self.submit();
        }
        for _ in 0..self.dice.below(4) {
            self.step();
        }
        let ns = self.dice.below(20_000);
        self.pass(ns);
        match wait {
            Wait::No => {}
            Wait::Completion => self.sleep(None),
            Wait::AtMost(time) => self.sleep(Some(time)),
        }
    }

    /// Time goes by.
    fn pass(&mut self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Lets things happen until there is a completion, or the time is over.
    fn sleep(&mut self, time: Option<Duration>) {
        let begun_ns = self.now_ns.load(Ordering::Relaxed);
        let end_ns = time.map(|time| begun_ns + time.as_nanos() as u64);
        while self.completions.is_empty() {
            let now_ns = self.now_ns.load(Ordering::Relaxed);
            let left_ns = end_ns.map(|end_ns| end_ns.saturating_sub(now_ns));
            if left_ns == Some(0) {
                return self.met.count(Case::WaitTimedOut);
            }
            if self.dice.chance(10) {
                return self.met.count(Case::WaitInterrupted);
            }
            let early = left_ns.is_some() && self.dice.chance(200);
            if !early && self.step() {
                let ns = self.dice.below(50_000).min(left_ns.unwrap_or(u64::MAX));
                self.pass(ns);
            } else if !self.queue.is_empty() {
                self.submit();
            } else if let Some(left_ns) = left_ns {
                self.pass(left_ns);
            } else {
                return self.call();
            }
        }
    }

    /// Nothing can happen and nothing is due: somebody calls, or it sleeps for good.
    fn call(&mut self) {
        self.met.count(Case::AsleepUntilCalled);
        self.calls += 1;
        self.look_for_forgotten();
        assert!(self.calls < CALLS_MOST, "called too often: it does nothing");
        assert!(self.ring_alarm(), "it sleeps for good: no poll is armed");
    }

    /// Nothing can happen: nobody may be waiting for what only the driver can bring about.
    fn look_for_forgotten(&mut self) {
        self.look_for_closed();
        self.look_at_pool();
        let buffers = self.pool.as_ref().is_some_and(|pool| !pool.is_empty());
        let forgotten = |socket: &Socket| {
            let open = !(socket.closed || socket.dead || socket.failed);
            // With more than that taken in it may have been stopped by the limit.
            let little = socket.read < CONN_INBOUND_BYTES as u64 / 2;
            open && little && ((socket.starved && buffers) || socket.cut_short)
        };
        if self.sockets.iter().any(forgotten) {
            self.breaks("a receive that has ended was not armed again".to_owned());
        }
        let waits = |listener: &Listening| {
            let open = !(listener.closed || listener.broken);
            open && !listener.backlog.is_empty() && !self.limited
        };
        if self.listeners.iter().any(waits) {
            self.breaks("an accept that has ended was not armed again".to_owned());
        }
    }

    /// Looks at the buffers that were lent meanwhile.
    pub(super) fn look_at_pool(&mut self) {
        let looked = self.pool.as_mut().map_or(Ok(()), LentPool::look);
        if let Err(what) = looked {
            self.breaks(what);
        }
    }

    /// Submits all that is queued.
    fn submit(&mut self) {
        while let Some((sqe, user_data)) = self.queue.pop_front() {
            if self.completions.len() >= self.completions_room && !self.overflow.is_empty() {
                // EBUSY: completions must be reaped first.
                return self.queue.push_front((sqe, user_data));
            }
            self.begin(sqe, user_data);
        }
    }

    /// Takes one submission.
    fn begin(&mut self, sqe: Sqe, user_data: u64) {
        let Some(token) = Token::unpack(user_data) else {
            return self.breaks(format!("{user_data:#018x} is nobody's name"));
        };
        if let Sqe::Cancel { user_data: target } = sqe {
            if token.kind != Kind::Cancel || !self.named.contains(&target) {
                self.breaks(format!("a cancel of {target:#018x}, which never was"));
            }
            return self.cancel(target, user_data);
        }
        if !self.named.insert(user_data) {
            self.breaks(format!("a second operation of the name {token:?}"));
        }
        self.begin_op(sqe, user_data);
    }

    /// Posts a completion.
    pub(super) fn post(&mut self, cqe: Cqe) {
        // Not the result: descriptors' numbers depend on what else is open.
        let mixed = self.digest.rotate_left(7) ^ cqe.user_data;
        self.digest = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.completions.len() < self.completions_room && self.overflow.is_empty() {
            self.completions.push_back(cqe);
        } else {
            self.met.count(Case::CompletionQueueFull);
            self.overflow.push_back(cqe);
        }
    }

    /// Whether a multishot operation that posts now has to end: its completions have no room.
    pub(super) fn is_full(&self) -> bool {
        self.completions.len() >= self.completions_room
    }

    /// Moves completions that did not fit, as far as they fit now.
    fn flush_overflow(&mut self) {
        while self.completions.len() < self.completions_room {
            let Some(cqe) = self.overflow.pop_front() else {
                return;
            };
            self.completions.push_back(cqe);
        }
    }
}

/// Enters between two looks at which descriptors are open.
const ENTERS_BETWEEN_LOOKS: u64 = 16;

/// How often somebody may sleep who has to be called.
const CALLS_MOST: u64 = 1_000;
