//! The listening sockets of one core, where the coordinator can reach them when the core cannot.
//!
//! ```text
//!  Listener::fd ──▶ Open ──▶ Socket ◀── Listening ◀── coordinator: turn_away
//!                    └─ drop: out of the list, under its lock, and closed
//! ```
//! A core that is stuck accepts nobody, and yet its kernel goes on shaking hands: clients connect
//! into a backlog that nobody will empty. So the coordinator ends the listening in its place. It
//! never closes a descriptor of the core's: it holds the lock that the core takes before it does, so
//! that no number it uses can have become another file's.

#![forbid(unsafe_code)]

use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::SockRef;

use crate::config::SWEEP_MOST;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// Every socket the core listens with. The core and this list own each together, and the list
    /// lets go of it first, under this lock. Not taken but at the begin and the end of listening.
    open: Mutex<Vec<Arc<Socket>>>,
}

/// One listening socket.
#[derive(Debug)]
struct Socket {
    /// It.
    fd: OwnedFd,
    /// Where it listens.
    address: SocketAddr,
    /// Set when the coordinator has ended its listening; never taken back.
    shut: AtomicBool,
}

/// The core's hold on one of its listening sockets. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Open {
    /// The list the socket stands in.
    list: Arc<Listening>,
    /// In the list as long as this lives.
    socket: Arc<Socket>,
}

/// What was found in the backlog of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    /// Where it listened.
    pub(crate) address: SocketAddr,
    /// Connections that were accepted and closed.
    pub(crate) connections: u64,
}

impl Listening {
    /// Puts a socket into the list.
    pub(super) fn open(self: &Arc<Listening>, fd: OwnedFd, address: SocketAddr) -> Open {
        let socket = Arc::new(Socket {
            fd,
            address,
            shut: AtomicBool::new(false),
        });
        lock(&self.open).push(socket.clone());
        Open {
            list: self.clone(),
            socket,
        }
    }

    /// Ends the listening of a core that is stuck: who waits in a backlog is accepted and closed,
    /// who comes is refused. Sockets that were dealt with before are passed over.
    pub(crate) fn turn_away(&self) -> Vec<TurnedAway> {
        let open = lock(&self.open);
        let listens = open
            .iter()
            .filter(|socket| !socket.shut.swap(true, Ordering::Relaxed));
        listens
            .map(|socket| TurnedAway {
                address: socket.address,
                connections: socket.turn_away(),
            })
            .collect()
    }
}

impl Socket {
    /// Accepts and closes what is in the backlog, then lets nobody in any more. How many it were.
    fn turn_away(&self) -> u64 {
        let socket = SockRef::from(&self.fd);
        let mut closed = 0;
        // An accept that waits for a client would wait for ever.
        if socket.set_nonblocking(true).is_ok() {
            // Bounded, lest a flood of connects hold the coordinator; the rest is reset.
            for _ in 0..SWEEP_MOST {
                match socket.accept() {
                    Ok(_closed_at_once) => closed += 1,
                    Err(error) => match error.raw_os_error() {
                        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
                        _ => break,
                    },
                }
            }
        }
        // It fails only on a socket that does not listen.
        let _refuses = socket.shutdown(Shutdown::Read);
        closed
    }
}

impl Open {
    /// Whether the coordinator has ended the listening.
    pub(super) fn was_shut(&self) -> bool {
        self.socket.shut.load(Ordering::Relaxed)
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}

impl Drop for Open {
    /// Out of the list first, under the lock: the coordinator is done with the socket, or will not
    /// find it any more. The share that is left is the last one, and goes right after this.
    fn drop(&mut self) {
        lock(&self.list.open).retain(|other| !Arc::ptr_eq(other, &self.socket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn listening() -> (Arc<Listening>, Open, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let list = Arc::new(Listening::default());
        let open = list.open(socket.into(), address);
        (list, open, address)
    }

    #[test]
    fn who_waits_is_closed_in_order_and_who_comes_is_refused() {
        let (list, open, address) = listening();
        let mut waiting = TcpStream::connect(address).expect("it listens");
        let away = TurnedAway {
            address,
            connections: 1,
        };
        assert_eq!(list.turn_away(), [away]);
        assert!(open.was_shut());
        assert_eq!(waiting.read(&mut [0]).expect("an end by FIN"), 0);
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
        assert_eq!(list.turn_away(), [], "once is enough");
    }

    #[test]
    fn a_socket_that_was_closed_is_out_of_reach() {
        let (list, open, address) = listening();
        drop(open);
        assert_eq!(list.turn_away(), []);
        // The address is free, so the socket is closed.
        TcpListener::bind(address).expect("nobody has it");
    }
}
