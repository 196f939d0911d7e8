//! What the stop takes no more it gives back, or refuses in words: timers,
//! listeners and connects, each with the phase and the time that is left.
//!
//! Tasks and letters are in `stages`. The last user code that runs on a core
//! is a destructor in Closing, so that is who asks here.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenfall::net::{Listener, TcpListener, TcpStream, TooLate};
use evenfall::time::{Sleep, interval, sleep, spawn_after, timeout, try_spawn_after};
use evenfall::{Core, Cores, Phase, Shutdown, spawn_background};
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::server::{answer_all, conclude};

promises![
    a_delayed_task_that_would_begin_too_late_is_given_back,
    a_delayed_task_is_given_back_in_closing,
    whoever_awaits_a_delayed_task_that_came_too_late_is_told,
    delayed_tasks_that_wait_when_closing_begins_are_counted,
    a_sleep_in_closing_keeps_nobody_waiting,
    an_interval_is_over_from_draining_on,
    a_listener_that_is_made_when_the_drain_is_over_is_refused,
    an_accept_on_a_listener_taken_when_the_drain_is_over_is_refused,
    a_listener_taken_after_a_cut_is_drained_which_is_no_error,
    a_connect_in_closing_is_refused,
];

/// What the role found, and its report.
#[track_caller]
fn case(name: &str, code: i32) -> (Value, crate::report::Report) {
    let ended = Program::role("too_late", &[&format!("case={name}")]).finish();
    let report = ended.report(code);
    report.leaves_nothing();
    (ended.json("facts "), report)
}

/// The refusal names the phase, and has time left of the 20 s of the stop.
#[track_caller]
fn refused(facts: &Value, phase: &str) {
    assert_eq!(facts["phase"], phase, "{facts}");
    let left_ms = facts["left_ms"].as_u64().expect("a time");
    assert!((1..=20_000).contains(&left_ms), "{facts}");
    let words = facts["words"].as_str().expect("words");
    assert!(words.contains(&format!("phase {phase}")), "{words}");
    assert!(words.contains(" left)"), "{words}");
}

fn a_delayed_task_that_would_begin_too_late_is_given_back() {
    let (facts, report) = case("late_timer", 0);
    refused(&facts, "draining");
    assert_eq!(facts["given_back"], 7, "{facts}");
    assert_eq!(facts["in_time"], 8, "{facts}");
    assert_eq!(report.sum("tasks", "rejected"), 1);
    assert_eq!(report.sum("timers", "fired"), 1);
}

fn a_delayed_task_is_given_back_in_closing() {
    let (facts, report) = case("timer_in_closing", 0);
    refused(&facts, "closing");
    assert_eq!(facts["given_back"], 7, "{facts}");
    assert_eq!(report.sum("tasks", "rejected"), 1);
}

fn whoever_awaits_a_delayed_task_that_came_too_late_is_told() {
    let (facts, report) = case("told_in_closing", 0);
    assert_eq!(facts["cancelled"], true, "{facts}");
    assert_eq!(report.sum("tasks", "rejected"), 1);
}

/// A hook asks for it, so no drain waits for it.
fn delayed_tasks_that_wait_when_closing_begins_are_counted() {
    let (facts, report) = case("timer_in_a_hook", 0);
    assert_eq!(facts["taken"], true, "{facts}");
    assert_eq!(report.sum("timers", "fired"), 0);
    assert_eq!(report.sum("timers", "cancelled"), 1);
    assert!(report.elapsed_ms() < 10_000.0, "{}", report.elapsed_ms());
}

fn a_sleep_in_closing_keeps_nobody_waiting() {
    let (facts, _) = case("sleep_in_closing", 0);
    assert_eq!(facts["sleep"], true, "{facts}");
    assert_eq!(facts["begun_before"], true, "{facts}");
    assert_eq!(facts["timeout"], true, "{facts}");
}

fn an_interval_is_over_from_draining_on() {
    let (facts, _) = case("interval_in_closing", 0);
    assert_eq!(facts["over"], true, "{facts}");
}

fn a_listener_that_is_made_when_the_drain_is_over_is_refused() {
    for (name, phase) in [("bind_in_a_hook", "hooks"), ("bind_in_closing", "closing")] {
        let (facts, _) = case(name, 0);
        refused(&facts, phase);
        assert_eq!(facts["kind"], "Draining", "{facts}");
    }
}

