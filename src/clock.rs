//! Time as the runtime counts it: nanoseconds since the runtime was built.
//!
//! One number instead of an `Instant` lets time cross threads in an atomic, lets the wheel and the
//! phase machine stay pure, and lets a test bring a clock of its own.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

#[cfg(test)]
use crate::sync::atomic::{AtomicU64, Ordering};

/// The runtime's zero. Copies of one clock agree with each other on every thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What nanosecond 0 was.
    epoch: Instant,
    /// Says the time instead, where a test's time is not the machine's.
    #[cfg(test)]
    script: Option<&'static AtomicU64>,
}

impl Clock {
    /// A clock that stands at 0 now.
    pub(crate) fn start() -> Clock {
        Clock {
            epoch: Instant::now(),
            #[cfg(test)]
            script: None,
        }
    }

    /// A clock that stands where `now_ns` says, and moves when that does.
    #[cfg(test)]
    pub(crate) fn scripted(now_ns: &'static AtomicU64) -> Clock {
        Clock {
            script: Some(now_ns),
            ..Clock::start()
        }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        #[cfg(test)]
        if let Some(now_ns) = self.script {
            return now_ns.load(Ordering::Relaxed);
        }
        ns(self.epoch.elapsed())
    }

    /// The moment of the outside world that `at_ns` stands for.
    pub(crate) fn instant(&self, at_ns: u64) -> Instant {
        let far = Duration::from_secs(u32::MAX as u64);
        self.epoch + Duration::from_nanos(at_ns).min(far)
    }

    /// The nanosecond `at` stands for; everything before the start is 0.
    pub(crate) fn at_ns(&self, at: Instant) -> u64 {
        ns(at.saturating_duration_since(self.epoch))
    }
}

/// A duration in nanoseconds; what does not fit 584 years is 584 years.
pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_way_there_and_back() {
        let clock = Clock::start();
        let at = 123_456_789;
        assert_eq!(clock.at_ns(clock.instant(at)), at);
    }

    #[test]
    fn what_was_before_the_start_is_zero_and_what_is_too_far_is_capped() {
        let before = Instant::now();
        let clock = Clock::start();
        assert_eq!(clock.at_ns(before), 0);
        assert_eq!(ns(Duration::MAX), u64::MAX);
        assert!(clock.instant(u64::MAX) > before);
    }
}
