//! Letters: what one core, or a foreign thread, hands to another core.
//!
//! A mailbox is a queue and a bell. The queue can be closed, atomically: a letter is either
//! refused, and given back, or it is in the queue before the owner empties it for the last time.
//! So no accepted letter is ever without an outcome.

mod bell;
mod letter;
#[cfg(all(test, loom))]
mod models;
mod queue;

pub(crate) use bell::Bell;
pub(crate) use letter::{Letter, Work};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, yield_now};
use queue::Queue;

/// The bit of `gate` that says no further letter is taken.
const CLOSED: u64 = 1 << 63;

/// The letters that wait for one core.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Letters in the order they came.
    queue: Queue<Letter>,
    /// Letters taken out, ever.
    taken: Taken,
    /// Wakes the core, and has the door.
    bell: Arc<Bell>,
}

/// Where letters come in.
#[derive(Debug, Default)]
struct Door {
    /// How many senders are between asking and having put their letter in; the top bit says that
    /// the mailbox is closed, set once by the owner, never cleared.
    gate: AtomicU64,
    /// Letters taken in, ever. Goes up before a letter is in.
    received: AtomicU64,
}

/// A count that only the owner of a mailbox touches: in a line of the cache of its own, for senders
/// read what stands beside it.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(align(128)))]
struct Taken(AtomicU64);

impl Mailbox {
    /// An open mailbox whose letters ring `bell`.
    pub(crate) fn new(bell: Arc<Bell>) -> Mailbox {
        Mailbox {
            queue: Queue::new(),
            taken: Taken::default(),
            bell,
        }
    }

    /// Lets a sender in, for one letter; `None` if the core takes none any more.
    ///
    /// The owner's last look waits for whoever was let in: no user's code may run before the letter
    /// is in.
    #[inline]
    pub(crate) fn admit(&self) -> Option<Admitted<'_>> {
        // Acquire: pairs with `close`. Counting ourselves first is what makes the owner wait.
        let before = self.bell.door.gate.fetch_add(1, Ordering::Acquire);
        let admitted = Admitted { mailbox: self };
        (before & CLOSED == 0).then_some(admitted)
    }

    /// Posts a letter, or gives it back if the core takes none any more. `sent` is the sender's
    /// count.
    pub(crate) fn post(&self, letter: Letter, sent: &AtomicU64) -> Result<(), Letter> {
        match self.admit() {
            Some(admitted) => {
                admitted.post(letter, sent);
                Ok(())
            }
            None => Err(letter),
        }
    }

    /// The next letter. Owner only.
    pub(crate) fn take(&self) -> Option<Letter> {
        let letter = self.queue.pop()?;
        let taken = self.taken.0.load(Ordering::Relaxed);
        self.taken.0.store(taken + 1, Ordering::Relaxed);
        Some(letter)
    }

    /// Whether no letter waits or is about to be put in. Owner only.
    ///
    /// By the counts: the ends of the queue are the senders' and stay in their caches.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bell.door.received.load(Ordering::Relaxed) == self.taken.0.load(Ordering::Relaxed)
    }

    /// Letters taken in, ever.
    pub(crate) fn received(&self) -> u64 {
        self.bell.door.received.load(Ordering::Acquire)
    }

    /// Takes no further letter. What is in the queue when this returns is all there will ever be.
    /// Owner only.
    pub(crate) fn close(&self) {
        let gate = &self.bell.door.gate;
        let mut senders = gate.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED;
        while senders != 0 {
            // A sender is between two statements; it needs the processor, not our patience.
            yield_now();
            senders = gate.load(Ordering::Acquire) & !CLOSED;
        }
    }
}

/// A sender that was let in. While it is there the mailbox is not closed for good.
#[derive(Debug)]
#[must_use]
pub(crate) struct Admitted<'a> {
    /// Whose gate counts it.
    mailbox: &'a Mailbox,
}

impl Admitted<'_> {
    /// Posts its letter.
    ///
    /// `sent` is the sender's count. It goes up before the owner can have closed the mailbox, so
    /// no report misses a letter that was taken.
    #[inline]
    pub(crate) fn post(self, letter: Letter, sent: &AtomicU64) {
        let mailbox = self.mailbox;
        sent.fetch_add(1, Ordering::Relaxed);
        mailbox.bell.door.received.fetch_add(1, Ordering::Relaxed);
        mailbox.queue.push(letter);
        drop(self);
        mailbox.bell.ring();
    }
}

