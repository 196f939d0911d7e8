//! Peers that send nonsense, trickle, or reset the connection at the worst
//! moment: each harms itself alone.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::TcpStream as Peer;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::time::timeout;
use evenfall::{Core, Phase};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, conclude, connect, host, pair, reset, soon, until};
use crate::wire::Table;

promises![
    garbage_comes_back_from_the_echo_example_byte_for_byte,
    a_peer_that_resets_before_it_is_accepted_is_accepted_and_its_error_told,
    a_peer_that_resets_after_it_is_accepted_is_an_error_of_the_next_call,
    a_peer_that_resets_in_the_midst_of_a_request_is_told_to_the_reader,
    a_peer_that_resets_in_the_midst_of_an_answer_is_told_to_the_writer,
    a_peer_that_resets_while_its_connection_lingers_ends_the_close_with_an_error,
    a_peer_that_is_gone_when_its_answer_comes_is_not_lingered_for,
    a_peer_that_resets_while_the_core_drains_holds_nothing_up,
    a_client_that_drips_is_let_go_by_a_timeout_round_recv_and_no_byte_is_lost,
];

/// Garbage, and more of it than a receive buffer holds.
const GARBAGE: usize = 64 * 1024;

fn garbage_comes_back_from_the_echo_example_byte_for_byte() {
    let words = ["--addr", "127.0.0.1:0", "--report", "json"];
    let mut server = Program::example("echo", &words);
    let address = server.address();
    let mut sent = Vec::new();
    Table::new().write(&mut sent, 4_321, GARBAGE);
    let mut peer = Peer::connect(address).expect("it listens");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    peer.write_all(&sent).expect("it is read");
    let mut came = vec![0; GARBAGE];
    peer.read_exact(&mut came).expect("all of it comes back");
    assert!(came == sent, "the same bytes");
    server.signal(libc::SIGTERM);
    assert_eq!(peer.read(&mut [0]).expect("an end by FIN"), 0);
    server.finish().exited(0);
}

#[track_caller]
fn passes(step: &str) -> Report {
    let words = ["cores=1", &format!("step={step}")];
    let report = Program::role("resets", &words).finish().report(0);
    report.leaves_nothing();
    report
}

fn a_peer_that_resets_before_it_is_accepted_is_accepted_and_its_error_told() {
    passes("before");
}

fn a_peer_that_resets_after_it_is_accepted_is_an_error_of_the_next_call() {
    passes("after");
}

fn a_peer_that_resets_in_the_midst_of_a_request_is_told_to_the_reader() {
    passes("request");
}

fn a_peer_that_resets_in_the_midst_of_an_answer_is_told_to_the_writer() {
    passes("answer");
}

fn a_peer_that_resets_while_its_connection_lingers_ends_the_close_with_an_error() {
    passes("linger");
}

/// It says so by a reset, which no receive meets any more.
fn a_peer_that_is_gone_when_its_answer_comes_is_not_lingered_for() {
    let report = Program::role("resets", &["cores=1", "step=gone"]).finish();
    // What it did not take is lost, and the report says so.
    let report = report.report(80);
    report.leaves_nothing();
    assert_eq!(report.sum("connections", "peer_reset"), 1);
    // Far less than the time of `linger`, two seconds.
    assert!(report.elapsed_ms() < 1_500.0, "{}", report.elapsed_ms());
}

/// It does not wait for a connection that is no more.
fn a_peer_that_resets_while_the_core_drains_holds_nothing_up() {
    let report = passes("drain");
    assert_eq!(report.sum("connections", "peer_reset"), 1);
    assert!(report.elapsed_ms() < 4_000.0, "{}", report.elapsed_ms());
}

pub(crate) fn resets(mut args: Args) -> ExitCode {
    let step: String = args.take("step").expect("step names one");
    let result = host(Setup::only(args), move |core, listener| {
        let step = step.clone();
        async move {
            match step.as_str() {
                "before" => before(&listener).await?,
                "after" => after(&listener).await?,
                "request" => request(&listener).await?,
                "answer" => answer(&listener).await?,
                "linger" => linger(&listener).await?,
                "gone" => return gone(&core, &listener).await,
                // The stop ends this one.
                "drain" => return drain(&core, &listener).await,
                other => panic!("no step {other}"),
            }
            // Whoever comes next is served as if nothing had been.
            let (mut stream, mut peer) = pair(&listener).await?;
            peer.write_all(b"next")?;
            assert_eq!(soon("the next one", stream.recv()).await?.as_ref(), b"next");
            Ok(())
        }
    });
    conclude(result, &json!({}))
}

/// What a call says on a connection that was reset.
#[track_caller]
fn was_reset<T: std::fmt::Debug>(said: io::Result<T>) {
    let kind = said.expect_err("the peer has reset it").kind();
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&kind), "{kind:?}");
}

async fn before(listener: &TcpListener) -> io::Result<()> {
    let mut peer = connect(listener.local_addr())?;
    peer.write_all(b"gone before you look")?;
    reset(peer)?;
    let stream = soon("an accept", listener.accept()).await?;
    let mut stream = stream.expect("nobody stops the runtime");
    // What it sent is gone with it, or comes first.
    loop {
        match soon("the reset", stream.recv()).await {
            Ok(chunk) => assert!(!chunk.is_empty(), "a reset is no end of stream"),
            error => break was_reset(error),
        }
    }
    Ok(())
}

