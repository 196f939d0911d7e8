//! What a runtime listens at: the sockets of one address, from which each core takes its own.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{DrainPolicy, LISTEN_BACKLOG};
use crate::context::{self, Local};
use crate::error::{Error, ErrorKind};
use crate::handle::Core;
use crate::io::listener::ListenerId;
use crate::io::listening::{Adopted, Listening, Open, Source};
use crate::net::listener::{Failed, NO_RECORD, TcpListener};
use crate::phase::Phase;
use crate::sync::{Arc, Mutex, Weak, lock};

/// An address the runtime listens at, with one socket for each core.
///
/// Made by [`Runtime::bind`](crate::Runtime::bind), where conflicts are seen and port 0 becomes a
/// number. Each core takes its own socket with [`on`](Listener::on); the kernel spreads the
/// connections over the cores that have.
///
/// Or made by [`Runtime::adopt`](crate::Runtime::adopt): then there is one socket for all cores,
/// and the first of them that is idle gets a connection.
///
/// # Shutdown
///
/// Each core drains its own: see [`TcpListener`].
#[derive(Clone, Debug)]
pub struct Listener {
    /// Shared by all clones.
    group: Arc<Group>,
    /// What the sockets that are taken through this clone are given.
    policy: DrainPolicy,
}

/// The sockets of one address.
#[derive(Debug)]
struct Group {
    /// Where they are bound.
    address: SocketAddr,
    /// What cores take theirs from.
    sockets: Mutex<Sockets>,
    /// Which cores have taken one, and the record's place there.
    taken: Mutex<Vec<(usize, ListenerId)>>,
}

/// Where a core's socket comes from.
#[derive(Debug)]
enum Sockets {
    /// Those no core has taken.
    Own {
        /// The first one, which listens already.
        first: Option<Open>,
        /// The others, which do not.
        further: Vec<OwnedFd>,
    },
    /// One that came from outside.
    Adopted {
        /// It, until a core has taken it: held here any longer it would listen on behind the
        /// backs of the cores, the last of which closes it.
        fresh: Option<Arc<Adopted>>,
        /// It, for as long as some core has it.
        taken: Weak<Adopted>,
    },
}

impl Sockets {
    /// A socket for a core, which listens; none when all cores have let go of the one there was.
    fn take(&mut self, address: SocketAddr) -> io::Result<Option<Source>> {
        match self {
            Sockets::Own { first, further } => {
                if let Some(first) = first.take() {
                    // Whoever comes first takes it over with its backlog.
                    return Ok(first.into_source());
                }
                let socket = further.pop().map_or_else(|| another(address), Ok)?;
                Ok(Some(Source::Own(listening(socket)?)))
            }
            Sockets::Adopted { fresh, taken } => {
                let adopted = fresh.take().or_else(|| taken.upgrade());
                Ok(adopted.map(Source::Shared))
            }
        }
    }
}

impl Listener {
    /// Takes over a socket that was made elsewhere and listens already.
    pub(crate) fn adopt(socket: std::net::TcpListener) -> Result<Listener, Error> {
        let address = fit_for_adoption(&socket)?;
        let socket = Arc::new(Adopted::new(socket.into()));
        let sockets = Sockets::Adopted {
            taken: Arc::downgrade(&socket),
            fresh: Some(socket),
        };
        Ok(Listener::of(address, sockets))
    }

    /// The group of `sockets`, none of which is taken.
    fn of(address: SocketAddr, sockets: Sockets) -> Listener {
        let group = Group {
            address,
            sockets: Mutex::new(sockets),
            taken: Mutex::new(Vec::new()),
        };
        Listener {
            group: Arc::new(group),
            policy: DrainPolicy::default(),
        }
    }

    /// Binds `count` sockets to the first of `address`'s addresses that can be had. The one that
    /// listens stands in `untaken` until a core takes it.
    pub(crate) fn bind(
        address: impl ToSocketAddrs,
        count: usize,
        untaken: &Arc<Listening>,
    ) -> Result<Listener, Error> {
        let candidates = address.to_socket_addrs().map_err(|error| {
            Error::new(
                ErrorKind::Bind,
                "the address to listen at is not HOST:PORT or its host is not known: write it \
                 as 127.0.0.1:7777, [::1]:7777 or name:7777",
            )
            .with_source(error)
        })?;
        let mut last = Error::new(ErrorKind::Bind, "the address to listen at names no address");
        for candidate in candidates {
            match bind_all(candidate, count) {
                Ok((address, first, further)) => {
                    let first = Some(untaken.open(Source::Own(first), address));
                    return Ok(Listener::of(address, Sockets::Own { first, further }));
                }
                Err(error) => last = refusal(candidate, error),
            }
        }
        Err(last)
    }

