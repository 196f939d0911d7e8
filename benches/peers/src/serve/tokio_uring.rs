//! tokio-uring: its documentation's echo. It has no stop of its own, so this is tokio's, with a
//! token that every task selects on; a read that is dropped is left to the ring.

use std::io;
use std::net::Shutdown;

use tokio::select;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};

pub(super) fn serve(seat: Seat) -> io::Result<()> {
    tokio_uring::builder().entries(4096).start(accept(seat))
}

async fn accept(seat: Seat) -> io::Result<()> {
    let listener = TcpListener::from_std(seat.listener);
    let tracker = TaskTracker::new();
    loop {
        let stream = select! {
            () = seat.stop.cancelled() => break,
            accepted = listener.accept() => accepted?.0,
        };
        match seat.mode {
            Mode::Echo if seat.graceful => {
                let echo = echo_until(stream, seat.stop.clone(), tracker.token());
                drop(tokio_uring::spawn(echo));
            }
            Mode::Echo => drop(tokio_uring::spawn(echo(stream))),
            Mode::Sink => drop(tokio_uring::spawn(sink(stream))),
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
    Ok(())
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (count, filled) = stream.read(buffer).await;
        let count = count?;
        if count == 0 {
            return Ok(());
        }
        let (wrote, written) = stream.write_all(filled.slice(..count)).await;
        wrote?;
        buffer = written.into_inner();
    }
}

async fn echo_until(
    stream: TcpStream,
    stop: CancellationToken,
    _alive: TaskTrackerToken,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (count, filled) = select! {
            () = stop.cancelled() => return stream.shutdown(Shutdown::Write),
            read = stream.read(buffer) => read,
        };
        let count = count?;
        if count == 0 {
            return Ok(());
        }
        let (wrote, written) = stream.write_all(filled.slice(..count)).await;
        wrote?;
        buffer = written.into_inner();
    }
}

async fn sink(stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut taken = 0;
    loop {
        let (count, filled) = stream.read(buffer).await;
        buffer = filled;
        let count = count?;
        if count == 0 {
            return stream.write_all(receipt(taken).to_vec()).await.0;
        }
        taken += count as u64;
    }
}
