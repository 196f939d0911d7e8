//! A stop over a path with a real delay: nobody who connected is reset, with
//! either gate and over either protocol. `path` says what the path is made
//! of; `path/README.md` has the figures of many more stops than run here.
//!
//! Each promise is kept by a process of its own (`delayed`), which lays the
//! path and starts the servers and the clients at its ends.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::sleep;
use serde_json::{Value, json};

use crate::args::Args;
use crate::path::Path;
use crate::process::{Program, say};
use crate::promise::{Count, heavy, load, promises};
use crate::report::Report;
use crate::server::{Setup, conclude, host, read_request};
use crate::sys;

promises![
    behind_the_filter_nobody_who_connected_is_reset_at_10_ms,
    behind_the_filter_nobody_who_connected_is_reset_at_50_ms,
    behind_the_filter_nobody_who_connected_by_ipv6_is_reset,
    behind_the_hop_count_nobody_who_connected_is_reset_at_10_ms,
    behind_the_hop_count_nobody_who_connected_is_reset_at_50_ms,
    behind_the_hop_count_nobody_who_connected_by_ipv6_is_reset,
    behind_the_hop_count_a_first_request_from_far_away_is_awaited,
    an_adopted_listener_has_no_gate_and_that_is_seen,
    the_window_is_three_round_trips,
    a_listener_that_accepted_nothing_of_late_has_no_window,
    a_core_that_had_no_turn_of_late_has_its_window_all_the_same,
    descriptors_that_run_out_in_the_window_delay_the_sweep_and_lose_nobody,
    a_backlog_without_descriptors_is_named_and_the_deadline_kept,
];

/// What is done in the test, five times; by hand more often.
const STOPS: &str = "stops=5";

fn behind_the_filter_nobody_who_connected_is_reset_at_10_ms() {
    kept("stops", &["rtt=10", "gate=bpf", STOPS]);
}

fn behind_the_filter_nobody_who_connected_is_reset_at_50_ms() {
    kept("stops", &["rtt=50", "gate=bpf", STOPS]);
}

fn behind_the_filter_nobody_who_connected_by_ipv6_is_reset() {
    kept("stops", &["rtt=10", "gate=bpf", "v6=true", STOPS]);
}

fn behind_the_hop_count_nobody_who_connected_is_reset_at_10_ms() {
    kept("stops", &["rtt=10", "gate=min_ttl", STOPS]);
}

fn behind_the_hop_count_nobody_who_connected_is_reset_at_50_ms() {
    kept("stops", &["rtt=50", "gate=min_ttl", STOPS]);
}

fn behind_the_hop_count_nobody_who_connected_by_ipv6_is_reset() {
    kept("stops", &["rtt=10", "gate=min_ttl", "v6=true", STOPS]);
}

/// What such a client sends before the accept comes a second time, and that
/// is one round trip and 200 ms later.
fn behind_the_hop_count_a_first_request_from_far_away_is_awaited() {
    kept("stops", &["rtt=150", "gate=min_ttl", "stops=1"]);
}

/// The other side of the same coin: without a gate the same load has losses,
/// so the stops above prove something.
fn an_adopted_listener_has_no_gate_and_that_is_seen() {
    kept("stops", &["rtt=10", "gate=none", STOPS]);
}

fn the_window_is_three_round_trips() {
    kept("window", &["rtt=10"]);
    kept("window", &["rtt=50"]);
}

fn a_listener_that_accepted_nothing_of_late_has_no_window() {
    kept("idle", &["rtt=50"]);
}

fn a_core_that_had_no_turn_of_late_has_its_window_all_the_same() {
    kept("blocked", &["rtt=10"]);
}

fn descriptors_that_run_out_in_the_window_delay_the_sweep_and_lose_nobody() {
    kept("descriptors", &["rtt=10"]);
}

fn a_backlog_without_descriptors_is_named_and_the_deadline_kept() {
    kept("no_descriptors", &["rtt=10"]);
}

/// Runs one case in a process of its own, and no other heavy test beside it.
#[track_caller]
fn kept(case: &str, words: &[&str]) {
    let _alone = heavy();
    let case = format!("case={case}");
    let words: Vec<&str> = [case.as_str()].iter().chain(words).copied().collect();
    let ended = Program::role("delayed", &words).finish();
    ended.exited(0);
    let kept = ended.said.iter().any(|line| line == "kept");
    assert!(kept, "{}", ended.told("it kept nothing"));
}

/// One case, at both ends of a path of its own.
pub(crate) fn delayed(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let round_trip = args.millis("rtt").expect("rtt is in milliseconds");
    let stops = args.number("stops", 1);
    let v6 = args.number("v6", false);
    let gate: String = args.number("gate", "bpf".to_owned());
    args.finish();
    let ends = Ends {
        path: Path::lay(round_trip),
        round_trip,
        v6,
        gate,
    };
    match case.as_str() {
        "stops" => ends.stops(stops),
        "window" => ends.window(),
        "idle" => ends.idle(),
        "blocked" => ends.blocked(),
        "descriptors" => ends.descriptors(),
        "no_descriptors" => ends.no_descriptors(),
        other => panic!("no case {other}"),
    }
    say("kept");
    ExitCode::SUCCESS
}

