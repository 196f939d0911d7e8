//! compio: one runtime a core, its documentation's echo. A future that is dropped cancels its
//! operation there, so the stop is a select on a token.

use std::io;

use compio::BufResult;
use compio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::Runtime;
use futures_lite::future::or;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};

pub(super) fn serve(seat: Seat) -> io::Result<()> {
    Runtime::new()?.block_on(accept(seat))
}

async fn accept(seat: Seat) -> io::Result<()> {
    let listener = TcpListener::from_std(seat.listener)?;
    let tracker = TaskTracker::new();
    // The future is kept over the loop: one that is dropped loses the connection it was about to
    // give.
    loop {
        let next = async { Some(listener.accept().await) };
        let stopped = async {
            seat.stop.cancelled().await;
            None
        };
        let Some(accepted) = or(stopped, next).await else {
            break;
        };
        let stream = accepted?.0;
        match seat.mode {
            Mode::Echo if seat.graceful => {
                let echo = echo_until(stream, seat.stop.clone(), tracker.token());
                compio::runtime::spawn(echo).detach();
            }
            Mode::Echo => compio::runtime::spawn(echo(stream)).detach(),
            Mode::Sink => compio::runtime::spawn(sink(stream)).detach(),
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let BufResult(count, filled) = stream.read(buffer).await;
        if count? == 0 {
            return Ok(());
        }
        let BufResult(wrote, written) = stream.write_all(filled).await;
        wrote?;
        buffer = written;
        buffer.clear();
    }
}

async fn echo_until(
    mut stream: TcpStream,
    stop: CancellationToken,
    _alive: TaskTrackerToken,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let stopped = async {
            stop.cancelled().await;
            None
        };
        let next = async { Some(stream.read(buffer).await) };
        let Some(BufResult(count, filled)) = or(stopped, next).await else {
            return stream.shutdown().await;
        };
        if count? == 0 {
            return Ok(());
        }
        let BufResult(wrote, written) = stream.write_all(filled).await;
        wrote?;
        buffer = written;
        buffer.clear();
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut taken = 0;
    loop {
        let BufResult(count, filled) = stream.read(buffer).await;
        let count = count?;
        if count == 0 {
            return stream.write_all(receipt(taken).to_vec()).await.0;
        }
        taken += count as u64;
        buffer = filled;
        buffer.clear();
    }
}
