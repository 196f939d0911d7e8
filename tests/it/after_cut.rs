//! After a cut nobody waits for a connection that is gone, nobody is told
//! that thrown away bytes were sent, and the books count each byte once.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::{Core, spawn_background};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, conclude, host, pair, until};

promises![
    a_recv_ends_in_an_error_at_the_cut,
    a_wait_for_a_request_ends_in_an_error_at_the_cut,
    what_a_cut_leaves_unsent_and_what_was_sent_add_up_to_what_was_written,
];

/// Larger than all that the kernels hold between two ends.
const REPLY_BYTES: usize = 12 << 20;

/// Forces a stop while a background task waits for its connection, and gives
/// the report when the task's operation has ended in an error.
#[track_caller]
fn ends_in_an_error(case: &str) -> Report {
    let program = Program::role("after_cut", &["cores=1", &format!("case={case}")]);
    let report = program.finish().report(81);
    let expected = ("the operation failed".to_owned(), "ok".to_owned());
    assert_eq!(report.hooks(), [expected]);
    report.leaves_nothing();
    report
}

fn a_recv_ends_in_an_error_at_the_cut() {
    ends_in_an_error("recv");
}

fn a_wait_for_a_request_ends_in_an_error_at_the_cut() {
    ends_in_an_error("request");
}

fn what_a_cut_leaves_unsent_and_what_was_sent_add_up_to_what_was_written() {
    // The flush that waits for them fails, for some are thrown away.
    let report = ends_in_an_error("flush");
    let (sent, unsent) = (report.sum("bytes", "sent"), report.sum("bytes", "unsent"));
    assert!(unsent > 0, "the kernels hold less than {REPLY_BYTES}");
    assert!(report.sum("bytes", "unacked") <= sent);
    assert_eq!(sent + unsent, REPLY_BYTES as u64);
}

/// A background task outlives the cut, and a hook looks at what became of its
/// operation.
pub(crate) fn after_cut(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let result = host(Setup::only(args), move |core, listener| {
        let case = case.clone();
        async move { wait_over_the_cut(&core, &listener, case).await }
    });
    conclude(result, &json!({}))
}

async fn wait_over_the_cut(core: &Core, listener: &TcpListener, case: String) -> io::Result<()> {
    let (stream, peer) = pair(listener).await?;
    let flushes = case == "flush";
    let operation = spawn_background(operate(stream, case));
    let name = "the operation failed";
    core.on_shutdown(
        name,
        Duration::from_millis(900),
        async move || match operation.await {
            Ok(Err(_)) => Ok(()),
            Ok(Ok(())) => Err("it succeeded".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    );
    peer.set_nonblocking(true)?;
    if flushes {
        until("the reply", || peer.peek(&mut [0]).is_ok()).await;
    }
    core.handle().force();
    pending().await
}

async fn operate(mut stream: TcpStream, case: String) -> io::Result<()> {
    match case.as_str() {
        "recv" => stream.recv().await.map(drop),
        "request" => stream.next_request().await.map(drop),
        "flush" => {
            stream.send(vec![1; REPLY_BYTES]).await?;
            stream.flush().await
        }
        other => panic!("no case {other}"),
    }
}
