//! The numbers of a stop: what the user sets, the rules they must obey, and the
//! share of the timeout that is kept back for the later phases.
//!
//! ```text
//! start                                                     start + timeout
//!   ├── notice ──┤                                                   │
//!   ├───── quiet (inside what is left) ─────┤                        │
//!   ├───────── Notice and Draining ─────────┼──── hooks ────┼ close ─┤
//!                                    drain deadline   hook deadline  hard deadline
//! ```
//!
//! A reserve that was given by hand is exact, or refused. A default one shrinks to
//! what `notice` and `quiet` leave, down to nothing, so that every pair of quiet
//! and timeout with quiet <= timeout is legal.
#![forbid(unsafe_code)]

use crate::config::{CLOSE_FLOOR, CLOSE_RESERVE_MAX, HEARTBEAT};
use crate::error::{Error, ErrorKind, Result};
use std::time::Duration;

/// How a runtime stops: how long it waits for what, and what it does not wait for.
///
/// All values are durations. Anything above a hundred years counts as a hundred
/// years, so `Duration::MAX` means "as long as it takes". The numbers are checked
/// when the runtime is built.
///
/// | | default | |
/// |---|---|---|
/// | [`notice`](Self::notice) | 0 | not ready any more, still serving |
/// | [`quiet`](Self::quiet) | 0 | silence wanted before the end |
/// | [`timeout`](Self::timeout) | 9 s | the whole stop |
/// | [`idle_grace`](Self::idle_grace) | 1 s | silence that ends a plain connection |
/// | [`linger`](Self::linger) | 2 s | a peer that acknowledges nothing |
/// | [`stuck_after`](Self::stuck_after) | 1 s | one turn of one core |
/// | [`hooks_reserve`](Self::hooks_reserve) | a third of `timeout` if there is a hook | kept for hooks |
/// | [`close_reserve`](Self::close_reserve) | a tenth of `timeout`, 50 to 500 ms | kept for closing |
///
/// # Examples
///
/// Behind a load balancer that looks every two seconds, under a supervisor that
/// kills after thirty:
///
/// ```
/// use evenfall::Shutdown;
/// use std::time::Duration;
///
/// let shutdown = Shutdown::default()
///     .notice(Duration::from_secs(5))
///     .timeout(Duration::from_secs(28));
/// assert_ne!(shutdown, Shutdown::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Lame duck time from the trigger; at most `timeout` once validated.
    notice: Duration,
    /// Unbroken quiescence that ends Draining; at most `timeout` once validated.
    quiet: Duration,
    /// From the trigger to the hard deadline.
    timeout: Duration,
    /// Silence after which a connection that never asked for a request is ended.
    idle_grace: Duration,
    /// Silence of a peer after which a closing connection is reset.
    linger: Duration,
    /// Length of a turn that makes a core a stuck one.
    stuck_after: Duration,
    /// Kept for Hooks; `None` is the default rule.
    hooks_reserve: Option<Duration>,
    /// Kept for Closing; `None` is the default rule.
    close_reserve: Option<Duration>,
}

/// What is kept back from the timeout for the phases after Draining, in
/// nanoseconds. Their sum never exceeds timeout - max(notice, quiet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserves {
    /// For Hooks; 0 where no hook exists.
    pub(crate) hooks_ns: u64,
    /// For Closing.
    pub(crate) close_ns: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown {
            notice: Duration::ZERO,
            quiet: Duration::ZERO,
            timeout: Duration::from_secs(9),
            idle_grace: Duration::from_secs(1),
            linger: Duration::from_secs(2),
            stuck_after: Duration::from_secs(1),
            hooks_reserve: None,
            close_reserve: None,
        }
    }
}

impl Shutdown {
    /// How long the runtime serves on as before after the trigger, while
    /// `Handle::is_ready` is already false. Default 0. At most `timeout`.
    ///
    /// For load balancers: they need time to see that this server is going before
    /// it refuses anybody.
    #[must_use]
    pub fn notice(mut self, notice: Duration) -> Self {
        self.notice = notice;
        self
    }

