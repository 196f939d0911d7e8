//! Sends that are over when they are submitted: which are made, and what is known of them when.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::{ROUNDS_MOST, World};
use crate::config::COMPLETIONS_AT_ONCE;
use crate::io::conn::Origin;
use crate::io::outbound::Segment;
use crate::io::tally::End;
use crate::ring::fake::hand::Sent;
use crate::ring::port::Wait;
use crate::ring::sequences::{Watched, each_sequence};

/// A connection in a world of its own, whose socket takes what is sent at once.
struct Open {
    world: World,
    socket: usize,
    conn: u32,
}

/// One more connection.
fn adopt(world: &mut World) -> (usize, u32) {
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let ours = OwnedFd::from(ours);
    let socket = world.kernel(|kernel| kernel.adopt_by_hand(ours.as_raw_fd(), 1));
    let conn = world.io.adopt(ours, Origin::Accepted);
    world.io.take_handle(conn);
    world.turn();
    (socket, conn)
}

impl Open {
    fn new() -> Open {
        let mut world = World::new();
        world.kernel(|kernel| kernel.hand().takes_at_once = true);
        let (socket, conn) = adopt(&mut world);
        Open {
            world,
            socket,
            conn,
        }
    }

    /// So many others, each with a send in flight that tells of its end, and bytes behind it: when it
    /// ends the next one is made.
    fn others_send(&mut self, count: usize) -> Vec<(usize, u32)> {
        let world = &mut self.world;
        let others: Vec<(usize, u32)> = (0..count).map(|_| adopt(world)).collect();
        for (_, other) in &others {
            let memory = Bytes::from_owner([7; 100]);
            world.io.push(*other, Segment::Bytes(memory));
        }
        world.turn();
        for (_, other) in &others {
            assert_eq!(world.io.append(*other, &[7; 100]), 100);
        }
        others
    }

    /// The sends of others end.
    fn others_sent(&self, others: &[(usize, u32)]) {
        for (socket, _) in others {
            assert!(self.world.kernel(|kernel| kernel.sends(*socket, Sent::All)));
        }
    }

    /// Makes a send that is over when it is submitted, and submits it.
    fn sends_at_once(&mut self) {
        assert_eq!(self.world.io.append(self.conn, &[7; 100]), 100);
        self.world.io.flush_sends();
        self.enter();
    }

    fn reap(&mut self) {
        self.world.io.reap();
        self.world.settle();
    }

    /// The kernel has room for whatever is asked again, and takes it.
    fn makes_room(&self) {
        self.world.kernel(|kernel| {
            kernel.queue_room = 64;
            kernel.completions_room = 512;
            kernel.hand().takes_nothing = false;
        });
    }

    /// The send that was made again ends, and so does all else.
    fn sent_in_the_end(mut self, others: &[(usize, u32)]) {
        let socket = self.socket;
        assert!(self.world.kernel(|kernel| kernel.sends(socket, Sent::All)));
        self.world.turn();
        assert_eq!(self.books(), (100, 0, false));
        self.end_all(others);
    }

