//! A waker that is kept for later, in one word.
//!
//! ```text
//!  63                               3    2    1      0
//! ┌───────────────────────────────────┬───┬──────┬───────┐
//! │ address of a task's header        │ 0 │ mark │ boxed │
//! │ or of a box with any other waker  │   │      │       │
//! └───────────────────────────────────┴───┴──────┴───────┘
//! ```
//! Nearly all wakers are those of tasks, and of those half of a `Waker` is always the same. A
//! connection keeps two, a task one, for all of their lives. The mark is the owner's, to say what it
//! likes of a waker that is kept.

use std::ptr::{self, NonNull};
use std::task::Waker;

use super::header::Header;
use super::raw::{Task, release_rest};
use super::waker::{task_of_waker, waker_of};
use crate::panics::quietly;

/// The waker is in a box, and is none of a task.
const BOXED: usize = 1;
/// See [`Kept::mark`].
const MARK: usize = 1 << 1;
/// Both. Headers and boxes begin at multiples of 8, so their addresses have none of these bits.
const BITS: usize = BOXED | MARK;

/// See the module. It is neither `Send` nor `Sync`, which nobody needs.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Null, or an address with its bits. It owns what it points to: a reference to the task, or
    /// the box.
    word: *mut (),
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            word: ptr::null_mut(),
        }
    }
}

impl Kept {
    /// A clone of `waker`.
    #[inline]
    pub(crate) fn of(waker: &Waker) -> Kept {
        Kept::of_task(waker).unwrap_or_else(|| Kept::from(waker.clone()))
    }

    /// A clone of `waker`, if it is one of a task: that runs no user code.
    #[inline]
    pub(super) fn of_task(waker: &Waker) -> Option<Kept> {
        let task = task_of_waker(waker)?;
        // What the clone would do, without the way by the waker's table. The word owns the reference.
        // SAFETY: the waker keeps the task alive during the call.
        unsafe { task.as_ref() }.retain();
        Some(Kept {
            word: task.as_ptr().cast(),
        })
    }

    /// Whether no waker is kept.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.word.is_null()
    }

    /// Whether it wakes whom `waker` wakes.
    #[inline]
    pub(crate) fn wakes(&self, waker: &Waker) -> bool {
        match task_of_waker(waker) {
            Some(task) => self.word.addr() | MARK == task.addr().get() | MARK,
            None => self.boxed().is_some_and(|boxed| boxed.will_wake(waker)),
        }
    }

    /// Sets the mark, where a waker is kept.
    #[inline]
    pub(crate) fn mark(&mut self) {
        if !self.word.is_null() {
            self.word = self.word.map_addr(|word| word | MARK);
        }
    }

    /// Sets the mark if `waker` is kept, and is one of a task. Whether it is.
    #[inline]
    pub(crate) fn mark_again(&mut self, waker: &Waker) -> bool {
        let Some(task) = task_of_waker(waker) else {
            return false;
        };
        let marked = self.word.map_addr(|word| word | MARK);
        let same = marked.addr() == task.addr().get() | MARK;
        if same {
            self.word = marked;
        }
        same
    }

    /// Whether it has the mark.
    #[inline]
    pub(crate) fn is_marked(&self) -> bool {
        self.word.addr() & MARK != 0
    }

    /// Takes the mark off.
    #[inline]
    pub(crate) fn unmark(&mut self) {
        self.word = self.word.map_addr(|word| word & !MARK);
    }

    /// Takes the waker out; nothing is kept then.
    pub(crate) fn take(&mut self) -> Option<Waker> {
        let word = std::mem::take(self).into_word();
        let address = word.map_addr(|word| word & !BITS);
        if word.addr() & BOXED != 0 {
            // SAFETY: `from` made the word of this box, which leaves its owner here.
            let boxed = unsafe { Box::from_raw(address.cast::<Waker>()) };
            return Some(*boxed);
        }
        let task = NonNull::new(address.cast::<Header>())?;
        // SAFETY: the word is not boxed, so `from` made it of a waker of this task, whose
        // reference goes from its owner to the waker.
        Some(unsafe { waker_of(task) })
    }

    /// Wakes a task of the core this thread is, which is a push to its run queue and no user code:
    /// with no atomic operation and no lock. False, and nothing happened, if it is any other waker
    /// or none. The waker stays.
    #[inline]
    pub(crate) fn wake_own(&self) -> bool {
        if self.word.addr() & BOXED != 0 {
            return false;
        }
        let address = self.word.map_addr(|word| word & !MARK);
        let Some(pointer) = NonNull::new(address.cast::<Header>()) else {
            return false;
        };
        // SAFETY: a word that is neither null nor boxed is the address of a task's header, to which
        // it has a reference, which stays during the call.
        let here = unsafe { pointer.as_ref() }.shared.is_here();
        if here {
            // SAFETY: this is the owner's thread, and the word's reference is held during the call.
            // The run queue keeps a copy only of a task that is not over.
            let task = unsafe { Task::on_owner(pointer) };
            task.local().enqueue(task);
        }
        here
    }

    /// Wakes, and is used up. A panic of a user's waker ends here.
    #[inline]
    pub(super) fn wake(self) {
        if self.wake_own() {
            // SAFETY: it has found the address of a task of this core.
            unsafe { self.release_own() };
        } else {
            self.wake_any();
        }
    }

    /// Drops it.
    ///
    /// # Safety
    ///
    /// It is one of a task of the core this thread is.
    #[inline]
    unsafe fn release_own(self) {
        let word = self.into_word().map_addr(|word| word & !BITS);
        // SAFETY: this is the address of a task (the caller's promise), and the word's reference to
        // it is still there.
        let header = unsafe { &*word.cast::<Header>() };
        header.life.used();
        // This is the owner's thread (the caller's promise).
        if !header.own.release() {
            // SAFETY: the word is gone, and its reference with it.
            unsafe { release_rest(NonNull::from(header)) };
        }
    }

    /// As `wake`, where there is none, or one that may be anybody's.
    #[cold]
    fn wake_any(mut self) {
        if let Some(waker) = self.take() {
            quietly(|| waker.wake());
        }
    }

    /// The waker in the box, if it is in one.
    fn boxed(&self) -> Option<&Waker> {
        if self.word.addr() & BOXED == 0 {
            return None;
        }
        let address = self.word.map_addr(|word| word & !BITS);
        // SAFETY: the word owns the box, and is borrowed for as long as the result is.
        Some(unsafe { &*address.cast::<Waker>() })
    }

    /// The word, with all that it owns.
    fn into_word(self) -> *mut () {
        std::mem::ManuallyDrop::new(self).word
    }
}

