//! Guards: what a stop waits for besides tasks and connections, held by anybody.

#![forbid(unsafe_code)]

use std::panic::Location;

use slab::Slab;

use crate::config::STRAGGLERS_NAMED;
use crate::report::Straggler;
use crate::ring::sys::clock::Clock;
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
    /// The held ones.
    held: Slab<Held>,
    /// When the last one was let go (ns).
    released_ns: u64,
    /// Set when Draining ends; never cleared.
    closed: bool,
}

/// A guard that is held.
#[derive(Debug)]
struct Held {
    /// What for.
    name: String,
    /// Where it was taken.
    site: &'static Location<'static>,
    /// The core it was taken on, if on one. It may be anywhere since.
    core: Option<usize>,
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

    /// Takes a guard, on `core` if that is where the caller is; `None` when Draining is over.
    pub(crate) fn hold(
        self: &Arc<Self>,
        name: String,
        site: &'static Location<'static>,
        core: Option<usize>,
    ) -> Option<Guard> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        let key = state.held.insert(Held { name, site, core });
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
        let free = state.held.is_empty();
        state.closed |= free;
        free
    }

    /// Takes no further guard, and names those that are held, with the core each was taken on if
    /// that is one that `is_stuck`. Of a crowd it names the first, and counts the others.
    pub(crate) fn close(&self, is_stuck: impl Fn(usize) -> bool) -> Vec<Straggler> {
        let mut state = lock(&self.state);
        state.closed = true;
        let more = state.held.len().saturating_sub(STRAGGLERS_NAMED);
        let named = state
            .held
            .iter()
            .take(STRAGGLERS_NAMED)
            .map(|(_, held)| Straggler {
                kind: "guard".to_owned(),
                name: held.name.clone(),
                spawned_at: Some(held.site.to_string()),
                detail: match held.core {
                    Some(core) if is_stuck(core) => {
                        format!("was held; it was taken on core {core}, which is stuck")
                    }
                    _ => "was held".to_owned(),
                },
            });
        named
            .chain(Straggler::more("guard", more, "were held"))
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
///
/// That is so for every guard, also for one that was taken on a core that is stuck since: it may
/// have gone to another thread, whose work is what the stop is to wait for. One that the stuck core
/// itself still holds keeps the drain open until its deadline, and the report says where it was
/// taken.
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
        let site = Location::caller();
        let hold = |name: &str, core| guards.hold(name.to_owned(), site, core).expect("open");
        let held = [hold("compaction", None), hold("upload", Some(1))];
        assert_eq!(guards.released_ns(), None);
        assert!(!guards.close_if_free());
        let named = guards.close(|core| core == 1);
        let words: Vec<_> = named.iter().map(|it| (&*it.name, &*it.detail)).collect();
        let stuck = "was held; it was taken on core 1, which is stuck";
        assert_eq!(words, [("compaction", "was held"), ("upload", stuck)]);
        assert_eq!(guards.close(|_| false)[1].detail, "was held");
        drop(held);
        assert!(guards.released_ns().is_some());
    }

    #[test]
    fn of_a_crowd_of_guards_a_thousand_are_named_and_the_others_counted() {
        let guards = guards();
        let site = Location::caller();
        let hold = |number| guards.hold(format!("guard {number}"), site, None);
        let held: Vec<_> = (0..100_000).map(hold).collect();
        let named = guards.close(|_| false);
        assert_eq!(named.len(), STRAGGLERS_NAMED + 1);
        let last = named.last().expect("a line for the others");
        assert_eq!((&*last.kind, &*last.name), ("guard", "99000 more"));
        drop(held);
    }

    #[test]
    fn no_guard_is_taken_once_the_drain_is_over() {
        let guards = guards();
        let site = Location::caller();
        assert!(guards.close_if_free());
        assert!(guards.hold("late".to_owned(), site, None).is_none());
    }
}
