//! After the exit the port is free at once.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::process::{Program, WATCHDOG};
use crate::promise::promises;

promises![
    the_port_can_be_bound_at_once_40_of_40,
    a_second_server_cannot_bind_a_port_in_use,
];

/// An address of its own: the ports of other tests' connections, which the
/// kernel chooses from the same range, cannot be in the way there.
const ADDRESS: &str = "addr=127.0.0.40:0";

fn the_port_can_be_bound_at_once_40_of_40() {
    let mut refused = Vec::new();
    for round in 0..40 {
        let mut server = Program::role("echo", &[ADDRESS]);
        let address: SocketAddr = server.address().parse().expect("an address");
        // An echo shows that an accept is armed; it stays so until the stop.
        let _open = echoed(address);
        server.signal(libc::SIGTERM);
        let ended = server.finish();
        // Bound before anything else is looked at.
        let bound = bind_with_reuseaddr_only(address);
        ended.report(0).loses_nothing();
        if let Err(error) = bound {
            refused.push((round, error.to_string()));
        }
    }
    assert!(refused.is_empty(), "not free at once: {refused:?}");
}

fn echoed(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(b"evening").expect("it reads");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"evening");
    stream
}

/// As a server that is started again binds.
pub(crate) fn bind_with_reuseaddr_only(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok(socket)
}

fn a_second_server_cannot_bind_a_port_in_use() {
    let mut first = Program::role("echo", &[ADDRESS]);
    let address = first.address();
    let second = Program::role("echo", &[&format!("addr={address}")]).finish();
    second.exited(2);
    assert!(
        second.stderr.contains(&address),
        "{}",
        second.told("no address")
    );
    first.signal(libc::SIGTERM);
    first.finish().report(0).loses_nothing();
}
