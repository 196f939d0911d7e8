//! The hooks of one core: registered by name, run last first when the stop asks for them.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::pin::Pin;
use std::task::Waker;
use std::time::Duration;

use crate::panics::quietly;
use crate::report::{HookOutcome, HookReport};
use crate::sync::{Mutex, lock};

/// What a hook does, made when its turn comes.
pub(crate) type Start = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), String>>>>>;

/// A hook that has not run.
pub(crate) struct Hook {
    /// Names it for its handle.
    pub(crate) id: u64,
    /// Names it for people.
    pub(crate) name: String,
    /// How long it may take.
    pub(crate) budget: Duration,
    /// What it does.
    pub(crate) start: Start,
    /// Where it was registered.
    pub(crate) site: &'static Location<'static>,
}

/// The hooks of one core, and what became of those that ran.
#[derive(Default)]
pub(crate) struct HookList {
    /// In the order they were registered.
    waiting: RefCell<Vec<Hook>>,
    /// The last id given.
    last_id: Cell<u64>,
    /// The name of the one that was taken to be run and of which nothing was noted yet.
    under_way: RefCell<Option<String>>,
    /// In the order they ran.
    results: RefCell<Vec<HookReport>>,
    /// Whoever runs them, while a hook is under way: to be woken when its time changes.
    runner: RefCell<Option<Waker>>,
}

impl HookList {
    /// Adds a hook; it runs before all that are there. Returns its id.
    pub(crate) fn add(
        &self,
        name: String,
        budget: Duration,
        start: Start,
        site: &'static Location<'static>,
    ) -> u64 {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        self.waiting.borrow_mut().push(Hook {
            id,
            name,
            budget,
            start,
            site,
        });
        id
    }

    /// Takes a hook out again; `None` if it has run or runs.
    pub(crate) fn remove(&self, id: u64) -> Option<Hook> {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|hook| hook.id == id)?;
        Some(waiting.remove(place))
    }

    /// The hook whose turn it is.
    pub(crate) fn next(&self) -> Option<Hook> {
        let hook = self.waiting.borrow_mut().pop();
        *self.under_way.borrow_mut() = hook.as_ref().map(|hook| hook.name.clone());
        hook
    }

    /// Whether a hook waits for its turn.
    pub(crate) fn any_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Notes what became of a hook.
    pub(crate) fn note(&self, result: HookReport) {
        self.under_way.take();
        self.results.borrow_mut().push(result);
    }

    /// Notes a hook whose turn never came, found out `at_ms` after the trigger.
    pub(crate) fn note_unrun(&self, name: String, at_ms: f64) {
        self.note(unrun(name, at_ms));
    }

    /// Notes the hook that is under way, which will never end, and every one whose turn will never
    /// come, as of `at_ms` after the trigger.
    pub(crate) fn note_all_unrun(&self, at_ms: f64) {
        let under_way = self.under_way.take();
        if let Some(name) = under_way {
            self.note(unended(name, at_ms));
        }
        while let Some(hook) = self.next() {
            // What it would have done is a user's; its destructor must not stop the others.
            let Hook { name, start, .. } = hook;
            quietly(|| drop(start));
            self.note_unrun(name, at_ms);
        }
    }

    /// What became of all that ran.
    pub(crate) fn take_results(&self) -> Vec<HookReport> {
        self.results.take()
    }

    /// Parks the runner's waker; the one that was there comes back.
    pub(crate) fn park_runner(&self, waker: Waker) -> Option<Waker> {
        self.runner.replace(Some(waker))
    }

    /// The hooks' time has changed: the runner must look at it.
    pub(crate) fn wake_runner(&self) {
        let waker = self.runner.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a hook of the process does, made on the core that runs it.
pub(crate) type StartAnywhere =
    Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), String>>>> + Send>;

/// A hook of the process that has not run.
pub(crate) struct ProcessHook {
    /// Names it for its handle.
    pub(crate) id: u64,
    /// Names it for people.
    pub(crate) name: String,
    /// How long it may take.
    pub(crate) budget: Duration,
    /// What it does.
    pub(crate) start: StartAnywhere,
    /// Where it was registered.
    pub(crate) site: &'static Location<'static>,
}