fn an_accept_on_a_listener_taken_when_the_drain_is_over_is_refused() {
    for (name, phase) in [("on_in_a_hook", "hooks"), ("on_in_closing", "closing")] {
        let (facts, _) = case(name, 0);
        refused(&facts, phase);
    }
}

/// The main future is on its way to its listener when the cut comes. What it
/// finds must not look like a failure of its own. Where it was faster than the
/// cut it is waiting for clients by then, and is cut and named.
fn a_listener_taken_after_a_cut_is_drained_which_is_no_error() {
    let ended = Program::role("too_late", &["case=on_after_a_cut"]).finish();
    let was_cut = ended.json("report ")["cores"][0]["stragglers"] != json!([]);
    let report = ended.report(if was_cut { 81 } else { 0 });
    report.leaves_nothing();
    assert_eq!(ended.json("facts ")["begun"], true);
    assert_eq!(report.part("triggers")[0]["kind"], "force");
    assert_eq!(report.cores()[0]["outcome"], "finished");
}

fn a_connect_in_closing_is_refused() {
    let (facts, _) = case("connect_in_closing", 0);
    refused(&facts, "closing");
}

/// What a case has found out.
type Facts = Arc<Mutex<Value>>;

/// Plays one case on its one core, and stops itself.
pub(crate) fn too_late(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    args.finish();
    let facts = Facts::default();
    let found = Arc::clone(&facts);
    // Long enough for any machine, for nothing here waits for its end.
    let shutdown = Shutdown::default().timeout(Duration::from_secs(20));
    let builder = crate::process::builder().cores(Cores::Count(1));
    let result = builder.shutdown(shutdown).build().and_then(|mut runtime| {
        let listener = runtime.bind("127.0.0.1:0")?;
        if case == "on_after_a_cut" {
            // Before the run: the main begins when everything is cut already.
            runtime.handle().force();
        }
        runtime.run(move |core| play(core, case.clone(), listener.clone(), found.clone()))
    });
    let facts = facts.lock().expect("nobody panicked").clone();
    conclude(result, &facts)
}

async fn play(core: Core, case: String, listener: Listener, facts: Facts) -> io::Result<()> {
    match case.as_str() {
        "on_after_a_cut" => {
            found(&facts, json!({ "begun": true }));
            return listener.on(&core).serve(answer_all).await;
        }
        "late_timer" => return late_timer(&core, &facts).await,
        "timer_in_a_hook" => in_a_hook(&core, facts, |_| timer_in_a_hook()),
        "bind_in_a_hook" => in_a_hook(&core, facts, |_| bind()),
        "on_in_a_hook" => in_a_hook(&core, facts, move |core| on(core, &listener)),
        "timer_in_closing" => in_closing(&core, facts, |_| timer()),
        "told_in_closing" => in_closing(&core, facts, |_| told()),
        "sleep_in_closing" => {
            let mut begun = sleep(Duration::from_secs(3600));
            assert!((&mut begun).now_or_never().is_none());
            in_closing(&core, facts, move |_| slept(begun));
        }
        "interval_in_closing" => in_closing(&core, facts, |_| ticked()),
        "bind_in_closing" => in_closing(&core, facts, |_| bind()),
        "on_in_closing" => in_closing(&core, facts, move |core| on(core, &listener)),
        "connect_in_closing" => in_closing(&core, facts, |_| connected()),
        other => panic!("no case {other}"),
    }
    core.handle().shutdown();
    Ok(())
}

fn found(facts: &Facts, value: Value) {
    *facts.lock().expect("nobody panicked") = value;
}

/// Finds out `what` in a hook, when the drain is over.
fn in_a_hook(core: &Core, facts: Facts, what: impl FnOnce(&Core) -> Value + 'static) {
    let on = core.clone();
    core.on_shutdown("asks", Duration::from_secs(5), async move || {
        found(&facts, what(&on));
        Ok::<(), io::Error>(())
    });
}

/// Asks when it is dropped.
struct AsksAtItsEnd<F: FnOnce(&Core) -> Value> {
    core: Core,
    facts: Facts,
    what: Option<F>,
}

