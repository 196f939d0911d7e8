//! A feed: what happens, one item after the other, and who reads along.
//!
//! ```text
//!  push ──▶ items: the last so many, numbered ──▶ Subscription: its own place in the numbers
//!  end  ──▶ nothing follows                        └─ drop: its waker goes with it
//! ```
//! The feed forgets its oldest items, so that it needs no more memory however long it goes on; a
//! subscription that has fallen behind goes on with the oldest that is left, and says how many it
//! has missed.

#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
mod models;

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::panics::quietly;
use crate::sync::{Arc, Condvar, Mutex, lock, wait};

/// See the module.
#[derive(Debug)]
pub(crate) struct Feed<T> {
    /// What was pushed, and who waits for more.
    state: Mutex<State<T>>,
    /// Rung whenever the state changes, for threads that wait.
    changed: Condvar,
    /// How many items are kept; never 0.
    kept_most: usize,
}

/// See [`Feed`].
#[derive(Debug)]
struct State<T> {
    /// The youngest items, oldest first; at most `kept_most`.
    items: VecDeque<T>,
    /// The number of the first of `items`; the first item ever has 0.
    first: u64,
    /// Nothing follows; never taken back.
    over: bool,
    /// The wakers of the subscriptions that wait, each at a place of its subscription's own.
    wakers: Slab<Option<Waker>>,
}

impl<T: Clone> Feed<T> {
    /// An empty feed that keeps the last `kept_most` items.
    pub(crate) fn new(kept_most: usize) -> Feed<T> {
        Feed {
            state: Mutex::new(State {
                items: VecDeque::new(),
                first: 0,
                over: false,
                wakers: Slab::new(),
            }),
            changed: Condvar::new(),
            kept_most,
        }
    }

    /// Adds an item, and lets the oldest go if there are too many.
    pub(crate) fn push(&self, item: T) {
        self.change(|state| {
            if state.items.len() == self.kept_most {
                state.items.pop_front();
                state.first += 1;
            }
            state.items.push_back(item);
        });
    }

    /// Says that nothing follows.
    pub(crate) fn end(&self) {
        self.change(|state| state.over = true);
    }

    /// Changes the state and tells everybody who waits.
    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let wakers: Vec<Waker> = {
            let mut state = lock(&self.state);
            change(&mut state);
            let parked = state.wakers.iter_mut();
            parked.filter_map(|(_, waker)| waker.take()).collect()
        };
        self.changed.notify_all();
        // Outside of the lock: a waker may be anything.
        for waker in wakers {
            quietly(|| waker.wake());
        }
    }

    /// What comes from now on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription<T> {
        self.read_from(|state| state.first + state.items.len() as u64)
    }

    /// What is kept of what was, and then what comes.
    pub(crate) fn subscribe_to_all(self: &Arc<Self>) -> Subscription<T> {
        self.read_from(|state| state.first)
    }

    /// What there is from the item on whose number `next` says.
    fn read_from(self: &Arc<Self>, next: impl FnOnce(&State<T>) -> u64) -> Subscription<T> {
        let mut state = lock(&self.state);
        Subscription {
            next: next(&state),
            place: state.wakers.insert(None),
            missed: 0,
            feed: self.clone(),
        }
    }
}

/// One reader of a feed.
#[derive(Debug)]
pub(crate) struct Subscription<T> {
    /// What it reads.
    feed: Arc<Feed<T>>,
    /// The number of the item it reads next.
    next: u64,
    /// Its place among the feed's wakers, for as long as it lives.
    place: usize,
    /// Items that were gone before it came to read them.
    missed: u64,
}

impl<T: Clone> Subscription<T> {
    /// The next item; `None` after the last.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let waker = context.waker().clone();
        let feed = self.feed.clone();
        let mut state = lock(&feed.state);
        if let Some(next) = self.following(&state) {
            return Poll::Ready(next);
        }
        let replaced = state.wakers[self.place].replace(waker);
        // A waker's destructor may be anything: not under the lock.
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// As [`poll_next`](Subscription::poll_next), but blocks until the item comes.
    pub(crate) fn wait_next(&mut self) -> Option<T> {
        let feed = self.feed.clone();
        let mut state = lock(&feed.state);
        loop {
            if let Some(next) = self.following(&state) {
                return next;
            }
            state = wait(&feed.changed, state);
        }
    }

    /// How many items it has missed so far.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// The next item, if it is there; `Some(None)` after the last.
    fn following(&mut self, state: &State<T>) -> Option<Option<T>> {
        let lost = state.first.saturating_sub(self.next);
        self.missed += lost;
        self.next += lost;
        // It is at least `first` now, and what is kept is few.
        let item = state.items.get((self.next - state.first) as usize);
        if let Some(item) = item {
            self.next += 1;
            return Some(Some(item.clone()));
        }
        state.over.then_some(None)
    }
}

impl<T> Drop for Subscription<T> {
    /// Whoever subscribes for each connection must not leave a waker, and its task, behind.
    fn drop(&mut self) {
        let waker = lock(&self.feed.state).wakers.try_remove(self.place);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    fn polled<T: Clone>(subscription: &mut Subscription<T>) -> Poll<Option<T>> {
        subscription.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn each_item_is_read_once_and_in_order_and_then_the_end() {
        let feed = Arc::new(Feed::new(8));
        feed.push(1);
        let mut late = feed.subscribe();
        assert!(polled(&mut late).is_pending(), "what was before is no news");
        let mut whole = feed.subscribe_to_all();
        assert_eq!(polled(&mut whole), Poll::Ready(Some(1)));
        let other = feed.clone();
        let mut early = feed.subscribe();
        let thread = std::thread::spawn(move || {
            std::iter::from_fn(|| early.wait_next()).collect::<Vec<_>>()
        });
        (2..=4).for_each(|item| other.push(item));
        other.end();
        assert_eq!(thread.join().expect("the subscriber"), [2, 3, 4]);
        for mut subscription in [late, whole] {
            for item in 2..=4 {
                assert_eq!(polled(&mut subscription), Poll::Ready(Some(item)));
            }
            assert_eq!(polled(&mut subscription), Poll::Ready(None));
            assert_eq!(subscription.missed(), 0);
        }
    }

    #[test]
    fn whoever_is_slow_misses_the_oldest_and_is_told_how_many() {
        let feed = Arc::new(Feed::new(2));
        let mut slow = feed.subscribe();
        (1..=5).for_each(|item| feed.push(item));
        assert_eq!(lock(&feed.state).items.len(), 2, "no more is kept");
        assert_eq!(polled(&mut slow), Poll::Ready(Some(4)));
        assert_eq!(polled(&mut slow), Poll::Ready(Some(5)));
        assert_eq!(slow.missed(), 3);
        assert!(polled(&mut slow).is_pending());
    }

    /// Does nothing but live.
    struct Alive;

    impl Wake for Alive {
        fn wake(self: std::sync::Arc<Self>) {}
    }

    #[test]
    fn a_subscriber_that_is_gone_leaves_no_waker_behind() {
        let feed = Arc::new(Feed::<u32>::new(2));
        let alive = std::sync::Arc::new(Alive);
        for _ in 0..100 {
            let waker = Waker::from(alive.clone());
            let mut subscription = feed.subscribe();
            let mut context = Context::from_waker(&waker);
            assert!(subscription.poll_next(&mut context).is_pending());
        }
        assert_eq!(std::sync::Arc::strong_count(&alive), 1);
        assert!(lock(&feed.state).wakers.is_empty());
    }
}
