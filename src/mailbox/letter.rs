//! A letter: work that a core is handed, with an outcome whatever becomes of it.

#![forbid(unsafe_code)]

use crate::sync::{Arc, Mutex, lock};

/// Work for a core, of which somebody else may hold a share.
pub(crate) trait Work: Send + Sync {
    /// Does it. The first and only call, on the core.
    fn run(self: Arc<Self>);

    /// It will not be done. The first and only call, on any thread.
    fn forgo(self: Arc<Self>);
}

/// Work on its way: run by the core, in the turn that reads it, or dropped, and then forgone.
///
/// A share of the work and not the work itself, so that what is handed over and the place of its outcome
/// are one piece of memory: that stays with the sender's allocator, and one line of the cache goes to the
/// core and back where it was two.
pub(crate) struct Letter(Option<Arc<dyn Work>>);

impl Letter {
    /// Of work that has no outcome to wait for.
    pub(crate) fn of(run: impl FnOnce() + Send + 'static) -> Letter {
        Letter::share(Arc::new(Once(Mutex::new(Some(run)))))
    }

    /// Of work whose outcome somebody waits for.
    #[inline]
    pub(crate) fn share(work: Arc<dyn Work>) -> Letter {
        Letter(Some(work))
    }

    /// Does the work.
    #[inline]
    pub(crate) fn run(mut self) {
        if let Some(work) = self.0.take() {
            work.run();
        }
    }
}

impl Drop for Letter {
    #[inline]
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work.forgo();
        }
    }
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Letter")
    }
}

/// A closure to be called once.
struct Once<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Work for Once<F> {
    fn run(self: Arc<Self>) {
        // A user's closure: not under the lock.
        let closure = lock(&self.0).take();
        if let Some(closure) = closure {
            closure();
        }
    }

    fn forgo(self: Arc<Self>) {
        // The same for its destructor.
        let closure = lock(&self.0).take();
        drop(closure);
    }
}
