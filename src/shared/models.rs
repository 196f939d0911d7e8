//! Every order of the steps of a coordinator and of cores: no phase without its budget, no quiet
//! that a letter was left out of.

#![forbid(unsafe_code)]

use loom::thread;

use super::*;
use crate::mailbox::Letter;
use crate::sync::model;

/// Instants that all have the same value.
fn instants(ns: u64) -> Instants {
    Instants {
        start: ns,
        notice_end: ns,
        drain_deadline: ns,
        hook_deadline: ns,
        hard_deadline: ns,
        quiet_ns: ns,
    }
}

/// All of the deadlines.
fn all(read: Deadlines) -> [u64; 5] {
    [read.start, read.drain, read.hooks, read.hard, read.quiet]
}

#[test]
fn no_core_sees_a_phase_without_its_budget() {
    model(None, || {
        let orders = Arc::new(Orders::default());
        let seen_by = orders.clone();
        let core = thread::spawn(move || {
            let phase = seen_by.read().phase();
            let read = all(seen_by.deadlines());
            assert!(
                phase == Phase::Running || read == [7; 5],
                "{phase:?} and {read:?}"
            );
        });
        orders.publish(&instants(7));
        orders.enter(Phase::Draining);
        core.join().expect("it ends");
    });
}

#[test]
fn a_core_that_sees_an_order_sees_the_budget_published_before_it_or_a_later_one() {
    // Each load of five may see one of three values: bounded, or it would take minutes.
    model(Some(2), || {
        let orders = Arc::new(Orders::default());
        let seen_by = orders.clone();
        let core = thread::spawn(move || {
            let order = seen_by.read();
            let least = match (order.phase(), order.is_cut()) {
                (Phase::Running, _) => 0,
                (_, false) => 1,
                (_, true) => 2,
            };
            let read = all(seen_by.deadlines());
            assert!(read.iter().all(|ns| *ns >= least), "{order:?} and {read:?}");
            let later = seen_by.read();
            assert!(later.phase() >= order.phase() && later.is_cut() >= order.is_cut());
        });
        orders.publish(&instants(1));
        orders.enter(Phase::Notice);
        orders.publish(&instants(2));
        orders.cut();
        core.join().expect("it ends");
    });
}

/// A core that reads a letter which has more for it to do, as a turn does.
fn read_letter(station: &Station, next: Option<&Station>) -> bool {
    let Some(letter) = station.mailbox.take() else {
        return false;
    };
    station.break_quiet();
    letter.run();
    if let Some(next) = next {
        let posted = next.mailbox.post(Letter::of(|| {}), &station.sent);
        assert!(posted.is_ok(), "it is open");
    }
    station.handled.fetch_add(1, Ordering::SeqCst);
    true
}

// Three threads and two letters: bounded, or it would take minutes.
#[test]
fn no_letter_is_on_its_way_when_two_readings_of_all_stations_say_quiet() {
    model(Some(3), || {
        let stations = Arc::new([(); 2].map(|()| station()));
        let [one, two] = &*stations;
        for station in [one, two] {
            station.set_quiet();
        }
        // A letter that is there already, at the one read last, which leads to one for the other.
        assert!(two.mailbox.post(Letter::of(|| {}), &two.sent).is_ok());
        let theirs = stations.clone();
        let first = thread::spawn(move || {
            let [one, two] = &*theirs;
            assert!(
                read_letter(two, Some(one)),
                "it was there before the thread was"
            );
            two.set_quiet();
        });
        let theirs = stations.clone();
        let second = thread::spawn(move || {
            let one = &theirs[0];
            if read_letter(one, None) {
                one.set_quiet();
            }
        });
        let read = || -> Option<Vec<u64>> {
            let readings = stations.iter().map(Station::quiet_reading);
            readings.collect()
        };
        let agreed = read().is_some_and(|before| read() == Some(before));
        if agreed {
            let handled = one.handled.load(Ordering::SeqCst);
            assert_eq!(
                handled, 1,
                "the second letter was still to come, or to be read"
            );
        }
        first.join().expect("it ends");
        second.join().expect("it ends");
    });
}

// A letter that goes to and fro passes each station just after it was read, and each is balanced when
// it is read: that it was broken in between is all that tells. Bounded as above.
#[test]
fn no_letter_goes_to_and_fro_between_two_readings_that_say_quiet() {
    model(Some(4), || {
        let stations = Arc::new([(); 2].map(|()| station()));
        let [one, two] = &*stations;
        for station in [one, two] {
            station.set_quiet();
        }
        assert!(two.mailbox.post(Letter::of(|| {}), &two.sent).is_ok());
        // Each reads what is there and sends it on; the one whose letter it is at first, twice.
        let core = |at: usize, times: usize| {
            let stations = stations.clone();
            thread::spawn(move || {
                for _ in 0..times {
                    if read_letter(&stations[at], Some(&stations[1 - at])) {
                        stations[at].set_quiet();
                    }
                    thread::yield_now();
                }
            })
        };
        let cores = [core(1, 2), core(0, 1)];
        let read = || -> Option<Vec<u64>> {
            let readings = stations.iter().map(Station::quiet_reading);
            readings.collect()
        };
        let agreed = read().is_some_and(|before| read() == Some(before));
        // It is never over: nobody keeps it.
        assert!(!agreed, "a letter is on its way");
        for core in cores {
            core.join().expect("it ends");
        }
    });
}

fn station() -> Station {
    Station::new(Arc::new(EventFd::new().expect("an eventfd")), 0)
}
