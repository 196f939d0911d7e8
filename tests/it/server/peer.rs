//! A peer without a runtime, in the server's own process: what it does and
//! when is then one line of the check that needs it.
#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpStream as Peer};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evenfall::net::{TcpListener, TcpStream};
use evenfall::time::{sleep, timeout};
use socket2::{Domain, SockRef, Socket, Type};

/// The bound on what must come at once: whoever waits that long, waits for
/// ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// A small receive buffer, so that a reply is soon larger than what the two
/// kernels hold of it. Of some segments, though, which are 64 KiB here: in a
/// smaller one the window opens late, by the sender's probes.
const SMALL_BYTES: usize = 256 * 1024;

/// Connects a peer to `listener`; both ends of the connection.
pub(crate) async fn pair(listener: &TcpListener) -> io::Result<(TcpStream, Peer)> {
    let peer = connect(listener.local_addr())?;
    let accepted = soon("an accept", listener.accept()).await?;
    let stream = accepted.expect("nobody has stopped the runtime");
    Ok((stream, peer))
}

/// A peer at `address`, with a small receive buffer.
pub(crate) fn connect(address: SocketAddr) -> io::Result<Peer> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_recv_buffer_size(SMALL_BYTES)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Closes the peer's end by a reset.
pub(crate) fn reset(peer: Peer) -> io::Result<()> {
    SockRef::from(&peer).set_linger(Some(Duration::ZERO))
}

/// What `future` gives, which must not wait for ever.
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let result = timeout(PATIENCE, future);
    async move {
        match result.await {
            Ok(output) => output,
            Err(_) => panic!("{what} waits for ever"),
        }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "{what} does not come");
        sleep(Duration::from_millis(1)).await;
    }
}

/// The result of a thread, without blocking the core.
pub(crate) async fn joined<T>(thread: JoinHandle<T>) -> T {
    while !thread.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
