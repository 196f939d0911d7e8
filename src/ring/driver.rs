//! The driver keeps the books of one ring: what was submitted, what completed, what had to wait
//! for room in the submission queue, and what the kernel still holds.
//!
//! Reaping moves completions to a batch and does nothing else: no user code runs here, and none
//! runs while the driver is borrowed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;

use crate::config::{CATCH_UP_ENTERS, Features, Queues};
use crate::error::Error;
use crate::kept;
use crate::ring::buffers::Pool;
use crate::ring::chunk::Chunk;
use crate::ring::entry::{Came, Cqe, Sqe};
#[cfg(test)]
use crate::ring::fake::Door as Port;
use crate::ring::opening::open_port;
#[cfg(not(test))]
use crate::ring::port::Port;
use crate::ring::port::Wait;
use crate::ring::slot::{Abandoned, Completed, Key, Lent, Slots};
use crate::ring::sys::event::EventFd;
use crate::ring::token::{Generations, Kind, Token};

/// What the driver has counted. Submitted minus completed is what the kernel holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpCounts {
    /// Operations handed over, cancels not counted.
    pub(crate) submitted: u64,
    /// Final completions.
    pub(crate) completed: u64,
    /// Of those, the ones that ended by a cancel.
    pub(crate) cancelled: u64,
    /// Entries, cancels too, that found the submission queue full; each was submitted early or waited.
    pub(crate) waited: u64,
    /// How often completions were seen not to fit their queue.
    pub(crate) overflows: u64,
    /// Completions that named no operation of ours. Always 0 on a sound kernel.
    pub(crate) stale: u64,
}

/// One completion, decoded.
#[derive(Debug)]
pub(crate) struct Completion {
    /// Whose.
    pub(crate) token: Token,
    /// A count or descriptor, or an errno made negative.
    pub(crate) result: i32,
    /// Whether further completions of this operation will come.
    pub(crate) more: bool,
    /// The bytes that came with it.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "receives take theirs; any other goes back by being dropped"
        )
    )]
    pub(crate) chunk: Option<Chunk>,
    /// The connection that came with it.
    pub(crate) fd: Option<OwnedFd>,
}

/// The ring of one core and its books.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The door. `None` once the ring is closed.
    port: Option<Port>,
    /// The buffers the kernel receives into; lent to the port before the first receive.
    pool: Pool,
    /// One-off operations.
    slots: Slots,
    /// What found the submission queue full, in order: nothing that was asked for is ever lost.
    waiting: VecDeque<(Sqe, u64)>,
    /// The number of the entry that was handed over last, of all there ever were; it goes round.
    handed: u32,
    /// The books.
    counts: OpCounts,
    /// What wakes the core out of its wait. The kernel polls it until the ring is closed.
    alarm: Arc<EventFd>,
    /// The arming of the poll on `alarm`, while it is armed.
    wake: Option<Token>,
    /// Whether the alarm went off since it was last asked for.
    alarmed: bool,
    /// Whether the poll on `alarm` was called back for good.
    unwatched: bool,
    /// The source of generations for the poll on `alarm`.
    wake_generations: Generations,
}

impl Driver {
    /// A ring of the usual size; see `open_with`.
    #[cfg(test)]
    pub(crate) fn open(alarm: Arc<EventFd>, features: Features) -> Result<Driver, Error> {
        Driver::open_with(alarm, features, Queues::default())
    }

    /// A ring for this thread, woken by `alarm`, which uses no more than `features` and has `queues`.
    pub(crate) fn open_with(
        alarm: Arc<EventFd>,
        features: Features,
        queues: Queues,
    ) -> Result<Driver, Error> {
        let pool = Pool::new();
        let port = open_port(&pool, features, queues)?;
        let mut driver = Driver {
            port: Some(port),
            pool,
            slots: Slots::default(),
            waiting: VecDeque::new(),
            handed: 0,
            counts: OpCounts::default(),
            alarm,
            wake: None,
            alarmed: false,
            unwatched: false,
            wake_generations: Generations::default(),
        };
        driver.watch_alarm();
        Ok(driver)
    }

