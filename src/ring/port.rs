//! The door: submission entries in, completions out, and the one system call between them.

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring};

use crate::config::{CQ_ENTRIES_MIN, Features, Queues};
use crate::error::{Error, ErrorKind};
use crate::ring::buffers::{BUFFER_GROUP, Pool};
use crate::ring::entry::{Came, Cqe, Sqe, bound, entry, one_buffer};
use crate::ring::refusal::refusal;

/// How long an enter may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until a completion comes.
    Completion,
    /// Until a completion comes or the time is over.
    AtMost(Duration),
}

/// The kernel's ring.
pub(crate) struct Port {
    /// Made on the thread that uses it; nothing of it leaves this file.
    ring: IoUring,
    /// NO_IOWAIT where the kernel knows it: an idle server is idle, not waiting for a disk.
    wait_flags: EnterFlags,
    /// Whether the kernel ends a multishot receive at a count of bytes: Linux 6.17 and later. Where it
    /// does not, a receive that is to be bounded is one of a single buffer.
    bounds_receives: bool,
    /// Whether the submission queue has an array of indices, as before Linux 6.6.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests ask for it"))]
    sq_array: bool,
    /// How often a look has found that completions did not fit their queue.
    overflows: u64,
    /// How many entries are in the submission queue.
    unsubmitted: u32,
    /// Whether a reap has found the completion queue full, and no look since that all had fitted. What
    /// does not fit comes into being in an enter, and only a reap makes room: it cannot miss that.
    crowded: bool,
    /// Plays a kernel that is out of memory for the moment: an enter submits nothing.
    #[cfg(test)]
    pub(crate) starved: bool,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Port")
    }
}

