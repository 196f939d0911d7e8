//! The one word of a task that threads share: two flags and the reference count.
//!
//! Only what a thread other than the owner may need is in here. Whether a task waits in the run
//! queue, is being polled, or has been aborted is known to the owner alone and lives in plain
//! cells (`raw`), so a wake and a poll on the owner's thread touch this word not at all.
//!
//! ```text
//!   bits  63 ............................ 2 |     1    |     0
//!         references                        | COMPLETE | NOTIFIED
//! ```
//!
//! * `NOTIFIED`: the task is in the foreign queue, or a thread is about to put it there, and that
//!   place holds one reference of its own. Set by a foreign thread ([`State::notify`]), cleared by
//!   the owner together with that reference ([`State::collected`]), or by whoever finds the queue
//!   closed. Never set on a task that is `COMPLETE`; a task that is notified may become so.
//! * `COMPLETE`: the future is gone and nobody will poll again, so wakes do nothing. Set once, by
//!   the owner ([`State::complete`], [`State::complete_and_give_up`]), never cleared.
//! * references: the [`JoinHandle`](super::JoinHandle) has one, the foreign queue one while
//!   `NOTIFIED`, each waker one. The owner's thread counts those that come and go there by itself
//!   ([`own`](super::own)) until the core gives the task up, when it is complete and out of the run
//!   queue ([`State::give_up`]); the word has the core's *weight* until then, which is more than all
//!   the owner may have counted. Whoever gives up the last reference frees the memory, on any
//!   thread; there is nothing left in it to drop but the header.

#![forbid(unsafe_code)]

use super::own::OWN_MAX;
use crate::sync::atomic::{AtomicUsize, Ordering};

const NOTIFIED: usize = 1;
const COMPLETE: usize = 1 << 1;
const ONE: usize = 1 << 2;
const FLAGS: usize = ONE - 1;

/// What the core holds of a task it has not given up. However many of the references that the owner
/// has counted are dropped on other threads, what is left does not look like the last one.
const CORE: usize = ONE << 40;

const _: () = assert!(
    CORE / ONE > 4 * OWN_MAX as usize,
    "the core's weight covers what its owner counts"
);

/// A word above this means that references were leaked by the quintillion. See [`State::retain`].
const WORD_MAX: usize = usize::MAX / 2;

/// What a foreign wake has to do next.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notify {
    /// The task is to be put into the foreign queue, with the reference that was just counted.
    Push,
    /// Another thread has put it there already, or it is complete.
    Nothing,
}

/// Who still refers to a task after one reference was given up.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// Nobody: the caller frees the memory.
    Nobody,
    /// Somebody: the caller must not touch the task any more by the reference it gave up.
    Others,
}

/// The word.
pub(super) struct State {
    /// See the module documentation. The references are at least one as long as anybody can see
    /// the word.
    word: AtomicUsize,
}

impl State {
    /// A task that was just made: the core's. The handle's reference is counted by the owner.
    pub(super) fn new() -> State {
        State {
            word: AtomicUsize::new(CORE),
        }
    }

    /// A foreign thread wakes the task.
    ///
    /// Where the task is notified already the word is written all the same, unchanged: the release
    /// makes what the waking thread did before visible to the poll that follows the collection.
    pub(super) fn notify(&self) -> Notify {
        self.change(|word| {
            if word & COMPLETE != 0 {
                (None, Notify::Nothing)
            } else if word & NOTIFIED != 0 {
                (Some(word), Notify::Nothing)
            } else {
                check_overflow(word);
                (Some((word | NOTIFIED) + ONE), Notify::Push)
            }
        })
    }

    /// The task was taken out of the foreign queue: its flag goes, and the queue's reference too.
    pub(super) fn collected(&self) -> Left {
        // The flag is known to be set and a reference to be held, so one subtraction takes both.
        let before = self.word.fetch_sub(NOTIFIED + ONE, Ordering::AcqRel);
        debug_assert!(before & NOTIFIED != 0, "not notified: {before:#x}");
        left(before)
    }

