//! A core that hangs in a user's code holds up nobody but its own clients.
//!
//! The server of these tests has a port for each of its two cores, so that a
//! test knows whose client it is.
#![forbid(unsafe_code)]

mod server;

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Program, WATCHDOG};
use crate::promise::{Count, load, promises};
use crate::report::Report;

pub(crate) use server::stalls;

promises![
    a_core_that_spins_is_left_out_and_named,
    a_core_in_a_blocking_sleep_is_left_out_and_named,
    a_core_that_waits_for_a_lock_is_left_out_and_named,
    a_core_that_hangs_in_a_destructor_is_left_out_and_named,
    every_core_stuck_ends_by_the_hard_deadline,
    the_siblings_clients_do_not_notice_a_stuck_core,
    a_stuck_cores_port_turns_its_clients_away,
    a_port_that_no_core_has_taken_turns_its_clients_away,
    an_adopted_socket_that_a_stuck_core_keeps_listening_is_named,
    a_core_that_wakes_up_in_time_is_not_stuck,
    a_core_that_wakes_up_when_the_others_are_done_says_what_it_lost,
    a_core_that_is_stopped_and_continued_is_not_stuck,
    a_guard_that_a_stuck_core_has_given_away_is_waited_for,
    a_guard_that_a_stuck_core_keeps_is_named_at_the_deadline,
];

/// A server whose core 1 hangs as `words` say, and the address of core 0.
fn hanging(words: &[&str]) -> (Program, String) {
    let mut server = Program::role("stalls", words);
    let address = server.line("siblings on ");
    server.line("hanging");
    (server, address)
}

/// The same, but the address of core 1, and a client that waits in its backlog.
fn waited_for(words: &[&str]) -> (Program, String, TcpStream) {
    let mut server = Program::role("stalls", words);
    let address = server.line("doomed on ");
    server.line("hanging");
    let waiting = TcpStream::connect(&address).expect("the kernel shakes hands");
    waiting.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    wait_for_backlog(&address);
    (server, address, waiting)
}

/// The part of the report that says where the one stuck core hangs.
#[track_caller]
fn stuck(report: &Report) -> Value {
    assert_eq!(report.verdict(), "stuck");
    let is_stuck = |core: &&Value| core["outcome"] == "stuck";
    let cores: Vec<&Value> = report.cores().iter().filter(is_stuck).collect();
    assert_eq!(cores.len(), 1, "{cores:?}");
    assert_eq!(cores[0]["core"], 1);
    let stuck = cores[0]["stuck"].clone();
    let site = stuck["spawned_at"].as_str().expect("a place in a source");
    assert!(site.contains("stuck/server.rs:"), "{stuck}");
    let since_ms = stuck["since_ms"].as_f64().expect("a time");
    assert!(since_ms <= 100.0, "it hung before the stop: {stuck}");
    stuck
}

/// Stops a server that hangs in this way, and says where it hung.
#[track_caller]
fn hung(how: &str) -> Value {
    let how = format!("how={how}");
    let (server, _) = hanging(&[&how, "stuck_after=200", "timeout=3000"]);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(82);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms < 3_050.0, "{elapsed_ms} ms of 3 s");
    let stuck = stuck(&report);
    assert!(
        stuck["task"].as_str().is_some_and(|task| !task.is_empty()),
        "{stuck}"
    );
    stuck
}

fn a_core_that_spins_is_left_out_and_named() {
    let stuck = hung("spin");
    assert_eq!(stuck["state"], "R (running)", "{stuck}");
}

fn a_core_in_a_blocking_sleep_is_left_out_and_named() {
    let stuck = hung("sleep");
    let state = stuck["state"].as_str().unwrap_or_default();
    assert!(state.starts_with("S (sleeping) in "), "{stuck}");
    assert!(state.ends_with("nanosleep"), "{stuck}");
    let wchan = stuck["wchan"].as_str().unwrap_or_default();
    assert!(wchan.contains("nanosleep"), "{stuck}");
}

fn a_core_that_waits_for_a_lock_is_left_out_and_named() {
    let stuck = hung("lock");
    assert_eq!(stuck["state"], "S (sleeping) in futex", "{stuck}");
    let wchan = stuck["wchan"].as_str().unwrap_or_default();
    assert!(wchan.contains("futex"), "{stuck}");
}

