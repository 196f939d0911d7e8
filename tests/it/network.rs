//! Streams: families, connecting, options, halves, limits.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenfall::net::{TcpListener, TcpStream};
use evenfall::time::sleep;
use evenfall::{Core, spawn};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::process::Program;
use crate::promise::{Count, load, promises};
use crate::server::{Setup, answer_all, conclude, host, read_request};
use crate::wire::Table;

promises![
    ipv6_connections_are_served,
    a_connect_from_inside_is_answered,
    a_refused_connect_is_an_error,
    a_connect_that_nobody_answers_times_out,
    addresses_and_options_are_those_of_the_socket,
    split_halves_read_and_write_side_by_side,
    a_limited_server_runs_no_more_handlers_than_its_limit,
];

fn ipv6_connections_are_served() {
    let mut server = Program::role("echo", &["addr=[::1]:0"]);
    let address = server.address();
    assert!(address.starts_with("[::1]:"), "{address}");
    let count = Count::of(load(&address, "connections=8 each=200 size=5000"));
    count.ended_well();
    assert_eq!(count.number("answered"), 1600);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

/// Runs one check inside a runtime of one core; its main future's result is
/// the program's.
#[track_caller]
fn passes(check: &str) {
    let program = Program::role("network", &["cores=1", &format!("check={check}")]);
    let report = program.finish().report(0);
    report.leaves_nothing();
}

fn a_connect_from_inside_is_answered() {
    passes("connect");
}

fn a_refused_connect_is_an_error() {
    passes("refused");
}

fn a_connect_that_nobody_answers_times_out() {
    passes("unanswered");
}

fn addresses_and_options_are_those_of_the_socket() {
    passes("options");
}

fn split_halves_read_and_write_side_by_side() {
    passes("halves");
}

fn a_limited_server_runs_no_more_handlers_than_its_limit() {
    let mut server = Program::role("limited", &["cores=1", "limit=3"]);
    let words = "protocol=framed connections=12 each=10 delay=1";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 120);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.report(0).loses_nothing();
    assert_eq!(ended.json("facts ")["most_at_once"], 3);
}

pub(crate) fn network(mut args: Args) -> ExitCode {
    let check: String = args.take("check").expect("check names one");
    let result = host(Setup::only(args), move |core, listener| {
        let check = check.clone();
        async move {
            match check.as_str() {
                "connect" => connect(&core, listener).await,
                "refused" => refused().await,
                "unanswered" => unanswered().await,
                "options" => options(listener).await,
                "halves" => halves(listener).await,
                other => panic!("no check {other}"),
            }
        }
    });
    conclude(result, &json!({}))
}

/// Serves `count` connections with the echo, in a task of its own.
fn serve_some(listener: TcpListener, count: usize) -> SocketAddr {
    let address = listener.local_addr();
    drop(spawn(async move {
        for _ in 0..count {
            if let Ok(Some(stream)) = listener.accept().await {
                drop(spawn(answer_all(stream)));
            }
        }
    }));
    address
}

async fn connect(_core: &Core, listener: TcpListener) -> io::Result<()> {
    let address = serve_some(listener, 2);
    for within in [None, Some(Duration::from_secs(20))] {
        let mut stream = match within {
            None => TcpStream::connect(address).await?,
            Some(within) => TcpStream::connect_timeout(address, within).await?,
        };
        stream.write_all(b"there and back").await?;
        let mut answer = [0; 14];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"there and back");
        stream.close().await?;
    }
    Ok(())
}

async fn refused() -> io::Result<()> {
    // Bound without listening: nobody else can take the port, and a connect
    // to it is refused.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket.local_addr()?.as_socket().expect("an IPv4 address");
    let error = TcpStream::connect(address).await.expect_err("refused");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    Ok(())
}

/// A listener whose backlog is full drops what else comes.
async fn unanswered() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(0)?;
    let address = socket.local_addr()?.as_socket().expect("an IPv4 address");
    let mut held = Vec::new();
    for _ in 0..16 {
        let began = Instant::now();
        match TcpStream::connect_timeout(address, Duration::from_millis(200)).await {
            Ok(stream) => held.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
                let took = began.elapsed();
                assert!(took >= Duration::from_millis(200), "{took:?}");
                assert!(took < Duration::from_secs(2), "{took:?}");
                held.into_iter().for_each(TcpStream::abort);
                return Ok(());
            }
        }
    }
    panic!("a backlog of one took {} connections", held.len());
}

async fn options(listener: TcpListener) -> io::Result<()> {
    let address = listener.local_addr();
    let accepts = spawn(async move { listener.accept().await });
    let outgoing = TcpStream::connect(address).await?;
    let accepted = accepts.await.map_err(io::Error::other)??;
    let accepted = accepted.expect("no stop is under way");
    assert_eq!(outgoing.peer_addr()?, address);
    assert_eq!(outgoing.local_addr()?, accepted.peer_addr()?);
    assert_eq!(accepted.local_addr()?, address);
    for stream in [&outgoing, &accepted] {
        stream.set_nodelay(true)?;
        stream.set_keepalive(Some(Duration::from_secs(60)))?;
        stream.set_keepalive(None)?;
    }
    Ok(())
}

/// More than all buffers on the way hold: only if both halves make progress
/// at the same time does this end.
async fn halves(listener: TcpListener) -> io::Result<()> {
    const LENGTH: usize = 32 * 1024 * 1024;
    let address = serve_some(listener, 1);
    let stream = TcpStream::connect(address).await?;
    let (mut reading, mut writing) = stream.into_split();
    let writes = spawn(async move {
        let table = Table::new();
        let mut sent = 0;
        while sent < LENGTH {
            let piece = table.piece(sent as u64, (LENGTH - sent).min(50_000));
            writing.write_all(piece).await?;
            sent += piece.len();
        }
        writing.flush().await
    });
    let table = Table::new();
    let mut seen = 0;
    let mut expected = Vec::new();
    while seen < LENGTH {
        let chunk = reading.recv().await?;
        assert!(!chunk.is_empty(), "the end after {seen} bytes");
        expected.clear();
        table.write(&mut expected, seen as u64, chunk.len());
        assert!(chunk[..] == expected[..], "wrong bytes after {seen}");
        seen += chunk.len();
    }
    writes.await.map_err(io::Error::other)?
}

/// Counts how many handlers run at the same time.
pub(crate) fn limited(mut args: Args) -> ExitCode {
    let limit = args.number("limit", 1);
    let most = Arc::new(AtomicU64::new(0));
    let of_handlers = Arc::clone(&most);
    let result = host(Setup::only(args), move |_core, listener| {
        let most = Arc::clone(&of_handlers);
        async move {
            let running = Arc::new(AtomicU64::new(0));
            let handler = move |stream| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                async move {
                    let now = running.fetch_add(1, Ordering::Relaxed) + 1;
                    most.fetch_max(now, Ordering::Relaxed);
                    let result = answer_after_a_rest(stream).await;
                    running.fetch_sub(1, Ordering::Relaxed);
                    result
                }
            };
            listener.serve_limited(limit, handler).await
        }
    });
    let most = most.load(Ordering::Relaxed);
    conclude(result, &json!({ "most_at_once": most }))
}

async fn answer_after_a_rest(mut stream: TcpStream) -> io::Result<()> {
    while stream.next_request().await? {
        let (request, body) = read_request(&mut stream).await?;
        sleep(Duration::from_millis(request.delay_ms.into())).await;
        stream.write_all(&request.answer(&body)).await?;
    }
    Ok(())
}
