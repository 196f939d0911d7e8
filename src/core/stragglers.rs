//! Who is named in the report when a cut comes: what was alive then, but not all of a crowd.
//!
//! Naming takes time, in a turn that ought to be short, and a report is read by people. So a core
//! names the first of its tasks and of its connections, and counts the others in a line for each.

#![forbid(unsafe_code)]

use crate::config::STRAGGLERS_NAMED;
use crate::context::Local;
use crate::report::Straggler;
use crate::task::{Info, Kind};

/// The essential tasks and accepted connections that are alive.
pub(super) fn named(local: &Local) -> Vec<Straggler> {
    let tasks = &local.tasks;
    let alive = [Kind::Main, Kind::Essential].map(|kind| tasks.live(kind));
    let first = tasks.some_live(&Kind::is_essential, STRAGGLERS_NAMED);
    let tasks_more = alive.iter().sum::<usize>() - first.len();
    let mut stragglers: Vec<Straggler> = first.iter().map(task).collect();
    stragglers.extend(Straggler::more("task", tasks_more, NOT_ENDED));
    let (mut connections, connections_more) = local.io.borrow().open_accepted(STRAGGLERS_NAMED);
    stragglers.append(&mut connections);
    stragglers.extend(Straggler::more("connection", connections_more, "were open"));
    stragglers
}

/// What is said of a task.
const NOT_ENDED: &str = "had not ended";

fn task(task: &Info) -> Straggler {
    let name = if task.kind == Kind::Main {
        "main"
    } else {
        "task"
    };
    Straggler {
        kind: "task".to_owned(),
        name: format!("{name} {}", task.id),
        spawned_at: Some(task.site.to_string()),
        detail: NOT_ENDED.to_owned(),
    }
}
