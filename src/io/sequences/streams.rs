//! The ways a connection can close, in every order.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::super::conn::Origin;
use super::super::tally::End;
use super::{ROUNDS_MOST, World, Worlds};
use crate::ring::fake::hand::Sent;
use crate::ring::fake::kernel::Kernel;
use crate::ring::sequences::{Watched, each_sequence};

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Write,
    WriteOne,
    Finish,
    Abort,
    Drop,
    Cut,
    SendAll,
    SendHalf,
    SendFails,
    Bytes,
    LastBytes,
    PeerFin,
    PeerReset,
    Cancelled,
    Acknowledged,
    Time,
    ResetsFail,
}

const EVENTS: [Event; 17] = [
    Event::Write,
    Event::WriteOne,
    Event::Finish,
    Event::Abort,
    Event::Drop,
    Event::Cut,
    Event::SendAll,
    Event::SendHalf,
    Event::SendFails,
    Event::Bytes,
    Event::LastBytes,
    Event::PeerFin,
    Event::PeerReset,
    Event::Cancelled,
    Event::Acknowledged,
    Event::Time,
    Event::ResetsFail,
];

/// One connection, and what a naive observer knows of it.
struct Connection<'a> {
    world: &'a mut World,
    /// The socket in the script.
    socket: usize,
    /// The record.
    conn: u32,
    /// Bytes the user was allowed to write.
    written: u64,
    /// Whether the user still has it.
    held: bool,
    /// Whether it was seen open, and by which event it was over, with what was acknowledged then.
    over: Option<(Event, u64)>,
    /// Whether anything but the peer's and our own orderly end has happened.
    troubled: bool,
}

impl Connection<'_> {
    fn new(world: &mut World) -> Connection<'_> {
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let ours = OwnedFd::from(ours);
        let socket = world.kernel(|kernel| {
            kernel.hand().resets_fail = false;
            kernel.adopt_by_hand(ours.as_raw_fd(), 1)
        });
        world.before = world.io.tally.clone();
        let conn = world.io.adopt(ours, Origin::Accepted);
        world.io.take_handle(conn);
        world.turn();
        Connection {
            world,
            socket,
            conn,
            written: 0,
            held: true,
            over: None,
            troubled: false,
        }
    }

    /// Whether the record is there and not over.
    fn is_live(&self) -> bool {
        let conn = self.world.io.conns.get(self.conn as usize);
        conn.is_some_and(|conn| !conn.stage.is_over())
    }

    fn apply(&mut self, event: Event) -> bool {
        let socket = self.socket;
        let io = &mut self.world.io;
        let held = self.held;
        match event {
            Event::Write | Event::WriteOne => {
                let bytes: &[u8] = if event == Event::Write {
                    &[7; 100]
                } else {
                    &[7]
                };
                let conn = io.conns.get(self.conn as usize);
                let may = held && conn.is_some_and(|conn| conn.may_write().is_ok());
                if may {
                    self.written += io.append(self.conn, bytes) as u64;
                }
                may
            }
            Event::Finish => {
                let conn = io.conns.get(self.conn as usize);
                let may = held
                    && conn.is_some_and(|conn| {
                        conn.may_write().is_ok() && conn.unsent() == 0 && conn.send.is_none()
                    });
                may && io.finish_writing(self.conn).is_ok()
            }
            Event::Abort | Event::Cut => {
                let live = self.is_live();
                let end = if event == Event::Abort {
                    End::Aborted
                } else {
                    End::Forced
                };
                let possible = live && (held || event == Event::Cut);
                if possible {
                    self.world.io.cut(self.conn, end);
                }
                possible
            }
            Event::Drop => {
                if held {
                    self.held = false;
                    io.drop_handle(self.conn);
                }
                held
            }
            Event::Time => self.world.time_goes_on(),
            _ => self.world.kernel(|kernel| match event {
                Event::SendAll => kernel.sends(socket, Sent::All),
                Event::SendHalf => kernel.sends(socket, Sent::Half),
                Event::SendFails => kernel.sends(socket, Sent::Failed(libc::EPIPE)),
                Event::Bytes => kernel.says(socket, 10, false),
                Event::LastBytes => kernel.says(socket, 10, true),
                Event::PeerFin => kernel.fin_comes(socket),
                Event::PeerReset => kernel.reset_comes(socket),
                Event::Cancelled => kernel.ends_cancelled(),
                Event::Acknowledged => kernel.acknowledges(socket),
                _ => !std::mem::replace(&mut kernel.hand().resets_fail, true),
            }),
        }
    }

    /// Whether it was counted as it happened.
    fn counted(self) -> Result<(), String> {
        let Connection { world, socket, .. } = self;
        if let Some(what) = world.left() {
            return Err(what);
        }
        if !world.kernel(|kernel| kernel.is_closed(socket)) {
            return Err("its descriptor is open".to_owned());
        }
        if world.ended() != 1 {
            return Err(format!("it has ended {} times", world.ended()));
        }
        let (sent, _) = world.kernel(|kernel| kernel.out(socket));
        if world.io.tally.sent - world.before.sent != sent {
            return Err("what went out was not counted".to_owned());
        }
        let Some((by, acked)) = self.over else {
            return Err("nothing ended it".to_owned());
        };
        // Every byte is acknowledged or lost, and none is both.
        let (lost, written) = (world.lost(), self.written);
        if acked + lost != written {
            return Err(format!(
                "{written} bytes were written, {acked} acknowledged by the end, which was {by:?}, \
                 {lost} counted as lost"
            ));
        }
        let (ends, before) = (&world.io.tally.ends, &world.before.ends);
        let counted = match by {
            Event::Abort => ends.aborted - before.aborted,
            Event::Cut => ends.forced - before.forced,
            _ if self.troubled => 1,
            _ => {
                let orderly = |ends: &super::super::tally::Ends| {
                    ends.drained + ends.by_peer + ends.by_handler + ends.abandoned
                };
                orderly(ends) - orderly(before)
            }
        };
        if counted != 1 {
            return Err(format!("{by:?} ended it, and it counts as {ends:?}"));
        }
        Ok(())
    }
}