/// The future is dropped by the cut, and its destructor does not end.
fn a_core_that_hangs_in_a_destructor_is_left_out_and_named() {
    let words = ["how=drop", "stuck_after=200", "timeout=1000"];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(82);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms < 1_150.0, "{elapsed_ms} ms of 1 s");
    let cores = report.cores();
    let stuck = &cores[1]["stuck"];
    let task = stuck["task"].as_str().unwrap_or_default();
    assert!(task.ends_with("(its destructor)"), "{stuck}");
    let since_ms = stuck["since_ms"].as_f64().expect("a time");
    assert!(since_ms > 500.0, "since the drain deadline: {stuck}");
}

fn every_core_stuck_ends_by_the_hard_deadline() {
    let words = ["how=sleep", "all=true", "stuck_after=200", "timeout=2000"];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(82);
    assert!(report.elapsed_ms() < 2_050.0, "{}", report.elapsed_ms());
    for core in report.cores() {
        assert_eq!(core["outcome"], "stuck");
    }
}

/// A request of the sibling's is in work for longer than the watchdog waits.
fn the_siblings_clients_do_not_notice_a_stuck_core() {
    let words = ["how=spin", "stuck_after=200", "timeout=20000"];
    let (server, address) = hanging(&words);
    let words = "connections=32 size=500 warm=5000";
    let mut steady = load(&address, words);
    steady.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(82);
    let count = Count::of(steady);
    count.ended_well();
    let _named = stuck(&report);
    let sibling = &report.cores()[0];
    assert_eq!(sibling["outcome"], "finished");
    assert_eq!(sibling["connections"]["accepted_total"], 32);
    assert_eq!(sibling["connections"]["forced"], 0);
    // The hook of a core that is not stuck has run.
    assert_eq!(sibling["hooks"][0]["outcome"], "ok", "{sibling}");
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms < 5_000.0, "the deadline was not waited for");
}

/// Who waits in its backlog gets an end, and who comes is refused, while the
/// other core is at work for long.
fn a_stuck_cores_port_turns_its_clients_away() {
    let words = ["how=spin", "work=3000", "stuck_after=200"];
    let (server, address, mut waiting) = waited_for(&words);
    let began = Instant::now();
    server.signal(libc::SIGTERM);
    match waiting.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => {
            let after = began.elapsed();
            let report = server.finish();
            panic!("no end by FIN but {error}, after {after:?}: {report:?}");
        }
    }
    // The end came just before the listening did.
    let refused = loop {
        if let Err(error) = TcpStream::connect(&address) {
            break error;
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "refused after the end: {took:?}"
    );
    let report = server.finish().report(82);
    let _named = stuck(&report);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms > 2_000.0, "the other core was at work");
    let stragglers = report.cores()[1]["stragglers"].as_array().cloned();
    let stragglers = stragglers.expect("a list");
    let listener = stragglers.iter().find(|one| one["kind"] == "listener");
    let listener = listener.unwrap_or_else(|| panic!("no listener in {stragglers:?}"));
    assert_eq!(listener["name"], address);
}

/// A core that hangs before it takes its listener has none, and nobody else takes it.
fn a_port_that_no_core_has_taken_turns_its_clients_away() {
    let words = ["how=spin", "early=true", "stuck_after=200"];
    let (server, address, mut waiting) = waited_for(&words);
    server.signal(libc::SIGTERM);
    assert_eq!(waiting.read(&mut [0]).expect("an end by FIN"), 0);
    let ended = server.finish();
    assert_eq!(ended.json("facts ")["listens_on"], false);
    let report = ended.report(82);
    let expected = json!([{
        "kind": "listener",
        "name": address,
        "spawned_at": null,
        "detail": "no core had taken it: 1 of its backlog closed without an answer",
    }]);
    assert_eq!(report.part("stragglers"), &expected);
}

