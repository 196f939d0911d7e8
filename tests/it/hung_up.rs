//! A peer that resets the connection leaves nobody waiting.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use evenfall::net::{TcpListener, WriteError};
use evenfall::time::sleep;
use evenfall::{Core, Phase, spawn};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, conclude, host, pair, reset, soon, until};

promises![
    a_flush_after_the_peers_reset_is_an_error,
    a_large_write_after_the_peers_reset_is_an_error,
    a_write_that_waits_for_room_ends_when_the_peer_resets,
    a_write_that_was_queued_and_failed_says_how_much_the_kernel_took,
    a_write_after_finish_is_refused_and_no_reset_by_the_peer,
];

#[track_caller]
fn passes(case: &str) -> Report {
    let program = Program::role("hung_up", &["cores=1", &format!("case={case}")]);
    let report = program.finish().report(0);
    report.leaves_nothing();
    report
}

fn a_flush_after_the_peers_reset_is_an_error() {
    passes("flush");
}

fn a_large_write_after_the_peers_reset_is_an_error() {
    passes("write");
}

fn a_write_that_waits_for_room_ends_when_the_peer_resets() {
    passes("room");
}

/// The call that meets it is the next one, and it was told before that its
/// bytes were taken: into the queue.
fn a_write_that_was_queued_and_failed_says_how_much_the_kernel_took() {
    passes("queued");
}

fn a_write_after_finish_is_refused_and_no_reset_by_the_peer() {
    let report = passes("finish");
    assert_eq!(report.sum("connections", "peer_reset"), 0);
    assert_eq!(report.ended_by_fin(), 1);
}

pub(crate) fn hung_up(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let result = host(Setup::only(args), move |core, listener| {
        let case = case.clone();
        async move {
            match case.as_str() {
                "flush" => write_to_nobody(listener, 1).await,
                "write" => write_to_nobody(listener, 1 << 20).await,
                "room" => wait_for_room(listener).await.map(drop),
                "queued" => says_what_was_taken(listener).await,
                "finish" => finish_and_write(&core, listener).await,
                other => panic!("no case {other}"),
            }
        }
    });
    conclude(result, &json!({}))
}

/// Writes `bytes` when the reset was seen by the reader and nothing was queued.
async fn write_to_nobody(listener: TcpListener, bytes: usize) -> io::Result<()> {
    let (mut stream, peer) = pair(&listener).await?;
    reset(peer)?;
    let seen = soon("the reader", stream.recv()).await;
    let error = seen.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    let write = async {
        stream.write_all(&vec![1; bytes]).await?;
        stream.flush().await
    };
    let error = soon("a write to nobody", write).await.expect_err("no peer");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

/// No receive is armed after the peer's FIN: only the failed send tells that
/// the peer has gone.
async fn wait_for_room(listener: TcpListener) -> io::Result<(io::Error, u64)> {
    let (mut stream, peer) = pair(&listener).await?;
    peer.shutdown(std::net::Shutdown::Write)?;
    assert!(soon("the end", stream.recv()).await?.is_empty());
    let written = Rc::new(Cell::new(0));
    let counter = Rc::clone(&written);
    let writer = spawn(async move {
        loop {
            if let Err(error) = stream.write_all(&[1; 10_000]).await {
                return (error, stream.bytes_taken());
            }
            counter.set(counter.get() + 1);
        }
    });
    // Nobody reads: a count that stands still is that of a writer who waits.
    let mut before = 0;
    while before == 0 || before != written.get() {
        before = written.get();
        sleep(Duration::from_millis(50)).await;
    }
    reset(peer)?;
    let failed = soon("the writer", writer).await;
    let (error, taken) = failed.map_err(io::Error::other)?;
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
    Ok((error, taken))
}

async fn says_what_was_taken(listener: TcpListener) -> io::Result<()> {
    let (error, taken) = wait_for_room(listener).await?;
    let said = error.get_ref().and_then(|inner| inner.downcast_ref());
    let said: &WriteError = said.expect("how far the write came");
    assert_eq!(said.taken(), taken);
    assert!(taken > 10_000, "the kernel has room for more: {taken}");
    let words = error.to_string();
    assert!(words.contains(&format!("{taken} bytes")), "{words}");
    Ok(())
}

async fn finish_and_write(core: &Core, listener: TcpListener) -> io::Result<()> {
    let (mut stream, peer) = pair(&listener).await?;
    // Only what ends after the trigger is counted by its way to end.
    core.handle().shutdown();
    until("the drain", || core.handle().phase() == Phase::Draining).await;
    stream.finish().await?;
    let write = async {
        stream.write_all(b"too late").await?;
        stream.flush().await
    };
    let refused = soon("a write after the end", write).await;
    assert!(refused.is_err(), "nobody can have taken it");
    drop(stream);
    drop(peer);
    Ok(())
}
