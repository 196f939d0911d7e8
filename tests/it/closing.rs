//! Closing a connection costs its peer no byte of the reply, whatever the
//! peer does meanwhile, and lingering is not quiet.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::TcpStream as Peer;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use evenfall::Core;
use evenfall::net::TcpListener;
use evenfall::time::sleep;
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{heavy, promises};
use crate::report::Report;
use crate::server::{Setup, conclude, host, joined, pair, soon, until};
use crate::sys;

promises![
    a_steady_reader_that_takes_longer_than_linger_gets_the_whole_reply,
    a_peer_that_writes_all_before_it_reads_gets_the_whole_reply,
    a_peer_cut_short_in_its_upload_reads_the_reply_and_is_not_reset,
    the_time_a_slow_reader_takes_is_no_quiet,
];

#[track_caller]
fn passes(words: &[&str]) -> Report {
    let _alone = heavy();
    let words: Vec<&str> = ["cores=1"].iter().chain(words).copied().collect();
    let report = Program::role("closing", &words).finish().report(0);
    report.loses_nothing();
    report
}

fn a_steady_reader_that_takes_longer_than_linger_gets_the_whole_reply() {
    passes(&["case=steady", "linger=800"]);
}

fn a_peer_that_writes_all_before_it_reads_gets_the_whole_reply() {
    passes(&["case=writes_first", "linger=1000"]);
}

fn a_peer_cut_short_in_its_upload_reads_the_reply_and_is_not_reset() {
    passes(&["case=cut_short"]);
}

fn the_time_a_slow_reader_takes_is_no_quiet() {
    let report = passes(&["case=quiet", "quiet=600"]);
    // The reader has slept for 900 ms, and then the quiet of 600 ms began.
    assert!(report.elapsed_ms() >= 1_500.0, "{}", report.elapsed_ms());
}

pub(crate) fn closing(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let result = host(Setup::only(args), move |core, listener| {
        let case = case.clone();
        async move {
            match case.as_str() {
                "steady" => steady(listener).await,
                "writes_first" => writes_first(listener).await,
                "cut_short" => cut_short(listener).await,
                "quiet" => quiet(&core, listener).await,
                other => panic!("no case {other}"),
            }
        }
    });
    conclude(result, &json!({}))
}

/// Larger than all that the kernels hold between two ends.
const REPLY_BYTES: usize = 12 << 20;

/// Reads to the end of stream and counts.
fn read_all(mut peer: Peer, pause: Duration) -> JoinHandle<io::Result<usize>> {
    std::thread::spawn(move || {
        let mut block = vec![0; 64 * 1024];
        let mut bytes = 0;
        loop {
            match peer.read(&mut block)? {
                0 => return Ok(bytes),
                read => bytes += read,
            }
            // A slow reader is one that lets time go by.
            std::thread::sleep(pause);
        }
    })
}

async fn steady(listener: TcpListener) -> io::Result<()> {
    let (mut stream, peer) = pair(&listener).await?;
    stream.send(vec![1; REPLY_BYTES]).await?;
    drop(stream);
    // Some 6 MB a second: two seconds, more than twice what lingers.
    let read = joined(read_all(peer, Duration::from_millis(10))).await?;
    assert_eq!(read, REPLY_BYTES);
    Ok(())
}

async fn writes_first(listener: TcpListener) -> io::Result<()> {
    /// More than fits into the kernels and the stream's own queue.
    const UPLOAD_BYTES: usize = 48 << 20;
    let (mut stream, mut peer) = pair(&listener).await?;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let upload = std::thread::spawn(move || {
        let block = vec![7; 64 * 1024];
        while counter.load(Ordering::Relaxed) < UPLOAD_BYTES {
            peer.write_all(&block)?;
            counter.fetch_add(block.len(), Ordering::Relaxed);
        }
        Ok::<Peer, io::Error>(peer)
    });
    assert!(stream.next_request().await?);
    until_it_stands_still(&written).await;
    stream.send(vec![1; REPLY_BYTES]).await?;
    drop(stream);
    let peer = joined(upload).await?;
    assert_eq!(joined(read_all(peer, Duration::ZERO)).await?, REPLY_BYTES);
    Ok(())
}

/// Waits until the peer is stopped by flow control: what it has written is
/// more than nothing and has been the same for a while.
async fn until_it_stands_still(written: &AtomicUsize) {
    let mut before = 0;
    loop {
        sleep(Duration::from_millis(50)).await;
        let now = written.load(Ordering::Relaxed);
        if now > 0 && now == before {
            return;
        }
        before = now;
    }
}

/// The handler keeps its core for so long that the limit on what waits for it
/// is met in the turn in which it answers and ends.
async fn cut_short(listener: TcpListener) -> io::Result<()> {
    let open_before = sys::open_fds();
    let (mut stream, mut peer) = pair(&listener).await?;
    assert!(soon_uploads(&mut peer)? > 0);
    assert!(soon("a request", stream.next_request()).await?);
    let first = soon("its bytes", stream.recv()).await?;
    assert!(!first.is_empty());
    drop(first);
    assert!(soon_uploads(&mut peer)? > 0);
    assert!(soon("the rest", stream.next_request()).await?);
    stream.write_all(b"too large").await?;
    drop(stream);
    // Closed on this side, so that a reset would be on its way or there.
    until("the close", || sys::open_fds() == open_before + 1).await;
    let mut reply = Vec::new();
    peer.set_nonblocking(false)?;
    peer.read_to_end(&mut reply)?;
    assert_eq!(reply, b"too large");
    let error = peer.take_error()?;
    assert!(error.is_none(), "the peer was reset: {error:?}");
    Ok(())
}

/// Writes, without waiting, all that the kernels take.
fn soon_uploads(peer: &mut Peer) -> io::Result<usize> {
    let block = vec![7; 64 * 1024];
    let mut bytes = 0;
    peer.set_nonblocking(true)?;
    loop {
        match peer.write(&block) {
            Ok(written) => bytes += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(bytes),
            Err(error) => return Err(error),
        }
    }
}

async fn quiet(core: &Core, listener: TcpListener) -> io::Result<()> {
    let (mut stream, peer) = pair(&listener).await?;
    stream.send(vec![1; REPLY_BYTES]).await?;
    drop(stream);
    core.handle().shutdown();
    // Nobody waits for this thread: a task that did would be something to
    // wait for, and what is looked at here is the lingering alone.
    let _reader = std::thread::spawn(move || {
        // Longer than the quiet period, which must not begin meanwhile: the time is the point.
        std::thread::sleep(Duration::from_millis(900));
        read_all(peer, Duration::ZERO).join()
    });
    Ok(())
}