    /// The buffers of this core.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The books.
    pub(crate) fn counts(&self) -> OpCounts {
        self.counts
    }

    /// How many operations the kernel holds.
    pub(crate) fn in_flight(&self) -> u64 {
        self.counts.submitted - self.counts.completed
    }

    /// Hands one operation over. What `sqe` points to must stay until the final completion of
    /// `token`: the caller is a record or a slot, which do.
    #[inline(always)]
    pub(crate) fn submit(&mut self, sqe: Sqe, token: Token) {
        self.submit_made(|| sqe, token);
    }

    /// As `submit`, of what `make` gives each time it is called: an entry that is made where it is
    /// wanted need not lie in memory before.
    #[inline(always)]
    pub(crate) fn submit_made(&mut self, make: impl Fn() -> Sqe, token: Token) {
        if self.port.is_none() {
            // Nothing is submitted any more: the caller's record is never looked at again.
            return;
        }
        self.counts.submitted += 1;
        self.queue(make, token.pack());
    }

    /// Asks for the end of an operation. The answer is that operation's own final completion.
    pub(crate) fn cancel(&mut self, token: Token) {
        let user_data = token.pack();
        let own = Token {
            kind: Kind::Cancel,
            ..token
        }
        .pack();
        self.queue(|| Sqe::Cancel { user_data }, own);
    }

    /// Puts an entry into the submission queue.
    #[inline(always)]
    fn queue(&mut self, make: impl Fn() -> Sqe, user_data: u64) {
        self.handed = self.handed.wrapping_add(1);
        if self.waiting.is_empty() {
            if let Some(port) = &mut self.port {
                if port.push(&make(), user_data) {
                    return;
                }
            }
        }
        self.queue_with_care(make(), user_data);
    }

    /// The submission queue is full, or others wait for it: submits it first; if that does not help
    /// either, keeps the entry for the next turn.
    #[cold]
    fn queue_with_care(&mut self, sqe: Sqe, user_data: u64) {
        let Some(port) = &mut self.port else {
            return;
        };
        self.counts.waited += 1;
        if self.waiting.is_empty() {
            // An error here is met again, and reported, by the turn's own enter.
            let _later = port.enter(Wait::No);
            if port.push(&sqe, user_data) {
                return;
            }
        }
        self.waiting.push_back((sqe, user_data));
    }

    /// Moves what had to wait into the submission queue, as far as there is room. No sleeping after
    /// that: what still waits needs another round soon, and what was moved is late.
    #[cold]
    fn refill(&mut self) -> Wait {
        if let Some(port) = &mut self.port {
            while let Some((sqe, user_data)) = self.waiting.front() {
                if !port.push(sqe, *user_data) {
                    break;
                }
                self.waiting.pop_front();
            }
        }
        Wait::No
    }

