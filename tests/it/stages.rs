//! What others see of a stop, and what they can hold, hook and ask: phases,
//! waiting, guards, hooks of the process, refusals, letters, children.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenfall::time::sleep;
use evenfall::{Cores, ErrorKind, Handle, Phase, Runtime, Shutdown, spawn_on, try_spawn};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Ended, Program};
use crate::promise::promises;
use crate::server::conclude;

promises![
    every_phase_is_seen_once_and_in_order_by_tasks_and_threads,
    waiting_gives_the_report_to_a_thread_and_an_error_to_a_core,
    a_guard_keeps_the_drain_open_until_it_is_dropped,
    a_guard_that_is_never_dropped_is_named_and_forces,
    no_guard_is_taken_once_the_drain_is_over,
    hooks_of_the_process_run_after_those_of_the_cores_last_first,
    hooks_of_the_process_run_after_a_cut_too,
    a_spawn_in_closing_gives_the_future_back_with_phase_and_time,
    a_letter_after_the_end_gives_the_closure_back,
    letters_that_bounce_between_cores_are_all_handled,
    a_child_with_clean_signals_hears_sigterm_and_another_does_not,
    the_service_manager_is_told_that_the_stop_has_begun,
];

/// Runs `case` to its end; it must exit with `code`, and its report adds up.
#[track_caller]
fn case(name: &str, code: i32) -> (Value, Ended) {
    let ended = Program::role("stages", &[&format!("case={name}")]).finish();
    ended.report(code);
    (ended.json("facts "), ended)
}

fn every_phase_is_seen_once_and_in_order_by_tasks_and_threads() {
    let (facts, _) = case("phases", 0);
    let all = json!(["notice", "draining", "hooks", "closing", "terminated"]);
    assert_eq!(facts["thread"], all, "{facts}");
    // The task is dropped when Closing begins.
    assert_eq!(facts["task"], json!(["notice", "draining", "hooks"]));
    assert_eq!(
        facts["late"], facts["task"],
        "who subscribes late misses none"
    );
}

fn waiting_gives_the_report_to_a_thread_and_an_error_to_a_core() {
    let (facts, _) = case("wait", 0);
    assert_eq!(facts["same"], true, "{facts}");
    assert_eq!(facts["on_a_core"], "WrongThread", "{facts}");
}

fn a_guard_keeps_the_drain_open_until_it_is_dropped() {
    let (facts, _) = case("guard", 0);
    let held_ms = facts["held_ms"].as_f64().expect("a time");
    let elapsed_ms = facts["elapsed_ms"].as_f64().expect("a time");
    assert!(elapsed_ms >= held_ms, "{facts}");
    assert!(elapsed_ms < 10_000.0, "it ends with the guard: {facts}");
}

fn a_guard_that_is_never_dropped_is_named_and_forces() {
    let (_, ended) = case("kept_guard", 81);
    let report = ended.report(81);
    let straggler = &report.part("stragglers")[0];
    assert_eq!(straggler["kind"], "guard");
    assert_eq!(straggler["name"], "compaction");
    let site = straggler["spawned_at"].as_str().expect("a place");
    assert!(site.contains("stages.rs"), "{site}");
}

fn no_guard_is_taken_once_the_drain_is_over() {
    let (facts, _) = case("late_guard", 0);
    assert_eq!(facts["in_a_hook"], "Draining", "{facts}");
}

fn hooks_of_the_process_run_after_those_of_the_cores_last_first() {
    let (facts, ended) = case("process_hooks", 0);
    let said = facts["said"].as_array().expect("a list");
    let cores = said.len() - 2;
    assert!(said[..cores].iter().all(|word| word == "core"), "{facts}");
    assert_eq!(said[cores..], ["second on 0", "first on 0"], "{facts}");
    let hooks = ended.report(0);
    let names: Vec<_> = hooks.part("hooks").as_array().expect("a list").clone();
    let names: Vec<_> = names.iter().map(|hook| hook["name"].clone()).collect();
    assert_eq!(names, ["second", "first"]);
}

fn hooks_of_the_process_run_after_a_cut_too() {
    let (facts, _) = case("cut_process_hooks", 81);
    assert_eq!(facts["said"], json!(["last word"]), "{facts}");
}

fn a_spawn_in_closing_gives_the_future_back_with_phase_and_time() {
    let (facts, _) = case("refused", 0);
    assert_eq!(facts["phase"], "closing", "{facts}");
    assert_eq!(facts["given_back"], 7, "{facts}");
    assert!(facts["left_ms"].as_u64().expect("a time") > 0, "{facts}");
}