    /// How long the runtime must have been quiescent without a break before it
    /// leaves Draining, counted from the trigger at the earliest. Default 0: it
    /// leaves as soon as nothing is left to do. At most `timeout`.
    #[must_use]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// The whole stop, from the trigger to the hard deadline. Default 9 s, because
    /// `docker stop` kills at 10. Zero is a forced stop; Closing has 50 ms even
    /// then.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The silence after which Draining ends a connection whose handler never
    /// calls `next_request`, and so never says when it is between two. Default 1 s.
    #[must_use]
    pub fn idle_grace(mut self, idle_grace: Duration) -> Self {
        self.idle_grace = idle_grace;
        self
    }

    /// How long a closing connection waits for a peer that acknowledges nothing
    /// more, before it is reset and counted. Default 2 s.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The length of one turn, during a stop, that makes a core a stuck one. The
    /// others then stop without it. Default 1 s; less than 50 ms, which is how often
    /// the cores are looked at, counts as 50 ms. Time in which other threads keep the core from its
    /// processor is no part of it.
    ///
    /// This is all the time a core that hangs is given once the others are done; see what becomes
    /// of it in [`CoreOutcome::Stuck`](crate::report::CoreOutcome::Stuck).
    #[must_use]
    pub fn stuck_after(mut self, stuck_after: Duration) -> Self {
        self.stuck_after = stuck_after;
        self
    }

    /// How much of `timeout` is kept back for the hooks. By default a third where a
    /// hook exists, or less where `notice` or `quiet` need the time. Where no hook
    /// exists nothing is kept.
    #[must_use]
    pub fn hooks_reserve(mut self, hooks_reserve: Duration) -> Self {
        self.hooks_reserve = Some(hooks_reserve);
        self
    }

    /// How much of `timeout` is kept back for closing what is left. By default a
    /// tenth, 50 ms at least and 500 ms at most, or less where `notice` or `quiet` need
    /// the time.
    #[must_use]
    pub fn close_reserve(mut self, close_reserve: Duration) -> Self {
        self.close_reserve = Some(close_reserve);
        self
    }

    /// Refuses numbers that contradict each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when `quiet` or `notice` exceeds `timeout`, or when the
    /// reserves given by hand do not fit beside them.
    pub(crate) fn validate(&self) -> Result<()> {
        let timeout = self.timeout;
        for (name, part) in [("quiet", self.quiet), ("notice", self.notice)] {
            if nanos(part) > self.timeout_ns() {
                return Err(refused(format!(
                    "{name} ({part:?}) is longer than timeout ({timeout:?}), so it could never \
                     be met; raise timeout to at least {part:?} or lower {name}"
                )));
            }
        }
        let hooks = self.hooks_reserve.unwrap_or_default();
        let close = self.close_reserve.unwrap_or_default();
        if nanos(hooks) + nanos(close) + nanos(self.kept()) > self.timeout_ns() {
            let needed = hooks.saturating_add(close).saturating_add(self.kept());
            let (name, kept) = if self.notice > self.quiet {
                ("notice", self.notice)
            } else {
                ("quiet", self.quiet)
            };
            return Err(refused(format!(
                "hooks_reserve ({hooks:?}) and close_reserve ({close:?}) do not fit beside {name} \
                 ({kept:?}) into timeout ({timeout:?}); raise timeout to at least {needed:?}, lower \
                 the reserves, or leave them out and they shrink to fit"
            )));
        }
        Ok(())
    }

