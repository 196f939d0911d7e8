//! Guards: what a stop waits for besides tasks and connections, held by anybody.

#![forbid(unsafe_code)]

use slab::Slab;

use crate::clock::Clock;
use crate::report::Straggler;
use crate::ring::sys::event::EventFd;
use crate::sync::{Arc, Mutex, lock};

/// The guards of one runtime.
#[derive(Debug)]
pub(crate) struct Guards {
    /// Those that are held, and whether further ones are taken.
    state: Mutex<State>,
    /// Tells the coordinator that one was let go.
    bell: Arc<EventFd>,
    /// The runtime's time.
    clock: Clock,
}

/// See [`Guards`].
#[derive(Debug, Default)]
struct State {
    /// The held ones: name and where they were taken.
    held: Slab<(String, &'static std::panic::Location<'static>)>,
    /// When the last one was let go (ns).
    released_ns: u64,
    /// Set when Draining ends; never cleared.
    closed: bool,
}

impl Guards {
    /// No guard is held.
    pub(crate) fn new(bell: Arc<EventFd>, clock: Clock) -> Guards {
        Guards {
            state: Mutex::default(),
            bell,
            clock,
        }
    }

    /// Takes a guard; `None` when Draining is over.
    pub(crate) fn hold(
        self: &Arc<Self>,
        name: String,
        site: &'static std::panic::Location<'static>,
    ) -> Option<Guard> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        let key = state.held.insert((name, site));
        Some(Guard {
            guards: self.clone(),
            key,
        })
    }

    /// When the last guard was let go (ns); `None` while one is held.
    pub(crate) fn released_ns(&self) -> Option<u64> {
        let state = lock(&self.state);
        state.held.is_empty().then_some(state.released_ns)
    }

    /// Takes no further guard if none is held. Whether that is so. Draining ends by this, so no
    /// guard is taken between the last look and the end.
    #[must_use]
    pub(crate) fn close_if_free(&self) -> bool {
        let mut state = lock(&self.state);
        state.closed = state.held.is_empty();
        state.closed
    }

    /// Takes no further guard, and names those that are held.
    pub(crate) fn close(&self) -> Vec<Straggler> {
        let mut state = lock(&self.state);
        state.closed = true;
        state
            .held
            .iter()
            .map(|(_, (name, site))| Straggler {
                kind: "guard".to_owned(),
                name: name.clone(),
                spawned_at: Some(site.to_string()),
                detail: "was held".to_owned(),
            })
            .collect()
    }
}

/// Something a stop waits for; made by [`Handle::hold`](crate::Handle::hold), let go by dropping
/// it, on any thread.
///
/// # Shutdown
///
/// Draining does not end while it is held. At the drain deadline the stop goes on without it, and
/// the report names it.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct Guard {
    /// Where it is held.
    guards: Arc<Guards>,
    /// Its place there.
    key: usize,
}

impl Drop for Guard {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.guards.state);
            state.held.try_remove(self.key);
            state.released_ns = self.guards.clock.now_ns();
        }
        self.guards.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Arc<Guards> {
        let bell = Arc::new(EventFd::new().expect("an eventfd"));
        Arc::new(Guards::new(bell, Clock::start()))
    }

    #[test]
    fn a_held_guard_keeps_the_drain_open_and_is_named() {
        let guards = guards();
        let site = std::panic::Location::caller();
        let guard = guards.hold("compaction".to_owned(), site).expect("open");
        assert_eq!(guards.released_ns(), None);
        assert!(!guards.close_if_free());
        let named = guards.close();
        assert_eq!((named.len(), &*named[0].name), (1, "compaction"));
        drop(guard);
        assert!(guards.released_ns().is_some());
    }

    #[test]
    fn no_guard_is_taken_once_the_drain_is_over() {
        let guards = guards();
        let site = std::panic::Location::caller();
        assert!(guards.close_if_free());
        assert!(guards.hold("late".to_owned(), site).is_none());
    }
}
