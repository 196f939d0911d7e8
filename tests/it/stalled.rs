//! The watch over long turns while nothing stops: whoever asks for it is told
//! which core does not move, by which task, and how it stands with its thread.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenfall::{Cores, Handle, Shutdown, StallEvent, Stalls, spawn_background};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Program, WATCHDOG, say};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{answer_all, conclude};

promises![
    a_core_that_spins_while_nothing_stops_is_told_of,
    a_blocking_sleep_while_nothing_stops_is_told_of,
    a_wait_for_a_lock_while_nothing_stops_is_told_of,
    the_siblings_clients_are_served_while_a_core_stalls,
    a_core_that_waits_for_its_clients_does_not_stall,
    a_stall_that_lasts_into_the_stop_is_in_the_report,
    without_the_watch_nobody_is_told_and_nobody_wakes,
    a_subscriber_on_another_core_is_told_too,
];

/// A server with core 1 that stalls as `words` say, when it is told to.
fn stalling(words: &[&str]) -> (Program, String) {
    let mut server = Program::role("stalled", words);
    let address = server.address();
    (server, address)
}

/// Lets it stall, and gives the begin and the end of that.
#[track_caller]
fn stalls(how: &str) -> (Value, Report) {
    let (mut server, _) = stalling(&["stall_after=100", &format!("how={how}"), "for=1500"]);
    server.tell("stall");
    let began = server.json("began ");
    let ended = server.json("ended ");
    server.tell("stop");
    let report = server.finish().report(0);
    report.loses_nothing();
    for stall in [&began, &ended] {
        assert_eq!(stall["core"], 1, "{stall}");
        let site = stall["spawned_at"].as_str().expect("a place in a source");
        assert!(site.contains("stalled.rs:"), "{stall}");
        let task = stall["task"].as_str().expect("a name");
        assert!(task.starts_with("task "), "{stall}");
    }
    let lasted_ms = |stall: &Value| stall["lasted_ms"].as_u64().expect("a time");
    // It was found in the middle, and no more is claimed than was seen.
    assert!((100..1_500).contains(&lasted_ms(&began)), "{began}");
    assert!(lasted_ms(&ended) >= lasted_ms(&began), "{ended}");
    let kept = &report.part("stalls")[0];
    assert_eq!(report.part("stalls_total"), 1, "{kept}");
    assert_eq!((&kept["core"], &kept["over"]), (&json!(1), &json!(true)));
    assert_eq!(kept["task"], began["task"]);
    assert!(kept["began_ms"].as_f64().expect("a time") < 0.0, "{kept}");
    (began, report)
}

fn a_core_that_spins_while_nothing_stops_is_told_of() {
    let (stall, _) = stalls("spin");
    assert_eq!(stall["state"], "R (running)", "{stall}");
}

fn a_blocking_sleep_while_nothing_stops_is_told_of() {
    let (stall, _) = stalls("sleep");
    let state = stall["state"].as_str().unwrap_or_default();
    assert!(state.ends_with("nanosleep"), "{stall}");
    let wchan = stall["wchan"].as_str().unwrap_or_default();
    assert!(wchan.contains("nanosleep"), "{stall}");
}

fn a_wait_for_a_lock_while_nothing_stops_is_told_of() {
    let (stall, _) = stalls("lock");
    assert_eq!(stall["state"], "S (sleeping) in futex", "{stall}");
    let wchan = stall["wchan"].as_str().unwrap_or_default();
    assert!(wchan.contains("futex"), "{stall}");
}

#[track_caller]
fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"still here").expect("it reads");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"still here");
}