fn a_letter_after_the_end_gives_the_closure_back() {
    let (facts, _) = case("late_letter", 0);
    assert_eq!(facts["phase"], "terminated", "{facts}");
    assert_eq!(facts["given_back"], 7, "{facts}");
    assert_eq!(facts["no_core"], Value::Null, "{facts}");
}

fn letters_that_bounce_between_cores_are_all_handled() {
    let (facts, ended) = case("bounce", 0);
    let report = ended.report(0);
    let bounced = facts["bounced"].as_u64().expect("a count");
    assert_eq!(facts["left"], 0, "{facts}");
    assert!(report.sum("letters", "handled") >= bounced, "{facts}");
    assert_eq!(report.sum("letters", "returned"), 0);
}

fn a_child_with_clean_signals_hears_sigterm_and_another_does_not() {
    let (facts, _) = case("children", 0);
    assert_eq!(facts["clean"], json!([false, libc::SIGTERM]), "{facts}");
    assert_eq!(facts["blocked"], json!([true, libc::SIGKILL]), "{facts}");
}

fn the_service_manager_is_told_that_the_stop_has_begun() {
    let (facts, _) = case("notified", 0);
    assert_eq!(facts["told"], "STOPPING=1", "{facts}");
}

/// Plays the case that is asked for.
pub(crate) fn stages(mut args: Args) -> ExitCode {
    let name: String = args.number("case", String::new());
    args.finish();
    let (result, facts) = match name.as_str() {
        "phases" => phases(),
        "wait" => wait(),
        "guard" => guard(),
        "kept_guard" => kept_guard(),
        "late_guard" => late_guard(),
        "process_hooks" => process_hooks(),
        "cut_process_hooks" => cut_process_hooks(),
        "refused" => refused(),
        "late_letter" => late_letter(),
        "bounce" => bounce(),
        "children" => children(),
        "notified" => notified(),
        _ => panic!("no case {name}"),
    };
    conclude(result, &facts)
}

type Outcome = (evenfall::Result<evenfall::Report>, Value);

fn build(shutdown: Shutdown) -> Runtime {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = Cores::Count(cpus.min(2));
    let built = crate::process::builder()
        .cores(cores)
        .shutdown(shutdown)
        .build();
    built.expect("a runtime")
}

/// Waits until `phase` has begun.
async fn reached(handle: &Handle, phase: Phase) {
    while handle.phase() < phase {
        sleep(Duration::from_millis(1)).await;
    }
}

fn phases() -> Outcome {
    let runtime = build(Shutdown::default().notice(Duration::from_millis(20)));
    let handle = runtime.handle();
    let mut on_thread = handle.phases();
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(phase) = on_thread.wait_next().expect("no core") {
            seen.push(phase.to_string());
        }
        seen
    });
    let in_task = Arc::new(Mutex::new(Vec::new()));
    let in_hook = Arc::new(Mutex::new(Vec::new()));
    let (seen, late) = (Arc::clone(&in_task), Arc::clone(&in_hook));
    let result = runtime.run(move |core| {
        let (seen, late) = (Arc::clone(&seen), Arc::clone(&late));
        async move {
            if core.index() == 0 {
                let mut phases = core.handle().phases();
                drop(evenfall::spawn_background(async move {
                    while let Some(phase) = phases.next().await {
                        seen.lock().expect("whole").push(phase.to_string());
                    }
                }));
                core.handle().shutdown();
                // A hook, so that the phase of hooks lasts a turn.
                core.on_shutdown("a turn", Duration::from_secs(1), async move || {
                    let mut phases = Handle::current().phases();
                    while let Some(phase) = phases.next().await {
                        late.lock().expect("whole").push(phase.to_string());
                        if phase == Phase::Hooks {
                            break;
                        }
                    }
                    sleep(Duration::from_millis(5)).await;
                    Ok::<(), io::Error>(())
                });
            }
            Ok(())
        }
    });
    let thread = thread.join().expect("the thread");
    let task = in_task.lock().expect("whole").clone();
    let late = in_hook.lock().expect("whole").clone();
    let facts = json!({ "thread": thread, "task": task, "late": late });
    (result, facts)
}

fn wait() -> Outcome {
    let runtime = build(Shutdown::default());
    let handle = runtime.handle();
    let waiting = std::thread::spawn(move || handle.wait().expect("no core").to_json());
    let on_a_core = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&on_a_core);
    let result = runtime.run(move |core| {
        let error = core.handle().wait().expect_err("this is a core");
        *answer.lock().expect("whole") = Some(error.kind());
        async { Ok(()) }
    });
    let waited = waiting.join().expect("the thread");
    let same = result
        .as_ref()
        .is_ok_and(|report| report.to_json() == waited);
    let kind: Option<ErrorKind> = *on_a_core.lock().expect("whole");
    let on_a_core = kind.map(|kind| format!("{kind:?}"));
    (result, json!({ "same": same, "on_a_core": on_a_core }))
}

