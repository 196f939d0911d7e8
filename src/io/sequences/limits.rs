//! What a peer that sends more than is read can make a record hold.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::World;
use crate::config::{BUFFER_BYTES, CONN_INBOUND_BYTES};
use crate::io::conn::{Origin, Recv};

/// The buffers run out at the moment at which the limit stops the receive, again and again: a pool
/// that is short gives them back at once, for what came is copied.
#[test]
fn a_connection_that_has_its_fill_is_not_fed_for_want_of_buffers() {
    let mut world = World::new();
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let ours = OwnedFd::from(ours);
    let socket = world.kernel(|kernel| kernel.adopt_by_hand(ours.as_raw_fd(), 1));
    let conn = world.io.adopt(ours, Origin::Accepted);
    world.io.take_handle(conn);
    world.turn();
    for _ in 0..100 {
        world.kernel(|kernel| kernel.says(socket, BUFFER_BYTES as u64, false));
        world.io.reap();
        world.kernel(|kernel| kernel.lacks_buffers(socket));
        world.turn();
    }
    let record = |world: &World| {
        let record = &world.io.conns[conn as usize];
        (record.inbound_bytes(), record.recv)
    };
    let (held, recv) = record(&world);
    assert!(held < CONN_INBOUND_BYTES + BUFFER_BYTES, "{held} bytes");
    assert_eq!(recv, Recv::Off);
    // Its reader goes on, and so does it.
    while record(&world).0 >= CONN_INBOUND_BYTES / 2 {
        let chunk = world.io.recv_now(conn).expect("it holds some");
        assert!(!chunk.is_empty());
    }
    let (_, recv) = record(&world);
    assert!(matches!(recv, Recv::Armed(_)), "{recv:?}");
}