/// Its other holders may serve it, so nobody ends it; but nobody who reads the report is to think
/// that the port is free.
fn an_adopted_socket_that_a_stuck_core_keeps_listening_is_named() {
    let words = ["how=sleep", "adopt=true", "stuck_after=200", "timeout=3000"];
    let mut server = Program::role("stalls", &words);
    let address = server.line("doomed on ");
    server.line("hanging");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    assert_eq!(ended.json("facts ")["listens_on"], true);
    let report = ended.report(82);
    let _named = stuck(&report);
    let expected = json!([{
        "kind": "listener",
        "name": address,
        "spawned_at": null,
        "detail": "still listening: others may hold it, and its core is stuck",
    }]);
    assert_eq!(report.cores()[1]["stragglers"], expected);
}

/// Waits until a client stands in the backlog at `address`: its side of the handshake is over
/// before the server's, and on a busy machine the last acknowledgement takes its time. The kernel
/// tells the length of a backlog to who asks for the sockets of the machine.
fn wait_for_backlog(address: &str) {
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let local = format!("0100007F:{:04X}", port.unwrap_or(0u16));
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the sockets of the machine");
        let waits = sockets.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A");
            listens && !fields[4].ends_with(":00000000")
        });
        if waits {
            return;
        }
        assert!(Instant::now() < deadline, "nobody waits at {address}");
        std::thread::yield_now();
    }
}

/// While the other core is still at work, the hanging one comes back. Its
/// listener was ended for it, and that is no error of its main future.
fn a_core_that_wakes_up_in_time_is_not_stuck() {
    let words = ["how=sleep", "for=700", "work=1500", "stuck_after=200"];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert!(report.elapsed_ms() > 500.0, "the other core was at work");
    for core in report.cores() {
        assert_eq!(core["outcome"], "finished");
    }
}

/// The others have passed their hooks, but one of them still closes.
fn a_core_that_wakes_up_when_the_others_are_done_says_what_it_lost() {
    let words = [
        "how=sleep",
        "for=900",
        "hook=1500",
        "stuck_after=200",
        "lives_on=true",
    ];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(81);
    let cores = report.cores();
    assert_eq!(cores[1]["outcome"], "finished", "{}", cores[1]);
    assert_eq!(cores[1]["hooks"][0]["outcome"], "ok", "its hook ran, too");
    let stragglers = cores[1]["stragglers"].as_array().expect("a list");
    let named = stragglers.iter().any(|straggler| {
        let site = straggler["spawned_at"].as_str().unwrap_or_default();
        straggler["kind"] == "task" && site.contains("stuck/server.rs:")
    });
    assert!(named, "{stragglers:?}");
}

/// Every core is in a turn when the process stands still for longer than the
/// watchdog waits, and for longer than the dead-man would.
fn a_core_that_is_stopped_and_continued_is_not_stuck() {
    let words = [
        "how=spin",
        "for=1200",
        "all=true",
        "stuck_after=2000",
        "timeout=3000",
    ];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    server.signal(libc::SIGSTOP);
    // The point of the test is that time goes by.
    std::thread::sleep(Duration::from_millis(3_500));
    server.signal(libc::SIGCONT);
    let report = server.finish().report(0);
    let suspended_ms = report.part("suspended_ms").as_f64().expect("a time");
    assert!(suspended_ms > 3_000.0, "{suspended_ms} ms");
}

/// Taken on core 1 and given to a thread, which is at work when core 1 hangs.
fn a_guard_that_a_stuck_core_has_given_away_is_waited_for() {
    let words = ["how=spin", "guard=1000", "stuck_after=500", "timeout=20000"];
    let (mut server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    server.line("the guard is let go");
    let report = server.finish().report(82);
    let _named = stuck(&report);
    assert_eq!(report.part("stragglers"), &json!([]));
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms < 10_000.0, "it ends with the guard");
}

fn a_guard_that_a_stuck_core_keeps_is_named_at_the_deadline() {
    let words = ["how=spin", "guard=kept", "stuck_after=500", "timeout=3000"];
    let (server, _) = hanging(&words);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(82);
    let _named = stuck(&report);
    let straggler = &report.part("stragglers")[0];
    assert_eq!(straggler["name"], "compaction", "{straggler}");
    let detail = straggler["detail"].as_str().unwrap_or_default();
    assert!(
        detail.ends_with("taken on core 1, which is stuck"),
        "{straggler}"
    );
}
