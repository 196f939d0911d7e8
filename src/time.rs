//! Sleeps, timeouts, intervals and delayed tasks, on the core's own timer wheel.
//!
//! The wheel's tick is 65 µs; nothing fires before its time, and what is due fires in the first
//! turn after it. A timer costs no system call: the wait of the ring is the clock.

#![forbid(unsafe_code)]

mod delayed;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::clock::ns;
use crate::config::FAR_AHEAD_NS;
use crate::context::{self, Local};
use crate::io::timer::{Timer, tick};
use crate::wheel::Key;

pub use delayed::{Delayed, spawn_after, try_spawn_after};

/// Waits for `duration`.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping it takes its timer out of the wheel.
///
/// # Shutdown
///
/// Goes on in every phase, as long as its task lives. In Closing no timer is set any more: what a
/// destructor polls there is ready at once.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    let local = context::here();
    let at_ns = local.now_ns().saturating_add(ns(duration));
    Sleep {
        timer: Alarm::at(local, at_ns),
    }
}

/// Waits until `deadline`; ready at once if that is past.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping it takes its timer out of the wheel.
///
/// # Shutdown
///
/// Goes on in every phase, as long as its task lives. In Closing no timer is set any more: what a
/// destructor polls there is ready at once.
#[track_caller]
pub fn sleep_until(deadline: Instant) -> Sleep {
    let local = context::here();
    let at_ns = local.shared.clock.at_ns(deadline);
    Sleep {
        timer: Alarm::at(local, at_ns),
    }
}

/// A place in the wheel, taken while somebody waits for it.
struct Alarm {
    /// The core whose wheel it is.
    local: Rc<Local>,
    /// When it is due (ns).
    at_ns: u64,
    /// Its timer, once it has been waited for. The entry is gone from the wheel when it fired.
    key: Option<Key>,
    /// Whether it is due only in a turn that begins after its time: then it is never ready twice in
    /// one. For what comes round by itself.
    once_a_turn: bool,
}

impl Alarm {
    /// An alarm that nobody waits for yet.
    fn at(local: Rc<Local>, at_ns: u64) -> Alarm {
        Alarm {
            local,
            at_ns,
            key: None,
            once_a_turn: false,
        }
    }

    /// Ready when it is due. `timer` wraps the waker for the wheel.
    fn poll(&mut self, context: &mut Context<'_>, timer: impl Fn(Waker) -> Timer) -> Poll<()> {
        if self.local.closed.get() {
            // In Closing no timer fires any more: whoever polls there must not wait for ever.
            self.cancel();
            return Poll::Ready(());
        }
        let Some(key) = self.key else {
            if self.is_due() {
                return Poll::Ready(());
            }
            let entry = timer(context.waker().clone());
            let key = self
                .local
                .io
                .borrow_mut()
                .wheel
                .insert(tick(self.at_ns), entry);
            self.key = Some(key);
            return Poll::Pending;
        };
        let mut waiting = true;
        let replaced = match self.local.io.borrow_mut().wheel.value_mut(key) {
            Some(Timer::Wake(waker) | Timer::Interval(waker))
                if waker.will_wake(context.waker()) =>
            {
                None
            }
            Some(entry) => Some(std::mem::replace(entry, timer(context.waker().clone()))),
            None => {
                waiting = false;
                None
            }
        };
        // Outside of the borrow: a waker's destructor may be anything.
        drop(replaced);
        if waiting {
            return Poll::Pending;
        }
        // It fired, or the stop took it out; the clock says which.
        self.fired(context, timer)
    }

    /// The timer is gone from the wheel: due, or to be set once more.
    fn fired(&mut self, context: &mut Context<'_>, timer: impl Fn(Waker) -> Timer) -> Poll<()> {
        self.key = None;
        if self.is_due() {
            return Poll::Ready(());
        }
        self.poll(context, timer)
    }

    /// Whether its time has come. The turn's own time mostly says so, and saves the reading of the
    /// clock that is half of what a timer costs: what it finds due is due, and what is far ahead of
    /// it is not, unless the turn is as long as that; then the wheel finds it in the next one.
    fn is_due(&self) -> bool {
        let turn_ns = self.local.io.borrow().now_ns;
        match self.at_ns.checked_sub(turn_ns) {
            None | Some(0) => true,
            Some(ahead_ns) if self.once_a_turn || ahead_ns >= FAR_AHEAD_NS => false,
            Some(_) => self.local.now_ns() >= self.at_ns,
        }
    }

