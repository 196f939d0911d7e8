//! The signals of a runtime: blocked, read from a signalfd, and given back at the end.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use super::autopsy;
use crate::config::{HANDLERS_AT_WORK, SIGNALS_AT_ONCE};
use crate::error::{Error, ErrorKind};
use crate::ring::sys::forward;
use crate::ring::sys::signal::{
    Delivered, STAY_IGNORED, STOP_SIGNALS, SignalFd, SignalSet, is_ignored,
};
use crate::sync::process::atomic::{AtomicBool, Ordering};

/// Whether a runtime of this process has the signals.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The signals of the one runtime of this process that has them. Lives on the thread that made it:
/// the mask is that thread's.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Reads what is blocked.
    fd: SignalFd,
    /// Which.
    signals: Vec<i32>,
    /// This thread's mask of before.
    mask: SignalSet,
    /// Whether a coordinator has listened: then what is still unread was meant for the runtime.
    heard: bool,
}

impl Signals {
    /// Takes `signals` over, before any thread is started. `None` if there are none, or all are to
    /// stay ignored.
    pub(crate) fn take(signals: &[i32]) -> Result<Option<Signals>, Error> {
        if let Some(signal) = signals.iter().find(|signal| !STOP_SIGNALS.contains(signal)) {
            return Err(Error::new(
                ErrorKind::Signals,
                format!(
                    "signal {signal} cannot stop a runtime: choose of SIGTERM (15), SIGINT (2), \
                     SIGQUIT (3), SIGHUP (1), SIGUSR1 (10), SIGUSR2 (12)"
                ),
            ));
        }
        let signals: Vec<i32> = signals
            .iter()
            .copied()
            .filter(|signal| !(STAY_IGNORED.contains(signal) && is_ignored(*signal)))
            .collect();
        if signals.is_empty() {
            return Ok(None);
        }
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::Signals,
                "another runtime of this process has the signals: build this one with \
                 `.signals([])` and stop it by its Handle",
            ));
        }
        match Signals::install(&signals) {
            Ok((fd, mask)) => Ok(Some(Signals {
                fd,
                signals,
                mask,
                heard: false,
            })),
            Err(error) => {
                TAKEN.store(false, Ordering::Release);
                Err(
                    Error::new(ErrorKind::Signals, "the signals cannot be taken over")
                        .with_source(error),
                )
            }
        }
    }

    /// The mask first, then the handlers: between the kernel's knowing a handler and the registry's
    /// knowing what to call, the registry swallows what did its default before. From here on what
    /// comes to this thread waits to be read.
    fn install(signals: &[i32]) -> std::io::Result<(SignalFd, SignalSet)> {
        let set = SignalSet::of(signals)?;
        let fd = SignalFd::new(&set)?;
        let mask = set.block()?;
        if let Err(error) = signals.iter().try_for_each(|signal| forward::take(*signal)) {
            // What came meanwhile does what it did before.
            signals.iter().copied().for_each(forward::give_back);
            mask.set_as_mask()?;
            return Err(error);
        }
        Ok((fd, mask))
    }

    /// Says that a coordinator listens from now on.
    pub(crate) fn hear(&mut self) {
        self.heard = true;
    }

    /// The next signal that came, if there is one.
    pub(crate) fn next(&self) -> Option<Delivered> {
        self.fd.next().or_else(|| forward::next(&self.signals))
    }

    /// What to poll for signals.
    pub(crate) fn polled(&self) -> Vec<BorrowedFd<'_>> {
        // The bell was made when the signals were taken; without it nothing forwards to it.
        std::iter::once(self.fd.as_fd())
            .chain(forward::bell().ok())
            .collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if self.heard {
            self.swallow();
        } else {
            self.pass_on();
        }
        TAKEN.store(false, Ordering::Release);
    }
}

impl Signals {
    /// After a run: what came and was not read is taken out, because it was meant for the runtime
    /// and must not end the process that has its report. The handlers see to what comes until the
    /// mask is back, and only then stop: no moment is without one of the two.
    fn swallow(&mut self) {
        // A storm may never end; what is left then the handlers swallow.
        let mut left = SIGNALS_AT_ONCE;
        while left > 0 && self.next().is_some() {
            left -= 1;
        }
        self.restore_mask();
        // Another thread may have a signal that came before, and not have come to its handler yet.
        autopsy::let_others_rest(HANDLERS_AT_WORK);
        self.signals.iter().copied().for_each(forward::give_back);
    }

    /// Without a run nobody has heard what came: it does what it did before.
    fn pass_on(&mut self) {
        self.signals.iter().copied().for_each(forward::give_back);
        self.restore_mask();
        forward::pass_on(&self.signals);
    }

    /// Puts this thread's mask back.
    fn restore_mask(&self) {
        // It cannot fail: the mask is one this thread had.
        let _restored = self.mask.set_as_mask();
    }
}
