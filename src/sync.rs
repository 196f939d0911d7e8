//! The one place atomics and locks come from, so that a model checker can take their place.

#![forbid(unsafe_code)]

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak, atomic};

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
