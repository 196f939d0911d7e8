//! Durations as the runtime counts them: nanoseconds.
//!
//! One number instead of a `Duration` lets time cross threads in an atomic, and lets the wheel and
//! the phase machine stay pure. What it is counted from is the business of
//! [`Clock`](crate::ring::sys::clock::Clock).

#![forbid(unsafe_code)]

use std::time::Duration;

/// A duration in nanoseconds; what does not fit 584 years is 584 years.
pub(crate) fn ns(duration: Duration) -> u64 {
    // In 64 bits: by way of the 128 that `as_nanos` has it takes twice as long.
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
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