    /// One reference more.
    ///
    /// Ends the process when there are more than half as many references as a word can count,
    /// which takes centuries of leaked wakers: an overflow would free a task that is still in use.
    pub(super) fn retain(&self) {
        // Relaxed, because the new reference is made from one that is held.
        let before = self.word.fetch_add(ONE, Ordering::Relaxed);
        check_overflow(before);
    }

    /// One reference less.
    pub(super) fn release(&self) -> Left {
        // Who holds the only reference is alone with the word: nobody can make a second one. This
        // saves the read-modify-write on the usual way a task ends.
        if self.word.load(Ordering::Acquire) & !FLAGS == ONE {
            return Left::Nobody;
        }
        left(self.word.fetch_sub(ONE, Ordering::AcqRel))
    }

    /// The future is gone; the core keeps its weight, for the run queue still names the task.
    pub(super) fn complete(&self) {
        let before = self.word.fetch_or(COMPLETE, Ordering::AcqRel);
        debug_assert!(before & COMPLETE == 0, "completed twice: {before:#x}");
    }

    /// The future is gone and the core gives the task up. `own` is what the owner has counted;
    /// `has_handle` says whether the handle is still there.
    pub(super) fn complete_and_give_up(&self, own: i8, has_handle: bool) -> Left {
        // Where all references are the handle's there is no waker, and none will be made: no other
        // thread can see the word, so a plain store does, and a short task never pays for a
        // read-modify-write (15 of the 110 ns of a spawn and its join, where this was measured).
        if own == i8::from(has_handle) && self.word.load(Ordering::Acquire) == CORE {
            let handles = usize::from(has_handle) * ONE;
            self.word.store(handles | COMPLETE, Ordering::Relaxed);
            return if has_handle {
                Left::Others
            } else {
                Left::Nobody
            };
        }
        self.exchange_weight(own, COMPLETE)
    }

    /// The core gives up a task that is complete. `own` is what the owner has counted.
    pub(super) fn give_up(&self, own: i8) -> Left {
        self.exchange_weight(own, 0)
    }

    /// Puts what the owner has counted in the place of the core's weight, and sets `flag`, which is
    /// known to be unset.
    fn exchange_weight(&self, own: i8, flag: usize) -> Left {
        // All in one addition: of several parts a thread between them could take one for the last.
        let counted = (own as isize as usize).wrapping_mul(ONE);
        let change = counted.wrapping_sub(CORE).wrapping_add(flag);
        let before = self.word.fetch_add(change, Ordering::AcqRel);
        debug_assert!(before & flag == 0, "completed twice: {before:#x}");
        let after = before.wrapping_add(change);
        debug_assert!(after <= WORD_MAX, "fewer than no references: {after:#x}");
        if after & !FLAGS == 0 {
            Left::Nobody
        } else {
            Left::Others
        }
    }

    /// Whether the core has concluded the task. For the owner, who alone sets the flag.
    pub(super) fn is_complete(&self) -> bool {
        self.word.load(Ordering::Relaxed) & COMPLETE != 0
    }

    /// The compare-exchange loop: `next` gives the word to write, if any, and the result.
    fn change<T>(&self, next: impl Fn(usize) -> (Option<usize>, T)) -> T {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let (new, result) = next(word);
            let Some(new) = new else { return result };
            match self
                .word
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return result,
                Err(now) => word = now,
            }
        }
    }
}

/// Whether the reference given up was the last one, by the word before.
fn left(before: usize) -> Left {
    debug_assert!(before >= ONE, "no reference to give up: {before:#x}");
    if before & !FLAGS == ONE {
        Left::Nobody
    } else {
        Left::Others
    }
}

