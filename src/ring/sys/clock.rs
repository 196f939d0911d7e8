//! The runtime's clock: nanoseconds since it was built.

use std::time::{Duration, Instant};

use crate::clock::ns;
#[cfg(test)]
use crate::sync::atomic::{AtomicU64, Ordering};

/// The runtime's zero. Copies of one clock agree with each other on every thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What nanosecond 0 was.
    epoch: Instant,
    /// The same on the kernel's monotonic clock (ns), which is the one `Instant` reads; not before
    /// `epoch`, so that nothing is due too early.
    zero_ns: u64,
    /// Says the time instead, where a test's time is not the machine's.
    #[cfg(test)]
    script: Option<&'static AtomicU64>,
}

impl Clock {
    /// A clock that stands at 0 now.
    pub(crate) fn start() -> Clock {
        let epoch = Instant::now();
        Clock {
            epoch,
            zero_ns: monotonic_ns(),
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

    /// Nanoseconds since the start. Every turn asks; by way of two `Instant`s it took 60
    /// instructions more.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        #[cfg(test)]
        if let Some(now_ns) = self.script {
            return now_ns.load(Ordering::Relaxed);
        }
        monotonic_ns().saturating_sub(self.zero_ns)
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

/// The kernel's monotonic clock (ns).
#[inline]
fn monotonic_ns() -> u64 {
    super::read_clock(libc::CLOCK_MONOTONIC)
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
    fn it_keeps_step_with_instants_and_is_never_ahead_of_them() {
        let clock = Clock::start();
        for _ in 0..1000 {
            let before = Instant::now();
            let now_ns = clock.now_ns();
            let after = Instant::now();
            // A tenth of a second is what a busy machine may take between two lines of `start`.
            assert!(now_ns + 100_000_000 >= clock.at_ns(before), "{now_ns}");
            assert!(now_ns <= clock.at_ns(after), "{now_ns}");
        }
    }

    #[test]
    fn what_was_before_the_start_is_zero_and_what_is_too_far_is_capped() {
        let before = Instant::now();
        let clock = Clock::start();
        assert_eq!(clock.at_ns(before), 0);
        assert!(clock.instant(u64::MAX) > before);
    }
}
