//! Sends that are over when they are submitted: which are made, and what is known of them when.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::World;
use crate::io::conn::Origin;
use crate::io::outbound::Segment;
use crate::ring::fake::hand::Sent;
use crate::ring::port::Wait;

/// A connection in a world of its own, whose socket takes what is sent at once.
struct Open {
    world: World,
    socket: usize,
    conn: u32,
}

impl Open {
    fn new() -> Open {
        let mut world = World::new();
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let ours = OwnedFd::from(ours);
        let socket = world.kernel(|kernel| {
            kernel.hand().takes_at_once = true;
            kernel.adopt_by_hand(ours.as_raw_fd(), 1)
        });
        let conn = world.io.adopt(ours, Origin::Accepted);
        world.io.take_handle(conn);
        world.turn();
        Open {
            world,
            socket,
            conn,
        }
    }

    /// Submits what was queued. Whether a send is in flight then that will tell of its end; it is
    /// ended.
    fn tells_of_its_end(&mut self) -> bool {
        self.world.io.flush_sends();
        self.enter();
        let socket = self.socket;
        let told = self.world.kernel(|kernel| kernel.sends(socket, Sent::All));
        self.world.turn();
        told
    }

    fn enter(&mut self) {
        let entered = self.world.io.driver.enter(Wait::No);
        entered.expect("a script never fails");
    }

    /// What the kernel took, and what is queued or in flight.
    fn books(&self) -> (u64, usize, bool) {
        let conn = &self.world.io.conns[self.conn as usize];
        (conn.taken, conn.unsent(), conn.send.is_some())
    }

    /// Ends the connection, and looks that nothing is left.
    fn end(mut self) {
        self.world.io.drop_handle(self.conn);
        for _ in 0..super::ROUNDS_MOST {
            let socket = self.socket;
            self.world.turn();
            self.world.kernel(|kernel| {
                kernel.acknowledges(socket);
                kernel.fin_comes(socket);
                kernel.ends_cancelled();
            });
            self.world.time_goes_on();
        }
        assert_eq!(self.world.contradiction(), None);
        assert_eq!(self.world.left(), None);
        assert_eq!(self.world.lost(), 0);
    }
}

#[test]
fn a_send_that_says_nothing_was_sent_and_is_counted_once() {
    let mut open = Open::new();
    for round in 1..=3 {
        assert_eq!(open.world.io.append(open.conn, &[7; 100]), 100);
        assert!(!open.tells_of_its_end());
        assert_eq!(open.books(), (100 * round, 0, false));
    }
    open.end();
}

#[test]
fn a_send_that_did_not_fit_is_made_again_and_tells_of_its_end() {
    let mut open = Open::new();
    open.world
        .kernel(|kernel| kernel.hand().takes_at_once = false);
    open.world.io.append(open.conn, &[7; 100]);
    open.world.turn();
    assert_eq!(open.books(), (0, 100, true));
    let socket = open.socket;
    assert!(open.world.kernel(|kernel| kernel.sends(socket, Sent::All)));
    open.world.turn();
    assert_eq!(open.books(), (100, 0, false));
    open.end();
}

#[test]
fn a_send_whose_end_somebody_waits_for_tells_of_it() {
    let mut open = Open::new();
    open.world.io.append(open.conn, &[7; 100]);
    let mut context = Context::from_waker(Waker::noop());
    let flushed = open.world.io.poll_flush(open.conn, &mut context);
    assert!(flushed.is_pending());
    assert!(open.tells_of_its_end());
    assert_eq!(open.books(), (100, 0, false));
    open.end();
}

#[test]
fn a_send_of_a_users_memory_tells_of_its_end() {
    let mut open = Open::new();
    let memory = Bytes::from_owner([7; 100]);
    open.world.io.push(open.conn, Segment::Bytes(memory));
    assert!(open.tells_of_its_end());
    assert_eq!(open.books(), (100, 0, false));
    open.end();
}

#[test]
fn a_send_of_a_record_that_closes_tells_of_its_end() {
    let mut open = Open::new();
    open.world.io.append(open.conn, &[7; 100]);
    open.world.io.drop_handle(open.conn);
    assert!(open.tells_of_its_end());
    open.end();
}

#[test]
fn in_a_drain_every_send_tells_of_its_end() {
    let mut open = Open::new();
    open.world.io.append(open.conn, &[7; 100]);
    let deadline_ns = open.world.io.now_ns + 1_000_000_000;
    open.world.io.begin_drain(Duration::ZERO, deadline_ns);
    assert!(open.tells_of_its_end());
    open.end();
}

#[test]
fn what_the_kernel_has_not_seen_is_not_taken_for_sent_and_keeps_the_core_awake() {
    let mut open = Open::new();
    open.world.io.append(open.conn, &[7; 100]);
    open.world.io.flush_sends();
    open.world.io.reap();
    assert_eq!(open.books(), (0, 100, true));
    assert!(open.world.io.waits_for_at_once() && open.world.io.wants_turn());
    open.enter();
    open.world.io.reap();
    assert_eq!(open.books(), (100, 0, false));
    assert!(!open.world.io.waits_for_at_once());
    open.end();
}