/// See [`State::retain`].
fn check_overflow(before: usize) {
    if before > WORD_MAX {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::own::Own;
    use super::*;

    fn word(state: &State) -> usize {
        state.word.load(Ordering::Relaxed)
    }

    #[test]
    fn a_second_wake_finds_the_first() {
        let state = State::new();
        assert_eq!(state.notify(), Notify::Push);
        assert_eq!(word(&state), (CORE + ONE) | NOTIFIED);
        assert_eq!(state.notify(), Notify::Nothing);
        assert_eq!(state.collected(), Left::Others);
        assert_eq!(word(&state), CORE);
        assert_eq!(state.notify(), Notify::Push);
    }

    #[test]
    fn a_wake_of_a_complete_task_changes_nothing() {
        let state = State::new();
        state.complete();
        assert_eq!(state.notify(), Notify::Nothing);
        assert_eq!(word(&state), CORE | COMPLETE);
    }

    #[test]
    fn a_task_that_completes_while_notified_is_freed_by_the_collection() {
        let state = State::new();
        assert_eq!(state.notify(), Notify::Push);
        assert_eq!(state.complete_and_give_up(1, true), Left::Others);
        assert_eq!(state.release(), Left::Others);
        assert_eq!(state.collected(), Left::Nobody);
    }

    #[test]
    fn a_clone_keeps_the_task() {
        let state = State::new();
        state.retain();
        assert_eq!(state.complete_and_give_up(1, true), Left::Others);
        assert_eq!(state.release(), Left::Others);
        assert_eq!(state.release(), Left::Nobody);
    }

    /// Set in the process that may be aborted.
    const ALONE: &str = "EVENFALL_STATE_TEST_ALONE";

    /// How a process ends in which a word that is as full as it may be is used for `further` more.
    fn overfilled(further: &str) -> Option<i32> {
        let name = "task::state::tests::more_references_than_a_word_counts_end_the_process";
        let program = std::env::current_exe().expect("the program's path");
        let output = std::process::Command::new(program)
            .args(["--exact", name, "--test-threads=1"])
            .env(ALONE, further)
            .output()
            .expect("the program runs again");
        std::os::unix::process::ExitStatusExt::signal(&output.status)
    }

    /// The limit is where half of the word is left: however many threads have counted one more each
    /// before the first of them has looked, the count does not come round to nothing.
    #[test]
    fn more_references_than_a_word_counts_end_the_process() {
        let Ok(further) = std::env::var(ALONE) else {
            assert_eq!(overfilled("none"), None);
            assert_eq!(overfilled("a clone"), Some(libc::SIGABRT));
            assert_eq!(overfilled("a wake"), Some(libc::SIGABRT));
            return;
        };
        let full = State {
            word: AtomicUsize::new((WORD_MAX - FLAGS) & !FLAGS),
        };
        full.retain();
        assert_eq!(full.release(), Left::Others);
        full.retain();
        match further.as_str() {
            "a clone" => full.retain(),
            "a wake" => assert_eq!(full.notify(), Notify::Push),
            _ => {}
        }
    }

    /// What can happen to a task's count, and the references each event takes or gives. The clones
    /// and drops of wakers happen on the owner's thread or elsewhere, whatever the waker's way was.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Notify,
        Collect,
        CloneHere,
        CloneElsewhere,
        DropHere,
        DropElsewhere,
        DropHandle,
        Complete,
        CompleteAndGiveUp,
        LeaveQueue,
    }
    const EVENTS: [Event; 10] = [
        Event::Notify,
        Event::Collect,
        Event::CloneHere,
        Event::CloneElsewhere,
        Event::DropHere,
        Event::DropElsewhere,
        Event::DropHandle,
        Event::Complete,
        Event::CompleteAndGiveUp,
        Event::LeaveQueue,
    ];

    /// The count as a task has it: what all threads share, and the owner's part.
    struct Count {
        state: State,
        own: Own,
    }

    impl Count {
        fn retain_here(&self) {
            if !self.own.retain() {
                self.state.retain();
            }
        }

        fn release_here(&self) -> Left {
            if self.own.release() {
                Left::Others
            } else {
                self.state.release()
            }
        }
    }

    /// The same machine written naively: who holds what.
    #[derive(Clone, Copy, Default)]
    struct Model {
        core: bool,
        handle: bool,
        wakers: usize,
        notified: bool,
        complete: bool,
    }

    impl Model {
        fn left(&self) -> Left {
            if self.core || self.handle || self.notified || self.wakers > 0 {
                Left::Others
            } else {
                Left::Nobody
            }
        }

        /// The word after the core gave the task up, when it alone counts.
        fn word(&self) -> usize {
            let held = usize::from(self.handle) + usize::from(self.notified) + self.wakers;
            held * ONE + usize::from(self.notified) * NOTIFIED + COMPLETE
        }

        /// Applies the event to both where it is possible; `None` where it is not.
        fn apply(mut self, event: Event, count: &Count) -> Option<Model> {
            let state = &count.state;
            let left = match event {
                Event::Notify if self.wakers > 0 => {
                    let push = !self.notified && !self.complete;
                    self.notified |= push;
                    let expected = if push { Notify::Push } else { Notify::Nothing };
                    assert_eq!(state.notify(), expected);
                    return Some(self);
                }
                Event::CloneHere if self.core || self.wakers > 0 => {
                    self.wakers += 1;
                    count.retain_here();
                    return Some(self);
                }
                Event::CloneElsewhere if self.wakers > 0 => {
                    self.wakers += 1;
                    state.retain();
                    return Some(self);
                }
                Event::Complete if self.core && !self.complete => {
                    self.complete = true;
                    state.complete();
                    return Some(self);
                }
                Event::Collect if self.notified => {
                    self.notified = false;
                    state.collected()
                }
                Event::DropHere if self.wakers > 0 => {
                    self.wakers -= 1;
                    count.release_here()
                }
                Event::DropElsewhere if self.wakers > 0 => {
                    self.wakers -= 1;
                    state.release()
                }
                Event::DropHandle if self.handle => {
                    self.handle = false;
                    count.release_here()
                }
                Event::CompleteAndGiveUp if self.core && !self.complete => {
                    self.complete = true;
                    self.core = false;
                    state.complete_and_give_up(count.own.fold(), self.handle)
                }
                Event::LeaveQueue if self.core && self.complete => {
                    self.core = false;
                    state.give_up(count.own.fold())
                }
                _ => return None,
            };
            assert_eq!(left, self.left(), "{event:?}");
            Some(self)
        }
    }

    fn explore(events: &mut Vec<Event>, depth: usize, ends: &mut usize) {
        for event in EVENTS {
            events.push(event);
            let count = Count {
                state: State::new(),
                own: Own::new(),
            };
            let mut model = Some(Model {
                core: true,
                handle: true,
                ..Model::default()
            });
            for event in events.iter() {
                model = model.and_then(|model| model.apply(*event, &count));
            }
            if let Some(model) = model {
                if model.left() == Left::Nobody {
                    *ends += 1;
                } else {
                    if !model.core {
                        assert_eq!(word(&count.state), model.word(), "{events:?}");
                    }
                    if depth > 1 {
                        explore(events, depth - 1, ends);
                    }
                }
            }
            events.pop();
        }
    }

    #[test]
    fn every_sequence_of_seven_events_counts_right() {
        let mut ends = 0;
        explore(&mut Vec::new(), 7, &mut ends);
        assert!(ends > 100, "only {ends} sequences reached the end");
    }

    #[test]
    fn wakers_that_all_die_elsewhere_do_not_free_a_task_that_lives() {
        let count = Count {
            state: State::new(),
            own: Own::new(),
        };
        for _ in 0..1_000 {
            count.retain_here();
        }
        for _ in 0..1_000 {
            assert_eq!(count.state.release(), Left::Others);
        }
        assert_eq!(count.release_here(), Left::Others, "the handle");
        let left = count.state.complete_and_give_up(count.own.fold(), false);
        assert_eq!(left, Left::Nobody);
    }
}
