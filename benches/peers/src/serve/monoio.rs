//! monoio: its README's echo, and for the stop its cancellable calls, which its documentation
//! names as the way to end a read without losing what it had.

use std::io;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::io::{CancelHandle, CancelableAsyncReadRent, Canceller};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};

pub(super) fn serve(seat: Seat) -> io::Result<()> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(4096)
        .enable_timer()
        .build()?;
    runtime.block_on(accept(seat))
}

async fn accept(seat: Seat) -> io::Result<()> {
    let listener = Rc::new(TcpListener::from_std(seat.listener)?);
    let canceller = Canceller::new();
    let tracker = TaskTracker::new();
    let handle = canceller.handle();
    let (mode, graceful) = (seat.mode, seat.graceful);
    let accepting = {
        let tracker = tracker.clone();
        monoio::spawn(async move {
            while let Ok((stream, _)) = listener.cancelable_accept(handle.clone()).await {
                match mode {
                    Mode::Echo if graceful => {
                        let token = tracker.token();
                        monoio::spawn(echo_until(stream, handle.clone(), token));
                    }
                    Mode::Echo => drop(monoio::spawn(echo(stream))),
                    Mode::Sink => drop(monoio::spawn(sink(stream))),
                }
            }
        })
    };
    seat.stop.cancelled().await;
    canceller.cancel();
    accepting.await;
    tracker.close();
    tracker.wait().await;
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut outcome;
    loop {
        (outcome, buffer) = stream.read(buffer).await;
        if outcome? == 0 {
            return Ok(());
        }
        (outcome, buffer) = stream.write_all(buffer).await;
        outcome?;
        buffer.clear();
    }
}

async fn echo_until(
    mut stream: TcpStream,
    cancel: CancelHandle,
    _alive: TaskTrackerToken,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut outcome;
    loop {
        (outcome, buffer) = stream.cancelable_read(buffer, cancel.clone()).await;
        if !matches!(outcome, Ok(1..)) {
            return stream.shutdown().await;
        }
        (outcome, buffer) = stream.write_all(buffer).await;
        outcome?;
        buffer.clear();
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut taken = 0;
    loop {
        let outcome;
        (outcome, buffer) = stream.read(buffer).await;
        let count = outcome?;
        if count == 0 {
            return stream.write_all(receipt(taken).to_vec()).await.0.map(drop);
        }
        taken += count as u64;
        buffer.clear();
    }
}
