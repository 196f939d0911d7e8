//! Durations as the runtime counts them: nanoseconds.
//!
//! One number instead of a `Duration` lets time cross threads in an atomic, and lets the wheel and
//! the phase machine stay pure. What it is counted from is the business of
//! [`Clock`](crate::ring::sys::clock::Clock).

#![forbid(unsafe_code)]

use std::time::Duration;

/// A duration in nanoseconds; what does not fit 584 years is 584 years.
pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_capped() {
        assert_eq!(ns(Duration::from_micros(3)), 3_000);
        assert_eq!(ns(Duration::MAX), u64::MAX);
    }
}
