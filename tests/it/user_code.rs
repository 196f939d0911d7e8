//! User code that the runtime runs in passing may do what it likes: spawn, or
//! panic.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenfall::time::spawn_after;
use evenfall::{Core, Phase, spawn};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::server::{Setup, conclude, host, pair};
use crate::sys;

promises![
    the_destructor_of_a_payload_without_bytes_may_spawn,
    a_main_error_that_panics_when_it_is_shown_fails_the_main_alone,
    a_main_error_that_panics_when_it_is_dropped_fails_the_main_alone,
    delayed_tasks_that_panic_when_they_are_dropped_harm_nobody,
];

fn the_destructor_of_a_payload_without_bytes_may_spawn() {
    let ended = Program::role("user_code", &["cores=1", "case=payload"]).finish();
    ended.report(0).loses_nothing();
    assert_eq!(ended.json("facts ")["spawned"], 1);
}

/// The core's stop goes on as it would after any other error.
#[track_caller]
fn fails_the_main_alone(case: &str) {
    let words = ["cores=1", &format!("case={case}")];
    let report = Program::role("user_code", &words).finish().report(83);
    report.leaves_nothing();
    let hook = ("after the main".to_owned(), "ok".to_owned());
    assert_eq!(report.hooks(), [hook]);
}

fn a_main_error_that_panics_when_it_is_shown_fails_the_main_alone() {
    fails_the_main_alone("shown");
}

fn a_main_error_that_panics_when_it_is_dropped_fails_the_main_alone() {
    fails_the_main_alone("dropped");
}

/// A stop takes back one after the other; a core whose turn fails ends all that it has at once.
fn delayed_tasks_that_panic_when_they_are_dropped_harm_nobody() {
    for (how, code) in [("forced", 81), ("failed", 83)] {
        let case = format!("case={how}");
        let words = ["cores=1", "timeout=60000", &case];
        let report = Program::role("user_code", &words).finish().report(code);
        report.adds_up();
        assert_eq!(report.sum("timers", "cancelled"), 3, "{how}");
    }
}

pub(crate) fn user_code(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let spawned = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&spawned);
    let result = host(Setup::only(args), move |core, listener| {
        let (case, counter) = (case.clone(), Arc::clone(&counter));
        async move {
            match case.as_str() {
                "payload" => {
                    let (mut stream, _peer) = pair(&listener).await?;
                    let empty = bytes::Bytes::from_owner(SpawnsAtItsEnd(counter));
                    stream.send(empty).await
                }
                "shown" => fail(&core, Panics::WhenShown),
                "dropped" => fail(&core, Panics::WhenDropped),
                "forced" | "failed" => end_over_delayed_tasks(core, &case).await,
                other => panic!("no case {other}"),
            }
        }
    });
    let spawned = spawned.load(Ordering::Relaxed);
    conclude(result, &json!({ "spawned": spawned }))
}

/// The owner of a payload without bytes, whose destructor spawns a task that
/// counts.
struct SpawnsAtItsEnd(Arc<AtomicU64>);

impl AsRef<[u8]> for SpawnsAtItsEnd {
    fn as_ref(&self) -> &[u8] {
        b""
    }
}

impl Drop for SpawnsAtItsEnd {
    fn drop(&mut self) {
        let counter = Arc::clone(&self.0);
        drop(spawn(async move {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
    }
}

fn fail(core: &Core, error: Panics) -> io::Result<()> {
    let budget = Duration::from_secs(1);
    core.on_shutdown("after the main", budget, async || Ok::<(), io::Error>(()));
    Err(io::Error::other(error))
}

/// Delays tasks that will never begin: the stop is forced while it drains, or the ring fails.
async fn end_over_delayed_tasks(core: Core, how: &str) -> io::Result<()> {
    for _ in 0..3 {
        let held = Panics::WhenDropped;
        drop(spawn_after(Duration::from_secs(20), async move {
            drop(held);
        }));
    }
    if how == "failed" {
        sys::refuse_io_uring_enter(libc::EIO)?;
        return pending().await;
    }
    let handle = core.handle();
    let mut phases = handle.phases();
    handle.shutdown();
    while phases
        .next()
        .await
        .is_some_and(|phase| phase < Phase::Draining)
    {}
    handle.force();
    pending().await
}

/// An error that is worse than it says.
#[derive(Debug)]
enum Panics {
    WhenShown,
    WhenDropped,
}

impl fmt::Display for Panics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!matches!(self, Panics::WhenShown), "as its name says");
        f.write_str("worse than it says")
    }
}

impl std::error::Error for Panics {}

impl Drop for Panics {
    fn drop(&mut self) {
        assert!(!matches!(self, Panics::WhenDropped), "as its name says");
    }
}
