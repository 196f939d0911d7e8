//! The ring on the real kernel: what it owes to whoever lends it memory, and what its books show.
//!
//! Every wait here is for an event and ends, by a panic that names it, after [`PATIENCE`].

mod alarm;
mod at_once;
mod cancel;
mod close;
mod deferred;
mod features;
pub(crate) mod foreign;
pub(crate) mod freed;
mod multishot;
pub(crate) mod quarantine;
mod queues;
pub(crate) mod source;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Features;
use crate::ring::driver::{Completion, Driver};
use crate::ring::port::Wait;
use crate::ring::slot::Lent;
use crate::ring::sys::event::EventFd;
use crate::ring::token::Kind;

use quarantine::Buffer;

/// How long an event may take that must come. Hundreds of times what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an idle driver has in the kernel: the poll on its alarm.
const ALARM_ONLY: u64 = 1;

/// Stands for the file's own position in a read or write.
pub(crate) const OWN_POSITION: u64 = u64::MAX;

/// What the rings of these tests use: no more than the oldest kernel has where
/// `EVENFALL_OLDEST_KERNEL` is set.
pub(crate) fn features() -> Features {
    match std::env::var_os("EVENFALL_OLDEST_KERNEL") {
        Some(_) => Features::Oldest,
        None => Features::All,
    }
}

/// A driver for this thread.
fn open() -> Driver {
    open_with(features())
}

/// The same, with other features.
fn open_with(features: Features) -> Driver {
    let alarm = EventFd::new().expect("an eventfd");
    Driver::open(Arc::new(alarm), features).expect("a ring")
}

/// What lends `buffer` to a read at the descriptor's own position.
fn read_of(fd: &Rc<OwnedFd>, buffer: Buffer) -> Lent {
    Lent::Read {
        fd: fd.clone(),
        buffer,
        offset: OWN_POSITION,
    }
}

/// Enters and reaps until `done` says so of the driver and all that came so far. Completions of
/// slots are taken to their slots on the way.
#[track_caller]
fn reap_until(
    driver: &mut Driver,
    what: &str,
    done: impl Fn(&Driver, &[Completion]) -> bool,
) -> Vec<Completion> {
    let deadline = Instant::now() + PATIENCE;
    let mut all: Vec<Completion> = Vec::new();
    while !done(driver, &all) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "not seen in time: {what}");
        driver.enter(Wait::AtMost(left)).expect("the ring is open");
        let seen = all.len();
        driver.reap(&mut all);
        for completion in &all[seen..] {
            if completion.token.kind == Kind::Slot {
                driver.complete_slot(completion, &mut Vec::new());
            }
        }
    }
    all
}

/// Reaps until the kernel holds nothing but the poll on the alarm.
#[track_caller]
fn settle(driver: &mut Driver) -> Vec<Completion> {
    reap_until(driver, "the end of every operation", |driver, _| {
        driver.in_flight() == ALARM_ONLY
    })
}

/// Ends everything the driver has in slots, and its poll, and closes it with nothing leaked.
#[track_caller]
fn close_empty(mut driver: Driver) {
    driver.cancel_own();
    reap_until(&mut driver, "an empty ring", |driver, _| {
        driver.in_flight() == 0
    });
    assert_eq!(driver.close(), 0, "an empty ring leaks nothing");
}
