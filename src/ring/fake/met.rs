//! What a script has done to the driver, counted: a schedule that never meets a case proves
//! nothing of it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

/// Makes the cases and their list.
macro_rules! cases {
    ($($name:ident,)*) => {
        /// See the module. The names say it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Case {
            $($name,)*
        }

        impl Case {
            /// All of them.
            pub(crate) const ALL: &[Case] = &[$(Case::$name,)*];
        }
    };
}

cases! {
    AcceptMore,
    AcceptLastWithConnection,
    AcceptCancelled,
    AcceptOutOfDescriptors,
    AcceptBrokenConnection,
    AcceptBrokenListener,
    AcceptHeldBack,
    AcceptSwept,
    SweepOutOfDescriptors,
    RecvMore,
    RecvLastWithBytes,
    RecvBounded,
    RecvOneBuffer,
    RecvFin,
    RecvError,
    RecvNoBuffers,
    RecvRingEmpty,
    RecvCancelled,
    RecvAfterOurReset,
    SendAtOnceWhole,
    SendAtOnceShort,
    SendAtOnceFull,
    SendAtOnceFailed,
    SendWhole,
    SendShort,
    SendAgain,
    SendFailed,
    SendAfterReset,
    SendSeveral,
    SendCancelled,
    SendCancelledInPart,
    ConnectDone,
    ConnectFailed,
    ConnectCancelled,
    PollMore,
    PollLast,
    PollFailed,
    CancelEndsIt,
    CancelAfterMore,
    CancelMeetsItsCompletion,
    CancelTooLate,
    CancelUnderWay,
    SubmissionQueueFull,
    SubmissionRefused,
    CompletionQueueFull,
    WaitTimedOut,
    WaitInterrupted,
    AsleepUntilCalled,
    PeerReset,
    PeerStalls,
    PeerDribbles,
    ResetFails,
    FilterAttached,
    FilterRefused,
    HopsRefused,
    LeftBehind,
}

/// How often each case was met, and with which errnos.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    /// For each case.
    counts: [u64; Case::ALL.len()],
    /// What failed, and with what.
    errnos: BTreeSet<(Case, i32)>,
}

impl Default for Met {
    fn default() -> Met {
        Met {
            counts: [0; Case::ALL.len()],
            errnos: BTreeSet::new(),
        }
    }
}

impl Met {
    /// Counts one.
    pub(crate) fn count(&mut self, case: Case) {
        self.counts[case as usize] += 1;
    }

    /// Counts one, and notes its errno; the errno as a result.
    pub(crate) fn fail(&mut self, case: Case, errno: i32) -> i32 {
        self.count(case);
        self.errnos.insert((case, errno));
        -errno
    }

    /// Adds what another has counted.
    pub(crate) fn add(&mut self, other: &Met) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts) {
            *sum += more;
        }
        self.errnos.extend(&other.errnos);
    }

    /// The cases that were never met.
    pub(crate) fn missing(&self) -> Vec<Case> {
        let met = |case: &Case| self.counts[*case as usize] > 0;
        let missing = Case::ALL.iter().filter(|case| !met(case));
        missing.copied().collect()
    }

    /// Of `all` errnos, those that were never met.
    pub(crate) fn missing_errnos(&self, all: &[(Case, &[i32])]) -> Vec<(Case, i32)> {
        let each = all.iter().flat_map(|(case, errnos)| {
            let case = *case;
            errnos.iter().map(move |errno| (case, *errno))
        });
        each.filter(|one| !self.errnos.contains(one)).collect()
    }
}
