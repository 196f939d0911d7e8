//! The one place atomics and locks come from, so that a model checker can take their place.
//!
//! With `--cfg loom` the library is built on loom's atomics, locks and thread-locals, and its models
//! (the test modules named `models`) run the very code of the crate through every order of its
//! threads' steps, and every value that a load may see under the memory model.
//!
//! What is the standard library's all the same, and why a model is honest with it:
//!
//! * `Arc` and `Weak`, whose own correctness is not ours to show. loom does not see what a drop of
//!   one makes visible, so a model may report too much on its account, never too little.
//! * What lives as long as the process: see [`process`].

#![forbid(unsafe_code)]

pub(crate) use std::sync::{Arc, Weak};

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

#[cfg(not(loom))]
pub(crate) use std::thread_local;

/// As the standard library's, of which only this form is used. loom's threads share one of the
/// system's, so its thread-locals are its own.
#[cfg(loom)]
macro_rules! local {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$attribute])* static $name: $type = $init; }
    };
}
#[cfg(loom)]
pub(crate) use local as thread_local;

#[cfg(loom)]
#[cfg(loom)]
mod models;
#[cfg(all(loom, test))]
pub(crate) use models::model;
#[cfg(loom)]
pub(crate) use models::{ArrayQueue, Life, SegQueue};

#[cfg(not(loom))]
pub(crate) use crossbeam_queue::{ArrayQueue, SegQueue};

/// The life of something that threads share and the last of them frees. Under the model checker each
/// use of it must come before its end, for all threads to know; otherwise it is nothing.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct Life(());

#[cfg(not(loom))]
impl Life {
    /// It is used, and used up to now.
    #[inline(always)]
    pub(crate) fn used(&self) {}

    /// It has ended. Whether its memory may be freed: the models keep it, to see a use after this.
    #[inline(always)]
    pub(crate) fn ended(&self) -> bool {
        true
    }
}

/// Locks `mutex`, also when a thread panicked while it held the lock.
///
/// Everything kept behind a lock in this crate is whole after every statement, so a poisoned lock
/// says nothing about the data, and a stop must get through whatever happened before it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for `condvar`, also when a thread panicked while it held the lock; see [`lock`].
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar
        .wait(guard)
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// For statics, which are made once, where a model is run a thousand times.
pub(crate) mod process {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    /// As [`lock`](super::lock).
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
