//! Panics of user code: kept where they happened, and put into words.

#![forbid(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::kept;

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs user code that nobody waits for (a letter, a destructor, a foreign waker). Its panic was
/// told to the panic hook already, and goes no further.
pub(crate) fn quietly(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        discard(payload);
    }
}

/// Drops what a panic carried. If its destructor panics too, that second payload is leaked, or
/// there would be no end to it.
pub(crate) fn discard(payload: Payload) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        kept::for_ever(second);
    }
}

/// What a panic said, if it said it in words.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// What a panic said, of which nothing else is wanted. What it carried is a user's, whose destructor
/// may panic as well.
pub(crate) fn last_words(payload: Payload) -> String {
    let words = panic_text(&*payload).to_owned();
    discard(payload);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stays_where_it_happened_also_if_its_payload_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload's destructor");
            }
        }
        let mut went_on = false;
        quietly(|| std::panic::panic_any(Bomb));
        quietly(|| went_on = true);
        assert!(went_on);
    }

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        for (payload, text) in [
            (Box::new("plain") as Box<dyn Any + Send>, "plain"),
            (Box::new("made".to_owned()), "made"),
            (Box::new(7), "no message"),
        ] {
            assert_eq!(panic_text(&*payload), text);
        }
    }
}
