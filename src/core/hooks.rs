//! How a core runs its hooks: one after the other, the last registered first, each in a task of
//! its own and inside its budget.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::clock::ns;
use crate::context::Local;
use crate::hooks::{Hook, ProcessHook, unrun};
use crate::panics::{last_words, quietly};
use crate::report::{HookOutcome, HookReport, ms};
use crate::task::{JoinError, JoinHandle, Kind};
use crate::time::Sleep;

/// Runs every hook of this core, also those that are registered meanwhile.
pub(crate) async fn run_all(local: Rc<Local>) {
    while let Some(Hook {
        name,
        budget,
        start,
        site,
        ..
    }) = local.hooks.next()
    {
        let report = run_one(&local, name, budget, start, site).await;
        local.hooks.note(report);
    }
}

/// Runs every hook of the process on this core, and tells the coordinator when none is left.
pub(crate) async fn run_process(local: Rc<Local>) {
    let hooks = &local.shared.process_hooks;
    while let Some(ProcessHook {
        name,
        budget,
        start,
        site,
        ..
    }) = hooks.next()
    {
        let report = run_one(&local, name, budget, start, site).await;
        hooks.note(report);
    }
    local.shared.bell.ring();
}

/// Runs one hook and says what became of it.
async fn run_one(
    local: &Rc<Local>,
    name: String,
    budget: Duration,
    start: impl FnOnce() -> Pin<Box<dyn Future<Output = Result<(), String>>>> + 'static,
    site: &'static Location<'static>,
) -> HookReport {
    let begun_ns = local.now_ns();
    let start_ms = local.since_trigger_ms();
    // Made inside the task: what a hook does before its first await may panic, too.
    let run = async move { start().await };
    let task = match local.spawn(run, Kind::Hook, site) {
        Ok(task) => task,
        Err(run) => {
            quietly(|| drop(run));
            return unrun(name, start_ms);
        }
    };
    let ended = within(local, task, begun_ns.saturating_add(ns(budget))).await;
    let (outcome, error) = match ended {
        Some(Ok(Ok(()))) => (HookOutcome::Ok, None),
        Some(Ok(Err(error))) => (HookOutcome::Failed, Some(error)),
        Some(Err(error)) => match error.into_panic() {
            Ok(payload) => (HookOutcome::Panicked, Some(last_words(payload))),
            Err(error) => (HookOutcome::Failed, Some(error.to_string())),
        },
        None => (HookOutcome::Overran, None),
    };
    HookReport {
        name,
        outcome,
        error,
        start_ms,
        elapsed_ms: ms(local.now_ns().saturating_sub(begun_ns)),
    }
}

/// The task's result, or `None` if its own limit or the hooks' deadline came first; it is aborted
/// then. The deadline may move while it runs: then the runner is woken.
async fn within(
    local: &Rc<Local>,
    mut task: JoinHandle<Result<(), String>>,
    limit_ns: u64,
) -> Option<Result<Result<(), String>, JoinError>> {
    let mut alarm = Sleep::until_ns(local.clone(), limit_ns);
    let ended = poll_fn(|context| {
        if let Poll::Ready(result) = Pin::new(&mut task).poll(context) {
            return Poll::Ready(Some(result));
        }
        let replaced = local.hooks.park_runner(context.waker().clone());
        drop(replaced);
        let orders = &local.shared.orders;
        if orders.read().hooks_are_cut() {
            return Poll::Ready(None);
        }
        alarm.reset_ns(limit_ns.min(orders.deadlines().hooks));
        Pin::new(&mut alarm).poll(context).map(|()| None)
    })
    .await;
    if ended.is_none() {
        task.abort();
    }
    ended
}
