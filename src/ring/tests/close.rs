//! The end of a ring: what it gives back, and what it keeps on purpose.

use std::process::Command;

use super::quarantine::Quarantine;
use super::source::{Pipe, READ_BYTES};
use super::{ALARM_ONLY, close_empty, open, read_of, settle};
use crate::ring::port::Wait;

/// Set in the process that runs a test with nothing beside it.
const ALONE: &str = "EVENFALL_RING_TEST_ALONE";

/// How many descriptors this process has open, and how many pieces of memory it shares with a
/// ring.
fn belongings() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let shared = maps.lines().filter(|line| line.contains("io_uring"));
    (descriptors, shared.count())
}

/// A life of a ring with something going on in it, closed in order.
fn live_and_close() {
    let (mut driver, quarantine) = (open(), Quarantine::default());
    let pipes: Vec<Pipe> = (0..4).map(|_| Pipe::new()).collect();
    let mut keys: Vec<_> = pipes
        .iter()
        .map(|pipe| driver.start(read_of(&pipe.reader, quarantine.buffer(READ_BYTES))))
        .collect();
    driver.enter(Wait::No).expect("the ring is open");
    pipes[0].put();
    drop(
        keys.pop()
            .and_then(|key| driver.abandon(&key, &mut Vec::new())),
    );
    close_empty(driver);
    assert_eq!(quarantine.freed(), pipes.len());
}

/// Descriptors are counted in a process of its own: here, other tests open and close theirs.
#[test]
fn a_hundred_rings_leave_no_descriptor_and_no_mapping() {
    if std::env::var_os(ALONE).is_some() {
        live_and_close();
        let before = belongings();
        for _ in 0..50 {
            live_and_close();
            drop(open());
        }
        assert_eq!(belongings(), before);
        return;
    }
    let name = "ring::tests::close::a_hundred_rings_leave_no_descriptor_and_no_mapping";
    let program = std::env::current_exe().expect("the program's path");
    let output = Command::new(program)
        .args(["--exact", name, "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("the program runs again");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_idle_ring_has_its_alarm_in_the_kernel_and_nothing_else() {
    let driver = open();
    assert_eq!(driver.in_flight(), ALARM_ONLY);
    assert_eq!(driver.counts().submitted, ALARM_ONLY);
    close_empty(driver);
}

#[test]
fn a_ring_closed_too_early_keeps_what_the_kernel_holds_and_counts_it() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    let keys: Vec<_> = (0..3)
        .map(|_| driver.start(read_of(&pipe.reader, quarantine.buffer(READ_BYTES))))
        .collect();
    driver.enter(Wait::No).expect("the ring is open");
    assert_eq!(driver.close(), 3 + ALARM_ONLY);
    assert_eq!(driver.close(), 3 + ALARM_ONLY, "asked again");
    drop(keys);
    drop(driver);
    assert_eq!(quarantine.freed(), 0, "no buffer of theirs is ever freed");
}

#[test]
fn a_closed_driver_takes_calls_and_does_nothing() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    let key = driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    pipe.put();
    settle(&mut driver);
    driver.cancel_own();
    super::reap_until(&mut driver, "an empty ring", |driver, _| {
        driver.in_flight() == 0
    });
    assert_eq!(driver.close(), 0);
    driver.enter(Wait::Completion).expect("nothing to wait for");
    driver.reap(&mut Vec::new());
    assert!(!driver.has_unseen());
    let freed = driver.abandon(&key, &mut Vec::new());
    assert!(freed.is_some(), "a late future gets its buffer back");
    drop(freed);
    assert_eq!(quarantine.freed(), 1);
}
