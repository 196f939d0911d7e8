//! The dead-man: ends the process when nobody does.
//!
//! A POSIX timer sends a real-time signal of its own every heartbeat from a moment on; the fifth
//! that is delivered leaves the process. It needs no thread of ours to be well: any thread of the
//! process takes the signal, and the handler touches two atomics.
//!
//! Ticks are counted as they are delivered, not by what the clock says. A process that was stopped
//! (SIGSTOP) finds one signal however many ticks it missed, so whoever continues it leaves the
//! coordinator four more ticks to see what time it is and to set another.
//!
//! All runtimes of a process share one signal, each with a timer and a place of its own; the value
//! that comes with the signal says whose it is. The first takes the signal, the last gives it back.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::check;
use super::signal::{exit_now, is_default};
use crate::config::{DEAD_MAN_TICKS, HEARTBEAT};
use crate::sync::process::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::process::{Mutex, lock};

/// Runtimes that may have a dead-man at the same time.
const PLACES_MAX: usize = 256;

/// What the dead-man leaves with: that of a stop with a stuck core.
const EXIT_CODE: i32 = 82;

/// What the handler knows of one dead-man. All atomics: a handler may do nothing else.
struct Place {
    /// Whether somebody has this place.
    taken: AtomicBool,
    /// Ticks delivered since it was armed last.
    ticks: AtomicU32,
}

/// One place for each dead-man.
static PLACES: [Place; PLACES_MAX] = [const {
    Place {
        taken: AtomicBool::new(false),
        ticks: AtomicU32::new(0),
    }
}; PLACES_MAX];

/// The signal, while there is a dead-man.
static SIGNAL: Mutex<Option<Taken>> = Mutex::new(None);

/// The signal that was taken.
#[derive(Clone, Copy)]
struct Taken {
    /// Its number.
    signal: i32,
    /// What it did before.
    before: libc::sigaction,
    /// How many dead-men use it; never 0.
    users: usize,
}

/// See the module. Dropping it disarms it.
#[derive(Debug)]
pub(crate) struct DeadMan {
    /// The kernel's name of the timer; deleted in `drop` only.
    timer: libc::timer_t,
    /// Its place in `PLACES`, which is taken as long as this lives.
    place: usize,
}

impl DeadMan {
    /// One that is not armed.
    pub(crate) fn new() -> io::Result<DeadMan> {
        let free = |place: &Place| !place.taken.swap(true, Ordering::AcqRel);
        let place = PLACES
            .iter()
            .position(free)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))?;
        let made = take_signal()
            .and_then(|signal| make_timer(signal, place).inspect_err(|_| give_signal_back()));
        match made {
            Ok(timer) => Ok(DeadMan { timer, place }),
            Err(error) => {
                PLACES[place].taken.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// The first tick comes after `left`. What was counted before counts no more.
    pub(crate) fn arm(&self, left: Duration) {
        self.set(Duration::ZERO);
        PLACES[self.place].ticks.store(0, Ordering::Release);
        // Zero would disarm it.
        self.set(left.max(Duration::from_nanos(1)));
    }

    /// Sets the timer; zero disarms it.
    fn set(&self, first: Duration) {
        let times = libc::itimerspec {
            it_interval: timespec(HEARTBEAT),
            it_value: timespec(first),
        };
        // SAFETY: the timer lives as long as this value, and `times` for the call, which copies
        // it; the old times are not asked for.
        let result =
            unsafe { libc::timer_settime(self.timer, 0, &raw const times, std::ptr::null_mut()) };
        debug_assert_eq!(result, 0, "a live timer takes any time in range");
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `make_timer` and is deleted here only.
        let _gone = unsafe { libc::timer_delete(self.timer) };
        give_signal_back();
        // Last: a late tick must not be counted against whoever has the place next.
        PLACES[self.place].taken.store(false, Ordering::Release);
    }
}

/// A duration as the kernel wants it.
fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().min(1 << 32) as libc::time_t,
        tv_nsec: libc::c_long::from(duration.subsec_nanos()),
    }
}

/// A timer that sends `signal` with the value `place`.
fn make_timer(signal: i32, place: usize) -> io::Result<libc::timer_t> {
    // SAFETY: all zeros are a value of this plain struct.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    event.sigev_value = libc::sigval {
        sival_ptr: std::ptr::without_provenance_mut(place),
    };
    let mut timer = MaybeUninit::<libc::timer_t>::uninit();
    // SAFETY: `event` is live for the call, which copies it; `timer` is writable memory of the
    // right size, which the call fills in.
    check(unsafe {
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr())
    })?;
    // SAFETY: filled in by the successful call above.
    Ok(unsafe { timer.assume_init() })
}