impl Drop for Admitted<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: the owner that sees us gone sees our letter.
        self.mailbox.bell.door.gate.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;
    use crate::ring::sys::event::EventFd;
    use crate::sync::atomic::AtomicUsize;

    fn mailbox() -> Mailbox {
        let alarm = Arc::new(EventFd::new().expect("an eventfd"));
        Mailbox::new(Arc::new(Bell::new(alarm)))
    }

    /// Posts so many letters, and tells whether any of them rang the alarm.
    fn rings(mailbox: &Mailbox, alarm: &EventFd, letters: usize) -> bool {
        for _ in 0..letters {
            let posted = mailbox.post(Letter::of(|| {}), &AtomicU64::new(0));
            assert!(posted.is_ok(), "the mailbox is open");
        }
        // Readable exactly when its counter is not zero: somebody made the system call.
        let mut polled = File::from(alarm.as_fd().try_clone_to_owned().expect("a descriptor"));
        let mut count = [0; 8];
        match polled.read_exact(&mut count) {
            Ok(()) => {
                assert_eq!(u64::from_ne_bytes(count), 1, "one ring wakes for all");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    #[test]
    fn a_core_that_is_awake_costs_its_senders_no_system_call_and_one_asleep_costs_one() {
        let alarm = Arc::new(EventFd::new().expect("an eventfd"));
        let bell = Arc::new(Bell::new(alarm.clone()));
        let mailbox = Mailbox::new(bell.clone());
        assert!(!rings(&mailbox, &alarm, 1_000), "it was never asleep");
        bell.will_sleep();
        assert!(rings(&mailbox, &alarm, 1_000), "it sleeps");
        assert!(!rings(&mailbox, &alarm, 1_000), "it was woken already");
        bell.is_awake();
        assert!(!rings(&mailbox, &alarm, 1_000), "it is awake");
        bell.will_sleep();
        bell.is_awake();
        assert!(!rings(&mailbox, &alarm, 1_000), "it did not go to sleep");
    }

    #[test]
    fn a_closed_mailbox_gives_the_letter_back() {
        let mailbox = mailbox();
        mailbox.close();
        let ran = Arc::new(AtomicUsize::new(0));
        let inside = ran.clone();
        let letter = mailbox
            .post(
                Letter::of(move || {
                    inside.fetch_add(1, Ordering::Relaxed);
                }),
                &AtomicU64::new(0),
            )
            .expect_err("the mailbox is closed");
        letter.run();
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        assert_eq!(mailbox.received(), 0);
    }

    #[test]
    fn the_last_look_waits_for_a_sender_that_was_let_in() {
        let mailbox = mailbox();
        let sent = AtomicU64::new(0);
        let admitted = mailbox.admit().expect("the mailbox is open");
        assert_eq!(
            mailbox.bell.door.gate.load(Ordering::Relaxed),
            1,
            "it is waited for"
        );
        std::thread::scope(|scope| {
            let owner = scope.spawn(|| {
                mailbox.close();
                mailbox.take().is_some()
            });
            while mailbox.admit().is_some() {
                std::thread::yield_now();
            }
            // It is closed to others now, and the owner has not looked yet.
            admitted.post(Letter::of(|| {}), &sent);
            assert!(owner.join().expect("the owner"), "the letter was missed");
        });
        assert_eq!(mailbox.received(), 1);
        assert!(mailbox.admit().is_none());
        assert_eq!(
            mailbox.bell.door.gate.load(Ordering::Relaxed),
            CLOSED,
            "nobody is left inside"
        );
    }

    #[test]
    fn every_letter_of_racing_senders_is_refused_or_found() {
        for _ in 0..200 {
            let mailbox = mailbox();
            let ran = Arc::new(AtomicUsize::new(0));
            let sent = AtomicU64::new(0);
            let accepted = std::thread::scope(|scope| {
                let senders: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let post = |_: &usize| {
                                let ran = ran.clone();
                                let letter = Letter::of(move || {
                                    ran.fetch_add(1, Ordering::Relaxed);
                                });
                                mailbox.post(letter, &sent).is_ok()
                            };
                            (0..50).filter(post).count()
                        })
                    })
                    .collect();
                mailbox.close();
                while let Some(letter) = mailbox.take() {
                    letter.run();
                }
                senders
                    .into_iter()
                    .map(|sender| sender.join().expect("a sender"))
                    .sum::<usize>()
            });
            assert!(mailbox.is_empty(), "a letter came after the close");
            assert_eq!(ran.load(Ordering::Relaxed), accepted);
            assert_eq!(sent.load(Ordering::Relaxed), accepted as u64);
        }
    }
}
