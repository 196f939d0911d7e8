//! The examples: `echo`, a command line that later measurements rely on, and
//! the two that show a stop, which do what they say.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::process::{Ended, Program, WATCHDOG};
use crate::promise::{Count, load, promises};
use crate::report::Report;

promises![
    it_says_where_it_listens_and_reports_in_json,
    the_report_goes_into_a_file_where_one_is_named,
    a_picture_goes_into_a_file_beside_the_report,
    the_report_is_text_by_default_and_may_be_left_out,
    a_list_of_cores_is_kept,
    a_port_in_use_is_one_clear_line,
    a_core_that_is_not_there_is_one_clear_line,
    a_flag_that_is_not_there_is_one_clear_line,
    budgets_that_do_not_fit_are_one_clear_line,
    select_stops_itself_when_a_client_says_so,
    stages_go_by_in_their_order,
];

const ANY_PORT: &str = "--addr=127.0.0.1:0";

/// Starts the example with `words`, echoes a little, and stops it.
#[track_caller]
fn served(words: &[&str]) -> (Ended, String) {
    let mut server = Program::example("echo", words);
    let listening = server.line("listening on ");
    let pid = format!("pid {})", server.pid());
    assert!(listening.ends_with(&pid), "{listening}");
    let address = listening.split(' ').next().expect("an address comes first");
    let count = Count::of(load(address, "connections=8 each=50 size=700"));
    count.ended_well();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.exited(0);
    (ended, listening)
}

fn it_says_where_it_listens_and_reports_in_json() {
    let words = ["--addr", "127.0.0.1:0", "--report", "json", "--quiet", "0s"];
    let (ended, listening) = served(&words);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(
        listening.contains(&format!("({cpus} cores, pid ")),
        "{listening}"
    );
    assert_eq!(
        ended.said.len(),
        2,
        "{}",
        ended.told("one line more or less")
    );
    let report = Report::new(serde_json::from_str(&ended.said[1]).expect("JSON"));
    report.adds_up();
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), 8);
    assert_eq!(report.sum("bytes", "sent"), 8 * 50 * 700);
}

fn the_report_goes_into_a_file_where_one_is_named() {
    let folder = tempfile::tempdir().expect("a folder for the report");
    let file = folder.path().join("report.json");
    let flag = format!("--report-file={}", file.display());
    let (ended, _) = served(&[ANY_PORT, "--report=json", &flag, "--cores=0"]);
    assert_eq!(ended.said.len(), 1, "{}", ended.told("more than one line"));
    let text = std::fs::read_to_string(file).expect("the report was written");
    let report = Report::new(serde_json::from_str(&text).expect("it is JSON"));
    report.adds_up();
    report.loses_nothing();
}

fn a_picture_goes_into_a_file_beside_the_report() {
    let folder = tempfile::tempdir().expect("a folder for the picture");
    let file = folder.path().join("stop.svg");
    let flag = format!("--report-file={}", file.display());
    let (ended, _) = served(&[ANY_PORT, "--report=json", &flag]);
    let report = Report::new(serde_json::from_str(&ended.said[1]).expect("JSON"));
    let picture = std::fs::read_to_string(file).expect("the picture was written");
    let picture = roxmltree::Document::parse(&picture).expect("it is well-formed");
    let lanes: Vec<&str> = picture
        .descendants()
        .filter(|node| node.attribute("class") == Some("lane"))
        .filter_map(|lane| lane.attribute("data-core"))
        .collect();
    let cores: Vec<String> = (0..report.cores().len()).map(|i| i.to_string()).collect();
    assert_eq!(lanes, cores);
    for core in report.cores() {
        let course = core["open_connections"].as_array().expect("a list");
        let last = course.last().expect("it begins at the trigger");
        assert_eq!(course[0][1], core["connections"]["at_start"]);
        assert_eq!(last[1], 0, "the stop ended every connection");
    }
}

fn the_report_is_text_by_default_and_may_be_left_out() {
    let (ended, _) = served(&[ANY_PORT]);
    let text = ended.said[1..].join("\n").to_lowercase();
    assert!(text.contains("clean"), "{}", ended.told("no verdict"));
    let (ended, _) = served(&[ANY_PORT, "--report=none"]);
    assert_eq!(ended.said.len(), 1, "{}", ended.told("more than one line"));
}