fn guard() -> Outcome {
    let runtime = build(Shutdown::default().timeout(Duration::from_secs(60)));
    let handle = runtime.handle();
    let guard = handle.hold("compaction").expect("no stop yet");
    let mut phases = handle.phases();
    let thread = std::thread::spawn(move || {
        let first = phases.wait_next().expect("no core");
        assert_eq!(first, Some(Phase::Draining));
        let begun = Instant::now();
        // What the stop waits for takes a while: that is the point here.
        std::thread::sleep(Duration::from_millis(200));
        let held_ms = begun.elapsed().as_secs_f64() * 1e3;
        drop(guard);
        held_ms
    });
    let result = runtime.run(|_core| async { Ok(()) });
    let held_ms = thread.join().expect("the thread");
    let elapsed_ms = result.as_ref().map_or(0.0, |report| report.elapsed_ms);
    (
        result,
        json!({ "held_ms": held_ms, "elapsed_ms": elapsed_ms }),
    )
}

fn kept_guard() -> Outcome {
    let runtime = build(Shutdown::default().timeout(Duration::from_millis(300)));
    let guard = runtime.handle().hold("compaction").expect("no stop yet");
    let result = runtime.run(|_core| async { Ok(()) });
    drop(guard);
    (result, json!({}))
}

fn late_guard() -> Outcome {
    let runtime = build(Shutdown::default());
    let answer = Arc::new(Mutex::new(None));
    let inside = Arc::clone(&answer);
    let result = runtime.run(move |core| {
        let (handle, answer) = (core.handle(), Arc::clone(&inside));
        core.on_shutdown("asks", Duration::from_secs(1), async move || {
            let error = handle.hold("late").expect_err("the drain is over");
            *answer.lock().expect("whole") = Some(format!("{:?}", error.kind()));
            Ok::<(), io::Error>(())
        });
        async { Ok(()) }
    });
    let kind = answer.lock().expect("whole").clone();
    (result, json!({ "in_a_hook": kind }))
}

fn process_hooks() -> Outcome {
    let runtime = build(Shutdown::default());
    let said = Arc::new(Mutex::new(Vec::new()));
    for name in ["first", "second", "removed"] {
        let said = Arc::clone(&said);
        let hook = runtime
            .handle()
            .on_shutdown(name, Duration::from_secs(1), async move || {
                // Made on the core that runs it: nothing of this need be Send.
                let local = Rc::new(RefCell::new(name));
                sleep(Duration::from_millis(1)).await;
                let on = evenfall::Core::current().index();
                let word = format!("{} on {on}", local.borrow());
                said.lock().expect("whole").push(word);
                Ok::<(), io::Error>(())
            });
        if name == "removed" {
            assert!(hook.remove());
        }
    }
    let of_cores = Arc::clone(&said);
    let result = runtime.run(move |core| {
        let said = Arc::clone(&of_cores);
        core.on_shutdown("core", Duration::from_secs(1), async move || {
            sleep(Duration::from_millis(10)).await;
            said.lock().expect("whole").push("core".to_owned());
            Ok::<(), io::Error>(())
        });
        async { Ok(()) }
    });
    let said = said.lock().expect("whole").clone();
    (result, json!({ "said": said }))
}

fn cut_process_hooks() -> Outcome {
    let runtime = build(Shutdown::default());
    let said = Arc::new(Mutex::new(Vec::new()));
    let inside = Arc::clone(&said);
    runtime
        .handle()
        .on_shutdown("last", Duration::from_secs(1), async move || {
            inside.lock().expect("whole").push("last word");
            Ok::<(), io::Error>(())
        });
    let result = runtime.run(|core| {
        core.handle().force();
        std::future::pending()
    });
    let said = said.lock().expect("whole").clone();
    (result, json!({ "said": said }))
}

/// Spawns when it is dropped.
struct SpawnsAtItsEnd(Arc<Mutex<Value>>);

impl Drop for SpawnsAtItsEnd {
    fn drop(&mut self) {
        let refused = try_spawn(std::future::ready(7)).expect_err("it is Closing");
        let phase = refused.phase().map(|phase| phase.to_string());
        let left_ms = refused.time_left().map(|left| left.as_millis());
        let future = refused.into_inner();
        let given_back = future.into_inner();
        let answer = json!({ "phase": phase, "left_ms": left_ms, "given_back": given_back });
        *self.0.lock().expect("whole") = answer;
    }
}

