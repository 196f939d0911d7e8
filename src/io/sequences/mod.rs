//! Every sequence of events, up to a length, of what closes a connection and of what closes a
//! listener, on a kernel that is played by hand.
//!
//! A sequence is gone through event by event, with what a turn does between two of them; one that
//! asks for what is not possible ends there. Then everything that is under way is brought to an
//! end, as peers, kernel and time would, and the records must be as empty as they were at first.

#![forbid(unsafe_code)]

mod at_once;
mod limits;
mod listeners;
mod streams;
mod timers;

use std::time::Duration;

use super::tally::Tally;
use super::{Io, Leftovers};
use crate::kept;
use crate::ring::driver::Driver;
use crate::ring::fake::kernel::Kernel;
use crate::ring::fake::{self, Installed};
use crate::ring::port::Wait;
use crate::ring::sys::event::EventFd;
use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;

thread_local! {
    /// The time of the scripts of this thread, which nobody reads.
    static CLOCK: &'static AtomicU64 = kept::for_ever(AtomicU64::new(0));
}

/// How long a peer may acknowledge nothing.
const LINGER: Duration = Duration::from_millis(20);

/// Rounds in which everything comes to an end.
const ROUNDS_MOST: usize = 60;

/// The records of a core, and the kernel under them.
struct World {
    io: Io,
    script: Installed,
    /// What was counted when the sequence began.
    before: Tally,
}

impl World {
    fn new() -> World {
        let script = fake::install(Kernel::by_hand(CLOCK.with(|clock| *clock)));
        let alarm = Arc::new(EventFd::new().expect("a descriptor"));
        let driver =
            Driver::open(alarm, crate::config::Features::All).expect("a script refuses nothing");
        let now_ns = 1_000_000_000;
        let mut io = Io::new(driver, Arc::default(), now_ns, LINGER);
        io.tally.begin_stop(now_ns);
        World {
            before: io.tally.clone(),
            io,
            script,
        }
    }

    /// The kernel does something.
    fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        act(&mut self.script.0.borrow_mut())
    }

    /// What a turn does, twice: what completes may ask for more.
    fn turn(&mut self) {
        for _ in 0..2 {
            self.io.feed_starved();
            self.io.flush_sends();
            self.io
                .driver
                .enter(Wait::No)
                .expect("a script never fails");
            self.io.reap();
            self.settle();
        }
    }

    /// Lets go of what must be dropped outside of the borrow.
    fn settle(&mut self) {
        let mut leftovers = Leftovers::default();
        self.io.take_leftovers(&mut leftovers);
    }

    /// Time goes on to when the next timer is due. Whether there is one.
    fn time_goes_on(&mut self) -> bool {
        let due_ns = self.io.timer_wake_ns();
        if let Some(due_ns) = due_ns {
            self.io.now_ns = self.io.now_ns.max(due_ns);
            self.io.expire();
            self.settle();
        }
        due_ns.is_some()
    }

    /// What must be true between any two events.
    fn contradiction(&self) -> Option<String> {
        let broken = self.kernel(|kernel| kernel.broken().map(str::to_owned));
        let stale = self.io.driver.counts().stale;
        let stale = (stale > 0).then(|| format!("{stale} completions are nobody's"));
        broken.or(stale).or_else(|| self.io.contradiction())
    }

    /// What is left when all should be over.
    fn left(&self) -> Option<String> {
        let left = [
            ("operations", self.kernel(|kernel| kernel.under_way())),
            ("records", self.io.conns.len()),
            ("timers", usize::from(!self.io.wheel.is_empty())),
            ("open listeners", usize::from(!self.io.listeners_closed())),
            ("who linger", self.io.lingering as usize),
            ("who are open", self.io.tally.open as usize),
            ("buffers", self.io.driver.pool().lent() as usize),
        ];
        let what = left.iter().find(|(_, count)| *count > 0);
        what.map(|(what, count)| format!("{count} {what} are left"))
    }

    /// How many connections have ended, in whatever way, in this sequence.
    fn ended(&self) -> u64 {
        let sum = |tally: &Tally| {
            let ends = &tally.ends;
            let orderly = ends.drained + ends.by_peer + ends.by_handler;
            orderly + ends.aborted + ends.peer_reset + ends.forced + ends.abandoned
        };
        sum(&self.io.tally) - sum(&self.before)
    }

    /// What was lost in this sequence.
    fn lost(&self) -> u64 {
        let sum = |tally: &Tally| tally.unsent + tally.unacked + tally.given_up;
        sum(&self.io.tally) - sum(&self.before)
    }
}

impl Drop for World {
    /// In order, where all went well: what a sequence leaves behind is then a leak that is not meant.
    fn drop(&mut self) {
        if std::thread::panicking() || self.left().is_some() {
            return;
        }
        self.io.driver.cancel_own();
        for _ in 0..ROUNDS_MOST {
            self.turn();
            self.kernel(Kernel::ends_cancelled);
        }
        assert_eq!(self.io.driver.in_flight(), 0, "of the driver's own");
    }
}

/// Worlds that a few sequences share each.
#[derive(Default)]
struct Worlds {
    /// The one that is in use.
    world: Option<World>,
    /// How many have used it.
    sequences: usize,
}

impl Worlds {
    /// A world for one more sequence.
    fn next(&mut self) -> &mut World {
        self.sequences += 1;
        if self.sequences > SEQUENCES_A_WORLD {
            self.sequences = 0;
            // First this one, for a script that goes makes way for none.
            self.world = None;
        }
        self.world.get_or_insert_with(World::new)
    }
}

/// A script looks through all there ever was.
const SEQUENCES_A_WORLD: usize = 40;
