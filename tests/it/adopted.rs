//! A listening socket that came from outside is served like any other, and
//! left alone as far as others hold it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener as Outside, TcpStream as Peer};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::Listener;
use evenfall::time::sleep;
use evenfall::{Cores, ErrorKind, Runtime};
use serde_json::json;
use socket2::SockRef;

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{answer_all, conclude};

promises![
    who_else_holds_an_adopted_socket_goes_on_with_it_after_the_stop,
    an_adopted_socket_that_nobody_else_holds_is_closed_by_the_stop,
    an_adopted_socket_that_does_not_block_is_served_like_any_other_and_left_so,
    a_socket_that_does_not_listen_is_not_adopted,
    a_core_that_takes_an_adopted_socket_after_its_end_is_told,
    a_core_that_takes_an_adopted_socket_when_the_others_have_drained_it_gets_nobody,
];

#[track_caller]
fn passes(case: &str) -> Report {
    let report = Program::role("adopted", &[&format!("case={case}")])
        .finish()
        .report(0);
    report.loses_nothing();
    report
}

#[track_caller]
fn had_no_gate(report: &Report) {
    let listeners = report.all("listeners");
    assert_eq!(listeners.len(), 2, "one for each core");
    for listener in listeners {
        assert_eq!(listener["gate"], "none", "{listener}");
        assert_eq!(listener["no_gate"], "shared", "{listener}");
    }
}

fn who_else_holds_an_adopted_socket_goes_on_with_it_after_the_stop() {
    had_no_gate(&passes("held"));
}

fn an_adopted_socket_that_nobody_else_holds_is_closed_by_the_stop() {
    had_no_gate(&passes("alone"));
}

fn an_adopted_socket_that_does_not_block_is_served_like_any_other_and_left_so() {
    let report = passes("non_blocking");
    // An accept that comes back with EAGAIN and is armed again would spin.
    let submitted = report.sum("ops", "submitted");
    assert!(submitted < 100, "{submitted} operations for one connection");
}

fn a_socket_that_does_not_listen_is_not_adopted() {
    passes("unfit");
}

fn a_core_that_takes_an_adopted_socket_after_its_end_is_told() {
    passes("ended");
}

fn a_core_that_takes_an_adopted_socket_when_the_others_have_drained_it_gets_nobody() {
    passes("late");
}

pub(crate) fn adopted(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    args.finish();
    let result = match case.as_str() {
        "held" => held(),
        "alone" => alone(),
        "non_blocking" => non_blocking(),
        "unfit" => unfit(),
        "ended" => ended(),
        "late" => late(),
        other => panic!("no case {other}"),
    };
    conclude(result, &json!({}))
}

fn two_cores() -> Runtime {
    let runtime = crate::process::builder().cores(Cores::Count(2)).build();
    runtime.expect("two cores")
}

fn outside() -> (Outside, SocketAddr) {
    let socket = Outside::bind("127.0.0.1:0").expect("some port is free");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

/// Serves an adopted socket until a peer has had its echo, which it asks for
/// when both cores have the socket. The listener outlives the run, as one does
/// that a user has kept.
fn echo_once(socket: Outside) -> evenfall::Result<(evenfall::Report, Listener)> {
    let mut runtime = two_cores();
    let listener = runtime.adopt(socket)?;
    let (ready, both) = std::sync::mpsc::channel();
    let handle = runtime.handle();
    let address = listener.local_addr();
    let peer = std::thread::spawn(move || {
        (0..2).for_each(|_core| both.recv().expect("both cores come up"));
        echoed(address);
        handle.shutdown();
    });
    let kept = listener.clone();
    let report = runtime.run(move |core| {
        let on_core = listener.on(&core);
        ready.send(()).expect("the peer waits");
        async move { on_core.serve(answer_all).await }
    });
    peer.join().expect("the echo is right");
    report.map(|report| (report, kept))
}

fn echoed(address: SocketAddr) {
    let mut stream = Peer::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(b"evening").expect("it reads");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"evening");
}

/// A gate that was let down would keep the client of the others out; a mode
/// that was changed would end their wait.
fn held() -> evenfall::Result<evenfall::Report> {
    let (socket, address) = outside();
    let others = socket.try_clone().expect("a further descriptor");
    let (report, _kept) = echo_once(socket)?;
    let blocks = SockRef::from(&others).nonblocking().map(|on| !on);
    assert!(blocks.expect("it is open"), "whoever accepts from it waits");
    let client = Peer::connect_timeout(&address, Duration::from_secs(5));
    let _client = client.expect("it listens still");
    others.accept().expect("a client of theirs");
    Ok(report)
}

fn alone() -> evenfall::Result<evenfall::Report> {
    let (socket, address) = outside();
    let (report, _kept) = echo_once(socket)?;
    let refused = Peer::connect(address).expect_err("nobody listens any more");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    Ok(report)
}

fn non_blocking() -> evenfall::Result<evenfall::Report> {
    let (socket, _) = outside();
    socket.set_nonblocking(true).expect("it is open");
    let others = socket.try_clone().expect("a further descriptor");
    let (report, _kept) = echo_once(socket)?;
    let stays = SockRef::from(&others).nonblocking();
    assert!(
        stays.expect("it is open"),
        "whoever polls it counts on that"
    );
    Ok(report)
}

fn unfit() -> evenfall::Result<evenfall::Report> {
    let mut runtime = two_cores();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("some port is free");
    let mistaken = Outside::from(OwnedFd::from(datagrams));
    let error = runtime.adopt(mistaken).expect_err("it never listens");
    assert_eq!(error.kind(), ErrorKind::Bind);
    assert!(error.to_string().contains("listen"), "{error}");
    runtime.run(|_core| async { Ok(()) })
}

fn ended() -> evenfall::Result<evenfall::Report> {
    let (socket, address) = outside();
    let mut runtime = two_cores();
    let listener = runtime.adopt(socket)?;
    runtime.run(move |core| {
        let listener = listener.clone();
        async move {
            if core.index() == 1 {
                return Ok(());
            }
            drop(listener.on(&core));
            while Peer::connect(address).is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
            let error = listener.on(&core).accept().await.expect_err("it is closed");
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
            let words = error.to_string();
            let cause = format!("listener at {address} is closed: every core");
            assert!(words.contains(&cause), "the cause: {words}");
            assert!(words.contains("adopt the socket anew"), "a way: {words}");
            Ok(())
        }
    })
}

/// The second core is not up before the first has served and closed.
fn late() -> evenfall::Result<evenfall::Report> {
    let (socket, address) = outside();
    let mut runtime = two_cores();
    let listener = runtime.adopt(socket)?;
    runtime.run(move |core| {
        let listener = listener.clone();
        async move {
            if core.index() == 0 {
                return listener.on(&core).serve(answer_all).await;
            }
            core.handle().shutdown();
            while Peer::connect(address).is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(listener.on(&core).accept().await?.is_none());
            Ok(())
        }
    })
}
