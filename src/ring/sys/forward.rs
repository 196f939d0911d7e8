//! The real handlers behind a signalfd.
//!
//! A signalfd reads what is blocked. A thread that existed before the runtime has the signals
//! unblocked, and a delivery to it would do what the signal does by default: end the process. So
//! each signal a runtime takes gets a real handler, too, which notes the delivery and rings the
//! coordinator.
//!
//! The registry the handlers go through cannot be left, so a handler stays for the life of the
//! process. Once no runtime takes its signal it does what the signal did before: a handler of
//! before is called by the registry itself, and the default is raised again here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use crate::ring::sys::event::EventFd;
use crate::ring::sys::signal::{Delivered, is_ignored, raise_default};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Mutex, lock};

/// The signals a runtime may take are all below this.
const SIGNALS: usize = 32;

/// What a handler knows of its signal. All atomics: a handler may do nothing else.
struct Place {
    /// Whether a runtime takes the signal.
    taken: AtomicBool,
    /// Deliveries nobody has read.
    pending: AtomicU32,
    /// The sender of the last one.
    pid: AtomicU32,
    /// Whether nobody handled it before: then the default is due when no runtime takes it.
    default_before: AtomicBool,
    /// Whether its handler is there. Guarded by the lock of `register`.
    registered: AtomicBool,
}

/// One place for each signal.
static PLACES: [Place; SIGNALS] = [const {
    Place {
        taken: AtomicBool::new(false),
        pending: AtomicU32::new(0),
        pid: AtomicU32::new(0),
        default_before: AtomicBool::new(false),
        registered: AtomicBool::new(false),
    }
}; SIGNALS];

/// Rung by every handler. Made once and never closed: a handler that is under way on another
/// thread while its runtime ends must not write to a descriptor that has become another's.
static BELL: OnceLock<EventFd> = OnceLock::new();

/// One registration at a time.
static REGISTERING: Mutex<()> = Mutex::new(());

/// The place of `signal`, if it is one a runtime may take.
fn place(signal: i32) -> Option<&'static Place> {
    usize::try_from(signal)
        .ok()
        .and_then(|signal| PLACES.get(signal))
}

/// Makes the handler of `signal` forward to whoever polls [`bell`], and keeps it after that.
pub(crate) fn take(signal: i32) -> io::Result<()> {
    let place = place(signal).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    bell()?;
    let _one_at_a_time = lock(&REGISTERING);
    if !place.registered.load(Ordering::Relaxed) {
        let default = super::signal::is_default(signal);
        place.default_before.store(default, Ordering::Relaxed);
        let action = move |info: &libc::siginfo_t| on_signal(signal, info);
        // SAFETY: the action only touches atomics, write(2), sigaction(2) and raise(3), all
        // async-signal-safe (signal-safety(7)); it neither allocates, locks nor panics.
        unsafe { signal_hook_registry::register_sigaction(signal, action) }?;
        place.registered.store(true, Ordering::Relaxed);
    }
    place.pending.store(0, Ordering::Relaxed);
    place.taken.store(true, Ordering::Release);
    Ok(())
}

/// Gives `signal` back: from now on it does what it did before.
pub(crate) fn give_back(signal: i32) {
    if let Some(place) = place(signal) {
        place.taken.store(false, Ordering::Release);
    }
}

/// What handlers ring.
pub(crate) fn bell() -> io::Result<BorrowedFd<'static>> {
    if BELL.get().is_none() {
        // Two threads may race here; the loser's is closed again.
        let _lost = BELL.set(EventFd::new()?);
    }
    match BELL.get() {
        Some(bell) => Ok(bell.as_fd()),
        None => Err(io::Error::other("the signal bell could not be made")),
    }
}

/// A delivery of one of `signals` that a handler took, if there is one.
pub(crate) fn next(signals: &[i32]) -> Option<Delivered> {
    if let Some(bell) = BELL.get() {
        bell.clear();
    }
    signals.iter().find_map(|&signal| {
        let place = place(signal)?;
        let one_less = |pending: u32| pending.checked_sub(1);
        place
            .pending
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .ok()?;
        Some(Delivered {
            signal,
            pid: place.pid.load(Ordering::Relaxed),
        })
    })
}

/// The handler.
fn on_signal(signal: i32, info: &libc::siginfo_t) {
    let Some(place) = place(signal) else {
        return;
    };
    if place.taken.load(Ordering::Acquire) {
        // SAFETY: reads a field of the live siginfo the kernel made; for a signal sent by a
        // process it is the sender, and for any other it is some number nobody relies on.
        let pid = unsafe { info.si_pid() };
        place.pid.store(pid as u32, Ordering::Relaxed);
        place.pending.fetch_add(1, Ordering::AcqRel);
        if let Some(bell) = BELL.get() {
            bell.ring();
        }
    } else if place.default_before.load(Ordering::Relaxed) && !is_ignored(signal) {
        raise_default(signal);
    }
}
