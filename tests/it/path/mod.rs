//! A path with a real delay, between a network of clients and one of servers.
//!
//! ```text
//!   clients' network      the middle                    servers' network
//!        c0 ───────── mc │ forwarder │ ms ───────────────────── s0
//!   10.9.0.2, fd09::2    each frame waits for         10.9.0.1, fd09::1
//!                        half the round trip
//! ```
//! Three net namespaces in a user namespace of their own, which an ordinary
//! user may make, too. The forwarder is a process that holds every frame for
//! half a round trip, in the order in which they came, and can be told to drop
//! what goes one way or both. All of it ends with the processes in it.
#![forbid(unsafe_code)]

mod forwarder;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::process::Program;
use crate::sys::{self, Namespace, link};

pub(crate) use forwarder::forwarder;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToClient,
    Both,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Path {
    /// Where clients are started.
    clients: Namespace,
    /// Where servers are started.
    servers: Namespace,
    /// Carries the frames; killed with this.
    forwarder: Program,
}

impl Path {
    /// Lays a path with a round trip of `round_trip`, and sees to it that it
    /// has that. This process has to have one thread, and goes into a user
    /// namespace for good.
    pub(crate) fn lay(round_trip: Duration) -> Path {
        // A path is not slower for what else the machine does, so far as we may have it so.
        let preferred = sys::set_niceness(-5).is_ok();
        if let Err(why) = sys::enter_namespaces() {
            panic!("{why}");
        }
        // The move to another user namespace may have taken this off.
        sys::die_with_parent().expect("a process may be tied to its parent");
        let new = || Namespace::new().expect("root of its namespace makes networks");
        let (clients, servers) = (new(), new());
        connect("mc", "c0", &clients, Path::client_addresses());
        connect("ms", "s0", &servers, Path::server_addresses());
        let delay = format!("delay_us={}", round_trip.as_micros() / 2);
        let mut forwarder = Program::role("forwarder", &[&delay]);
        forwarder.line("forwards");
        if preferred {
            sys::set_niceness(0).expect("a process may become less urgent");
        }
        let path = Path {
            clients,
            servers,
            forwarder,
        };
        for address in Path::server_addresses() {
            path.takes(round_trip, address);
        }
        path
    }

    fn client_addresses() -> [IpAddr; 2] {
        [[10, 9, 0, 2].into(), [0xfd09, 0, 0, 0, 0, 0, 0, 2].into()]
    }

    fn server_addresses() -> [IpAddr; 2] {
        [[10, 9, 0, 1].into(), [0xfd09, 0, 0, 0, 0, 0, 0, 1].into()]
    }

    /// Where a server is to listen, at a port of the kernel's choice.
    pub(crate) fn server_address(v6: bool) -> SocketAddr {
        let [v4_address, v6_address] = Path::server_addresses();
        SocketAddr::from((if v6 { v6_address } else { v4_address }, 0))
    }

    /// What `act` starts and opens is on the clients' side.
    pub(crate) fn as_client<T>(&self, act: impl FnOnce() -> T) -> T {
        self.clients.within(act)
    }

    /// What `act` starts and opens is on the servers' side.
    pub(crate) fn as_server<T>(&self, act: impl FnOnce() -> T) -> T {
        self.servers.within(act)
    }

    /// From now on packets that go this way vanish without a word. Those that
    /// are on their way arrive.
    pub(crate) fn drop_packets(&mut self, way: Way) {
        self.forwarder.tell(match way {
            Way::ToClient => "drop to_client",
            Way::Both => "drop both",
        });
        self.forwarder.line("drops");
    }

    /// A handshake takes what a round trip takes, or this path proves nothing.
    fn takes(&self, round_trip: Duration, address: IpAddr) {
        let listener = self.as_server(|| TcpListener::bind((address, 0)));
        let listener = listener.expect("an address that was given can be had");
        let address: SocketAddr = listener.local_addr().expect("it is bound");
        for _ in 0..2 {
            // The first one also asks for the neighbour's address.
            let began = Instant::now();
            let connected = self.as_client(|| TcpStream::connect(address));
            connected.expect("the path leads to the server");
            let took = began.elapsed();
            assert!(took >= round_trip, "{took:?} is no {round_trip:?}");
        }
    }
}

/// Joins the middle, where we are, with another network.
fn connect(near: &str, far: &str, other: &Namespace, addresses: [IpAddr; 2]) {
    let set_up = || -> io::Result<()> {
        link::join(near, far, other)?;
        link::raise(near)?;
        other.within(|| {
            link::send_whole_frames(far)?;
            link::raise(far)?;
            for address in addresses {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                link::give_address(far, address, prefix)?;
            }
            Ok(())
        })
    };
    if let Err(error) = set_up() {
        panic!(
            "the interfaces {near} and {far} cannot be made ({error}): this test needs \
             veth interfaces and IPv6 (CONFIG_VETH, CONFIG_IPV6)"
        );
    }
}
