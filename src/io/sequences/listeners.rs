//! The ways a listener can close, in every order.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::listener::ListenerId;
use super::super::listening::Source;
use super::{ROUNDS_MOST, World};
use crate::config::DrainPolicy;
use crate::ring::sequences::{Watched, each_sequence};

/// What can happen to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Connect,
    Accepted,
    LastAccepted,
    OutOfDescriptors,
    BrokenConnection,
    BrokenListener,
    Cancelled,
    Take,
    Drain,
    Time,
    Cut,
    Drop,
    NoneLeft,
    SomeLeft,
}

const EVENTS: [Event; 14] = [
    Event::Connect,
    Event::Accepted,
    Event::LastAccepted,
    Event::OutOfDescriptors,
    Event::BrokenConnection,
    Event::BrokenListener,
    Event::Cancelled,
    Event::Take,
    Event::Drain,
    Event::Time,
    Event::Cut,
    Event::Drop,
    Event::NoneLeft,
    Event::SomeLeft,
];

/// What the accept of a broken listener says.
const BROKEN: i32 = libc::EINVAL;

/// One listener, and what a naive observer knows of it.
struct Listened {
    world: World,
    name: ListenerId,
    /// Whether the user still has it.
    held: bool,
    /// Connections that were given out.
    taken: u64,
    /// Whether a cut came.
    cut: bool,
    /// Whether the drain has begun.
    draining: bool,
    /// Whether an accept was told that it will never work.
    broken: bool,
    /// Those who came.
    came: u64,
}

impl Listened {
    fn new() -> Listened {
        let mut world = World::new();
        let (socket, _other) = UnixStream::pair().expect("a socket pair");
        let source = Source::Own(OwnedFd::from(socket));
        let address = "127.0.0.1:9".parse().expect("an address");
        let name = world.io.listen(source, address, DrainPolicy::default());
        world.turn();
        Listened {
            world,
            name,
            held: true,
            taken: 0,
            cut: false,
            draining: false,
            broken: false,
            came: 0,
        }
    }

    fn apply(&mut self, event: Event) -> Result<bool, String> {
        let name = 1 + self.came as u8;
        let world = &mut self.world;
        Ok(match event {
            Event::Take => return self.take(),
            Event::Drain => {
                let first = !std::mem::replace(&mut self.draining, true);
                if first {
                    let deadline_ns = world.io.now_ns + 60_000_000_000;
                    world.io.begin_drain(Duration::from_millis(10), deadline_ns);
                }
                first
            }
            Event::Time => {
                let window_ns = world.io.drain_wake_ns();
                if let Some(window_ns) = window_ns {
                    world.io.now_ns = world.io.now_ns.max(window_ns);
                }
                window_ns.is_some() | world.time_goes_on()
            }
            Event::Cut => {
                let first = !std::mem::replace(&mut self.cut, true);
                if first {
                    world.io.begin_last_sweeps();
                    world.io.cut_all(|_| true);
                }
                first
            }
            Event::Drop => {
                let held = std::mem::replace(&mut self.held, false);
                if held {
                    world.io.drop_listener_handle(self.name.index);
                }
                held
            }
            Event::Connect => {
                let open = !world.io.listeners_closed();
                let possible = open && world.kernel(|kernel| kernel.connects(name));
                self.came += u64::from(possible);
                possible
            }
            _ => world.kernel(|kernel| match event {
                Event::Accepted => kernel.accepts(false),
                Event::LastAccepted => kernel.accepts(true),
                Event::OutOfDescriptors => kernel.accept_fails(libc::EMFILE),
                Event::BrokenConnection => kernel.accept_fails(libc::ECONNABORTED),
                Event::BrokenListener => {
                    let possible = kernel.accept_fails(BROKEN);
                    self.broken |= possible;
                    possible
                }
                Event::Cancelled => kernel.ends_cancelled(),
                Event::NoneLeft => !std::mem::replace(&mut kernel.hand().out_of_descriptors, true),
                _ => std::mem::replace(&mut kernel.hand().out_of_descriptors, false),
            }),
        })
    }

