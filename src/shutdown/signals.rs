//! The signals of a runtime: blocked, read from a signalfd, and given back at the end.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Error, ErrorKind};
use crate::ring::sys::forward;
use crate::ring::sys::signal::{Delivered, STOP_SIGNALS, SignalFd, SignalSet, is_ignored};
use crate::sync::atomic::{AtomicBool, Ordering};

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
}

impl Signals {
    /// Takes `signals` over, before any thread is started. `None` if there are none. A signal that
    /// is ignored when we come (nohup) stays ignored.
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
            .filter(|signal| !is_ignored(*signal))
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
            Ok((fd, mask)) => Ok(Some(Signals { fd, signals, mask })),
            Err(error) => {
                signals.iter().copied().for_each(forward::give_back);
                TAKEN.store(false, Ordering::Release);
                Err(
                    Error::new(ErrorKind::Signals, "the signals cannot be taken over")
                        .with_source(error),
                )
            }
        }
    }

    /// Handlers first, then the mask: there is no moment in which a signal does its default.
    fn install(signals: &[i32]) -> std::io::Result<(SignalFd, SignalSet)> {
        let set = SignalSet::of(signals)?;
        let fd = SignalFd::new(&set)?;
        for signal in signals {
            forward::take(*signal)?;
        }
        let mask = set.block()?;
        Ok((fd, mask))
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
    /// What came and was not read is taken out first: it was meant for the runtime, and would end
    /// the process when the mask is put back.
    fn drop(&mut self) {
        while self.next().is_some() {}
        self.signals.iter().copied().for_each(forward::give_back);
        // It cannot fail: the mask is one this thread had.
        let _restored = self.mask.set_as_mask();
        TAKEN.store(false, Ordering::Release);
    }
}
