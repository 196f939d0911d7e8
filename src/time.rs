//! Sleeps, timeouts, intervals and delayed tasks, on the core's own timer wheel.
//!
//! The wheel's tick is 65 µs; nothing fires before its time, and what is due fires in the first
//! turn after it. A timer costs no system call: the wait of the ring is the clock.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::clock::ns;
use crate::context::{self, Local};
use crate::io::timer::{Timer, tick};
use crate::spawn::Refused;
use crate::task::{JoinError, JoinHandle, Kind};
use crate::wheel::Key;

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
}

impl Alarm {
    /// An alarm that nobody waits for yet.
    fn at(local: Rc<Local>, at_ns: u64) -> Alarm {
        Alarm {
            local,
            at_ns,
            key: None,
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
            if self.local.now_ns() >= self.at_ns {
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
        if self.local.now_ns() >= self.at_ns {
            return Poll::Ready(());
        }
        self.poll(context, timer)
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
    Interval {
        timer: Alarm::at(local, at_ns),
        period_ns,
    }
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
    /// is kept.
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

/// Spawns an essential task after `delay`.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping the [`Delayed`] detaches the task: it begins when it is due. [`Delayed::abort`] takes
/// it back.
///
/// # Shutdown
///
/// If it is due before the drain deadline it begins then, and the stop waits for it. If it is due
/// later it is cancelled as soon as the drain begins, and counted; the handle says so. In Closing
/// it never begins. Use [`try_spawn_after`] to get the future back.
#[track_caller]
pub fn spawn_after<F>(delay: Duration, future: F) -> Delayed<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let local = context::here();
    let site = Location::caller();
    let due_ns = local.now_ns().saturating_add(ns(delay));
    match begins(&local, due_ns) {
        Begins::Never => local.rejected.set(local.rejected.get() + 1),
        Begins::Late => local.timers_cancelled.set(local.timers_cancelled.get() + 1),
        Begins::InTime => return delayed(local, due_ns, future, site),
    }
    drop(future);
    Delayed {
        state: Rc::new(RefCell::new(DelayedState::Cancelled(site))),
        local,
        key: None,
    }
}

/// As [`spawn_after`], but what will never begin, because the stop is over before, is given back.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(upload: impl Future<Output = ()> + 'static) {
/// match evenfall::time::try_spawn_after(Duration::from_secs(60), upload) {
///     Ok(later) => drop(later),
///     // The stop does not wait that long: what must be done is done now.
///     Err(refused) => refused.into_inner().await,
/// }
/// # }
/// ```
///
/// # Errors
///
/// [`Refused`], with the future: in Closing, and from the beginning of the drain on if it is due
/// after the drain deadline. Taken before, such a task is cancelled when the drain begins, as with
/// `spawn_after`.
///
/// # Panics
///
/// Outside of a core.
#[track_caller]
pub fn try_spawn_after<F>(delay: Duration, future: F) -> Result<Delayed<F::Output>, Refused<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let local = context::here();
    let due_ns = local.now_ns().saturating_add(ns(delay));
    let refused = match begins(&local, due_ns) {
        Begins::InTime => return Ok(delayed(local, due_ns, future, Location::caller())),
        Begins::Late => Refused::due_late(future, &local.shared),
        Begins::Never => Refused::stopping(future, &local.shared),
    };
    local.rejected.set(local.rejected.get() + 1);
    Err(refused)
}

/// Whether a task that is asked for now and due later will begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// Yes, as far as is known.
    InTime,
    /// No: the drain is over before.
    Late,
    /// No: nothing begins any more.
    Never,
}

/// Whether what is due at `due_ns` will begin on the core of `local`.
fn begins(local: &Local, due_ns: u64) -> Begins {
    if local.closed.get() {
        return Begins::Never;
    }
    let draining = local.io.borrow().is_draining();
    if draining && due_ns > local.shared.orders.deadlines().drain {
        return Begins::Late;
    }
    Begins::InTime
}

/// Puts a task into the wheel.
fn delayed<F>(
    local: Rc<Local>,
    due_ns: u64,
    future: F,
    site: &'static Location<'static>,
) -> Delayed<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let state = Rc::new(RefCell::new(DelayedState::Waiting(None)));
    let word = Word {
        state: state.clone(),
        site,
    };
    let on = local.clone();
    let spawn = Box::new(move || word.begin(&on, future));
    let key = {
        let mut io = local.io.borrow_mut();
        io.delayed_spawns += 1;
        io.wheel.insert(tick(due_ns), Timer::Spawn(spawn))
    };
    Delayed {
        state,
        local,
        key: Some(key),
    }
}

/// A task that begins later. Awaiting it gives the task's result.
///
/// # Cancellation
///
/// Dropping it detaches the task.
///
/// # Shutdown
///
/// See [`spawn_after`].
#[must_use = "a dropped handle detaches the task; say `drop` if that is meant"]
pub struct Delayed<T> {
    /// Shared with the entry in the wheel.
    state: Rc<RefCell<DelayedState<T>>>,
    /// The core whose wheel it is in.
    local: Rc<Local>,
    /// The entry, as long as it may be in the wheel.
    key: Option<Key>,
}

/// How far a delayed task is.
enum DelayedState<T> {
    /// Its entry is in the wheel; who waits for the task.
    Waiting(Option<Waker>),
    /// It has begun.
    Begun(JoinHandle<T>),
    /// It will never begin.
    Cancelled(&'static Location<'static>),
}

/// The entry's side: says what became of it, whatever becomes of it.
struct Word<T> {
    /// Shared with the handle.
    state: Rc<RefCell<DelayedState<T>>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

impl<T: 'static> Word<T> {
    /// It is due: the task begins.
    fn begin(self, local: &Local, future: impl Future<Output = T> + 'static) {
        if let Ok(handle) = local.spawn(future, Kind::Essential, self.site) {
            self.become_state(DelayedState::Begun(handle));
        }
    }
}

impl<T> Word<T> {
    /// Sets the state if it still waits, and wakes whoever waited for that.
    fn become_state(&self, next: DelayedState<T>) {
        if !matches!(*self.state.borrow(), DelayedState::Waiting(_)) {
            return;
        }
        let before = self.state.replace(next);
        if let DelayedState::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Word<T> {
    fn drop(&mut self) {
        self.become_state(DelayedState::Cancelled(self.site));
    }
}

impl<T> Delayed<T> {
    /// Takes the task back: if it has begun it is aborted, if not it never begins.
    pub fn abort(&self) {
        if let DelayedState::Begun(handle) = &*self.state.borrow() {
            return handle.abort();
        }
        let entry = self.key.and_then(|key| {
            let mut io = self.local.io.borrow_mut();
            let entry = io.wheel.cancel(key);
            io.delayed_spawns -= usize::from(entry.is_some());
            entry
        });
        // The entry's destructor tells the handle, and drops the future: outside of the borrow.
        drop(entry);
    }
}

impl<T> Future for Delayed<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state.borrow_mut();
        let replaced = match &mut *state {
            DelayedState::Begun(handle) => return Pin::new(handle).poll(context),
            DelayedState::Cancelled(site) => return Poll::Ready(Err(JoinError::cancelled(site))),
            DelayedState::Waiting(waker) => waker.replace(context.waker().clone()),
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> std::fmt::Debug for Delayed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.state.borrow() {
            DelayedState::Waiting(_) => "waiting",
            DelayedState::Begun(_) => "begun",
            DelayedState::Cancelled(_) => "cancelled",
        };
        f.debug_struct("Delayed").field("state", &state).finish()
    }
}
