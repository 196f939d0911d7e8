//! Every order of the steps of a core that goes to sleep and of those who have something for it: a
//! letter, a wake of a task, an order. Whatever comes, it is seen before the core sleeps, or rings.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use loom::thread;

use super::sleep::is_called;
use super::*;
use crate::mailbox::Letter;
use crate::phase::Phase;
use crate::shared::{Orders, Station};
use crate::sync::atomic::AtomicUsize;
use crate::sync::model;
use crate::task::{JoinHandle, Kind};

/// What the threads of a model share.
struct Meeting {
    station: Station,
    orders: Orders,
    alarm: Arc<EventFd>,
}

/// Who comes.
#[derive(Clone, Copy, PartialEq)]
enum Comes {
    Letter,
    Wake,
    Order,
}

/// A task that ends when the count is not 0 any more, and its waker.
fn task(tasks: &Tasks, count: &Arc<AtomicUsize>) -> (JoinHandle<()>, Waker) {
    let place = Rc::new(RefCell::new(None));
    let (left, count) = (place.clone(), count.clone());
    let future = poll_fn(move |context| {
        if count.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(());
        }
        *left.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    });
    let handle = tasks.spawn(future, Kind::Essential, std::panic::Location::caller());
    let _ran = tasks.run(1);
    let waker = place.borrow_mut().take();
    (handle, waker.expect("it was polled"))
}

/// A core turns and sleeps, as `turn` and `sleep::enter` do, until all who come have been served.
fn sleep_against(comes: &'static [Comes], preemptions: Option<usize>) {
    model(preemptions, move || {
        let alarm = Arc::new(EventFd::new().expect("an eventfd"));
        let meeting = Arc::new(Meeting {
            station: Station::new(alarm.clone(), 0),
            orders: Orders::default(),
            alarm,
        });
        let station = &meeting.station;
        let tasks = Tasks::new(station.bell.clone(), station.pulse.clone());
        let count = Arc::new(AtomicUsize::new(0));
        let (handle, waker) = task(&tasks, &count);
        let threads: Vec<_> = comes
            .iter()
            .map(|comes| {
                let (meeting, count, waker) = (meeting.clone(), count.clone(), waker.clone());
                let comes = *comes;
                thread::spawn(move || come(comes, &meeting, &count, waker))
            })
            .collect();
        drop(waker);
        let mut seen = meeting.orders.read();
        let (mut letters, mut orders) = (0, 0);
        loop {
            let order = meeting.orders.read();
            orders += usize::from(order != seen);
            seen = order;
            while let Some(letter) = station.mailbox.take() {
                letter.run();
                letters += 1;
            }
            tasks.collect_foreign();
            let _ran = tasks.run(2);
            let served = |which| match which {
                Comes::Letter => letters > 0,
                Comes::Wake => handle.is_finished(),
                Comes::Order => orders > 0,
            };
            if comes.iter().copied().all(served) {
                break;
            }
            station.bell.will_sleep();
            match is_called(station, &tasks, &meeting.orders, seen) {
                false => meeting.alarm.wait(),
                // A letter that is counted and not there yet: its sender is between two statements.
                true => thread::yield_now(),
            }
            station.bell.is_awake();
        }
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}

/// What each of them does, on a thread of its own.
fn come(comes: Comes, meeting: &Meeting, count: &AtomicUsize, waker: Waker) {
    match comes {
        Comes::Letter => {
            let posted = meeting
                .station
                .mailbox
                .post(Letter::of(|| {}), &meeting.station.sent);
            assert!(posted.is_ok(), "it is open");
        }
        Comes::Wake => {
            count.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        }
        Comes::Order => {
            meeting.orders.enter(Phase::Notice);
            meeting.station.bell.ring();
        }
    }
}

#[test]
fn an_order_given_while_the_core_goes_to_sleep_wakes_it() {
    sleep_against(&[Comes::Order], None);
}

#[test]
fn a_task_woken_while_the_core_goes_to_sleep_wakes_it() {
    sleep_against(&[Comes::Wake], Some(3));
}

// Two at once, of which one rings for both; all orders of their steps would take minutes.
#[test]
fn a_letter_and_an_order_at_once_are_both_served() {
    sleep_against(&[Comes::Letter, Comes::Order], Some(2));
}

#[test]
fn a_letter_and_a_wake_at_once_are_both_served() {
    sleep_against(&[Comes::Letter, Comes::Wake], Some(2));
}
