//! A waker that is none of the runtime's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Foreign(AtomicUsize);

impl Foreign {
    /// One, and a waker of it.
    pub(crate) fn new() -> (Arc<Foreign>, Waker) {
        let foreign = Arc::new(Foreign::default());
        (foreign.clone(), Waker::from(foreign))
    }

    /// How often it was woken.
    pub(crate) fn woken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