    /// Moves it to another time.
    fn reset(&mut self, at_ns: u64) {
        self.cancel();
        self.at_ns = at_ns;
    }

    /// Takes it out of the wheel.
    fn cancel(&mut self) {
        if let Some(key) = self.key.take() {
            let entry = self.local.io.borrow_mut().wheel.cancel(key);
            drop(entry);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// See [`sleep`].
#[must_use = "a sleep that is not awaited does nothing"]
pub struct Sleep {
    /// Its place in the wheel.
    timer: Alarm,
}

impl Sleep {
    /// Whether its time has come.
    #[must_use]
    pub fn is_elapsed(&self) -> bool {
        self.timer.local.now_ns() >= self.timer.at_ns
    }

    /// Moves it to another time (ns of the runtime's clock).
    pub(crate) fn reset_ns(&mut self, at_ns: u64) {
        if self.timer.at_ns != at_ns {
            self.timer.reset(at_ns);
        }
    }

    /// A sleep until a moment of the runtime's clock (ns).
    pub(crate) fn until_ns(local: Rc<Local>, at_ns: u64) -> Sleep {
        Sleep {
            timer: Alarm::at(local, at_ns),
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(context, Timer::Wake)
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep")
            .field("elapsed", &self.is_elapsed())
            .finish()
    }
}

/// The time of a [`timeout`] was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the time was over first")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Runs `future`, for `duration` at most.
///
/// # Errors
///
/// [`Elapsed`] when the time is over first; the future is dropped then.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping it drops the future and takes the timer out of the wheel. No operation of evenfall
/// loses a byte or a connection by that.
///
/// # Shutdown
///
/// Goes on in every phase, as long as its task lives.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut sleep = sleep(duration);
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep)
            .poll(context)
            .map(|()| Err(Elapsed(())))
    })
    .await
}

/// Ticks every `period`, the first time one period from now. A zero period is one wheel tick.
///
/// # Panics
///
/// Outside of a core.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    let local = context::here();
    let period_ns = ns(period).max(crate::config::TICK_NS);
    let at_ns = local.now_ns().saturating_add(period_ns);
    // With work that takes longer than the period every tick is due when it is asked for. Ready at
    // once, they would leave no turn to anybody else, nor to a stop.
    let mut timer = Alarm::at(local, at_ns);
    timer.once_a_turn = true;
    Interval { timer, period_ns }
}

/// See [`interval`].
pub struct Interval {
    /// The next tick's place in the wheel.
    timer: Alarm,
    /// The time from tick to tick (ns).
    period_ns: u64,
}

impl Interval {
    /// The next tick: the moment it was due. Ticks that were missed are left out, and the rhythm
    /// is kept. A turn of the core sees one tick at most, so that work that takes longer than the period
    /// leaves the other tasks their turns.
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no tick.
    ///
    /// # Shutdown
    ///
    /// `None` from Draining on: work that comes round by itself would hold the stop for ever.
    pub async fn tick(&mut self) -> Option<Instant> {
        std::future::poll_fn(|context| self.poll_tick(context)).await
    }

    /// See [`tick`](Interval::tick).
    fn poll_tick(&mut self, context: &mut Context<'_>) -> Poll<Option<Instant>> {
        if self.timer.local.io.borrow().is_draining() {
            return Poll::Ready(None);
        }
        if self.timer.poll(context, Timer::Interval).is_pending() {
            return Poll::Pending;
        }
        let due_ns = self.timer.at_ns;
        let now_ns = self.timer.local.now_ns();
        let missed = now_ns.saturating_sub(due_ns) / self.period_ns;
        let next_ns = due_ns.saturating_add(self.period_ns.saturating_mul(missed + 1));
        self.timer.reset(next_ns);
        Poll::Ready(Some(self.timer.local.shared.clock.instant(due_ns)))
    }
}

impl std::fmt::Debug for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let period = Duration::from_nanos(self.period_ns);
        f.debug_struct("Interval").field("period", &period).finish()
    }
}
