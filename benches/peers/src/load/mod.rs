//! Clients: a closed loop that checks every byte, one-way streams, and a crowd that watches a stop.

pub mod closed;
pub mod crowd;
pub mod pattern;
pub mod stream;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

/// A source address has fewer ports than this; the next connections come from the next address.
const CONNECTIONS_AN_ADDRESS: usize = 20_000;

/// Connects the `index`-th client.
fn connect(port: u16, index: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if index >= CONNECTIONS_AN_ADDRESS {
        let source = Ipv4Addr::new(127, 0, 0, (1 + index / CONNECTIONS_AN_ADDRESS) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket.into())
}