/// The hooks of the process: registered by any thread, run on one core when every core's own have
/// run.
#[derive(Default)]
pub(crate) struct ProcessHooks {
    /// Behind one lock, for they are few and far from any hot path.
    state: Mutex<ProcessState>,
}

/// See [`ProcessHooks`].
#[derive(Default)]
struct ProcessState {
    /// In the order they were registered.
    waiting: Vec<ProcessHook>,
    /// The last id given; 0 if there never was one.
    last_id: u64,
    /// As in a core's list.
    under_way: Option<String>,
    /// In the order they ran.
    results: Vec<HookReport>,
    /// Set by the core that runs them when none is left; a later one is never run.
    done: bool,
}

impl std::fmt::Debug for ProcessHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProcessHooks")
    }
}

impl ProcessHooks {
    /// Adds a hook; it runs before all that are there. Returns its id.
    pub(crate) fn add(
        &self,
        name: String,
        budget: Duration,
        start: StartAnywhere,
        site: &'static Location<'static>,
    ) -> u64 {
        let mut state = lock(&self.state);
        state.last_id += 1;
        let id = state.last_id;
        state.waiting.push(ProcessHook {
            id,
            name,
            budget,
            start,
            site,
        });
        id
    }

    /// Takes a hook out again; `None` if it has run or runs.
    pub(crate) fn remove(&self, id: u64) -> Option<ProcessHook> {
        let mut state = lock(&self.state);
        let place = state.waiting.iter().position(|hook| hook.id == id)?;
        Some(state.waiting.remove(place))
    }

    /// The hook whose turn it is; with the last one gone, they are done.
    pub(crate) fn next(&self) -> Option<ProcessHook> {
        let mut state = lock(&self.state);
        let hook = state.waiting.pop();
        state.under_way = hook.as_ref().map(|hook| hook.name.clone());
        state.done = hook.is_none();
        hook
    }

    /// Notes what became of a hook.
    pub(crate) fn note(&self, result: HookReport) {
        let mut state = lock(&self.state);
        state.under_way = None;
        state.results.push(result);
    }

    /// Notes the hook that is under way, if one is: the core it runs on ends without it.
    pub(crate) fn note_unended(&self, at_ms: f64) {
        let mut state = lock(&self.state);
        if let Some(name) = state.under_way.take() {
            state.results.push(unended(name, at_ms));
        }
    }

    /// Whether one was ever registered.
    pub(crate) fn ever_added(&self) -> bool {
        lock(&self.state).last_id > 0
    }

    /// Whether all have run, or none is there to run.
    pub(crate) fn are_done(&self) -> bool {
        let state = lock(&self.state);
        state.done || (state.waiting.is_empty() && state.last_id == 0)
    }

    /// What became of all of them; those that did not run are noted as that, as of `at_ms` after
    /// the trigger.
    pub(crate) fn take_results(&self, at_ms: f64) -> Vec<HookReport> {
        self.note_unended(at_ms);
        let (waiting, mut results) = {
            let mut state = lock(&self.state);
            state.done = true;
            (
                std::mem::take(&mut state.waiting),
                std::mem::take(&mut state.results),
            )
        };
        for ProcessHook { name, start, .. } in waiting.into_iter().rev() {
            quietly(|| drop(start));
            results.push(unrun(name, at_ms));
        }
        results
    }
}

/// The report of a hook whose turn never came, found out `at_ms` after the trigger.
pub(crate) fn unrun(name: String, at_ms: f64) -> HookReport {
    HookReport {
        name,
        outcome: HookOutcome::Overran,
        error: Some("its turn never came: the hooks' time was over".to_owned()),
        start_ms: at_ms,
        elapsed_ms: 0.0,
    }
}

/// The report of a hook that was cut off by the end of its core, found out `at_ms` after the
/// trigger.
fn unended(name: String, at_ms: f64) -> HookReport {
    HookReport {
        name,
        outcome: HookOutcome::Overran,
        error: Some("it had not ended when the core it ran on did".to_owned()),
        start_ms: at_ms,
        elapsed_ms: 0.0,
    }
}