impl From<Waker> for Kept {
    #[inline]
    fn from(waker: Waker) -> Kept {
        let word = match task_of_waker(&waker) {
            Some(task) => {
                // Its reference is the word's from here on.
                std::mem::forget(waker);
                task.as_ptr().cast()
            }
            None => boxed_word(waker),
        };
        Kept { word }
    }
}

/// The word of a waker that is none of a task.
#[cold]
fn boxed_word(waker: Waker) -> *mut () {
    let boxed: *mut () = Box::into_raw(Box::new(waker)).cast();
    boxed.map_addr(|word| word | BOXED)
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        if !self.word.is_null() {
            drop(self.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ring::tests::foreign::Foreign;

    #[test]
    fn a_users_waker_is_kept_and_comes_back_with_its_mark_gone() {
        let (foreign, waker) = Foreign::new();
        let mut kept = Kept::of(&waker);
        assert_eq!(Arc::strong_count(&foreign), 3);
        kept.mark();
        assert!(kept.wakes(&waker) && !kept.wakes(Waker::noop()));
        assert!(!kept.wake_own(), "that is a user's code");
        assert!(kept.is_marked() && !kept.mark_again(&waker));
        kept.unmark();
        assert!(!kept.is_marked());
        kept.mark();
        kept.take().expect("it is kept").wake();
        assert!(kept.take().is_none() && !kept.is_marked());
        assert_eq!(foreign.woken(), 1);
        assert_eq!(Arc::strong_count(&foreign), 2);
    }

    #[test]
    fn a_users_waker_goes_with_the_word() {
        let (foreign, waker) = Foreign::new();
        let mut kept = Kept::from(waker);
        kept.mark();
        drop(kept);
        assert_eq!(Arc::strong_count(&foreign), 1);
    }

    #[test]
    fn nothing_wakes_nobody_and_takes_no_mark() {
        let mut kept = Kept::default();
        kept.mark();
        assert!(!kept.is_marked() && !kept.wake_own() && kept.take().is_none());
        assert!(!kept.wakes(Waker::noop()));
    }
}