/// A path and what goes on at its ends.
struct Ends {
    path: Path,
    round_trip: Duration,
    /// Clients connect by IPv6.
    v6: bool,
    /// What the server's gate will be, by the report's word.
    gate: String,
}

impl Ends {
    /// A server of this module, and where it listens.
    fn server(&self, words: &[&str]) -> (Program, String) {
        let address = Path::server_address(self.v6);
        let address = format!("addr={address}");
        let how = match self.gate.as_str() {
            "bpf" => "privileged=true",
            "min_ttl" => "privileged=false",
            "none" => "adopt=true",
            other => panic!("no gate {other}"),
        };
        // However busy the machine is: no core here hangs.
        let common = [address.as_str(), how, "stuck_after=60000"];
        let words: Vec<&str> = common.iter().chain(words).copied().collect();
        let start = || Program::role("answers_and_closes", &words);
        let mut server = self.path.as_server(start);
        let address = server.address();
        (server, address)
    }

    fn load(&self, address: &str, words: &str) -> Program {
        let words = format!("protocol=framed size=48 end=stay {words}");
        self.path.as_client(|| load(address, &words))
    }

    /// What a load has counted. What the gate or the dead server leaves
    /// without an answer is given up, when nothing can be under way any more.
    fn count(&self, mut load: Program) -> Count {
        // Time is the subject: what was sent when the server ended arrives.
        std::thread::sleep(2 * self.round_trip);
        load.tell("stop");
        load.tell("give_up");
        Count::of(load)
    }

    /// Stops, one after the other: with a gate none of them loses anybody,
    /// without one they do.
    fn stops(&self, stops: u32) {
        let reset: u64 = (1..=stops).map(|number| self.stop_under_load(number)).sum();
        assert_eq!(reset > 0, self.gate == "none", "{reset} were reset");
    }

    /// A stop in the middle of 2,000 connects a second, each of which asks
    /// for one answer and waits for the server's FIN. How many were reset.
    fn stop_under_load(&self, number: u32) -> u64 {
        let (server, address) = self.server(&[]);
        let words = "per_second=2000 each=1 answer=500 warm=800";
        let mut load = self.load(&address, words);
        load.line("warm");
        server.signal(libc::SIGTERM);
        let report = server.finish().report(0);
        let count = self.count(load);
        self.tell(number, &report, &count);
        report.loses_nothing();
        let refused = count.number("refused") + count.number("gave_up");
        let connects = count.number("established") + refused;
        assert_eq!(count.number("attempted"), connects);
        for listener in report.all("listeners") {
            assert_eq!(listener["gate"], self.gate.as_str(), "{listener}");
        }
        if self.gate == "none" {
            return count.number("reset");
        }
        self.assert_window(&report);
        count.ended_well();
        let accepted = report.sum("connections", "accepted_total");
        assert_eq!(accepted, count.number("established"));
        // A client that is late with its request gets an end in order instead of an answer. How
        // many are is a matter of the processors they get, but for those whose request was there
        // and was dropped by the gate: it comes again, and most of them have to be answered.
        let (unanswered, drained) = (count.number("unanswered"), drained(&report));
        let far = self.round_trip >= Duration::from_millis(100);
        assert!(
            !far || 5 * unanswered <= drained,
            "{unanswered} of {drained}"
        );
        count.number("reset")
    }

    /// A line for the table of figures.
    fn tell(&self, number: u32, report: &Report, count: &Count) {
        let windows = report.all("listeners");
        let windows = windows.iter().map(|listener| &listener["window_ms"]);
        let figures = json!({
            "stop": number,
            "connected": count.number("established"),
            "answered": count.number("answered"),
            "refused": count.number("refused"),
            "gave_up": count.number("gave_up"),
            "unanswered": count.number("unanswered"),
            "reset": count.number("reset"),
            "torn": count.number("torn"),
            "elapsed_ms": report.elapsed_ms(),
            "window_ms": windows.collect::<Vec<_>>(),
            "drained": drained(report),
        });
        say(&format!("figures {figures}"));
    }

    /// Three round trips, of which none is shorter than the path's; longer
    /// ones are what a busy machine makes of them.
    fn assert_window(&self, report: &Report) {
        let least_ms = 3.0 * self.round_trip.as_secs_f64() * 1e3;
        for listener in report.all("listeners") {
            let window_ms = listener["window_ms"].as_f64().expect("a length of time");
            assert!((least_ms..=1_000.0).contains(&window_ms), "{listener}");
        }
    }

    fn window(&self) {
        let (server, address) = self.server(&["cores=1"]);
        let words = "connections=10 each=1 answer=500";
        let count = Count::of(self.load(&address, words));
        count.ended_well();
        server.signal(libc::SIGTERM);
        let report = server.finish().report(0);
        report.loses_nothing();
        self.assert_window(&report);
        let listener = report.all("listeners").remove(0);
        let window_ms = listener["window_ms"].as_f64().expect("a length of time");
        // A round trip may be measured late, but not by as much as this.
        let most_ms = 3.0 * (self.round_trip.as_secs_f64() * 1e3 + 100.0);
        assert!(window_ms < most_ms, "{listener}");
        assert!(
            report.elapsed_ms() >= window_ms,
            "the window was waited for"
        );
    }

