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
use crate::ring::sys::signal::{
    Delivered, is_first_process, is_ignored, raise_default, send_to_this_process,
};
use crate::sync::process::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::process::{Mutex, lock};

/// The signals a runtime may take are all below this.
const SIGNALS: usize = 32;

/// What a handler knows of its signal. All atomics: a handler may do nothing else.
struct Place {
    /// Whether a runtime takes the signal.
    taken: AtomicBool,
    /// The last delivery nobody has read: `CAME`, and its sender's number in the lower half. 0
    /// where there is none. One word, so that a sender is never another delivery's.
    came: AtomicU64,
    /// Whether nobody handled it before: then the default is due when no runtime takes it.
    default_before: AtomicBool,
    /// Whether its handler is there. Guarded by the lock of `register`.
    registered: AtomicBool,
}

/// Set in `came` with every delivery.
const CAME: u64 = 1 << 32;

/// One place for each signal.
static PLACES: [Place; SIGNALS] = [const {
    Place {
        taken: AtomicBool::new(false),
        came: AtomicU64::new(0),
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
    place.came.store(0, Ordering::Relaxed);
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

/// A delivery of one of `signals` that a handler took, if there is one. Deliveries of one signal
/// since the last reading are one, as those of a blocked one are.
pub(crate) fn next(signals: &[i32]) -> Option<Delivered> {
    read(signals).or_else(|| {
        // Cleared only when nothing is there, and then looked at again: who stops reading before
        // that still finds the bell rung.
        if let Some(bell) = BELL.get() {
            bell.clear();
        }
        read(signals)
    })
}

/// As [`next`], and leaves the bell alone.
fn read(signals: &[i32]) -> Option<Delivered> {
    signals.iter().find_map(|&signal| {
        let came = place(signal)?.came.swap(0, Ordering::AcqRel);
        (came != 0).then_some(Delivered {
            signal,
            pid: came as u32,
        })
    })
}

/// Sends what handlers took of `signals` and nobody has read once more, now that it does what it
/// did before. Where that is an earlier handler, the registry has called it at the delivery, and
/// it must not hear of the same signal twice.
pub(crate) fn pass_on(signals: &[i32]) {
    while let Some(unread) = read(signals) {
        let default = |place: &Place| place.default_before.load(Ordering::Relaxed);
        if place(unread.signal).is_some_and(default) {
            send_to_this_process(unread.signal);
        }
    }
}

/// The handler.
fn on_signal(signal: i32, info: &libc::siginfo_t) {
    let Some(place) = place(signal) else {
        return;
    };
    if place.taken.load(Ordering::Acquire) {
        place
            .came
            .store(CAME | u64::from(sender(info)), Ordering::Release);
        if let Some(bell) = BELL.get() {
            bell.ring();
        }
    } else if place.default_before.load(Ordering::Relaxed)
        && !is_ignored(signal)
        // There the default does nothing, and to put it back would only lose this handler.
        && !is_first_process()
    {
        raise_default(signal);
    }
}

/// The process that sent a signal; 0 where none did, or one that this namespace does not know.
fn sender(info: &libc::siginfo_t) -> u32 {
    match info.si_code {
        // SAFETY: for these codes (sigaction(2)) the kernel has filled in the sender's number;
        // with any other it stands for something else, the number of a timer say.
        libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => unsafe { info.si_pid() }.unsigned_abs(),
        _ => 0,
    }
}
