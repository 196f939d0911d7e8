//! The queue of a mailbox: what a core reads in one turn lies in an array, what is beyond that in a
//! list of blocks.
//!
//! A queue of blocks alone is without a bound too, but its sender allocates each block and its owner
//! frees it. glibc's allocator takes a lock for that, the same one on both sides, and a thread that
//! finds it taken sleeps: one system call in 28 letters to a core that is awake, where now there is
//! one in 100,000. (The letters' own memory is small enough to go back without the lock.)

#![forbid(unsafe_code)]

use crate::config::LETTERS_NEAR;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{ArrayQueue, Mutex, SegQueue, lock};

/// What one sender has pushed comes out in that order. One thread takes, which is the owner.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// What comes first.
    near: ArrayQueue<T>,
    /// What found no room there, or others there before it.
    beyond: SegQueue<T>,
    /// How many are beyond, held ones too. Goes up before an item is there, and down when it is out.
    /// Senders push near only where it is zero: none overtakes an item of its own.
    count_beyond: AtomicUsize,
    /// Came from beyond, and waits for what its sender has pushed near before. The owner's.
    held: Mutex<Option<T>>,
}

impl<T> Queue<T> {
    /// An empty one.
    pub(super) fn new() -> Queue<T> {
        Queue {
            near: ArrayQueue::new(LETTERS_NEAR),
            beyond: SegQueue::new(),
            count_beyond: AtomicUsize::new(0),
            held: Mutex::new(None),
        }
    }

    /// Puts an item in, on any thread.
    #[inline]
    pub(super) fn push(&self, item: T) {
        let mut item = item;
        // What counts is this thread's own share, which it knows: others' orders are their own.
        if self.count_beyond.load(Ordering::Relaxed) == 0 {
            match self.near.push(item) {
                Ok(()) => return,
                Err(back) => item = back,
            }
        }
        self.push_beyond(item);
    }

    /// As `push`, where there is no room near.
    #[cold]
    fn push_beyond(&self, item: T) {
        self.count_beyond.fetch_add(1, Ordering::Relaxed);
        self.beyond.push(item);
    }

    /// Takes the next item. Owner only.
    #[inline]
    pub(super) fn pop(&self) -> Option<T> {
        let next = self.near.pop();
        if next.is_none() && self.count_beyond.load(Ordering::Relaxed) > 0 {
            return self.pop_beyond();
        }
        next
    }

    /// As `pop`, where nothing was near.
    #[cold]
    fn pop_beyond(&self) -> Option<T> {
        let mut held = lock(&self.held);
        let item = held.take().or_else(|| self.beyond.pop())?;
        // Now that it is out, all is seen that its sender has pushed before: that comes first.
        if let Some(earlier) = self.near.pop() {
            *held = Some(item);
            return Some(earlier);
        }
        self.count_beyond.fetch_sub(1, Ordering::Relaxed);
        Some(item)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_pushes_comes_out_in_its_order_however_much_it_is() {
        let queue = Queue::new();
        let mut next = 0;
        let mut pushed = 0;
        // Taken out in parts, so that the array has room again while the list has items.
        for (push, pop) in [
            (LETTERS_NEAR + 5, 3),
            (10, LETTERS_NEAR),
            (7, 12),
            (2_000, 2_007),
        ] {
            for _ in 0..push {
                queue.push(pushed);
                pushed += 1;
            }
            for _ in 0..pop {
                assert_eq!(queue.pop(), Some(next));
                next += 1;
            }
        }
        assert_eq!(next, pushed);
        assert!(queue.pop().is_none());
    }

    #[test]
    fn nothing_is_lost_between_the_two_and_each_sender_keeps_its_order() {
        const EACH: usize = 50_000;
        let queue = Queue::new();
        std::thread::scope(|scope| {
            for sender in 0..3 {
                let queue = &queue;
                scope.spawn(move || (0..EACH).for_each(|item| queue.push((sender, item))));
            }
            let mut next = [0; 3];
            while next != [EACH; 3] {
                if let Some((sender, item)) = queue.pop() {
                    assert_eq!(item, next[sender], "of sender {sender}");
                    next[sender] += 1;
                }
            }
        });
        assert!(queue.pop().is_none());
    }
}