impl Port {
    /// Makes the ring of this thread, with every fallback there is, and says why if it cannot. A
    /// feature that `features` leaves out is not asked for, as if the kernel had refused it.
    pub(crate) fn open(features: Features, queues: Queues) -> Result<Port, Error> {
        let mut cq_entries = queues.completions;
        let mut sq_array = features == Features::Oldest;
        loop {
            match build(queues.submissions, cq_entries, sq_array) {
                Ok(ring) => return Port::checked(ring, features, sq_array),
                // NO_SQARRAY came with 6.6.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !sq_array => {
                    sq_array = true;
                }
                // Ring memory counts against the locked-memory limit: a smaller queue may fit, and
                // an overflowing one loses nothing (NODROP), it only costs a call.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM)
                        && cq_entries > CQ_ENTRIES_MIN =>
                {
                    cq_entries /= 2;
                }
                Err(error) => return Err(refusal(error)),
            }
        }
    }

    /// Refuses a kernel that took the flags but lacks a feature the runtime cannot do without.
    fn checked(ring: IoUring, wanted: Features, sq_array: bool) -> Result<Port, Error> {
        let features = ring.params();
        let newer = wanted == Features::All;
        if !(features.is_feature_nodrop()
            && features.is_feature_ext_arg()
            && features.is_feature_skip_cqe_on_success())
        {
            return Err(Error::new(
                ErrorKind::Ring,
                "this kernel's io_uring lacks features of Linux 6.1 \
                 (NODROP, EXT_ARG, CQE_SKIP): run on Linux 6.1 or later",
            ));
        }
        let wait_flags = if newer && features.is_feature_no_iowait() {
            EnterFlags::NO_IOWAIT
        } else {
            EnterFlags::empty()
        };
        let mut port = Port {
            ring,
            wait_flags,
            bounds_receives: true,
            sq_array,
            overflows: 0,
            unsubmitted: 0,
            crowded: false,
            #[cfg(test)]
            starved: false,
        };
        port.bounds_receives = newer && port.can_bound_receives();
        Ok(port)
    }

    /// Which of the features it uses that Linux 6.1 lacks: NO_SQARRAY, NO_IOWAIT, bounded receives.
    #[cfg(test)]
    pub(crate) fn newer(&self) -> [bool; 3] {
        [
            !self.sq_array,
            !self.wait_flags.is_empty(),
            self.bounds_receives,
        ]
    }

    /// Entries of its completion queue.
    pub(crate) fn cq_entries(&self) -> u32 {
        self.ring.params().cq_entries()
    }

    /// Tries a bounded receive on no socket: a kernel that knows the bound misses the socket, an
    /// older one finds the field of the bound not empty.
    fn can_bound_receives(&mut self) -> bool {
        let probe = Sqe::RecvMulti {
            fd: -1,
            bytes_most: 1,
        };
        if !self.push(&probe, 0) || self.enter(Wait::Completion).is_err() {
            return false;
        }
        let mut answer = [Cqe::default()];
        self.reap(&mut answer).count == 1 && answer[0].result == -libc::EBADF
    }

    /// Gives the kernel the pool's buffers to receive into.
    pub(crate) fn lend(&mut self, pool: &Pool) -> Result<(), Error> {
        let (address, entries) = pool.ring_address();
        // SAFETY: the address is page-aligned memory of `entries` entries (`Pool::new`), and the
        // driver keeps the pool until after this port is closed, or leaks it (`Driver::close`).
        let result = unsafe {
            self.ring
                .submitter()
                .register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)
        };
        result.map_err(refusal)
    }

    /// Puts one operation into the submission queue; `false` if the queue is full.
    #[must_use]
    #[inline(always)]
    pub(crate) fn push(&mut self, sqe: &Sqe, user_data: u64) -> bool {
        let mut entry = entry(sqe);
        match *sqe {
            Sqe::RecvMulti { bytes_most, .. } if self.bounds_receives => {
                bound(&mut entry, bytes_most);
            }
            Sqe::RecvMulti { fd, bytes_most } if bytes_most > 0 => entry = one_buffer(fd),
            _ => {}
        }
        let entry = entry.user_data(user_data);
        // SAFETY: the pointers in `sqe` stay valid until the final completion: slots and records
        // keep what they name in place until then (the law in `ring`).
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.unsubmitted += u32::from(pushed);
        pushed
    }

    /// Whether completions are there that no reap has seen. What has not completed yet (deferred
    /// work that only an enter runs) is not counted: its bytes are still in their socket.
    pub(crate) fn has_unseen(&mut self) -> bool {
        let overflowed = self.ring.submission().cq_overflow();
        self.overflows += u64::from(overflowed);
        overflowed || !self.ring.completion().is_empty()
    }

    /// How many of the entries that were pushed last no enter has submitted.
    #[inline(always)]
    pub(crate) fn unsubmitted(&self) -> u32 {
        self.unsubmitted
    }

    /// Whether what has completed so far was reaped or is in its queue: no completion is left that did
    /// not fit. To be asked right after a reap, which sees whether that may be: each request asks once,
    /// and only then is the kernel's own memory looked into. An enter in between would bring into the
    /// queue what had not fitted.
    #[inline]
    pub(crate) fn has_all_fitted(&mut self) -> bool {
        !(self.crowded && self.has_overflowed())
    }

    /// Whether completions wait that did not fit their queue; only an enter brings them.
    #[cold]
    fn has_overflowed(&mut self) -> bool {
        self.crowded = self.ring.submission().cq_overflow();
        self.overflows += u64::from(self.crowded);
        self.crowded
    }

    /// How often a look has found that completions did not fit their queue. Not every turn looks.
    pub(crate) fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Submits all that is queued, lets deferred work run, and sleeps as `wait` says.
    ///
    /// A time that is over and an interruption by a signal are not errors. EBUSY (completions must
    /// be reaped first) and EAGAIN (the kernel is out of memory for the moment) are not either:
    /// what could not be submitted stays queued and goes with the next enter.
    #[inline(always)]
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        #[cfg(test)]
        if self.starved {
            return Ok(());
        }
        let queued = self.ring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS;
        let (want, timeout) = match wait {
            Wait::No => (0, None),
            Wait::Completion => (1, None),
            Wait::AtMost(time) => (
                1,
                Some(
                    Timespec::new()
                        .sec(time.as_secs())
                        .nsec(time.subsec_nanos()),
                ),
            ),
        };
        if want > 0 {
            flags |= self.wait_flags;
        }
        let submitter = self.ring.submitter();
        let result = match &timeout {
            None => {
                // SAFETY: the flags carry no EXT_ARG, so the absent argument is not looked at.
                unsafe { submitter.enter::<libc::sigset_t>(queued, want, flags.bits(), None) }
            }
            Some(timeout) => {
                let args = SubmitArgs::new().timespec(timeout);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: EXT_ARG asks for exactly this argument type; it and the timespec it
                // points to live across the call.
                unsafe { submitter.enter(queued, want, flags.bits(), Some(&args)) }
            }
        };
        let taken = *result.as_ref().unwrap_or(&0);
        self.unsubmitted = queued.saturating_sub(taken as u32);
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Enters again, without waiting, as long as the kernel has put off work of this thread's, but
    /// no more than `enters_most` times. One enter does some twenty pieces of it (Linux 6.13 and
    /// later), in the order in which they came: behind ten thousand FINs a request waits long.
    pub(crate) fn catch_up(&mut self, enters_most: u32) -> io::Result<()> {
        for _ in 0..enters_most {
            if !self.ring.submission().taskrun() {
                break;
            }
            self.enter(Wait::No)?;
        }
        Ok(())
    }

    /// Whether one completion is there, and no more.
    #[cfg(test)]
    pub(crate) fn has_only_one(&mut self) -> bool {
        self.ring.completion().len() == 1
    }

    /// Takes the completion that is there, if it is the only one.
    #[inline]
    pub(crate) fn take_only(&mut self) -> Option<Cqe> {
        let mut queue = self.ring.completion();
        if queue.len() != 1 {
            return None;
        }
        queue.next().map(|cqe| Cqe::of(&cqe))
    }

    /// Copies completions to `batch`, from its beginning: as many as are there, or as there is room
    /// for. What lies behind them in `batch` means nothing.
    #[inline]
    pub(crate) fn reap(&mut self, batch: &mut [Cqe]) -> Came {
        let queue = self.ring.completion();
        let mut came = Came::default();
        self.crowded |= queue.is_full();
        // The places come first: with no place left no completion is taken out of the queue.
        for (place, cqe) in batch.iter_mut().zip(queue) {
            *place = Cqe::of(&cqe);
            came.add(place);
        }
        came
    }
}

/// Asks the kernel for a ring.
fn build(sq_entries: u32, cq_entries: u32, sq_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(cq_entries);
    if !sq_array {
        builder.setup_no_sqarray();
    }
    builder.build(sq_entries)
}