fn refused() -> Outcome {
    let runtime = build(Shutdown::default());
    let answer = Arc::new(Mutex::new(Value::Null));
    let inside = Arc::clone(&answer);
    let result = runtime.run(move |core| {
        if core.index() == 0 {
            let spawns = SpawnsAtItsEnd(Arc::clone(&inside));
            drop(evenfall::spawn_background(async move {
                let _kept = spawns;
                std::future::pending::<()>().await;
            }));
        }
        async { Ok(()) }
    });
    let facts = answer.lock().expect("whole").clone();
    (result, facts)
}

fn late_letter() -> Outcome {
    let runtime = build(Shutdown::default());
    let handle = runtime.handle();
    let result = runtime.run(|_core| async { Ok(()) });
    let seven = 7;
    let refused = handle.spawn_on(0, move || async move { seven });
    let refused = refused.expect_err("the runtime is gone");
    let phase = refused.phase().map(|phase| phase.to_string());
    let shown = refused.to_string();
    assert!(shown.contains("terminated"), "{shown}");
    let start = refused.into_inner();
    let mut future = Box::pin(start());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let given_back = match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => 0,
    };
    let nowhere = handle.spawn_on(99, || async {}).expect_err("no such core");
    let no_core = nowhere.phase().map(|phase| phase.to_string());
    let facts = json!({ "phase": phase, "given_back": given_back, "no_core": no_core });
    (result, facts)
}

/// A letter that posts the next one to the next core, until nothing is left.
fn bounce_on(cores: usize, left: Arc<AtomicUsize>) {
    let on = evenfall::Core::current().index();
    let next = (on + 1) % cores;
    let posted = spawn_on(next, move || async move {
        if left.fetch_sub(1, Ordering::AcqRel) > 1 {
            bounce_on(cores, left);
        }
    });
    drop(posted.expect("cores leave the drain together"));
}

fn bounce() -> Outcome {
    const BOUNCES: usize = 20_000;
    let runtime = build(Shutdown::default().timeout(Duration::from_secs(60)));
    let (cores, handle) = (runtime.cores(), runtime.handle());
    let left = Arc::new(AtomicUsize::new(BOUNCES));
    let inside = Arc::clone(&left);
    let result = runtime.run(move |core| {
        let (left, handle) = (Arc::clone(&inside), handle.clone());
        async move {
            if core.index() == 0 {
                handle.shutdown();
                reached(&handle, Phase::Draining).await;
                bounce_on(cores, left);
            }
            Ok(())
        }
    });
    let left = left.load(Ordering::Acquire);
    (result, json!({ "left": left, "bounced": BOUNCES }))
}

/// Starts a child that sleeps. Whether it has SIGTERM blocked, and which signal
/// ended it: SIGTERM where it hears that, SIGKILL where it does not.
fn term_of(command: &mut Command) -> (bool, Option<i32>) {
    use std::os::unix::process::ExitStatusExt;
    let mut child = command.arg("60").spawn().expect("sleep(1)");
    let status = format!("/proc/{}/status", child.id());
    let status = std::fs::read_to_string(status).expect("/proc is mounted");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let mask = u64::from_str_radix(mask.expect("a mask").trim(), 16).expect("hexadecimal");
    let blocked = mask & (1 << (libc::SIGTERM - 1)) != 0;
    let pid = child.id().to_string();
    let sent = Command::new("kill").arg(&pid).status().expect("kill(1)");
    assert!(sent.success());
    if blocked {
        child.kill().expect("a child");
    }
    (blocked, child.wait().expect("a child").signal())
}

fn children() -> Outcome {
    let runtime = build(Shutdown::default());
    let mut clean = Command::new("sleep");
    evenfall::process::with_clean_signals(&mut clean).expect("signals");
    let clean = term_of(&mut clean);
    let blocked = term_of(&mut Command::new("sleep"));
    let result = runtime.run(|_core| async { Ok(()) });
    (result, json!({ "clean": clean, "blocked": blocked }))
}

fn notified() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    // The service manager's variable, as a child of it would have it.
    let mut own = Command::new(std::env::current_exe().expect("this program"));
    own.env("NOTIFY_SOCKET", &path)
        .env(crate::process::ROLE, "stages");
    let ran = own.arg("case=wait").output().expect("this program runs");
    assert!(ran.status.success(), "{ran:?}");
    let mut told = [0; 64];
    let len = socket.recv(&mut told).expect("a word was sent");
    let told = String::from_utf8_lossy(&told[..len]).trim().to_owned();
    let result = build(Shutdown::default()).run(|_core| async { Ok(()) });
    (result, json!({ "told": told }))
}
