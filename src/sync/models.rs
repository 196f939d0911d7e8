//! What stands in for other types in a model, and runs one.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Mutex, PoisonError};

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// Runs a model through all its executions. `preemptions` bounds how often a thread is stopped where
/// it could have gone on, where there are too many executions otherwise.
pub(crate) fn model(preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(run);
}

/// See the one of the same name beside it.
pub(crate) struct Life {
    /// Read by each use, written by the end: loom demands that every read comes before the write.
    uses: UnsafeCell<()>,
    /// There until the end. loom demands that it is gone when the model is over.
    left: Mutex<Option<Track<()>>>,
}

impl Default for Life {
    fn default() -> Life {
        Life {
            uses: UnsafeCell::new(()),
            left: Mutex::new(Some(Track::new(()))),
        }
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Life")
    }
}

impl Life {
    #[track_caller]
    pub(crate) fn used(&self) {
        self.uses.with(|_| ());
        let left = alone(&self.left).is_some();
        assert!(left, "used after its end");
    }

    #[track_caller]
    pub(crate) fn ended(&self) -> bool {
        self.uses.with_mut(|_| ());
        let left = alone(&self.left).take();
        assert!(left.is_some(), "it has ended twice");
        false
    }
}

/// How many items a queue takes, over all of a model.
const ITEMS_MAX: usize = 6;

/// The weakest queue that is one: an item is found by whoever knows that it was pushed, with all that
/// was written before, and may be found or missed by everybody else. The real one promises no less,
/// and orders much more than the code around it should lean on.
pub(crate) struct SegQueue<T> {
    /// How many items were pushed, or are about to be.
    pushed: AtomicUsize,
    /// The items in their order.
    items: Box<[Item<T>]>,
    /// How many items were taken out. There is one thread that does.
    popped: Mutex<usize>,
}

/// A place in the queue.
struct Item<T> {
    /// 1 when the value is there, and from then on.
    written: AtomicUsize,
    /// Locked by nobody at a time when another would.
    value: Mutex<Option<T>>,
}

impl<T> SegQueue<T> {
    pub(crate) fn new() -> SegQueue<T> {
        SegQueue {
            pushed: AtomicUsize::new(0),
            items: (0..ITEMS_MAX).map(|_| Item::default()).collect(),
            popped: Mutex::new(0),
        }
    }

    pub(crate) fn push(&self, value: T) {
        self.items[self.pushed.fetch_add(1, Ordering::Relaxed)].write(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let popped = *alone(&self.popped);
        let item = self.items.get(popped)?;
        if item.written.load(Ordering::Acquire) == 0 {
            return None;
        }
        *alone(&self.popped) += 1;
        alone(&item.value).take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let popped = *alone(&self.popped);
        let item = self.items.get(popped);
        item.is_none_or(|item| item.written.load(Ordering::Relaxed) == 0)
    }
}

/// The same with a bound on how many items are in it.
pub(crate) struct ArrayQueue<T> {
    /// The items.
    queue: SegQueue<T>,
    /// The bound.
    items_most: usize,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(items_most: usize) -> ArrayQueue<T> {
        ArrayQueue {
            queue: SegQueue::new(),
            items_most,
        }
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        let queue = &self.queue;
        let mut pushed = queue.pushed.load(Ordering::Relaxed);
        loop {
            if pushed >= *alone(&queue.popped) + self.items_most {
                return Err(value);
            }
            let next = queue.pushed.compare_exchange(
                pushed,
                pushed + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match next {
                Ok(_) => break,
                Err(now) => pushed = now,
            }
        }
        queue.items[pushed].write(value);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<T> fmt::Debug for ArrayQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArrayQueue")
    }
}

impl<T> Default for Item<T> {
    fn default() -> Item<T> {
        Item {
            written: AtomicUsize::new(0),
            value: Mutex::new(None),
        }
    }
}

impl<T> Item<T> {
    /// The value is there, for all who see that it is.
    fn write(&self, value: T) {
        *alone(&self.value) = Some(value);
        self.written.store(1, Ordering::Release);
    }
}

impl<T> fmt::Debug for SegQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegQueue")
    }
}

/// What is behind a lock that is no part of the model: no step of another thread comes in between.
fn alone<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.try_lock().unwrap_or_else(|error| match error {
        std::sync::TryLockError::Poisoned(poisoned) => PoisonError::into_inner(poisoned),
        std::sync::TryLockError::WouldBlock => unreachable!("it is held for one statement"),
    })
}