    /// Ends the others, and then this one.
    fn end_all(mut self, others: &[(usize, u32)]) {
        for _ in 0..2 {
            for (socket, _) in others {
                self.world.kernel(|kernel| kernel.sends(*socket, Sent::All));
            }
            self.world.turn();
        }
        for (socket, conn) in others {
            assert_eq!(self.world.io.conns[*conn as usize].unsent(), 0);
            self.world.io.drop_handle(*conn);
            self.world.turn();
            self.world.kernel(|kernel| {
                kernel.acknowledges(*socket);
                kernel.fin_comes(*socket);
            });
        }
        self.end();
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
        for _ in 0..ROUNDS_MOST {
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

/// One completion is there, and then several: two ways through a reap.
#[test]
fn what_a_reap_sends_itself_keeps_no_other_send_from_being_over() {
    for count in [1, 2] {
        let mut open = Open::new();
        let others = open.others_send(count);
        open.sends_at_once();
        open.others_sent(&others);
        open.reap();
        assert_eq!(open.books(), (100, 0, false), "{count} others");
        assert!(!open.world.io.waits_for_at_once());
        open.end_all(&others);
    }
}

#[test]
fn what_is_handed_over_between_an_enter_and_its_reap_keeps_no_send_from_being_over() {
    let mut open = Open::new();
    let (_, other) = adopt(&mut open.world);
    open.sends_at_once();
    let memory = Bytes::from_owner([7; 100]);
    open.world.io.push(other, Segment::Bytes(memory));
    open.world.io.flush_sends();
    open.reap();
    assert_eq!(open.books(), (100, 0, false));
    open.world.turn();
    let others = [(open.socket + 1, other)];
    open.end_all(&others);
}

#[test]
fn one_that_had_to_wait_for_room_is_not_over_before_its_turn() {
    let mut open = Open::new();
    let others: Vec<_> = (0..3).map(|_| adopt(&mut open.world)).collect();
    open.world.kernel(|kernel| {
        kernel.queue_room = 1;
        kernel.hand().takes_nothing = true;
    });
    // One has room, this one has not, and the last is behind it.
    let send = |open: &mut Open, of: usize| {
        let memory = Bytes::from_owner([7; 100]);
        open.world.io.push(others[of].1, Segment::Bytes(memory));
        open.world.io.flush_sends();
    };
    send(&mut open, 0);
    open.sends_at_once();
    send(&mut open, 1);
    send(&mut open, 2);
    open.reap();
    assert_eq!(open.books(), (0, 100, true));
    open.makes_room();
    open.world.turn();
    assert_eq!(open.books(), (100, 0, false));
    open.end_all(&others);
}

/// The complaint is behind as many others as one look takes out of the queue, and all of them make
/// sends, more than the submission queue holds.
#[test]
fn a_complaint_behind_a_whole_batch_is_heard() {
    let mut open = Open::new();
    let others = open.others_send(COMPLETIONS_AT_ONCE);
    open.others_sent(&others);
    open.world
        .kernel(|kernel| kernel.hand().takes_at_once = false);
    open.sends_at_once();
    open.reap();
    assert_eq!(open.books(), (0, 100, true));
    open.world.turn();
    open.sent_in_the_end(&others);
}

/// The complaint did not fit the completion queue; the sends that the same reap makes do not fit the
/// submission queue, and the enter which makes room there brings it.
#[test]
fn a_complaint_that_did_not_fit_is_heard() {
    let mut open = Open::new();
    let others = open.others_send(3);
    open.world.kernel(|kernel| {
        kernel.hand().takes_at_once = false;
        kernel.completions_room = 3;
    });
    open.others_sent(&others);
    open.sends_at_once();
    open.world.kernel(|kernel| kernel.queue_room = 1);
    open.reap();
    assert_eq!(open.books(), (0, 100, true));
    open.makes_room();
    open.world.turn();
    assert_eq!(open.books(), (0, 100, true));
    open.sent_in_the_end(&others);
}

/// What can happen to such sends. No turn is between two of these but what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Write,
    /// A user waits until all is sent.
    AwaitFlush,
    /// Sends are made, go to the kernel, and what it says of them is taken.
    Flush,
    Enter,
    Reap,
    /// The socket is full from now on, and then not.
    Full,
    Roomy,
    /// A send that is in flight ends.
    All,
    Half,
    Failed,
    Drop,
    Cut,
}

const EVENTS: [Event; 12] = [
    Event::Write,
    Event::AwaitFlush,
    Event::Flush,
    Event::Enter,
    Event::Reap,
    Event::Full,
    Event::Roomy,
    Event::All,
    Event::Half,
    Event::Failed,
    Event::Drop,
    Event::Cut,
];

/// A connection, and what a naive observer knows of it.
struct Written {
    open: Open,
    bytes: u64,
    held: bool,
    /// Whether bytes may be lost: a send has failed, or it was cut.
    troubled: bool,
}

impl Written {
    fn apply(&mut self, event: Event) -> bool {
        let Open {
            world,
            socket,
            conn,
        } = &mut self.open;
        let (socket, index) = (*socket, *conn);
        let record = world.io.conns.get(index as usize);
        let may = self.held && record.is_some_and(|conn| conn.may_write().is_ok());
        match event {
            Event::Write if may => self.bytes += world.io.append(index, &[7; 100]) as u64,
            Event::AwaitFlush if may => {
                let mut context = Context::from_waker(Waker::noop());
                return world.io.poll_flush(index, &mut context).is_pending();
            }
            Event::Flush if !world.io.dirty.is_empty() => world.io.flush_sends(),
            Event::Enter if !world.io.driver.is_all_seen() => {
                let entered = world.io.driver.enter(Wait::No);
                entered.expect("a script never fails");
            }
            Event::Reap if world.io.waits_for_at_once() || world.io.driver.has_unseen() => {
                world.io.reap();
                world.settle();
            }
            Event::Full => return world.kernel(|k| std::mem::take(&mut k.hand().takes_at_once)),
            Event::Roomy => {
                return !world.kernel(|k| std::mem::replace(&mut k.hand().takes_at_once, true));
            }
            Event::All => return world.kernel(|kernel| kernel.sends(socket, Sent::All)),
            Event::Half => return world.kernel(|kernel| kernel.sends(socket, Sent::Half)),
            Event::Failed => {
                let failed = Sent::Failed(libc::EPIPE);
                let fails = world.kernel(|kernel| kernel.sends(socket, failed));
                self.troubled |= fails;
                return fails;
            }
            Event::Drop if self.held => {
                self.held = false;
                world.io.drop_handle(index);
            }
            Event::Cut if record.is_some_and(|conn| !conn.stage.is_over()) => {
                self.troubled = true;
                world.io.cut(index, End::Forced);
            }
            _ => return false,
        }
        true
    }
}

impl Watched for Written {
    type Event = Event;

    fn step(&mut self, event: Event) -> Result<bool, String> {
        if !self.apply(event) {
            return Ok(false);
        }
        let Open { world, socket, .. } = &self.open;
        let (sent, _) = world.kernel(|kernel| kernel.out(*socket));
        let (counted, under_way) = (world.io.tally.sent, world.io.driver.in_flight() - 1);
        let known = world.kernel(|kernel| kernel.under_way()) as u64;
        if counted > sent || known > under_way {
            return Err(format!(
                "{counted} of {sent} bytes are counted as sent, {under_way} of {known} operations"
            ));
        }
        world.contradiction().map_or(Ok(true), Err)
    }

    fn finish(mut self) -> Result<(), String> {
        self.step(Event::Drop)?;
        for _ in 0..ROUNDS_MOST {
            for event in [
                Event::Flush,
                Event::Enter,
                Event::Reap,
                Event::All,
                Event::Reap,
            ] {
                self.step(event)?;
            }
            let Open { world, socket, .. } = &mut self.open;
            let socket = *socket;
            world.kernel(|kernel| {
                if kernel.is_dead(socket) {
                    kernel.sends(socket, Sent::Failed(libc::EPIPE));
                }
                kernel.acknowledges(socket);
                kernel.fin_comes(socket) || kernel.receives_the_end(socket)
            });
            world.kernel(|kernel| kernel.ends_cancelled());
            world.turn();
            if world.left().is_none() {
                break;
            }
            world.time_goes_on();
        }
        let Open { world, socket, .. } = &self.open;
        let (sent, _) = world.kernel(|kernel| kernel.out(*socket));
        let (counted, lost, held) = (
            world.io.tally.sent,
            world.lost(),
            world.io.driver.in_flight(),
        );
        let whole = self.troubled || (sent, lost) == (self.bytes, 0);
        if !whole || counted != sent || held != 1 {
            let written = self.bytes;
            return Err(format!(
                "{written} bytes were written, {sent} sent, {counted} counted, {lost} lost; \
                 {held} operations are counted as out"
            ));
        }
        world.left().map_or(Ok(()), Err)
    }
}

#[test]
fn a_send_that_says_nothing_is_counted_once_in_every_sequence_of_five_events() {
    let whole = each_sequence(&EVENTS, 5, |sequence| {
        let written = Written {
            open: Open::new(),
            bytes: 0,
            held: true,
            troubled: false,
        };
        written.play(sequence)
    });
    assert_eq!(whole, 1085);
}