impl<F: FnOnce(&Core) -> Value> Drop for AsksAtItsEnd<F> {
    fn drop(&mut self) {
        let what = self.what.take().expect("dropped once");
        found(&self.facts, what(&self.core));
    }
}

/// Finds out `what` in Closing, in the destructor of a background task.
fn in_closing(core: &Core, facts: Facts, what: impl FnOnce(&Core) -> Value + 'static) {
    let asks = AsksAtItsEnd {
        core: core.clone(),
        facts,
        what: Some(what),
    };
    drop(spawn_background(async move {
        let _kept = asks;
        std::future::pending::<()>().await;
    }));
}

/// What a refusal says, in the words of JSON.
fn said(phase: Option<Phase>, left: Option<Duration>, words: &str) -> Value {
    let phase = phase.map(|phase| phase.to_string());
    let left_ms = left.map(|left| left.as_millis());
    json!({ "phase": phase, "left_ms": left_ms, "words": words })
}

/// The refusal inside of an I/O error.
fn late(error: &io::Error) -> Value {
    let inside = error.get_ref().and_then(|it| it.downcast_ref::<TooLate>());
    let late = inside.unwrap_or_else(|| panic!("another error: {error}"));
    said(
        Some(late.phase()),
        Some(late.time_left()),
        &error.to_string(),
    )
}

async fn late_timer(core: &Core, facts: &Facts) -> io::Result<()> {
    core.handle().shutdown();
    while core.handle().phase() < Phase::Draining {
        sleep(Duration::from_millis(1)).await;
    }
    // A turn more: the core has heard of it as well.
    sleep(Duration::from_millis(20)).await;
    let soon = try_spawn_after(Duration::from_millis(20), async { 8 });
    let in_time = soon.expect("it is due in time").await;
    let never = try_spawn_after(Duration::from_secs(3600), std::future::ready(7));
    let refused = never.expect_err("the stop is over before");
    let mut value = said(refused.phase(), refused.time_left(), &refused.to_string());
    value["given_back"] = json!(refused.into_inner().await);
    value["in_time"] = json!(in_time.ok());
    found(facts, value);
    Ok(())
}

fn timer() -> Value {
    let refused = try_spawn_after(Duration::from_millis(1), std::future::ready(7));
    let refused = refused.expect_err("it is Closing");
    let mut value = said(refused.phase(), refused.time_left(), &refused.to_string());
    value["given_back"] = json!(refused.into_inner().now_or_never());
    value
}

fn told() -> Value {
    let delayed = spawn_after(Duration::from_millis(1), async {});
    let told = delayed.now_or_never();
    let cancelled = told.map(|told| told.is_err_and(|error| error.is_cancelled()));
    json!({ "cancelled": cancelled })
}

fn timer_in_a_hook() -> Value {
    let delayed = try_spawn_after(Duration::from_secs(5), async {});
    json!({ "taken": delayed.map(drop).is_ok() })
}

fn slept(begun: Sleep) -> Value {
    let hour = Duration::from_secs(3600);
    let elapsed = timeout(hour, std::future::pending::<()>()).now_or_never();
    json!({
        "sleep": sleep(hour).now_or_never().is_some(),
        "begun_before": begun.now_or_never().is_some(),
        "timeout": elapsed.is_some_and(|elapsed| elapsed.is_err()),
    })
}

fn ticked() -> Value {
    let mut ticks = interval(Duration::from_millis(1));
    json!({ "over": ticks.tick().now_or_never() == Some(None) })
}

fn bind() -> Value {
    let error = TcpListener::bind("127.0.0.1:0").expect_err("the drain is over");
    let source = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    let mut value = late(source.expect("an I/O error is behind it"));
    value["kind"] = json!(format!("{:?}", error.kind()));
    value["words"] = json!(error.to_string());
    value
}

fn on(core: &Core, listener: &Listener) -> Value {
    let accepted = listener.on(core).accept().now_or_never();
    late(&accepted.expect("it does not wait").expect_err("too late"))
}

fn connected() -> Value {
    let connected = TcpStream::connect("127.0.0.1:1").now_or_never();
    late(&connected.expect("it does not wait").expect_err("too late"))
}
