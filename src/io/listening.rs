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
//!
//! What listens since its bind and no core has taken yet stands in a list of the runtime's, from
//! which the first core to come takes it. If none does, Closing ends its listening too.
//!
//! A socket that was adopted is one for all cores, and may be another process's too. It is passed
//! over: whoever else holds it goes on accepting from the same backlog.

#![forbid(unsafe_code)]

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::SockRef;

use super::errors::Refusal;
use crate::config::{ACCEPT_FAILURES_MOST, SWEEP_MOST};
use crate::ring::sys::socket;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// A socket that listens, and whose it is.
#[derive(Debug)]
pub(crate) enum Source {
    /// Made here, for one core: nobody else has it.
    Own(OwnedFd),
    /// Adopted: one for all cores, and others may have it too.
    Shared(Arc<Adopted>),
}

/// A listening socket that came from outside. It is closed by the last core that lets go of it.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// It.
    fd: OwnedFd,
    /// Held by the core that empties the backlog: it changes how the socket is accepted from, and
    /// back again, and another core must not do so in between.
    sweep: Mutex<()>,
}

impl Adopted {
    /// Takes the socket in.
    pub(crate) fn new(fd: OwnedFd) -> Adopted {
        Adopted {
            fd,
            sweep: Mutex::new(()),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Own(fd) => fd.as_fd(),
            Source::Shared(adopted) => adopted.fd.as_fd(),
        }
    }
}

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
    source: Source,
    /// Where it listens.
    address: SocketAddr,
    /// Set when the coordinator has ended its listening; never taken back.
    shut: AtomicBool,
}