fn a_list_of_cores_is_kept() {
    let words = [
        ANY_PORT,
        "--cores=0",
        "--report=json",
        "--timeout=2s",
        "--notice=0ms",
    ];
    let (ended, listening) = served(&words);
    assert!(listening.contains("(1 cores, pid ") || listening.contains("(1 core, pid "));
    let report = Report::new(serde_json::from_str(&ended.said[1]).expect("JSON"));
    report.adds_up();
    assert_eq!(report.cores().len(), 1);
    assert_eq!(report.part("config")["timeout_ms"], 2_000.0);
}

/// The example ends with code 2 and one line on standard error.
#[track_caller]
fn refused(words: &[&str]) -> String {
    let ended = Program::example("echo", words).finish();
    ended.exited(2);
    assert!(ended.said.is_empty(), "{}", ended.told("it said something"));
    let line = ended.stderr.trim_end().to_owned();
    assert!(!line.is_empty(), "{}", ended.told("not a word"));
    assert!(!line.contains('\n'), "{}", ended.told("more than one line"));
    assert!(!line.contains("panicked"), "{line}");
    line
}

fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let line = refused(&["--addr", &address]);
    assert!(line.contains(&address), "{line}");
}

fn a_core_that_is_not_there_is_one_clear_line() {
    let line = refused(&[ANY_PORT, "--cores=100000"]);
    assert!(line.contains("100000"), "{line}");
    refused(&[ANY_PORT, "--cores=3-1"]);
    refused(&[ANY_PORT, "--cores=many"]);
}

fn a_flag_that_is_not_there_is_one_clear_line() {
    let line = refused(&["--loud"]);
    assert!(line.contains("--loud"), "{line}");
    let line = refused(&["--quiet", "soon"]);
    assert!(line.contains("soon"), "{line}");
}

fn budgets_that_do_not_fit_are_one_clear_line() {
    let line = refused(&[ANY_PORT, "--quiet=5s", "--timeout=2s"]);
    assert!(line.contains('5') && line.contains('2'), "{line}");
}

/// A client of an example, whose address is at the beginning of `listening`.
#[track_caller]
fn client(listening: &str) -> TcpStream {
    let address = listening.split(' ').next().expect("an address comes first");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream
}

#[track_caller]
fn answered(client: &mut TcpStream, request: &str, answer: &str) {
    client.write_all(request.as_bytes()).expect("it reads");
    let mut read = vec![0; answer.len()];
    client.read_exact(&mut read).expect("it answers");
    assert_eq!(String::from_utf8_lossy(&read), answer);
}

fn select_stops_itself_when_a_client_says_so() {
    let mut server = Program::example("select", &[]);
    let listening = server.line("listening on ");
    let (mut first, mut second) = (client(&listening), client(&listening));
    answered(&mut second, "good evening\n", "good evening\n");
    answered(&mut first, "stop\n", "stopping\n");
    for mut client in [first, second] {
        assert_eq!(client.read(&mut [0]).expect("an end by FIN"), 0);
    }
    let ended = server.finish();
    ended.exited(0);
    let clean = ended.said.iter().any(|line| line.starts_with("clean "));
    assert!(clean, "{}", ended.told("no report"));
}

fn stages_go_by_in_their_order() {
    let mut server = Program::example("stages", &[]);
    let mut client = client(&server.line("listening on "));
    answered(&mut client, "?", "ready\n");
    server.signal(libc::SIGTERM);
    assert_eq!(client.read(&mut [0]).expect("an end by FIN"), 0);
    let ended = server.finish();
    ended.exited(0);
    let phases = ended
        .said
        .iter()
        .filter_map(|it| it.strip_prefix("phase: "));
    let all = ["notice", "draining", "hooks", "closing", "terminated"];
    assert!(phases.eq(all), "{}", ended.told("other phases"));
    // Each waits for those before it: the guard, the cores' hooks, the process's.
    let place = |words: &str| ended.said.iter().position(|line| line.contains(words));
    let last = |words: &str| ended.said.iter().rposition(|line| line.contains(words));
    let places = [
        place("the compaction is finished"),
        place("the log is flushed"),
        last("the log is flushed"),
        place("the manifest is written"),
        place("clean "),
    ];
    let told = places.iter().all(Option::is_some) && places.is_sorted();
    assert!(told, "{places:?}: {}", ended.told("another order"));
}