    fn idle(&self) {
        let (server, address) = self.server(&["cores=1"]);
        let count = Count::of(self.load(&address, "connections=1 each=1"));
        count.ended_well();
        // Time is the subject: a second without an accept.
        std::thread::sleep(Duration::from_millis(1_200));
        server.signal(libc::SIGTERM);
        let report = server.finish().report(0);
        report.loses_nothing();
        assert_eq!(report.all("listeners")[0]["window_ms"], 0.0);
    }

    /// One client's request blocks the core for longer than the second that counts as of late,
    /// and the stop begins while others come.
    fn blocked(&self) {
        let (server, address) = self.server(&["cores=1", "blocks=true"]);
        let blocking = self.load(&address, "connections=1 each=1 delay=1300");
        // Time is the subject: the core is asleep, and has most of it still before it.
        std::thread::sleep(Duration::from_millis(400));
        let words = "connections=20 per_second=500 each=1";
        let mut load = self.load(&address, words);
        load.line("open");
        server.signal(libc::SIGTERM);
        let report = server.finish().report(0);
        let count = self.count(load);
        self.tell(1, &report, &count);
        report.loses_nothing();
        Count::of(blocking).ended_well();
        count.ended_well();
        self.assert_window(&report);
    }

    /// More clients than descriptors, and more every moment: the backlog is
    /// long when the stop begins, and is emptied as others end.
    fn descriptors(&self) {
        let (server, address) = self.server(&["cores=1", "fds=64"]);
        let words = "per_second=1000 each=1 delay=100 answer=500 warm=200";
        let mut load = self.load(&address, words);
        load.line("warm");
        server.signal(libc::SIGTERM);
        let report = server.finish().report(0);
        let count = self.count(load);
        self.tell(1, &report, &count);
        report.loses_nothing();
        count.ended_well();
        assert_eq!(count.number("answered"), count.number("established"));
        let drained = drained(&report);
        assert!(drained > 100, "{drained} were in the backlog");
    }

    /// Those who hold the descriptors do not end before the deadline.
    fn no_descriptors(&self) {
        let timeout_ms = 1_000.0;
        let words = ["cores=1", "fds=64", "timeout=1000"];
        let (server, address) = self.server(&words);
        let before = Count::of(self.load(&address, "connections=10 each=1"));
        before.ended_well();
        assert_eq!(before.number("answered"), 10);
        let mut load = self.load(&address, "connections=100 each=1 delay=20000");
        load.line("open");
        server.signal(libc::SIGTERM);
        let report = server.finish().report(81);
        let count = Count::of(load);
        report.leaves_nothing();
        let named = |straggler: &Value| {
            straggler["kind"] == "listener" && straggler["name"] == address.as_str()
        };
        let stragglers = report.all("stragglers");
        assert!(stragglers.iter().any(named), "{stragglers:?}");
        let accepted = report.sum("connections", "accepted_total") - 10;
        assert!(
            (1..100).contains(&accepted),
            "{accepted} of 100 were accepted"
        );
        assert_eq!(report.sum("connections", "forced"), accepted);
        assert_eq!(count.number("reset"), 100);
        assert_eq!(count.number("torn"), 0);
        let elapsed_ms = report.elapsed_ms();
        assert!(elapsed_ms <= timeout_ms + 50.0, "{elapsed_ms}");
    }
}

/// How many connections the stop took from the backlogs.
fn drained(report: &Report) -> u64 {
    let listeners = report.all("listeners");
    listeners.iter().filter_map(|l| l["drained"].as_u64()).sum()
}

/// A server that answers one request of a connection and closes it. Without
/// `privileged` it runs as an ordinary user would run it; `fds` limits its
/// descriptors; with `blocks` what a request says is to be waited is waited in
/// the way that no handler should.
pub(crate) fn answers_and_closes(mut args: Args) -> ExitCode {
    let blocks = args.number("blocks", false);
    if !args.number("privileged", false) {
        sys::drop_capabilities().expect("capabilities can be given up");
    }
    if let Some(most) = args.take("fds") {
        sys::limit_fds(most).expect("a limit may be lowered");
    }
    let result = host(Setup::only(args), move |_core, listener| async move {
        let handler = move |stream| answer_one(stream, blocks);
        listener.serve(handler).await
    });
    conclude(result, &json!({}))
}

async fn answer_one(mut stream: TcpStream, blocks: bool) -> io::Result<()> {
    if stream.next_request().await? {
        let (request, body) = read_request(&mut stream).await?;
        let delay = Duration::from_millis(request.delay_ms.into());
        if blocks {
            std::thread::sleep(delay);
        } else if !delay.is_zero() {
            sleep(delay).await;
        }
        stream.write_all(&request.answer(&body)).await?;
    }
    Ok(())
}