    /// Where it listens; the port is the real one also where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.group.address
    }

    /// Gives the listener a policy for its connections at a stop. It holds on each core whose
    /// socket is taken through the result, or through a clone of it, from then on.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(runtime: &mut evenfall::Runtime) -> evenfall::Result<()> {
    /// use evenfall::net::DrainPolicy;
    /// use std::time::Duration;
    ///
    /// let public = runtime.bind("0.0.0.0:7777")?;
    /// let subscribers = runtime
    ///     .bind("0.0.0.0:7778")?
    ///     .drain_policy(DrainPolicy::new().spread(Duration::from_secs(5)));
    /// let health = runtime.bind("127.0.0.1:7779")?.drain_policy(DrainPolicy::new().cut());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn drain_policy(mut self, policy: DrainPolicy) -> Listener {
        self.policy = policy;
        self
    }

    /// Takes this core's socket, which listens from here on. A second call on the same core gives
    /// a further handle to the same socket.
    ///
    /// A core that never calls it gets no connections, and none are lost by that.
    ///
    /// # Shutdown
    ///
    /// Taken while Draining is under way it drains like the others: what is in its backlog is given
    /// out. Once the drain is over it is too late, and `accept` says so
    /// ([`TooLate`](crate::net::TooLate)). After a cut
    /// it is not, until Closing: a main future that is on its way here then is no failure, and finds
    /// its listener drained.
    ///
    /// # Panics
    ///
    /// On a thread that is not the core `core` names.
    #[must_use = "a core accepts only what is taken from its listener"]
    #[track_caller]
    pub fn on(&self, core: &Core) -> TcpListener {
        let local = context::here();
        assert_eq!(
            local.index,
            core.index(),
            "a core's listener is taken on that core"
        );
        if let Some(late) = local.refuse_listener() {
            return TcpListener {
                local,
                index: NO_RECORD,
                address: self.group.address,
                failed: Some(Failed::TooLate(late)),
            };
        }
        let mut taken = lock(&self.group.taken);
        let name = taken
            .iter()
            .find(|(core, _)| *core == local.index)
            .map(|(_, name)| *name);
        if let Some(name) = name {
            if local.io.borrow_mut().add_listener_handle(name) {
                return TcpListener {
                    local,
                    index: name.index,
                    address: self.group.address,
                    failed: None,
                };
            }
            // The core has let its socket go: it gets another one.
            taken.retain(|(core, _)| *core != local.index);
        }
        let source = lock(&self.group.sockets).take(self.group.address);
        let (index, failed) = match source {
            Ok(Some(source)) => {
                let (address, policy) = (self.group.address, self.policy.clone());
                let name = local.io.borrow_mut().listen(source, address, policy);
                taken.push((local.index, name));
                (name.index, None)
            }
            // The others have drained it before this core was up: nothing is left to accept.
            Ok(None) if drains(&local) => (NO_RECORD, None),
            Ok(None) => (NO_RECORD, Some(Failed::LetGo(self.group.address))),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                (NO_RECORD, Some(Failed::Errno(errno)))
            }
        };
        TcpListener {
            local,
            index,
            address: self.group.address,
            failed,
        }
    }
}

/// Whether the stop has reached the listeners.
fn drains(local: &Local) -> bool {
    !matches!(
        local.shared.orders.read().phase(),
        Phase::Running | Phase::Notice
    )
}

/// Makes a bound socket listen; again is no error.
fn listening(socket: OwnedFd) -> io::Result<OwnedFd> {
    SockRef::from(&socket).listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Makes sure that a socket from outside is one to accept from, and where it listens.
fn fit_for_adoption(socket: &std::net::TcpListener) -> Result<SocketAddr, Error> {
    let adopted = SockRef::from(socket);
    let listens = adopted.is_listener().unwrap_or(false);
    let address = match socket.local_addr() {
        Ok(address) if listens && adopted.r#type().ok() == Some(Type::STREAM) => address,
        _ => {
            return Err(Error::new(
                ErrorKind::Bind,
                "the socket to adopt is no TCP socket that listens: call listen on it first, and \
                 make sure that the descriptor's number is the right one",
            ));
        }
    };
    // What came by exec has it off; a child that inherited the socket would keep it listening. It
    // fails only on a descriptor that is none.
    let _set = adopted.set_cloexec(true);
    Ok(address)
}

/// Binds `count` sockets to one address: the one that listens, and the others.
///
/// The first is bound without SO_REUSEPORT, or a second process could bind the port as well and
/// take every other connection; then it listens, for only that makes a conflict certain; then the
/// option is set, and the others join it.
fn bind_all(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, OwnedFd, Vec<OwnedFd>)> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.listen(LISTEN_BACKLOG)?;
    first.set_reuse_port(true)?;
    let bound = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let further: io::Result<Vec<OwnedFd>> = (1..count).map(|_| another(bound)).collect();
    Ok((bound, first.into(), further?))
}

/// A further socket of an address that was bound, not listening yet.
fn another(bound: SocketAddr) -> io::Result<OwnedFd> {
    let further = socket(bound)?;
    further.set_reuse_port(true)?;
    further.bind(&bound.into())?;
    Ok(further.into())
}

/// A socket for listening at `address`. What is accepted from it inherits TCP_NODELAY: writes of
/// one turn leave together anyway.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Says why an address cannot be had, and the way round it.
fn refusal(address: SocketAddr, error: io::Error) -> Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another socket has it: stop the other server, or choose another port (0 lets the \
             kernel choose)"
        }
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE: \
             choose a higher port or grant it"
        }
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address: listen at one it has",
        Some(libc::EAFNOSUPPORT) => "this machine has no addresses of that family",
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left: raise the limit",
        _ => "the kernel refused it",
    };
    Error::new(
        ErrorKind::Bind,
        format!("cannot listen at {address}: {remedy}"),
    )
    .with_source(error)
}
