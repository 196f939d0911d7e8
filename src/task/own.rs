//! The owner's part of a task's reference count: references that came and went on its thread.
//!
//! ```text
//!                retain, release                        fold
//!   new (1) ──────────────────────▶ any count ───────────────────────▶ folded
//!                                                (into the word of `state`)
//! ```
//! A waker that is cloned and dropped where its task lives costs an addition each, and no
//! read-modify-write of memory that other threads may see: two of those were a quarter of the
//! 125 ns that a spawn and its join took, where this was measured.
//!
//! Clones and drops need not pair up on one thread, so this part alone may fall below zero, as may
//! the part in the word. Only their sum counts the references, and it is made when the core gives
//! the task up: until then the core's own weight in the word, larger than any count here, keeps
//! every other thread from taking a reference for the last one.

#![forbid(unsafe_code)]

use std::cell::Cell;

/// A count that is not kept here any more.
const FOLDED: i8 = i8::MAX;

/// How far from zero the count goes, either way. What is beyond is counted in the word: few tasks
/// have more than a handful of wakers, and one that lives for ever may have all of its cloned
/// elsewhere and dropped here.
pub(super) const OWN_MAX: i8 = 100;

/// See the module. Touched by the owner's thread only.
pub(super) struct Own {
    /// References made on the owner's thread less those dropped there, or `FOLDED`.
    count: Cell<i8>,
}

impl Own {
    /// The part of a new task: its handle's reference.
    pub(super) fn new() -> Own {
        Own {
            count: Cell::new(1),
        }
    }

    /// Counts one reference more. False if the word has to.
    #[must_use]
    #[inline]
    pub(super) fn retain(&self) -> bool {
        let count = self.count.get();
        let here = count < OWN_MAX;
        if here {
            self.count.set(count + 1);
        }
        here
    }

    /// Counts one reference less. False if the word has to.
    #[must_use]
    #[inline]
    pub(super) fn release(&self) -> bool {
        let count = self.count.get();
        let here = -OWN_MAX < count && count <= OWN_MAX;
        if here {
            self.count.set(count - 1);
        }
        here
    }

    /// The count, which the word takes over. Once.
    pub(super) fn fold(&self) -> i8 {
        let count = self.count.replace(FOLDED);
        debug_assert!(count != FOLDED, "folded twice");
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_here_after_the_fold() {
        let own = Own::new();
        assert!(own.retain() && own.retain() && own.release());
        assert_eq!(own.fold(), 2);
        assert!(!own.retain());
        assert!(!own.release());
    }

    #[test]
    fn what_is_too_much_goes_to_the_word() {
        let own = Own::new();
        own.count.set(OWN_MAX);
        assert!(!own.retain());
        assert!(own.release() && own.retain());
        own.count.set(-OWN_MAX);
        assert!(!own.release());
        assert!(own.retain() && own.release());
        assert_eq!(own.fold(), -OWN_MAX);
    }
}