/// Takes the signal for one more dead-man.
fn take_signal() -> io::Result<i32> {
    let mut place = lock(&SIGNAL);
    if let Some(taken) = &mut *place {
        taken.users += 1;
        return Ok(taken.signal);
    }
    let signal = free_signal().ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
    // SAFETY: all zeros are a value of this plain struct: an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_tick;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    let before = exchange(signal, &action)?;
    *place = Some(Taken {
        signal,
        before,
        users: 1,
    });
    Ok(signal)
}

/// One dead-man less uses the signal; with the last one it does again what it did before.
fn give_signal_back() {
    let mut place = lock(&SIGNAL);
    let Some(taken) = &mut *place else { return };
    taken.users -= 1;
    if taken.users > 0 {
        return;
    }
    let Taken { signal, before, .. } = *taken;
    *place = None;
    // SAFETY: all zeros are a value of this plain struct.
    let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
    ignore.sa_sigaction = libc::SIG_IGN;
    // By way of ignoring it, which throws away a tick that is under way still (sigaction(2)): what
    // the signal did before was most likely to end the process. The timers are deleted, so no
    // other comes. Neither call can fail: the number is one that was taken.
    let _ours = exchange(signal, &ignore);
    let _ignored = exchange(signal, &before);
}

/// The first real-time signal that nobody uses; if possible one that this thread, and so the
/// threads it starts, does not block.
fn free_signal() -> Option<i32> {
    let blocked = blocked_here();
    let is_blocked = |signal: &i32| {
        blocked.as_ref().is_some_and(|set| {
            // SAFETY: `set` is a live, initialised set; a bad number would be an error.
            unsafe { libc::sigismember(std::ptr::from_ref(set), *signal) == 1 }
        })
    };
    let free = || (libc::SIGRTMIN()..=libc::SIGRTMAX()).filter(|signal| is_default(*signal));
    free()
        .find(|signal| !is_blocked(signal))
        .or_else(|| free().next())
}

/// The signals that this thread blocks.
fn blocked_here() -> Option<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a null new mask only asks; `set` is writable memory of the right size.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr()) };
    // SAFETY: filled in by the call, which has succeeded.
    (error == 0).then(|| unsafe { set.assume_init() })
}

/// Makes `action` what this process does on `signal`, and gives what it did before.
fn exchange(signal: i32, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` is live for the call, which copies it, and its handler is SIG_IGN, one that
    // was there before, or `on_tick`, which is async-signal-safe; `before` is writable memory.
    check(unsafe { libc::sigaction(signal, std::ptr::from_ref(action), before.as_mut_ptr()) })?;
    // SAFETY: zeroed at first, which is a value of this plain struct, and filled on success.
    Ok(unsafe { before.assume_init() })
}

/// The handler: two atomics, and _exit(2) at the last tick, all async-signal-safe.
extern "C" fn on_tick(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a handler that asked for it (SA_SIGINFO) a live siginfo.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        // Somebody sent the signal by hand.
        return;
    }
    // SAFETY: a signal of a timer carries the value of its sigevent.
    let value = unsafe { info.si_value() };
    let Some(place) = PLACES.get(value.sival_ptr.addr()) else {
        return;
    };
    if place.taken.load(Ordering::Acquire)
        && place.ticks.fetch_add(1, Ordering::AcqRel) + 1 >= DEAD_MAN_TICKS
    {
        exit_now(EXIT_CODE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One after the other: they look at what all dead-men of the process share.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn the_last_to_go_gives_the_signal_back() {
        let _alone = lock(&ALONE);
        let first = DeadMan::new().expect("a timer");
        let second = DeadMan::new().expect("another timer");
        let signal = lock(&SIGNAL).expect("the signal is taken").signal;
        assert!(!is_default(signal));
        drop(first);
        assert!(!is_default(signal), "the second still needs it");
        // Ticks, and is gone before the fifth: none may meet the default action.
        second.arm(Duration::ZERO);
        while PLACES[second.place].ticks.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        drop(second);
        assert!(is_default(signal));
    }

    #[test]
    fn arming_it_again_begins_to_count_anew() {
        let _alone = lock(&ALONE);
        let dead_man = DeadMan::new().expect("a timer");
        let ticks = || PLACES[dead_man.place].ticks.load(Ordering::Acquire);
        dead_man.arm(Duration::ZERO);
        while ticks() == 0 {
            std::thread::yield_now();
        }
        dead_man.arm(Duration::from_secs(3600));
        assert_eq!(ticks(), 0);
    }
}
