//! How a core runs its hooks: one after the other, the last registered first, each in a task of
//! its own and inside its budget.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::clock::ns;
use crate::context::Local;
use crate::hooks::Hook;
use crate::panics::panic_text;
use crate::report::{HookOutcome, HookReport, ms};
use crate::task::{JoinError, JoinHandle, Kind};
use crate::time::Sleep;

/// Runs every hook, also those that are registered meanwhile.
pub(crate) async fn run_all(local: Rc<Local>) {
    while let Some(hook) = local.hooks.next() {
        run_one(&local, hook).await;
    }
}

/// Runs one hook and notes what became of it.
async fn run_one(local: &Rc<Local>, hook: Hook) {
    let Hook {
        name,
        budget,
        start,
        site,
        ..
    } = hook;
    let begun_ns = local.now_ns();
    // Made inside the task: what a hook does before its first await may panic, too.
    let run = async move { start().await };
    let Ok(task) = local.spawn(run, Kind::Hook, site) else {
        return local.hooks.note_unrun(name);
    };
    let ended = within(local, task, begun_ns.saturating_add(ns(budget))).await;
    let (outcome, error) = match ended {
        Some(Ok(Ok(()))) => (HookOutcome::Ok, None),
        Some(Ok(Err(error))) => (HookOutcome::Failed, Some(error)),
        Some(Err(error)) => match error.into_panic() {
            Ok(payload) => (
                HookOutcome::Panicked,
                Some(panic_text(&*payload).to_owned()),
            ),
            Err(error) => (HookOutcome::Failed, Some(error.to_string())),
        },
        None => (HookOutcome::Overran, None),
    };
    local.hooks.note(HookReport {
        name,
        outcome,
        error,
        elapsed_ms: ms(local.now_ns().saturating_sub(begun_ns)),
    });
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