async fn after(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, peer) = pair(listener).await?;
    reset(peer)?;
    was_reset(soon("the reset", stream.next_request()).await);
    // It is told again, and not taken for an end of stream.
    was_reset(soon("the reset", stream.recv()).await);
    was_reset(
        stream
            .write_all(b"to nobody")
            .await
            .and(stream.flush().await),
    );
    Ok(())
}

async fn request(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, mut peer) = pair(listener).await?;
    peer.write_all(b"half")?;
    let mut whole = [0; 8];
    assert!(soon("a request", stream.next_request()).await?);
    let mut reading = Box::pin(stream.read_exact(&mut whole));
    assert!(
        timeout(Duration::from_millis(20), &mut reading)
            .await
            .is_err()
    );
    reset(peer)?;
    was_reset(soon("the reset", reading).await);
    Ok(())
}

/// More than both kernels hold of an answer.
const LARGE: usize = 64 << 20;

async fn answer(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, mut peer) = pair(listener).await?;
    let writing = evenfall::spawn(async move {
        let large = vec![7; LARGE];
        stream.write_all(&large).await?;
        stream.flush().await
    });
    let mut first = [0; 1000];
    let resetting = std::thread::spawn(move || {
        peer.read_exact(&mut first)?;
        reset(peer)
    });
    crate::server::joined(resetting).await?;
    let written = soon("the reset", writing).await.map_err(io::Error::other)?;
    was_reset(written);
    Ok(())
}

async fn linger(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, peer) = pair(listener).await?;
    // As much as both kernels take, and as waits to be sent.
    let bytes = vec![7; 16 << 20];
    let all = stream.write_all(&bytes);
    assert!(timeout(Duration::from_millis(100), all).await.is_err());
    let mut closing = Box::pin(stream.close());
    // The peer takes nothing, so the close waits for it.
    assert!(
        timeout(Duration::from_millis(20), &mut closing)
            .await
            .is_err()
    );
    reset(peer)?;
    let closed = soon("the reset", closing).await;
    closed.expect_err("bytes were never acknowledged");
    Ok(())
}

async fn gone(core: &Core, listener: &TcpListener) -> io::Result<()> {
    let (mut stream, mut peer) = pair(listener).await?;
    peer.write_all(b"what is it")?;
    drop(peer);
    assert_eq!(soon("a question", stream.recv()).await?.len(), 10);
    assert!(soon("its end", stream.recv()).await?.is_empty());
    let handle = core.handle();
    handle.shutdown();
    until("the drain", || handle.phase() == Phase::Draining).await;
    stream.write_all(&[7; 200_000]).await
}

async fn drain(core: &Core, listener: &TcpListener) -> io::Result<()> {
    let (mut stream, mut peer) = pair(listener).await?;
    peer.write_all(b"half")?;
    assert!(soon("a request", stream.next_request()).await?);
    let handle = core.handle();
    handle.shutdown();
    until("the drain", || handle.phase() == Phase::Draining).await;
    reset(peer)?;
    let mut whole = [0; 8];
    was_reset(soon("the reset", stream.read_exact(&mut whole)).await);
    Ok(())
}

/// Bytes of a client that drips, and the pause behind each.
const DRIPS: &[u8] = b"slow but sure";

fn a_client_that_drips_is_let_go_by_a_timeout_round_recv_and_no_byte_is_lost() {
    let mut server = Program::role("drips", &["cores=1"]);
    let address = server.address();
    let mut slow = Peer::connect(&address).expect("it listens");
    let mut silent = Peer::connect(&address).expect("it listens");
    for peer in [&mut slow, &mut silent] {
        peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    }
    for drip in DRIPS {
        slow.write_all(&[*drip]).expect("it is connected");
        // Time is the subject: several of the server's short timeouts go by between two bytes.
        std::thread::sleep(Duration::from_millis(12));
    }
    let mut came = vec![0; DRIPS.len()];
    slow.read_exact(&mut came).expect("all comes back");
    assert_eq!(came, DRIPS);
    // Who says nothing at all is let go, in order.
    assert_eq!(silent.read(&mut [0]).expect("an end by FIN"), 0);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.report(0).loses_nothing();
}

/// An echo that looks for bytes in short turns, and gives up whoever is silent
/// for many of them.
pub(crate) fn drips(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener.serve(echo_with_patience).await
    });
    conclude(result, &json!({}))
}

async fn echo_with_patience(mut stream: TcpStream) -> io::Result<()> {
    const TURN: Duration = Duration::from_millis(3);
    const TURNS: u32 = 300;
    let mut in_vain = 0;
    while in_vain < TURNS {
        match timeout(TURN, stream.recv()).await {
            Err(_) => in_vain += 1,
            Ok(chunk) => {
                let chunk = chunk?;
                if chunk.is_empty() {
                    break;
                }
                in_vain = 0;
                stream.send(chunk).await?;
            }
        }
    }
    Ok(())
}
