//! glommio: a local executor pinned by its builder. It recommends no stop; as its reads are polls,
//! a select on a token is safe, and is what its users do.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use futures_lite::future::or;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::serve::{BUFFER_BYTES, Mode, Seat, receipt};

pub(super) fn serve(seat: Seat) -> io::Result<()> {
    // The thread is pinned already, and may use no other processor.
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make()?;
    executor.run(accept(seat))
}

async fn accept(seat: Seat) -> io::Result<()> {
    // SAFETY: the descriptor is a listening socket, and is given away here.
    let listener = unsafe { TcpListener::from_raw_fd(seat.listener.into_raw_fd()) };
    let tracker = TaskTracker::new();
    loop {
        let next = async { Some(listener.accept().await) };
        let stopped = async {
            seat.stop.cancelled().await;
            None
        };
        let Some(stream) = or(stopped, next).await else {
            break;
        };
        let stream = stream?;
        match seat.mode {
            Mode::Echo if seat.graceful => {
                let echo = echo_until(stream, seat.stop.clone(), tracker.token());
                glommio::spawn_local(echo).detach();
            }
            Mode::Echo => {
                glommio::spawn_local(echo(stream)).detach();
            }
            Mode::Sink => {
                glommio::spawn_local(sink(stream)).detach();
            }
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

async fn echo_until(
    mut stream: TcpStream,
    stop: CancellationToken,
    _alive: TaskTrackerToken,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let stopped = async {
            stop.cancelled().await;
            Ok(0)
        };
        let count = or(stopped, stream.read(&mut buffer)).await?;
        if count == 0 {
            return stream.close().await;
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
