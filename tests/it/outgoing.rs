//! Connections that the server itself has made, in the last phase: they do
//! not hold it up, a force ends it, and what they lose is in the books.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::{Core, Phase};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{heavy, promises};
use crate::report::Report;
use crate::server::{Setup, conclude, host};

promises![
    a_stream_that_outlives_its_task_does_not_hold_up_the_stop,
    a_force_in_closing_ends_it_soon_and_leaves_no_core_behind,
    what_an_outgoing_connection_loses_is_counted,
];

/// More than all that the kernels hold between two ends.
const WRITTEN_BYTES: usize = 32 << 20;

/// A stop with one outgoing connection to a peer that never reads.
#[track_caller]
fn stopped(words: &[&str], code: i32) -> Report {
    let _alone = heavy();
    let words: Vec<&str> = ["cores=1"].iter().chain(words).copied().collect();
    let report = Program::role("outgoing", &words).finish().report(code);
    report.leaves_nothing();
    assert_eq!(report.cores()[0]["outcome"], "finished");
    report
}

fn a_stream_that_outlives_its_task_does_not_hold_up_the_stop() {
    let report = stopped(&["case=kept", "timeout=8000"], 0);
    assert!(report.elapsed_ms() < 3_000.0, "{}", report.elapsed_ms());
}

fn a_force_in_closing_ends_it_soon_and_leaves_no_core_behind() {
    let words = ["case=forced", "timeout=30000", "linger=25000"];
    let report = stopped(&words, 80);
    assert!(report.elapsed_ms() < 5_000.0, "{}", report.elapsed_ms());
    adds_up(&report);
}

fn what_an_outgoing_connection_loses_is_counted() {
    let report = stopped(&["case=lost", "linger=200"], 80);
    adds_up(&report);
}

#[track_caller]
fn adds_up(report: &Report) {
    let (sent, unsent) = (report.sum("bytes", "sent"), report.sum("bytes", "unsent"));
    assert!(unsent > 0, "the kernels hold less than {WRITTEN_BYTES}");
    assert_eq!(sent + unsent, WRITTEN_BYTES as u64);
}

thread_local! {
    /// Lives as long as the core's thread, so longer than any task.
    static KEPT: RefCell<Vec<TcpStream>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn outgoing(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    // Nobody accepts: its kernel takes what fits, and no more is read.
    let peer = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = peer.local_addr().expect("it is bound");
    let result = host(Setup::only(args), move |core, _listener| {
        let case = case.clone();
        async move { connect_and_end(&core, address, &case).await }
    });
    drop(peer);
    conclude(result, &json!({}))
}

async fn connect_and_end(core: &Core, address: SocketAddr, case: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    match case {
        "kept" => KEPT.with_borrow_mut(|kept| kept.push(stream)),
        "forced" => {
            force_in_closing(core);
            stream.send(vec![1; WRITTEN_BYTES]).await?;
        }
        "lost" => stream.send(vec![1; WRITTEN_BYTES]).await?,
        other => panic!("no case {other}"),
    }
    Ok(())
}

/// Forces the stop from a thread of its own once it is in Closing.
fn force_in_closing(core: &Core) {
    let handle = core.handle();
    let mut phases = handle.phases();
    std::thread::spawn(move || {
        while phases.wait_next().expect("no core") != Some(Phase::Closing) {}
        // A core says nothing of the order it has carried out. Should it take longer than this,
        // the force meets it earlier, which it must stand as well.
        std::thread::sleep(Duration::from_millis(100));
        handle.force();
    });
}