impl Watched for Connection<'_> {
    type Event = Event;

    /// Lets it happen, and a turn after it.
    fn step(&mut self, event: Event) -> Result<bool, String> {
        if !self.apply(event) {
            return Ok(false);
        }
        self.world.turn();
        self.troubled |= matches!(
            event,
            Event::Abort | Event::Cut | Event::SendFails | Event::PeerReset | Event::ResetsFail
        );
        if self.over.is_none() && !self.is_live() {
            let (_, acked) = self.world.kernel(|kernel| kernel.out(self.socket));
            self.over = Some((event, acked));
        }
        self.world.contradiction().map_or(Ok(true), Err)
    }

    /// Everybody does what is left to do, and all must be gone.
    fn finish(mut self) -> Result<(), String> {
        if self.held {
            self.step(Event::Drop)?;
        }
        for _ in 0..ROUNDS_MOST {
            if !self.world.io.conns.contains(self.conn as usize) {
                break;
            }
            if self.world.kernel(|kernel| kernel.is_dead(self.socket)) {
                let fails = self.step(Event::SendFails)?;
                self.troubled |= fails;
                let socket = self.socket;
                self.world.kernel(|kernel| kernel.receives_the_end(socket));
                self.world.turn();
            }
            for event in [
                Event::SendAll,
                Event::Acknowledged,
                Event::PeerFin,
                Event::Cancelled,
                Event::Time,
            ] {
                self.step(event)?;
            }
        }
        self.counted()
    }
}

#[test]
fn a_connection_closes_once_and_counts_every_byte_in_every_sequence_of_four_events() {
    let mut worlds = Worlds::default();
    let play = |sequence: &[Event]| Connection::new(worlds.next()).play(sequence);
    let whole = each_sequence(&EVENTS, 4, play);
    assert!(whole > 1_000, "only {whole} sequences were possible");
}

/// What it owed was looked at before the peer took it, and how it stands after: an end in order, which
/// two looks at two moments would take for a reset.
#[test]
fn a_peer_that_takes_all_and_ends_between_two_looks_has_not_reset() {
    let mut worlds = Worlds::default();
    let mut connection = Connection::new(worlds.next());
    let (conn, socket) = (connection.conn, connection.socket);
    for event in [Event::Write, Event::SendAll, Event::Drop] {
        assert_eq!(connection.step(event), Ok(true), "{event:?}");
    }
    let world = connection.world;
    world.kernel(|kernel| kernel.ends_between_looks(socket));
    for _ in 0..ROUNDS_MOST {
        world.time_goes_on();
        world.turn();
        world.kernel(Kernel::ends_cancelled);
    }
    assert!(!world.io.conns.contains(conn as usize), "it is over");
    let ends = world.io.tally.ends;
    assert_eq!((ends.peer_reset, ends.by_handler), (0, 1), "{ends:?}");
    assert_eq!(world.lost(), 0);
}
