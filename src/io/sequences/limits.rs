//! What a peer that sends more than is read can make a record hold, for how long one that never
//! stops can hold it, and how many can come that nobody takes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Kernel, LINGER, World};
use crate::clock::ns;
use crate::config::{BUFFER_BYTES, CONN_INBOUND_BYTES, DrainPolicy, LINGER_QUIET_MIN};
use crate::io::conn::{Origin, Recv};
use crate::io::listening::Source;

/// A connection that is held, and its socket in the script.
fn connected() -> (World, u32, usize) {
    let mut world = World::new();
    let (conn, socket) = one_more(&mut world, 1);
    (world, conn, socket)
}

/// A further one, of this name.
fn one_more(world: &mut World, name: u8) -> (u32, usize) {
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let ours = OwnedFd::from(ours);
    let socket = world.kernel(|kernel| kernel.adopt_by_hand(ours.as_raw_fd(), name));
    let conn = world.io.adopt(ours, Origin::Accepted);
    world.io.take_handle(conn);
    world.turn();
    (conn, socket)
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
        let chunk = world.io.next_chunk(conn).expect("it holds some");
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
    let (waiting, other) = one_more(&mut world, 2);
    let recv = |world: &World, conn: u32| world.io.conns[conn as usize].recv;
    while matches!(recv(&world, full), Recv::Armed(_)) {
        world.kernel(|kernel| kernel.says(socket, BUFFER_BYTES as u64, false));
        world.turn();
    }
    assert!(world.kernel(|kernel| kernel.ends_cancelled()));
    world.turn();
    assert!(world.kernel(|kernel| kernel.lacks_buffers(other)));
    world.io.reap();
    while world.io.next_chunk(full).is_some() {}
    assert_eq!(recv(&world, full), Recv::Starved);
    assert_eq!(world.io.starved, [waiting, full]);
    world.turn();
    for conn in [waiting, full] {
        assert!(matches!(recv(&world, conn), Recv::Armed(_)));
    }
}

/// Accepted connections that may wait in the test below.
const UNTAKEN_MOST: usize = 8;

/// Far more come than may wait. Who came at once, before the accept is called back, is in; the others
/// stay in the backlog until half of those are taken, and are lost no more than they.
#[test]
fn a_flood_that_nobody_takes_waits_in_the_backlog_beyond_the_queue() {
    const CAME: usize = 50;
    const AT_ONCE: usize = 3;
    let mut world = World::new();
    world.io.limit_untaken(UNTAKEN_MOST);
    let (socket, _other) = UnixStream::pair().expect("a socket pair");
    let source = Source::Own(OwnedFd::from(socket));
    let address = "127.0.0.1:9".parse().expect("an address");
    let listener = world.io.listen(source, address, DrainPolicy::default());
    world.turn();
    for name in 0..CAME {
        assert!(world.kernel(|kernel| kernel.connects(name as u8)));
    }
    let mut taken = 0;
    while taken < CAME {
        // As the kernel does: all it may, some at a time.
        while world.kernel(|kernel| (0..AT_ONCE).filter(|_| kernel.accepts(false)).count()) > 0 {
            world.turn();
            world.kernel(Kernel::ends_cancelled);
            world.turn();
        }
        let waiting = world.io.listeners[listener.index as usize].queue.len();
        assert!(waiting < UNTAKEN_MOST + AT_ONCE, "{waiting} wait");
        let left = world.kernel(|kernel| kernel.backlog_by_hand());
        assert_eq!(taken + waiting + left, CAME, "nobody is lost");
        assert!(waiting >= UNTAKEN_MOST || left == 0, "{left} are let wait");
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..waiting.min(UNTAKEN_MOST) {
            let given = world.io.poll_accept(listener.index, &mut context);
            let Poll::Ready(Ok(Some(conn))) = given else {
                panic!("{given:?} after {taken}");
            };
            world.io.drop_handle(conn);
            taken += 1;
        }
        world.turn();
        assert_eq!(world.contradiction(), None);
    }
}

/// Streams that take all they may hold find buffers for few of them at once; armed all the same, the
/// others would only be told that there are none.
#[test]
fn of_streams_that_want_many_buffers_each_as_many_are_armed_as_find_them() {
    for (met_limit, armed) in [(0, 6), (1, 6), (2, 4)] {
        let (mut world, first, socket) = connected();
        let mut conns = vec![(first, socket)];
        conns.extend((2..7).map(|name| one_more(&mut world, name)));
        for (_, socket) in &conns {
            assert!(world.kernel(|kernel| kernel.lacks_buffers(*socket)));
        }
        world.io.reap();
        world.io.met_limit = met_limit;
        assert_eq!(world.io.feed_starved(), armed < conns.len(), "{met_limit}");
        let are_armed = |world: &World| {
            let recv = |(conn, _): &(u32, usize)| world.io.conns[*conn as usize].recv;
            let all = conns.iter().map(recv);
            all.filter(|recv| matches!(recv, Recv::Armed(_))).count()
        };
        assert_eq!(are_armed(&world), armed, "{met_limit}");
        // The others are next.
        world.turn();
        assert_eq!(are_armed(&world), conns.len());
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
        world.io.expire();
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
