//! What a peer that sends more than is read can make a record hold, and for how long one that never
//! stops can hold it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{LINGER, World};
use crate::clock::ns;
use crate::config::{BUFFER_BYTES, CONN_INBOUND_BYTES, LINGER_QUIET_MIN};
use crate::io::Leftovers;
use crate::io::conn::{Origin, Recv};

/// A connection that is held, and its socket in the script.
fn connected() -> (World, u32, usize) {
    let mut world = World::new();
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let ours = OwnedFd::from(ours);
    let socket = world.kernel(|kernel| kernel.adopt_by_hand(ours.as_raw_fd(), 1));
    let conn = world.io.adopt(ours, Origin::Accepted);
    world.io.take_handle(conn);
    world.turn();
    (world, conn, socket)
}

/// The buffers run out at the moment at which the limit stops the receive, again and again: a pool
/// that is short gives them back at once, for what came is copied.
#[test]
fn a_connection_that_has_its_fill_is_not_fed_for_want_of_buffers() {
    let (mut world, conn, socket) = connected();
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

/// Its reader takes all, while another waits for buffers. Armed at once it would take the next ones
/// as well, turn after turn.
#[test]
fn a_connection_that_had_its_fill_comes_after_those_that_had_no_buffers() {
    let (mut world, full, socket) = connected();
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let ours = OwnedFd::from(ours);
    let other = world.kernel(|kernel| kernel.adopt_by_hand(ours.as_raw_fd(), 2));
    let waiting = world.io.adopt(ours, Origin::Accepted);
    world.io.take_handle(waiting);
    world.turn();
    let recv = |world: &World, conn: u32| world.io.conns[conn as usize].recv;
    while matches!(recv(&world, full), Recv::Armed(_)) {
        world.kernel(|kernel| kernel.says(socket, BUFFER_BYTES as u64, false));
        world.turn();
    }
    assert!(world.kernel(|kernel| kernel.ends_cancelled()));
    world.turn();
    assert!(world.kernel(|kernel| kernel.lacks_buffers(other)));
    world.io.reap();
    while world.io.recv_now(full).is_some() {}
    assert_eq!(recv(&world, full), Recv::Starved);
    assert_eq!(world.io.starved, [waiting, full]);
    world.turn();
    for conn in [waiting, full] {
        assert!(matches!(recv(&world, conn), Recv::Armed(_)));
    }
}

/// Nothing is owed to it any more, and it is never silent for long enough.
#[test]
fn a_peer_that_drips_behind_our_fin_is_let_go_at_the_cap_of_its_time() {
    const DRIP: Duration = Duration::from_millis(1);
    const { assert!(DRIP.as_nanos() < LINGER_QUIET_MIN.as_nanos()) };
    let (mut world, conn, socket) = connected();
    world.io.drop_handle(conn);
    world.turn();
    assert!(
        world.kernel(|kernel| kernel.acknowledges(socket)),
        "our FIN"
    );
    let begun_ns = world.io.now_ns;
    let cap_ns = begun_ns + ns(LINGER);
    while world.ended() == 0 {
        world.kernel(|kernel| kernel.says(socket, 1, false));
        world.io.now_ns += ns(DRIP);
        world.io.expire(&mut Leftovers::default());
        world.turn();
        world.kernel(|kernel| kernel.receives_the_end(socket));
        world.turn();
        assert!(
            world.io.now_ns < 2 * cap_ns - begun_ns,
            "it may drip for ever"
        );
    }
    assert!(world.io.now_ns >= cap_ns, "it is given its time");
    assert_eq!(
        world.io.tally.ends.abandoned - world.before.ends.abandoned,
        1
    );
    assert_eq!(world.left(), None);
}
