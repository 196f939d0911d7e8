//! What is never freed, on purpose: memory that the kernel may still write to, and what cannot be
//! dropped without harm.
//!
//! It stays where a leak checker finds it, also a user's own: what such a checker reports was not
//! meant, and nobody has to know a list of exceptions.

#![forbid(unsafe_code)]

use std::ptr;

use crate::sync::process::{Mutex, lock};

/// Where each lies. Numbers, for what is kept need not be fit for other threads; a leak checker
/// takes whatever looks like an address for one.
static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Keeps `value` as long as the process lives.
pub(crate) fn for_ever<T: 'static>(value: T) -> &'static T {
    let kept: &'static T = Box::leak(Box::new(value));
    lock(&KEPT).push(ptr::from_ref(kept).expose_provenance());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn what_is_kept_is_not_dropped_and_its_place_is_known() {
        let value = Rc::new(7);
        let kept = for_ever(value.clone());
        assert_eq!(Rc::strong_count(&value), 2);
        let place = ptr::from_ref(kept).expose_provenance();
        assert!(lock(&KEPT).contains(&place));
    }
}