/// Core 1 hangs for as long as the test wants.
fn the_siblings_clients_are_served_while_a_core_stalls() {
    let (mut server, address) = stalling(&["stall_after=100", "how=held"]);
    let mut stream = TcpStream::connect(address).expect("core 0 listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    echoes(&mut stream);
    server.tell("stall");
    server.json("began ");
    for _ in 0..100 {
        echoes(&mut stream);
    }
    server.tell("release");
    server.json("ended ");
    echoes(&mut stream);
    server.tell("stop");
    server.finish().report(0).loses_nothing();
}

/// Both cores sleep in their rings for many times `stall_after`.
fn a_core_that_waits_for_its_clients_does_not_stall() {
    let (mut server, address) = stalling(&["stall_after=10", "how=sleep"]);
    let mut stream = TcpStream::connect(address).expect("core 0 listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    echoes(&mut stream);
    // The point of the test is that time goes by in which nothing happens.
    std::thread::sleep(Duration::from_millis(700));
    server.tell("stop");
    let ended = server.finish();
    let report = ended.report(0);
    // A turn on a busy machine may take as long, but none takes half a second.
    for stall in report.part("stalls").as_array().expect("a list") {
        let lasted_ms = stall["lasted_ms"].as_f64().expect("a time");
        assert!(lasted_ms < 500.0, "{stall}");
    }
}

fn a_stall_that_lasts_into_the_stop_is_in_the_report() {
    let words = [
        "stall_after=100",
        "how=spin",
        "for=3600000",
        "stuck_after=200",
    ];
    let (mut server, _) = stalling(&words);
    server.tell("stall");
    let began = server.json("began ");
    server.tell("stop");
    let report = server.finish().report(82);
    assert_eq!(report.verdict(), "stuck");
    let kept = &report.part("stalls")[0];
    assert_eq!((&kept["core"], &kept["over"]), (&json!(1), &json!(false)));
    assert_eq!(kept["task"], began["task"]);
    let lasted_ms = kept["lasted_ms"].as_f64().expect("a time");
    assert!(lasted_ms >= 100.0, "{kept}");
}

/// How often a thread of this process gave up its processor of its own accord,
/// which is how often it went to sleep.
fn slept(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"));
    let status = status.expect("/proc is mounted");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    let count = line.expect("the kernel counts them").trim();
    count.parse().expect("a number")
}

/// The coordinator is the main thread, and it sleeps all the while.
fn without_the_watch_nobody_is_told_and_nobody_wakes() {
    let (mut server, _) = stalling(&["how=sleep", "for=300"]);
    server.tell("stall");
    server.line("stalled");
    let before = slept(server.pid());
    // The point of the test is that time goes by in which nothing happens.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(slept(server.pid()), before, "an idle process does not wake");
    server.tell("stop");
    let ended = server.finish();
    let report = ended.report(0);
    assert_eq!(report.part("stalls_total"), 0);
    assert!(!ended.said.iter().any(|line| line.starts_with("began ")));
}

fn a_subscriber_on_another_core_is_told_too() {
    let words = ["stall_after=100", "how=sleep", "for=1500", "on_core=true"];
    let (mut server, _) = stalling(&words);
    server.tell("stall");
    let began = server.json("core 0 began ");
    assert_eq!(began["core"], 1, "{began}");
    server.json("core 0 ended ");
    server.tell("stop");
    server.finish().report(0).loses_nothing();
}

/// How core 1 stalls.
#[derive(Clone, Debug)]
struct Stalling {
    /// `spin`, `sleep`, `lock`, or `held`: the lock, until the test says so.
    how: String,
    /// For how long, but for `held`.
    time: Duration,
    /// What `lock` and `held` wait for.
    lock: Arc<Mutex<()>>,
}

impl Stalling {
    fn now(&self) {
        match self.how.as_str() {
            "spin" => {
                let until = Instant::now() + self.time;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            "lock" | "held" => drop(self.lock.lock()),
            _ => std::thread::sleep(self.time),
        }
        say("stalled");
    }
}

fn in_words(event: &StallEvent) -> Option<(&'static str, Value)> {
    let (word, stall) = match event {
        StallEvent::Began(stall) => ("began", stall),
        StallEvent::Ended(stall) => ("ended", stall),
        _ => return None,
    };
    let value = json!({
        "core": stall.core,
        "lasted_ms": stall.lasted.as_millis(),
        "task": stall.task,
        "spawned_at": stall.spawned_at,
        "state": stall.state,
        "wchan": stall.wchan,
    });
    Some((word, value))
}

/// Says every event, on a thread of its own.
fn tell_events(mut stalls: Stalls) {
    std::thread::spawn(move || {
        while let Ok(Some(event)) = stalls.wait_next() {
            if let Some((word, value)) = in_words(&event) {
                say(&format!("{word} {value}"));
            }
        }
    });
}

/// The same, in a task of core 0.
async fn tell_events_on_core(mut stalls: Stalls) {
    while let Some(event) = stalls.next().await {
        if let Some((word, value)) = in_words(&event) {
            say(&format!("core 0 {word} {value}"));
        }
    }
}

/// Core 0 echoes; core 1 waits, and stalls when standard input says `stall`,
/// until `release` or `for` is over. `stop` stops.
pub(crate) fn stalled(mut args: Args) -> ExitCode {
    let stalling = Stalling {
        how: args.take("how").expect("how core 1 stalls"),
        time: args.millis("for").unwrap_or_default(),
        lock: Arc::default(),
    };
    let on_core = args.number("on_core", false);
    let mut shutdown = Shutdown::default();
    if let Some(stuck_after) = args.millis("stuck_after") {
        shutdown = shutdown.stuck_after(stuck_after);
    }
    let mut builder = crate::process::builder()
        .cores(Cores::Count(2))
        .shutdown(shutdown);
    if let Some(stall_after) = args.millis("stall_after") {
        builder = builder.stall_after(stall_after);
    }
    args.finish();
    let result = builder.build().and_then(|mut runtime| {
        let listener = runtime.bind("127.0.0.1:0")?;
        let handle = runtime.handle();
        tell_events(handle.stalls());
        obey(handle, stalling);
        runtime.run(move |core| {
            let here = (core.index() == 0).then(|| listener.on(&core));
            async move {
                let Some(listener) = here else {
                    return until_stopped(core.handle()).await;
                };
                if on_core {
                    let stalls = core.handle().stalls();
                    drop(spawn_background(tell_events_on_core(stalls)));
                }
                say(&format!("listening on {}", listener.local_addr()));
                listener.serve(answer_all).await
            }
        })
    });
    conclude(result, &json!({}))
}

/// Ends when the stop begins.
async fn until_stopped(handle: Handle) -> io::Result<()> {
    handle.phases().next().await;
    Ok(())
}

/// A thread that does what standard input says.
fn obey(handle: Handle, stalling: Stalling) {
    std::thread::spawn(move || {
        let mut held = None;
        for line in io::stdin().lines().map_while(Result::ok) {
            match line.as_str() {
                "stall" => {
                    held = Some(stalling.lock.lock().expect("nobody panicked"));
                    let stalls = stalling.clone();
                    let sent = handle.spawn_on(1, move || async move { stalls.now() });
                    drop(sent.expect("core 1 is there"));
                    if stalling.how == "lock" {
                        std::thread::sleep(stalling.time);
                        held = None;
                    }
                }
                "release" => held = None,
                "stop" => handle.shutdown(),
                other => panic!("what is {other:?}?"),
            }
        }
        drop(held);
    });
}
