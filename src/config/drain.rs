//! What a stop does to the connections of one listener.
#![forbid(unsafe_code)]

use super::nanos;
use std::time::Duration;

/// What a stop does to the connections of one listener, where it is not what it
/// does to all others.
///
/// Given to a listener by [`Listener::drain_policy`](crate::net::Listener::drain_policy)
/// or [`TcpListener::drain_policy`](crate::net::TcpListener::drain_policy). It
/// says what ends a connection, when, and how long its close may take:
///
/// | | default | |
/// |---|---|---|
/// | what ends it | being asked for the next request, or the runtime's grace | or [`idle_grace`](Self::idle_grace), or [`cut`](Self::cut) |
/// | [`spread`](Self::spread) | all at once | those that are idle, over a window |
/// | [`linger`](Self::linger) | the runtime's | a peer that acknowledges nothing |
///
/// All values are durations; anything above a hundred years counts as a hundred
/// years. There is no pair of them that contradicts itself, so none is refused:
/// of `idle_grace` and `cut` the last call holds.
///
/// # Examples
///
/// Ten thousand subscribers who would all come back elsewhere in the same
/// instant; and a port whose streams never end by themselves:
///
/// ```
/// use evenfall::net::DrainPolicy;
/// use std::time::Duration;
///
/// let subscribers = DrainPolicy::new().spread(Duration::from_secs(5));
/// let endless = DrainPolicy::new().cut();
/// assert_ne!(subscribers, endless);
/// ```
///
/// # Shutdown
///
/// In Running and Notice only `linger` does anything. The rest is for Draining;
/// at the drain deadline, and at a force, everything that is left is cut,
/// whatever the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainPolicy {
    /// What ends a connection.
    ending: Ending,
    /// The window over which idle ones are ended; zero is at once.
    spread: Duration,
    /// The cap of a close; `None` is the runtime's.
    linger: Option<Duration>,
}

/// What ends a connection in Draining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    /// `next_request`, and the runtime's grace where nobody calls that.
    #[default]
    Asked,
    /// The same with a grace of its own.
    Grace(Duration),
    /// The drain itself.
    Cut,
}

impl DrainPolicy {
    /// What happens without a policy: a connection between requests ends at once,
    /// one in a request when that is answered, and one whose handler never calls
    /// `next_request` after the runtime's [`idle_grace`](crate::Shutdown::idle_grace).
    #[must_use]
    pub fn new() -> DrainPolicy {
        DrainPolicy::default()
    }

    /// The silence after which Draining ends a connection whose handler never
    /// calls `next_request`, instead of the runtime's
    /// [`idle_grace`](crate::Shutdown::idle_grace). Zero ends it as soon as its
    /// socket is found empty.
    ///
    /// For handlers that do call it nothing changes.
    #[must_use]
    pub fn idle_grace(mut self, idle_grace: Duration) -> DrainPolicy {
        self.ending = Ending::Grace(idle_grace);
        self
    }

    /// Draining resets every connection that a handler still holds, or that none
    /// has taken yet, whatever it is doing: for streams that never end, or a port
    /// for health checks. Whoever comes during Draining is reset as well.
    ///
    /// One that its handler has let go of, or closes, is left alone: what was
    /// written is sent, and its peer is waited for as any other,
    /// [`linger`](DrainPolicy::linger) and all.
    ///
    /// Nothing of the kind is a failure of the stop. The report counts these
    /// connections as [`aborted`](crate::report::Connections::aborted) and what
    /// was under way on them in [`bytes.aborted`](crate::report::Bytes::aborted),
    /// and the verdict is as good as without them. The handler's next call on the
    /// stream is an error. A handler that waits for something else holds up the
    /// stop, as any task does.
    #[must_use]
    pub fn cut(mut self) -> DrainPolicy {
        self.ending = Ending::Cut;
        self
    }

    /// Ends the connections that are idle when Draining begins not all at once
    /// but evenly over `window`, so that their clients do not all come back
    /// elsewhere in the same instant. Default 0: at once.
    ///
    /// One that gets a request before its turn comes is served and ends then. One
    /// whose handler never calls `next_request` ends when its turn has come and its
    /// silence is long enough. With [`cut`](DrainPolicy::cut) all connections are
    /// reset in turn, idle or not. The stop waits for all of them.
    ///
    /// The window never reaches beyond nine tenths of the time that is left before
    /// the drain deadline: a longer one is shortened, also later, when the deadline
    /// comes closer. Each core spreads its own connections over the same window.
    #[must_use]
    pub fn spread(mut self, window: Duration) -> DrainPolicy {
        self.spread = window;
        self
    }

    /// How long a closing connection waits for a peer that acknowledges nothing
    /// more, before it is reset and counted, instead of the runtime's
    /// [`linger`](crate::Shutdown::linger). It holds in Running as in a stop.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> DrainPolicy {
        self.linger = Some(linger);
        self
    }

    /// The grace of a connection that asks for no requests, if it has its own (ns).
    pub(crate) fn idle_grace_ns(&self) -> Option<u64> {
        match self.ending {
            Ending::Grace(grace) => Some(nanos(grace)),
            Ending::Asked | Ending::Cut => None,
        }
    }

    /// Whether the drain resets its connections.
    pub(crate) fn cuts(&self) -> bool {
        self.ending == Ending::Cut
    }

    /// The window over which idle connections are ended (ns); 0 is at once.
    pub(crate) fn spread_ns(&self) -> u64 {
        nanos(self.spread)
    }

    /// The cap of a close, if it has its own (ns).
    pub(crate) fn linger_ns(&self) -> Option<u64> {
        self.linger.map(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUNDRED_YEARS_NS: u64 = 100 * 365 * 86_400 * 1_000_000_000;

    #[test]
    fn a_policy_that_says_nothing_is_the_default() {
        let policy = DrainPolicy::new();
        assert_eq!(policy, DrainPolicy::default());
        assert_eq!(policy.idle_grace_ns(), None);
        assert_eq!(policy.linger_ns(), None);
        assert_eq!(policy.spread_ns(), 0);
        assert!(!policy.cuts());
    }

    #[test]
    fn of_two_endings_the_last_holds() {
        let grace = Duration::from_millis(5);
        let cut = DrainPolicy::new().idle_grace(grace).cut();
        assert!(cut.cuts() && cut.idle_grace_ns().is_none());
        let graced = DrainPolicy::new().cut().idle_grace(grace);
        assert!(!graced.cuts());
        assert_eq!(graced.idle_grace_ns(), Some(5_000_000));
    }

    #[test]
    fn no_time_is_longer_than_a_hundred_years() {
        let most = Duration::MAX;
        let policy = DrainPolicy::new()
            .idle_grace(most)
            .spread(most)
            .linger(most);
        assert_eq!(policy.idle_grace_ns(), Some(HUNDRED_YEARS_NS));
        assert_eq!(policy.spread_ns(), HUNDRED_YEARS_NS);
        assert_eq!(policy.linger_ns(), Some(HUNDRED_YEARS_NS));
    }
}