    /// What is kept back for the later phases.
    ///
    /// Where the wishes do not fit, one given by hand is served first, and two
    /// defaults shrink in proportion, but Closing not below its floor while there
    /// is room for it.
    pub(crate) fn reserves(&self, hook_exists: bool) -> Reserves {
        let timeout_ns = self.timeout_ns();
        let room_ns = timeout_ns.saturating_sub(nanos(self.kept()));
        let hooks_wish = match self.hooks_reserve {
            _ if !hook_exists => 0,
            Some(given) => nanos(given),
            None => timeout_ns / 3,
        };
        let close_wish = match self.close_reserve {
            Some(given) => nanos(given),
            // Not below its turn, which it has in any case: with less kept back, a
            // stop that uses all its time would be over after its hard deadline.
            None => (timeout_ns / 10).clamp(nanos(CLOSE_FLOOR), nanos(CLOSE_RESERVE_MAX)),
        };
        let wished = hooks_wish.saturating_add(close_wish);
        let close_ns = if wished <= room_ns {
            close_wish
        } else if hook_exists && self.hooks_reserve.is_some() {
            close_wish.min(room_ns.saturating_sub(hooks_wish))
        } else if self.close_reserve.is_some() {
            close_wish.min(room_ns)
        } else {
            share(close_wish, room_ns, wished)
                .max(close_wish.min(nanos(CLOSE_FLOOR)))
                .min(room_ns)
        };
        Reserves {
            hooks_ns: hooks_wish.min(room_ns - close_ns),
            close_ns,
        }
    }

    /// The same stop with another timeout, for a call that names one.
    ///
    /// A longer one leaves everything else as it was set. A shorter one shrinks the
    /// reserves given by hand in proportion, then cuts `quiet` to what the reserves
    /// leave and `notice` to half of that: whoever asks for less time wants the
    /// drain shorter, not the hooks lost or the drain skipped.
    pub(crate) fn within(&self, timeout: Duration) -> Shutdown {
        let mut within = self.clone();
        within.timeout = timeout;
        let (new_ns, old_ns) = (nanos(timeout), self.timeout_ns());
        if new_ns >= old_ns {
            return within;
        }
        let shrink = |given: Duration| Duration::from_nanos(share(nanos(given), new_ns, old_ns));
        within.hooks_reserve = self.hooks_reserve.map(shrink);
        within.close_reserve = self.close_reserve.map(shrink);
        within.notice = Duration::ZERO;
        within.quiet = Duration::ZERO;
        let reserves = within.reserves(true);
        let left = Duration::from_nanos(new_ns - reserves.hooks_ns - reserves.close_ns);
        within.quiet = self.quiet.min(left);
        within.notice = self.notice.min(left / 2);
        within
    }

    /// The notice, in nanoseconds.
    pub(crate) fn notice_ns(&self) -> u64 {
        nanos(self.notice)
    }

    /// The quiet period, in nanoseconds.
    pub(crate) fn quiet_ns(&self) -> u64 {
        nanos(self.quiet)
    }

    /// The timeout, in nanoseconds.
    pub(crate) fn timeout_ns(&self) -> u64 {
        nanos(self.timeout)
    }

    /// The grace of an idle connection, in nanoseconds.
    pub(crate) fn idle_grace_ns(&self) -> u64 {
        nanos(self.idle_grace)
    }

    /// The linger time, in nanoseconds.
    pub(crate) fn linger_ns(&self) -> u64 {
        nanos(self.linger)
    }

    /// The length of a stuck turn, in nanoseconds; at least one heartbeat.
    pub(crate) fn stuck_after_ns(&self) -> u64 {
        nanos(self.stuck_after.max(HEARTBEAT))
    }

    /// What the time before the drain deadline must hold. `quiet` counts from the
    /// trigger, so the two run side by side.
    fn kept(&self) -> Duration {
        self.notice.max(self.quiet)
    }
}

/// Nanoseconds of a duration, at most a hundred years of them: so the sum of any
/// three and of a clock reading fits into 64 bits.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    const CEILING_NS: u128 = 100 * 365 * 86_400 * 1_000_000_000;
    let ns = duration.as_nanos();
    let clamped = if ns < CEILING_NS { ns } else { CEILING_NS };
    clamped as u64
}

const _: () = assert!(nanos(Duration::MAX) <= u64::MAX / 4);

/// `part * numerator / denominator` without overflow; 0 of nothing.
fn share(part: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(part) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// A refusal of these numbers.
fn refused(message: String) -> Error {
    Error::new(ErrorKind::Config, format!("shutdown: {message}"))
}

#[cfg(test)]
mod tests;