/// The core's hold on one of its listening sockets. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Open {
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
    pub(crate) fn open(self: &Arc<Listening>, source: Source, address: SocketAddr) -> Open {
        let socket = Arc::new(Socket {
            source,
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
    /// who comes is refused. Sockets that were dealt with before are passed over, and those that
    /// others hold.
    pub(crate) fn turn_away(&self) -> Vec<TurnedAway> {
        let open = lock(&self.open);
        let listens = open
            .iter()
            .filter(|socket| matches!(socket.source, Source::Own(_)))
            .filter(|socket| !socket.shut.swap(true, Ordering::Relaxed));
        listens
            .map(|socket| TurnedAway {
                address: socket.address,
                connections: socket.turn_away(),
            })
            .collect()
    }

    /// Where the core listens with sockets that others may hold too, and that are therefore never
    /// ended in its place.
    pub(crate) fn shared(&self) -> Vec<SocketAddr> {
        let open = lock(&self.open);
        let shared = open
            .iter()
            .filter(|socket| matches!(socket.source, Source::Shared(_)));
        shared.map(|socket| socket.address).collect()
    }
}

impl Socket {
    /// Accepts and closes what is in the backlog, then lets nobody in any more. How many it were.
    fn turn_away(&self) -> u64 {
        let socket = SockRef::from(&self.source);
        let mut closed = 0;
        // An accept that waits for a client would wait for ever.
        if socket.set_nonblocking(true).is_ok() {
            // Bounded, lest a flood of connects hold the coordinator; the rest is reset.
            for _ in 0..SWEEP_MOST {
                match socket.accept() {
                    Ok(_closed_at_once) => closed += 1,
                    Err(error) if refusal(&error) == Refusal::Connection => {}
                    Err(_) => break,
                }
            }
        }
        // It fails only on a socket that does not listen.
        let _refuses = socket.shutdown(Shutdown::Read);
        closed
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// What was in the backlog.
    pub(super) taken: Vec<OwnedFd>,
    /// The errno that left more in it: no descriptor or no memory, or a policy that refuses all.
    pub(super) left_by: Option<i32>,
}

impl Open {
    /// Takes the socket out of the list, for another one; none if its listening was ended.
    pub(crate) fn into_source(self) -> Option<Source> {
        let socket = self.socket.clone();
        drop(self);
        // Only the list and its holder ever share one, and neither is there any more.
        let socket = Arc::try_unwrap(socket).ok()?;
        let listens = !socket.shut.load(Ordering::Relaxed);
        listens.then_some(socket.source)
    }

    /// Takes all that is in the backlog, without a wait.
    pub(super) fn sweep(&self) -> Swept {
        let socket = SockRef::from(&self.socket.source);
        let alone = match &self.socket.source {
            Source::Own(_) => None,
            Source::Shared(adopted) => Some(lock(&adopted.sweep)),
        };
        let waits = socket.nonblocking().is_ok_and(|on| !on);
        let mut swept = Swept::default();
        // An accept that waits for a client would wait for ever.
        if socket.set_nonblocking(true).is_ok() {
            swept = accept_all(self.as_fd());
        }
        if alone.is_some() && waits {
            // As it was: whoever else holds it may count on that. It fails only where the first
            // call did.
            let _as_before = socket.set_nonblocking(false);
        }
        swept
    }

    /// Whether others may hold the socket too.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.socket.source, Source::Shared(_))
    }

    /// Whether the coordinator has ended the listening.
    pub(super) fn was_shut(&self) -> bool {
        self.socket.shut.load(Ordering::Relaxed)
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.source.as_fd()
    }
}

/// Accepts until nothing is left, or nothing to accept it with.
fn accept_all(listening: BorrowedFd<'_>) -> Swept {
    let mut swept = Swept::default();
    let mut failures = 0;
    // Bounded, lest a flood of connects behind no gate hold the core.
    for _ in 0..SWEEP_MOST {
        match socket::accept(listening) {
            Ok(fd) => {
                failures = 0;
                swept.taken.push(fd);
            }
            Err(error) => {
                failures += 1;
                match refusal(&error) {
                    Refusal::Connection if failures < ACCEPT_FAILURES_MOST => {}
                    Refusal::Connection | Refusal::OutOf => {
                        swept.left_by = error.raw_os_error();
                        break;
                    }
                    Refusal::Empty | Refusal::Listener => break,
                }
            }
        }
    }
    swept
}

/// What the error of an accept says.
fn refusal(error: &io::Error) -> Refusal {
    error.raw_os_error().map_or(Refusal::Listener, Refusal::of)
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
        let open = list.open(Source::Own(socket.into()), address);
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
    fn a_socket_that_others_hold_goes_on_listening() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let others = socket.try_clone().expect("a further descriptor");
        let list = Arc::new(Listening::default());
        let adopted = Arc::new(Adopted::new(socket.into()));
        let open = list.open(Source::Shared(adopted), address);
        let waiting = TcpStream::connect(address).expect("it listens");
        assert_eq!(list.turn_away(), []);
        assert_eq!(list.shared(), [address]);
        assert!(!open.was_shut());
        let (stream, peer) = others.accept().expect("it is still in the backlog");
        assert_eq!(Some(peer), waiting.local_addr().ok());
        drop(stream);
        let _waiting = TcpStream::connect(address).expect("it listens still");
        let swept = open.sweep();
        assert_eq!((swept.taken.len(), swept.left_by), (1, None));
        assert!(is_close_on_exec(&swept.taken[0]), "no child inherits it");
        let waits = SockRef::from(&others).nonblocking().map(|on| !on);
        assert!(waits.expect("open"), "who accepts from it still waits");
    }

    fn is_close_on_exec(fd: &OwnedFd) -> bool {
        use std::os::fd::AsRawFd;
        let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let info = std::fs::read_to_string(info).expect("it is open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.expect("a line").trim(), 8);
        flags.expect("in octal") & libc::O_CLOEXEC != 0
    }

    #[test]
    fn a_socket_that_was_taken_out_listens_on_unless_it_was_shut_before() {
        let (list, open, address) = listening();
        let source = open.into_source().expect("nobody has shut it");
        assert_eq!(list.turn_away(), [], "it is out of the list");
        let _waiting = TcpStream::connect(address).expect("it listens");
        let open = list.open(source, address);
        assert_eq!(list.turn_away().len(), 1);
        assert!(open.into_source().is_none(), "nobody is to listen again");
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