    /// The user accepts a connection, if one is there, and drops it.
    fn take(&mut self) -> Result<bool, String> {
        if !self.held {
            return Ok(false);
        }
        let io = &mut self.world.io;
        let mut context = Context::from_waker(Waker::noop());
        match io.poll_accept(self.name.index, &mut context) {
            Poll::Ready(Ok(Some(conn))) => {
                if self.cut {
                    return Err("given out after a cut".to_owned());
                }
                self.taken += 1;
                io.drop_handle(conn);
                Ok(true)
            }
            Poll::Ready(Ok(None)) if !io.listeners_closed() => {
                Err("told the end too soon".to_owned())
            }
            Poll::Ready(Err(error)) if self.broken && error.raw_os_error() == Some(BROKEN) => {
                Ok(false)
            }
            Poll::Ready(Err(error)) => Err(error.to_string()),
            _ if self.broken => Err("not told that it is broken".to_owned()),
            Poll::Ready(Ok(None)) | Poll::Pending => Ok(false),
        }
    }

    /// Whether everybody was counted, and nobody was forgotten.
    fn counted(mut self) -> Result<(), String> {
        if let Some(what) = self.world.left() {
            return Err(what);
        }
        let refused = !self.world.io.take_refused().is_empty();
        let waiting = self.world.kernel(|kernel| kernel.backlog_by_hand());
        // Nobody can take them who wait at a broken one.
        if waiting > 0 && !refused && !self.broken {
            return Err(format!("{waiting} are left in the backlog"));
        }
        let accepted = self.world.io.tally.accepted_total;
        if accepted + waiting as u64 != self.came {
            return Err(format!("{} came, {accepted} were accepted", self.came));
        }
        if self.world.ended() != accepted || self.taken > accepted {
            return Err(format!("{} of {accepted} ended", self.world.ended()));
        }
        let sockets = self.world.kernel(|kernel| kernel.sockets_ever());
        let open = |socket: &usize| !self.world.kernel(|kernel| kernel.is_closed(*socket));
        match (0..sockets).find(open) {
            Some(socket) => Err(format!("the descriptor of connection {socket} is open")),
            None => Ok(()),
        }
    }
}

impl Watched for Listened {
    type Event = Event;

    /// Lets it happen, and a turn after it.
    fn step(&mut self, event: Event) -> Result<bool, String> {
        if !self.apply(event)? {
            return Ok(false);
        }
        if self.draining {
            let _again = self.world.io.step_drain();
        }
        self.world.turn();
        if self.broken && self.world.kernel(|kernel| kernel.is_accepting()) {
            return Err("a broken listener is asked to accept".to_owned());
        }
        self.world.contradiction().map_or(Ok(true), Err)
    }

    /// Everybody does what is left to do, and all must be gone.
    fn finish(mut self) -> Result<(), String> {
        self.step(Event::SomeLeft)?;
        self.step(Event::Drain)?;
        for _ in 0..ROUNDS_MOST {
            for event in [Event::Take, Event::Accepted, Event::Cancelled, Event::Time] {
                self.step(event)?;
            }
            let sockets = self.world.kernel(|kernel| kernel.sockets_ever());
            for socket in 0..sockets {
                self.world.kernel(|kernel| {
                    kernel.acknowledges(socket);
                    kernel.fin_comes(socket) || kernel.receives_the_end(socket)
                });
            }
            self.world.turn();
            if self.world.left().is_none() {
                break;
            }
        }
        if !self.held {
            return self.counted();
        }
        self.step(Event::Drop)?;
        self.counted()
    }
}

#[test]
fn a_listener_closes_and_forgets_nobody_in_every_sequence_of_four_events() {
    // Each in a world of its own: a drain begins once.
    let whole = each_sequence(&EVENTS, 4, |sequence| Listened::new().play(sequence));
    assert!(whole > 1_000, "only {whole} sequences were possible");
}

/// A main future has left its listener to a background task and the limit on descriptors is met:
/// no accept is in the kernel when the cut comes, so the sweep takes in who waits.
#[test]
fn who_is_swept_by_a_cut_is_reset_and_not_given_to_a_background_accept() {
    let mut watched = Listened::new();
    for event in [
        Event::Connect,
        Event::OutOfDescriptors,
        Event::Cut,
        Event::Take,
    ] {
        let possible = watched.step(event).expect("nothing contradicts itself");
        assert_eq!(possible, event != Event::Take, "{event:?}");
    }
    let accepted = watched.world.io.tally.accepted_total;
    assert_eq!(
        (accepted, watched.taken),
        (1, 0),
        "it was swept, and nobody got it"
    );
    watched.finish().expect("all are closed");
}
