//! Queues that overflow lose nothing, and a wait ends when it should.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::quarantine::Quarantine;
use super::source::Pipe;
use super::{ALARM_ONLY, OWN_POSITION, PATIENCE, close_empty, features, open, read_of, settle};
use crate::config::{CQ_ENTRIES, Queues, SQ_ENTRIES};
use crate::ring::driver::{Completion, Driver};
use crate::ring::entry::{Cqe, Sqe};
use crate::ring::port::{Port, Wait};
use crate::ring::slot::{Key, Lent};

/// More completions than the completion queue holds.
const MANY: usize = CQ_ENTRIES as usize + 2000;

/// Submits `MANY` writes to nowhere, whose completions come at once, and reaps none.
pub(super) fn overflow(driver: &mut Driver, quarantine: &Quarantine) -> Vec<Key> {
    let nowhere = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("/dev/null");
    let nowhere = Rc::new(OwnedFd::from(nowhere));
    let keys = (0..MANY)
        .map(|_| {
            driver.start(Lent::Write {
                fd: Rc::clone(&nowhere),
                buffer: quarantine.buffer(1),
                offset: OWN_POSITION,
            })
        })
        .collect();
    driver.enter(Wait::No).expect("the ring is open");
    keys
}

#[test]
fn completions_that_find_their_queue_full_are_not_lost() {
    let (mut driver, quarantine) = (open(), Quarantine::default());
    let keys = overflow(&mut driver, &quarantine);
    assert!(driver.has_unseen());

    let mut came: Vec<Completion> = Vec::new();
    driver.reap(&mut came);
    assert!(
        !came.is_empty() && came.len() < MANY,
        "the queue overflowed: {} at once",
        came.len()
    );
    for completion in &came {
        driver.complete_slot(completion, &mut Vec::new());
    }
    came.extend(settle(&mut driver));

    assert!(came.iter().all(|completion| completion.result == 1));
    let mut named: Vec<u32> = came.iter().map(|one| one.token.index).collect();
    named.sort_unstable();
    assert!(named.into_iter().eq(0..MANY as u32), "each exactly once");
    let counts = driver.counts();
    assert_eq!(counts.submitted, MANY as u64 + ALARM_ONLY);
    assert_eq!(counts.completed, MANY as u64);
    assert!(!driver.has_unseen());
    for key in keys {
        assert!(
            driver.abandon(&key, &mut Vec::new()).is_some(),
            "complete, so given back"
        );
    }
    assert_eq!(driver.slots().taken(), 0);
    close_empty(driver);
}

/// What did not fit its queue may be the failure of a send that is taken for done because nothing was
/// heard of it.
#[test]
fn not_all_is_seen_while_completions_wait_for_room_in_their_queue() {
    let queues = Queues {
        submissions: 8,
        completions: 16,
    };
    let mut port = Port::open(features(), queues).expect("a ring");
    let nowhere = OpenOptions::new().write(true).open("/dev/null");
    let nowhere = nowhere.expect("/dev/null");
    let byte = [0];
    let write = Sqe::Write {
        fd: nowhere.as_raw_fd(),
        from: byte.as_ptr(),
        len: 1,
        offset: OWN_POSITION,
    };
    let fill = |port: &mut Port| {
        for _ in 0..8 {
            assert!(port.push(&write, 0), "there is room");
        }
        port.enter(Wait::No).expect("the ring is open");
    };
    let mut batch = [Cqe::default(); 16];
    fill(&mut port);
    fill(&mut port);
    assert_eq!(port.reap(&mut batch).count, 16);
    assert!(port.has_all_fitted(), "all fitted their queue");
    let before = port.overflows();
    for _ in 0..3 {
        fill(&mut port);
    }
    assert_eq!(port.reap(&mut batch).count, 16);
    assert!(!port.has_all_fitted(), "eight did not fit");
    assert_eq!(port.overflows(), before + 1);
    assert_eq!(port.reap(&mut batch).count, 0);
    assert!(!port.has_all_fitted(), "they come with an enter");
    port.enter(Wait::No).expect("the ring is open");
    assert_eq!(port.reap(&mut batch).count, 8);
    assert!(port.has_all_fitted());
}

#[test]
fn what_the_kernel_has_not_taken_is_unsubmitted() {
    let mut port = Port::open(features(), Queues::default()).expect("a ring");
    assert!(port.push(&Sqe::Cancel { user_data: 1 }, 0), "there is room");
    assert_eq!(port.unsubmitted(), 1, "no enter has taken it");
    port.starved = true;
    port.enter(Wait::No).expect("the ring is open");
    assert_eq!(port.unsubmitted(), 1, "the kernel has not taken it");
    port.starved = false;
    port.enter(Wait::No).expect("the ring is open");
    assert_eq!(port.unsubmitted(), 0);
    assert_eq!(port.reap(&mut [Cqe::default()]).count, 1);
}

#[test]
fn a_dropped_driver_frees_all_although_completions_overflow() {
    let (mut driver, quarantine) = (open(), Quarantine::default());
    overflow(&mut driver, &quarantine);
    drop(driver);
    assert_eq!(quarantine.freed(), MANY);
}

#[test]
fn a_dropped_driver_awaits_as_many_ends_as_there_are() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    for _ in 0..MANY {
        driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    }
    driver.enter(Wait::No).expect("the ring is open");
    assert_eq!(driver.in_flight(), MANY as u64 + ALARM_ONLY);
    drop(driver);
    // One enter brings few ends: Linux 6.18 runs twenty pieces of deferred work in each.
    assert_eq!(quarantine.freed(), MANY);
}

#[test]
fn an_enter_that_does_not_sleep_runs_what_was_deferred() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    driver.enter(Wait::No).expect("the ring is open");
    pipe.put();
    assert!(!driver.has_unseen(), "nothing completes behind our back");
    driver.enter(Wait::No).expect("the ring is open");
    assert!(driver.has_unseen());
    close_empty(driver);
}

#[test]
fn a_wait_that_times_out_takes_its_time_and_is_no_error() {
    const TIME: Duration = Duration::from_millis(20);
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    // More than the queue takes, so that the wait comes with a full one.
    for _ in 0..2 * SQ_ENTRIES {
        driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    }
    for _ in 0..5 {
        let began = Instant::now();
        driver.enter(Wait::AtMost(TIME)).expect("not an error");
        let took = began.elapsed();
        assert!(took >= TIME, "it slept {took:?} of {TIME:?}");
        assert!(took < PATIENCE, "it slept {took:?} instead of {TIME:?}");
        assert!(!driver.has_unseen());
    }
    let began = Instant::now();
    driver
        .enter(Wait::AtMost(Duration::ZERO))
        .expect("no error");
    driver.enter(Wait::No).expect("no error");
    assert!(began.elapsed() < PATIENCE);
    close_empty(driver);
}

#[test]
fn a_wait_ends_with_the_first_completion() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    driver.enter(Wait::No).expect("the ring is open");
    pipe.put();
    let began = Instant::now();
    driver.enter(Wait::AtMost(PATIENCE)).expect("no error");
    assert!(driver.has_unseen());
    // What is there already is not slept on either.
    driver.enter(Wait::AtMost(PATIENCE)).expect("no error");
    driver.enter(Wait::Completion).expect("no error");
    assert!(began.elapsed() < PATIENCE / 2);
    settle(&mut driver);
    close_empty(driver);
}
