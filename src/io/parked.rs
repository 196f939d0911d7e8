//! The place where a future waits in a record.
//!
//! A waker of one of the core's own tasks stays in its place when it is used: the same task will
//! wait here again, and finds its waker there, so that a steady exchange clones and drops none
//! (each is a read-modify-write). Using it is a push to the core's own run queue, no user code, so
//! it happens at once. Any other waker is a user's code and leaves through the core's list, to be
//! woken when the borrow is over.

#![forbid(unsafe_code)]

use std::task::{Context, Waker};

use crate::task::Kept;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// Who waits, or who waited last. Marked while it waits: since it was parked it was not woken.
    waker: Kept,
}

impl Parked {
    /// Parks the waker of `context`; another one that was there goes to `spent`.
    #[inline]
    pub(crate) fn park(&mut self, context: &Context<'_>, spent: &mut Vec<Waker>) {
        let waker = context.waker();
        if !self.waker.wakes(waker) {
            spent.extend(self.waker.take());
            self.waker = Kept::of(waker);
        }
        self.waker.mark();
    }

    /// Parks the waker of `context` if that is who waited last, as nearly always. Whether it is; if
    /// not, nothing has happened.
    #[inline]
    pub(crate) fn park_again(&mut self, context: &Context<'_>) -> bool {
        self.waker.mark_again(context.waker())
    }

    /// Whether somebody waits.
    #[inline]
    pub(crate) fn is_parked(&self) -> bool {
        self.waker.is_marked()
    }

    /// Wakes who waits, if somebody does: at once, or by way of `wakers`.
    #[inline(always)]
    pub(crate) fn wake(&mut self, wakers: &mut Vec<Waker>) {
        if self.waker.is_marked() {
            self.wake_now(wakers);
        }
    }

    /// As `wake`, where somebody waits.
    #[inline]
    fn wake_now(&mut self, wakers: &mut Vec<Waker>) {
        self.waker.unmark();
        if !self.waker.wake_own() {
            self.wake_other(wakers);
        }
    }

    /// As `wake_now`, where it is no task of this core.
    #[cold]
    fn wake_other(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.waker.take());
    }

    /// Nobody will wait here any more: what is there goes to `spent`.
    pub(crate) fn clear(&mut self, spent: &mut Vec<Waker>) {
        spent.extend(self.waker.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::foreign::Foreign;

    #[test]
    fn a_users_waker_is_not_used_under_the_borrow_but_leaves_once_by_the_list() {
        let (foreign, waker) = Foreign::new();
        let (mut parked, mut spent, mut wakers) = (Parked::default(), Vec::new(), Vec::new());
        for round in 1..=3 {
            parked.park(&Context::from_waker(&waker), &mut spent);
            parked.wake(&mut wakers);
            parked.wake(&mut wakers);
            assert_eq!(
                wakers.len(),
                round,
                "woken once for each time it was parked"
            );
        }
        assert_eq!(foreign.woken(), 0);
        assert!(spent.is_empty());
    }

    #[test]
    fn whoever_parks_last_is_woken_and_who_was_there_is_spent() {
        let ((_, first), (_, second)) = (Foreign::new(), Foreign::new());
        let (mut parked, mut spent, mut wakers) = (Parked::default(), Vec::new(), Vec::new());
        parked.park(&Context::from_waker(&first), &mut spent);
        parked.park(&Context::from_waker(&second), &mut spent);
        parked.wake(&mut wakers);
        assert!(spent[0].will_wake(&first) && spent.len() == 1);
        assert!(wakers[0].will_wake(&second) && wakers.len() == 1);
    }

    #[test]
    fn what_is_cleared_wakes_nobody() {
        let (_, waker) = Foreign::new();
        let (mut parked, mut spent, mut wakers) = (Parked::default(), Vec::new(), Vec::new());
        parked.park(&Context::from_waker(&waker), &mut spent);
        parked.clear(&mut spent);
        parked.wake(&mut wakers);
        assert_eq!((spent.len(), wakers.len()), (1, 0));
    }
}