    /// Submits what is queued and sleeps as `wait` says; see [`Port::enter`].
    #[inline]
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let wait = if self.waiting.is_empty() {
            wait
        } else {
            self.refill()
        };
        match &mut self.port {
            Some(port) => port.enter(wait),
            None => Ok(()),
        }
    }

    /// Lets the kernel go on with what one enter leaves undone. See [`Port::catch_up`].
    pub(crate) fn catch_up(&mut self) -> io::Result<()> {
        match &mut self.port {
            Some(port) => port.catch_up(CATCH_UP_ENTERS),
            None => Ok(()),
        }
    }

    /// Lets the kernel play out of memory, or no longer.
    #[cfg(test)]
    pub(crate) fn starve(&mut self, starved: bool) {
        if let Some(port) = &mut self.port {
            port.starve(starved);
        }
    }

    /// Whether completions are there that no reap has seen.
    pub(crate) fn has_unseen(&mut self) -> bool {
        self.port.as_mut().is_some_and(Port::has_unseen)
    }

    /// The number of the entry that was handed over last.
    #[inline(always)]
    pub(crate) fn last_handed(&self) -> u32 {
        self.handed
    }

    /// Whether the kernel has taken the entry of this number, and so all before it, and the completions
    /// there are all fitted their queue ([`Port::has_all_fitted`]).
    #[inline]
    pub(crate) fn has_seen(&mut self, number: u32) -> bool {
        let Some(port) = &mut self.port else {
            return true;
        };
        // They go to the kernel in the order of their numbers: what it lacks are the last ones.
        let lacks = self.waiting.len() + port.unsubmitted() as usize;
        lacks <= self.handed.wrapping_sub(number) as usize && port.has_all_fitted()
    }

    /// Whether the kernel has taken every entry, and its completions all fitted their queue.
    #[cfg(test)]
    pub(crate) fn is_all_seen(&mut self) -> bool {
        self.has_seen(self.handed)
    }

    /// Copies completions to `batch`; see [`Port::reap`]. Each must then be decoded, once, or
    /// counted and its chunk taken.
    #[inline]
    pub(crate) fn collect(&mut self, batch: &mut [Cqe]) -> Came {
        match &mut self.port {
            Some(port) => port.reap(batch),
            None => Came::default(),
        }
    }

    /// The completion that is there, if it is the only one.
    #[inline]
    pub(crate) fn collect_only(&mut self) -> Option<Cqe> {
        self.port.as_mut()?.take_only()
    }

    /// Collects and decodes every completion that is there.
    pub(crate) fn reap(&mut self, batch: &mut Vec<Completion>) {
        let mut raw = [Cqe::default(); 64];
        loop {
            let count = self.collect(&mut raw).count;
            batch.extend(raw[..count].iter().filter_map(|cqe| self.decode(*cqe)));
            if count < raw.len() {
                break;
            }
        }
    }

    /// Counts the last completion of an operation; not one of a cancel.
    #[inline]
    pub(crate) fn count_last(&mut self, result: i32) {
        self.counts.completed += 1;
        if result == -libc::ECANCELED {
            self.counts.cancelled += 1;
        }
    }

    /// The bytes that came with a completion for the connection at `index`. They are to be taken
    /// once: until then nobody gives their buffer back.
    #[inline]
    pub(crate) fn chunk(&self, cqe: &Cqe, index: u32) -> Option<Chunk> {
        let id = cqe.buffer()?;
        self.pool
            .filled(id, usize::try_from(cqe.result).unwrap_or(0), index)
    }

    /// Counts one completion and gives it its chunk; `None` for a cancel's own and for a wake.
    pub(crate) fn decode(&mut self, cqe: Cqe) -> Option<Completion> {
        let Some(token) = Token::unpack(cqe.user_data) else {
            self.stale(cqe.user_data);
            return None;
        };
        if token.kind == Kind::Cancel {
            return None;
        }
        let more = cqe.more();
        if !more {
            self.count_last(cqe.result);
        }
        let chunk = self.chunk(&cqe, token.index);
        if token.kind == Kind::Wake {
            self.alarmed = true;
            if !more && self.wake == Some(token) {
                self.wake = None;
            }
            return None;
        }
        let fd = (token.kind == Kind::Accept && cqe.result >= 0).then(|| {
            // SAFETY: the result of a successful accept is a descriptor that the kernel opened
            // for this completion and named nowhere else (accept(2), io_uring_enter(2)).
            unsafe { OwnedFd::from_raw_fd(cqe.result) }
        });
        Some(Completion {
            token,
            result: cqe.result,
            more,
            chunk,
            fd,
        })
    }

    /// Counts a completion that named nothing of ours.
    pub(crate) fn stale(&mut self, user_data: u64) {
        debug_assert!(
            false,
            "a completion names no operation of ours: {user_data:#018x}"
        );
        self.counts.stale += 1;
    }

    /// Whether the alarm went off since this was last asked.
    #[inline]
    pub(crate) fn take_alarm(&mut self) -> bool {
        std::mem::take(&mut self.alarmed)
    }

    /// Keeps the poll on the alarm armed.
    #[inline]
    pub(crate) fn watch_alarm(&mut self) {
        if self.wake.is_none() && !self.unwatched {
            self.arm_alarm();
        }
    }

    /// Arms the poll on the alarm.
    fn arm_alarm(&mut self) {
        let generation = self.wake_generations.advance();
        let token = Token {
            kind: Kind::Wake,
            index: 0,
            generation,
        };
        self.wake = Some(token);
        let fd = self.alarm.as_fd().as_raw_fd();
        self.submit(Sqe::PollMulti { fd }, token);
    }

    /// Starts a one-off operation.
    pub(crate) fn start(&mut self, lent: Lent) -> Key {
        let (key, sqe, token) = self.slots.start(lent);
        self.submit(sqe, token);
        key
    }

    /// The table of one-off operations.
    pub(crate) fn slots(&mut self) -> &mut Slots {
        &mut self.slots
    }

    /// The future of a one-off operation is gone. Gives back what may be dropped now.
    ///
    /// The waker that was parked goes to `spent`: its destructor may be anything.
    pub(crate) fn abandon(&mut self, key: &Key, spent: &mut Vec<Waker>) -> Option<Lent> {
        match self.slots.abandon(key)? {
            Abandoned::Freed(lent) => Some(lent),
            Abandoned::Cancel(token, waker) => {
                spent.extend(waker);
                self.cancel(token);
                None
            }
        }
    }

    /// Takes the completion of a one-off operation. A waker to wake goes to `wakers`.
    pub(crate) fn complete_slot(&mut self, completion: &Completion, wakers: &mut Vec<Waker>) {
        let (result, more) = (completion.result, completion.more);
        match self.slots.complete(completion.token, result, more) {
            Completed::Wake(waker) => wakers.extend(waker),
            Completed::Freed(lent) => drop(lent),
            Completed::NotLast => {}
            Completed::Stale => self.stale(completion.token.pack()),
        }
    }

    /// Asks for the end of every one-off operation. One cancel each, by name; never one for all
    /// (that is quadratic in the kernel).
    pub(crate) fn cancel_slots(&mut self) {
        for token in self.slots.in_kernel() {
            self.cancel(token);
        }
    }

    /// Asks for the end of the poll on the alarm. From then on nothing wakes the core but
    /// completions and time.
    pub(crate) fn unwatch_alarm(&mut self) {
        if let (Some(token), false) = (self.wake, self.unwatched) {
            self.unwatched = true;
            self.cancel(token);
        }
    }

    /// Asks for the end of everything that is not a socket's.
    pub(crate) fn cancel_own(&mut self) {
        self.cancel_slots();
        self.unwatch_alarm();
    }

    /// Closes the ring and says how many operations the kernel still held. If there are any, all
    /// they may touch (slots, pool, alarm) is leaked on purpose: closing is no receipt.
    pub(crate) fn close(&mut self) -> u64 {
        let held = self.in_flight();
        if let Some(port) = self.port.take() {
            self.counts.overflows = port.overflows();
        }
        if held > 0 {
            self.slots.leak();
            self.pool.leak();
            kept::for_ever(self.alarm.clone());
        }
        held
    }
}

impl Drop for Driver {
    /// The last resort, for a driver that nobody closed (its core panicked): whatever the kernel
    /// holds is ended here if that goes quickly, and leaked if it does not.
    fn drop(&mut self) {
        if self.port.is_none() {
            return;
        }
        self.cancel_own();
        let mut batch = Vec::new();
        let mut idle_rounds = 0;
        while self.in_flight() > 0 && idle_rounds < LAST_IDLE_ROUNDS {
            let held = self.in_flight();
            if self.enter(Wait::AtMost(LAST_WAIT)).is_err() {
                break;
            }
            self.reap(&mut batch);
            for completion in batch.drain(..) {
                if completion.token.kind == Kind::Slot {
                    self.complete_slot(&completion, &mut Vec::new());
                }
            }
            idle_rounds += u32::from(self.in_flight() == held);
        }
        self.close();
    }
}

/// How often a dropped driver looks for completions in vain. A round in which an operation ended
/// does not count: a device may give the answers to its reads one at a time, and each ends a wait.
const LAST_IDLE_ROUNDS: u32 = 20;

/// How long a dropped driver waits for one completion.
const LAST_WAIT: std::time::Duration = std::time::Duration::from_millis(5);
