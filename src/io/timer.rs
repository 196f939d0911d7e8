//! What the core's wheel carries, and its unit.

#![forbid(unsafe_code)]

use std::task::Waker;

use crate::config::TICK_NS;

/// What a timer is for, and so what happens when it is due.
pub(crate) enum Timer {
    /// A sleep: wake its task.
    Wake(Waker),
    /// An interval's next tick: wake its task, and also when the drain begins.
    Interval(Waker),
    /// A delayed spawn: run it. Dropped by a stop that ends before it is due.
    Spawn(Box<dyn FnOnce()>),
    /// A connection's: the next step of its drain or its closing.
    Conn { index: u32 },
    /// A listener's: accept again after the fd limit.
    Accept { index: u32 },
}

impl Timer {
    /// Whether a task would begin by it.
    pub(crate) fn is_spawn(&self) -> bool {
        matches!(self, Timer::Spawn(_))
    }
}

/// The tick in which something due at `at_ns` may happen: never before it.
pub(crate) fn tick(at_ns: u64) -> u64 {
    at_ns.div_ceil(TICK_NS)
}

/// The last tick that has begun at `now_ns`.
pub(crate) fn ticks_gone(now_ns: u64) -> u64 {
    now_ns / TICK_NS
}

/// When `tick` begins (ns).
pub(crate) fn tick_start_ns(tick: u64) -> u64 {
    tick.saturating_mul(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timer_is_due_before_its_time() {
        for at_ns in [0, 1, TICK_NS - 1, TICK_NS, TICK_NS + 1, 12_345_678_901] {
            assert!(tick_start_ns(tick(at_ns)) >= at_ns);
            assert!(ticks_gone(tick_start_ns(tick(at_ns))) >= tick(at_ns));
        }
    }
}
