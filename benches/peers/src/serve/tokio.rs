//! tokio: a current-thread runtime for each core, and one work-stealing runtime.
//!
//! Its stop is the one of its guide on graceful shutdown: a cancellation token that every task
//! selects on, and a tracker that waits for all of them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::serve::{
    BUFFER_BYTES, Mode, Plan, Seat, answer_questions, listeners, receipt, say_ready,
};
use crate::sys;

/// One core's share, on a runtime of its own.
pub(super) fn serve_on_one(seat: Seat) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        seat.listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(seat.listener)?;
        // A task of its own, as the accept loop of a server would be.
        accept(listener, seat.mode, seat.graceful, seat.stop).await
    })
}

/// All cores on one runtime, with one listener.
pub(super) fn serve_on_many(plan: &Plan) -> io::Result<()> {
    let cpus = plan.cpus.clone();
    let next = AtomicUsize::new(0);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cpus.len())
        .on_thread_start(move || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            sys::pin(&[cpus[index % cpus.len()]]).expect("the processor was named by hand");
        })
        .enable_all()
        .build()?;
    let (mode, graceful, alone) = (plan.mode, plan.graceful, plan.alone);
    let listener = listeners(1)?.remove(0);
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let accepting = tokio::spawn(accept(listener, mode, graceful, stop.clone()));
        if alone {
            say_ready(address)?;
            return accepting.await.map_err(io::Error::other)?;
        }
        let mut term = signal(SignalKind::terminate())?;
        answer_questions();
        say_ready(address)?;
        term.recv().await;
        stop.cancel();
        accepting.await.map_err(io::Error::other)?
    })
}

async fn accept(
    listener: TcpListener,
    mode: Mode,
    graceful: bool,
    stop: CancellationToken,
) -> io::Result<()> {
    let tracker = TaskTracker::new();
    loop {
        let stream = select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted?.0,
        };
        match mode {
            Mode::Echo if graceful => drop(tracker.spawn(echo_until(stream, stop.clone()))),
            Mode::Echo => drop(tokio::spawn(echo(stream))),
            Mode::Sink => drop(tokio::spawn(sink(stream))),
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn echo_until(mut stream: TcpStream, stop: CancellationToken) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = select! {
            () = stop.cancelled() => return stream.shutdown().await,
            count = stream.read(&mut buffer) => count?,
        };
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut taken = 0;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.write_all(&receipt(taken)).await;
        }
        taken += count as u64;
    }
}
