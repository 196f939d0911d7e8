//! Every order of the steps of senders and owner: no letter without an outcome, and none that a
//! sleeping core misses.

#![forbid(unsafe_code)]

use loom::thread;

use super::*;
use crate::ring::sys::event::EventFd;
use crate::sync::atomic::AtomicUsize;
use crate::sync::model;

/// A mailbox, what its letters count, and what its core is woken by.
struct Model {
    mailbox: Mailbox,
    bell: Arc<Bell>,
    /// What the core waits for.
    alarm: Arc<EventFd>,
    /// Letters posted by everybody.
    sent: AtomicU64,
    /// Letters that were run.
    ran: Arc<AtomicUsize>,
}

impl Model {
    fn new() -> Arc<Model> {
        let alarm = Arc::new(EventFd::new().expect("an eventfd"));
        let bell = Arc::new(Bell::new(alarm.clone()));
        Arc::new(Model {
            mailbox: Mailbox::new(bell.clone()),
            bell,
            alarm,
            sent: AtomicU64::new(0),
            ran: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Whether a letter was taken.
    fn post(&self) -> bool {
        let ran = self.ran.clone();
        let letter = Letter::of(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        self.mailbox.post(letter, &self.sent).is_ok()
    }

    /// Runs the letters that are found. How many.
    fn read(&self) -> usize {
        let letters = std::iter::from_fn(|| self.mailbox.take());
        letters.map(Letter::run).count()
    }
}

/// So many senders of so many letters each, on threads of their own. How many were taken, of each.
fn senders(model: &Arc<Model>, counts: &[usize]) -> Vec<thread::JoinHandle<usize>> {
    let sender = |count: &usize| {
        let (model, count) = (model.clone(), *count);
        thread::spawn(move || (0..count).filter(|_| model.post()).count())
    };
    counts.iter().map(sender).collect()
}

/// The owner closes while senders post, and takes out what is there.
fn close_against(counts: &'static [usize], preemptions: Option<usize>) {
    model(preemptions, move || {
        let model = Model::new();
        let senders = senders(&model, counts);
        let early = model.read();
        model.mailbox.close();
        let found = early + model.read();
        // What the report reads, before anybody has waited for a sender.
        let sent = model.sent.load(Ordering::Relaxed);
        let received = model.mailbox.received();
        let taken: usize = senders
            .into_iter()
            .map(|sender| sender.join().expect("it ends"))
            .sum();
        assert_eq!(
            found, taken,
            "a letter was accepted and not found, or refused and run"
        );
        assert!(
            model.mailbox.take().is_none(),
            "a letter came after the close"
        );
        assert_eq!((sent, received), (found as u64, found as u64));
        assert_eq!(model.ran.load(Ordering::Relaxed), found);
        assert!(!model.post(), "it was closed for good");
    });
}

#[test]
fn each_letter_of_two_senders_is_refused_or_found_by_the_last_look() {
    close_against(&[1, 1], Some(3));
}

#[test]
fn each_letter_of_one_who_sends_on_is_refused_or_found_by_the_last_look() {
    close_against(&[2], None);
}

// Three is one more than meet in any argument of the code; all orders of them would take minutes.
#[test]
fn each_letter_of_three_senders_is_refused_or_found_by_the_last_look() {
    close_against(&[1, 1, 1], Some(2));
}

/// A core that turns and sleeps until it has read what is sent to it.
fn sleep_against(counts: &'static [usize], preemptions: Option<usize>) {
    model(preemptions, move || {
        let model = Model::new();
        let senders = senders(&model, counts);
        let mut read = 0;
        loop {
            read += model.read();
            if read == counts.iter().sum::<usize>() {
                break;
            }
            model.bell.will_sleep();
            match model.mailbox.is_empty() {
                true => model.alarm.wait(),
                // Counted and not there yet: a sender is between two statements, and the core turns.
                false => thread::yield_now(),
            }
            model.bell.is_awake();
        }
        for sender in senders {
            sender.join().expect("it ends");
        }
    });
}

#[test]
fn a_letter_posted_while_the_core_goes_to_sleep_wakes_it() {
    sleep_against(&[1], None);
}

// No more than one letter of each: loom lets a read-modify-write of `sleeping` read its own thread's
// store after that thread has seen a later one, which the memory model does not.
#[test]
fn of_two_senders_at_once_one_rings_for_both() {
    sleep_against(&[1, 1], Some(2));
}

/// Two senders of so many items each, of whom this thread is one, while the owner takes `early` times
/// what it finds.
fn in_order(counts: [usize; 2], early: usize, preemptions: Option<usize>) {
    model(preemptions, move || {
        let queue = Arc::new(Queue::new());
        let theirs = queue.clone();
        let other = thread::spawn(move || (0..counts[1]).for_each(|item| theirs.push((1, item))));
        let owners = queue.clone();
        let take = move || (0..early).filter_map(|_| owners.pop()).collect();
        let owner = thread::spawn(take);
        (0..counts[0]).for_each(|item| queue.push((0, item)));
        other.join().expect("it ends");
        let mut found: Vec<_> = owner.join().expect("it ends");
        found.extend(std::iter::from_fn(|| queue.pop()));
        for (sender, count) in counts.into_iter().enumerate() {
            let of_it = found.iter().filter(|(of, _)| *of == sender);
            let items: Vec<_> = of_it.map(|(_, item)| *item).collect();
            assert_eq!(items, (0..count).collect::<Vec<_>>(), "of sender {sender}");
        }
    });
}

// One item has room near, so the second goes beyond, and the third where the owner has made room.
#[test]
fn what_one_sends_near_and_beyond_comes_in_its_order() {
    in_order([3, 0], 3, None);
}

#[test]
fn what_two_send_near_and_beyond_comes_in_the_order_of_each() {
    in_order([3, 1], 2, Some(4));
}
