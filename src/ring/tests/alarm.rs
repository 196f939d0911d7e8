//! The alarm ends a wait, from any thread, every time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use super::quarantine::Quarantine;
use super::{PATIENCE, close_empty, queues, reap_until, settle};
use crate::ring::driver::Driver;
use crate::ring::port::Wait;
use crate::ring::sys::event::EventFd;

/// A driver and what wakes it.
fn open_with_alarm() -> (Driver, Arc<EventFd>) {
    let alarm = Arc::new(EventFd::new().expect("an eventfd"));
    let driver = Driver::open(alarm.clone(), crate::ring::tests::features()).expect("a ring");
    (driver, alarm)
}

/// Sleeps once, which must end early, and does what a turn does with a wake.
#[track_caller]
fn sleep_until_woken(driver: &mut Driver, alarm: &EventFd) {
    let began = Instant::now();
    driver
        .enter(Wait::AtMost(PATIENCE))
        .expect("the ring is open");
    assert!(began.elapsed() < PATIENCE / 2, "nothing woke the wait");
    let mut batch = Vec::new();
    driver.reap(&mut batch);
    assert!(batch.is_empty(), "a wake is nobody's completion");
    alarm.clear();
    driver.watch_alarm();
}

#[test]
fn the_alarm_wakes_a_wait_from_another_thread_every_time() {
    const TIMES: u32 = 20_000;
    let (mut driver, alarm) = open_with_alarm();
    let rung = Arc::new(AtomicU32::new(0));
    let (ask, asked) = mpsc::channel::<u32>();
    let ringer = thread::spawn({
        let (rung, alarm) = (rung.clone(), alarm.clone());
        move || {
            for number in asked {
                rung.store(number, Ordering::Release);
                alarm.ring();
            }
        }
    });
    for number in 1..=TIMES {
        ask.send(number).expect("the other thread lives");
        // A wake that belongs to the round before ends a wait too early, never too late.
        while rung.load(Ordering::Acquire) < number {
            sleep_until_woken(&mut driver, &alarm);
        }
    }
    drop(ask);
    ringer.join().expect("the other thread");
    close_empty(driver);
}

#[test]
fn an_alarm_rung_before_the_wait_ends_it() {
    let (mut driver, alarm) = open_with_alarm();
    for _ in 0..100 {
        alarm.ring();
        sleep_until_woken(&mut driver, &alarm);
    }
    close_empty(driver);
}

#[test]
fn an_alarm_that_was_called_back_stays_silent() {
    let (mut driver, alarm) = open_with_alarm();
    driver.unwatch_alarm();
    driver.unwatch_alarm();
    reap_until(&mut driver, "the end of the poll", |driver, _| {
        driver.in_flight() == 0
    });
    driver.watch_alarm();
    alarm.ring();
    driver.enter(Wait::No).expect("the ring is open");
    assert!(!driver.has_unseen());
    assert_eq!(driver.in_flight(), 0);
    assert_eq!(driver.counts().cancelled, 1, "called back once");
    assert_eq!(driver.close(), 0);
}

#[test]
fn an_alarm_rung_while_completions_overflow_still_wakes_afterwards() {
    let (mut driver, alarm) = open_with_alarm();
    let quarantine = Quarantine::default();
    let keys = queues::overflow(&mut driver, &quarantine);
    // With the queue full the poll is ended by the kernel: its completion has no room to say more.
    alarm.ring();
    driver.enter(Wait::No).expect("the ring is open");
    reap_until(&mut driver, "every completion", |driver, all| {
        all.len() == keys.len() && driver.in_flight() <= 1
    });
    alarm.clear();
    driver.watch_alarm();
    alarm.ring();
    sleep_until_woken(&mut driver, &alarm);
    settle(&mut driver);
    close_empty(driver);
}
