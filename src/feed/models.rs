//! Every order of the steps of who pushes and who reads along.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize as Count, Ordering};
use std::task::Wake;

use loom::thread;

use super::*;
use crate::sync::model;

/// A feed of as many items as are pushed, as the one of phases is.
fn feed() -> Arc<Feed<u32>> {
    Arc::new(Feed::new(2))
}

/// Two items and the end, on a thread of their own.
fn push_all(feed: &Arc<Feed<u32>>) -> thread::JoinHandle<()> {
    let feed = feed.clone();
    thread::spawn(move || {
        feed.push(1);
        feed.push(2);
        feed.end();
    })
}

#[test]
fn a_thread_that_waits_gets_each_item_once_in_order_and_the_end() {
    model(None, || {
        let feed = feed();
        let mut early = feed.subscribe();
        let pushes = push_all(&feed);
        let mut late = feed.subscribe();
        let all: Vec<u32> = std::iter::from_fn(|| early.wait_next()).collect();
        assert_eq!(all, [1, 2]);
        let rest: Vec<u32> = std::iter::from_fn(|| late.wait_next()).collect();
        assert!([1, 2].ends_with(&rest), "{rest:?}");
        assert_eq!((early.missed(), late.missed()), (0, 0));
        pushes.join().expect("it ends");
    });
}

/// Counts its wakes.
#[derive(Default)]
struct Told(Count);

impl Wake for Told {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_task_that_was_told_to_wait_is_woken_by_what_follows() {
    model(None, || {
        let feed = feed();
        let mut subscription = feed.subscribe();
        let pushes = push_all(&feed);
        let told = std::sync::Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut context = Context::from_waker(&waker);
        let mut read = Vec::new();
        let mut waits = 0;
        while waits == 0 {
            match subscription.poll_next(&mut context) {
                Poll::Ready(Some(item)) => read.push(item),
                Poll::Ready(None) => break,
                Poll::Pending => waits += 1,
            }
        }
        pushes.join().expect("it ends");
        assert_eq!(
            told.0.load(Ordering::Relaxed),
            waits,
            "woken once if it waits"
        );
        while let Poll::Ready(Some(item)) = subscription.poll_next(&mut context) {
            read.push(item);
        }
        assert_eq!(read, [1, 2]);
    });
}

#[test]
fn a_subscription_that_goes_while_items_come_leaves_no_waker() {
    model(None, || {
        let feed = feed();
        let mut subscription = feed.subscribe();
        let told = std::sync::Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let _ = subscription.poll_next(&mut Context::from_waker(&waker));
        drop(waker);
        let pushes = push_all(&feed);
        drop(subscription);
        pushes.join().expect("it ends");
        assert_eq!(std::sync::Arc::strong_count(&told), 1);
        assert!(lock(&feed.state).wakers.is_empty());
    });
}
