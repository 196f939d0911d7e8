//! Dropping a pending `accept` or `recv` loses nothing: what the kernel has
//! delivered belongs to the socket, not to the future.
#![forbid(unsafe_code)]

use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::time::sleep;
use evenfall::{spawn, yield_now};
use futures_util::future::{Either, select};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{Count, heavy, load, promises};
use crate::server::{Setup, answer_all, conclude, host};

promises![
    a_thousand_accepts_dropped_under_connects_lose_no_connection,
    recvs_dropped_after_one_poll_lose_no_byte,
];

fn a_thousand_accepts_dropped_under_connects_lose_no_connection() {
    let _alone = heavy();
    let mut server = Program::role("accepts_and_sleeps", &["cores=1"]);
    // As many as a busy machine can take in: where each accept finds somebody none is dropped.
    let words = "per_second=250 each=1 size=32";
    let mut load = load(&server.address(), words);
    server.line("dropped a thousand");
    load.tell("stop");
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("answered"), count.number("requests"));
    assert!(count.number("established") > 100, "connects were going on");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(0);
    report.loses_nothing();
    let accepted = report.sum("connections", "accepted_total");
    assert_eq!(accepted, count.number("established"));
    assert_eq!(ended.json("facts ")["accepted"], accepted);
}

fn recvs_dropped_after_one_poll_lose_no_byte() {
    let _alone = heavy();
    let mut server = Program::role("drops_recvs", &[]);
    let words = "connections=16 size=3000 window=4 total=20000";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 20_000);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.report(0).loses_nothing();
    let dropped = ended.json("facts ")["dropped"].as_u64();
    assert!(dropped > Some(1_000), "only {dropped:?} recvs were dropped");
}

/// Accepts beside a short sleep, until a thousand accepts were dropped while
/// pending, and then on.
pub(crate) fn accepts_and_sleeps(args: Args) -> ExitCode {
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&accepted);
    let result = host(Setup::only(args), move |_core, listener| {
        let counter = Arc::clone(&counter);
        async move { accept_and_sleep(&listener, &counter).await }
    });
    let accepted = accepted.load(Ordering::Relaxed);
    conclude(result, &json!({ "accepted": accepted }))
}

async fn accept_and_sleep(listener: &TcpListener, accepted: &AtomicU64) -> io::Result<()> {
    let mut dropped = 0;
    loop {
        let accept = pin!(listener.accept());
        let pause = pin!(sleep(Duration::from_millis(1)));
        match select(accept, pause).await {
            Either::Left((stream, _)) => match stream? {
                Some(stream) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    drop(spawn(answer_all(stream)));
                }
                None => return Ok(()),
            },
            Either::Right(_) => {
                dropped += 1;
                if dropped == 1_000 {
                    say("dropped a thousand");
                }
            }
        }
    }
}

/// An echo whose every recv is dropped again and again while it is pending.
pub(crate) fn drops_recvs(args: Args) -> ExitCode {
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&dropped);
    let result = host(Setup::only(args), move |_core, listener| {
        let counter = Arc::clone(&counter);
        async move {
            let handler = move |stream| drop_recvs(stream, Arc::clone(&counter));
            listener.serve(handler).await
        }
    });
    let dropped = dropped.load(Ordering::Relaxed);
    conclude(result, &json!({ "dropped": dropped }))
}

async fn drop_recvs(mut stream: TcpStream, dropped: Arc<AtomicU64>) -> io::Result<()> {
    loop {
        let taken = match select(pin!(stream.recv()), pin!(yield_now())).await {
            Either::Left((chunk, _)) => Some(chunk?),
            Either::Right(_) => None,
        };
        match taken {
            Some(chunk) if chunk.is_empty() => return Ok(()),
            Some(chunk) => stream.send(chunk).await?,
            None => {
                dropped.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_micros(100)).await;
            }
        }
    }
}
