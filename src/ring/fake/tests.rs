//! The script sees each breach of the law.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::dice::Dice;
use super::kernel::Kernel;
use super::peer::Peer;
use super::{Installed, install};
use crate::config::Features;
use crate::kept;
use crate::ring::driver::Driver;
use crate::ring::entry::Sqe;
use crate::ring::port::Wait;
use crate::ring::sys::event::EventFd;
use crate::ring::token::{Kind, Token};
use crate::sync::atomic::AtomicU64;

/// Enters within which a script answers whatever it is asked.
const ENTERS: usize = 200;

/// A driver on a script, and a socket that the script knows.
struct World {
    driver: Driver,
    socket: Option<UnixStream>,
    _other_end: UnixStream,
    installed: Installed,
}

/// One of this seed. Its peer does nothing and takes nothing, so that a send stays in flight until it is cancelled.
fn world(seed: u64) -> World {
    let mut dice = Dice::new(seed);
    let peer = Peer {
        drinks: false,
        acts: VecDeque::new(),
        ..Peer::rolled(0, &mut dice)
    };
    let clock = kept::for_ever(AtomicU64::new(0));
    let installed = install(Kernel::new(dice, clock, Vec::new(), Vec::new()));
    let (socket, other_end) = UnixStream::pair().expect("a socket pair");
    installed
        .0
        .borrow_mut()
        .adopt_socket(socket.as_raw_fd(), peer);
    let alarm = Arc::new(EventFd::new().expect("a descriptor"));
    World {
        driver: Driver::open(alarm, Features::All).expect("a script refuses nothing"),
        socket: Some(socket),
        _other_end: other_end,
        installed,
    }
}

impl World {
    /// Sends `bytes` under this name.
    fn send(&mut self, bytes: &[u8], token: Token) {
        let fd = self.socket.as_ref().expect("it is open").as_raw_fd();
        let sqe = Sqe::Send {
            fd,
            from: bytes.as_ptr(),
            len: bytes.len() as u32,
        };
        self.driver.submit(sqe, token);
    }

    /// Enters until the law is broken, and says how; then forgets the driver, which is of no use
    /// any more.
    #[track_caller]
    fn breach(mut self) -> String {
        for _ in 0..ENTERS {
            self.driver.enter(Wait::No).expect("a script never fails");
            self.driver.reap(&mut Vec::new());
            if let Some(what) = self.installed.0.borrow().broken() {
                kept::for_ever(self.driver);
                return what.to_owned();
            }
        }
        panic!("the law was not broken");
    }
}

/// The name of a send.
fn name(generation: u32) -> Token {
    Token {
        kind: Kind::Send,
        index: 7,
        generation,
    }
}

/// As many seeds as there are: each breach is seen whatever the script does besides.
const SEEDS: std::ops::Range<u64> = 0..40;

#[test]
fn memory_that_changes_while_it_is_sent_is_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        let mut bytes = vec![1; 100];
        world.send(&bytes, name(1));
        for _ in 0..ENTERS {
            world.driver.enter(Wait::No).expect("a script never fails");
        }
        bytes[99] = 2;
        world.driver.cancel(name(1));
        let what = world.breach();
        assert!(what.contains("has changed"), "{what}");
    }
}

#[test]
fn two_sends_on_one_socket_are_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        world.send(b"one", name(1));
        world.send(b"two", name(2));
        let what = world.breach();
        assert!(what.contains("while another one"), "{what}");
    }
}

#[test]
fn a_name_that_is_used_again_is_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        world.send(b"one", name(1));
        world.driver.cancel(name(1));
        world.send(b"two", name(1));
        let what = world.breach();
        assert!(what.contains("second operation"), "{what}");
    }
}

#[test]
fn a_cancel_of_what_never_was_is_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        world.driver.cancel(name(1));
        let what = world.breach();
        assert!(what.contains("never was"), "{what}");
    }
}

#[test]
fn a_descriptor_that_is_closed_too_early_is_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        world.send(b"one", name(1));
        for _ in 0..ENTERS {
            world.driver.enter(Wait::No).expect("a script never fails");
        }
        drop(world.socket.take());
        world.driver.cancel(name(1));
        let what = world.breach();
        assert!(what.contains("was closed"), "{what}");
    }
}

#[test]
fn a_send_from_a_buffer_that_is_lent_is_seen() {
    for seed in SEEDS {
        let mut world = world(seed);
        let chunk = world.driver.pool().filled(0, 10, 0);
        let chunk = chunk.expect("the driver has not given it out");
        world.send(&chunk, name(1));
        let what = world.breach();
        assert!(what.contains("which is lent"), "{what}");
    }
}

#[test]
fn a_buffer_that_is_lent_twice_is_seen() {
    for seed in SEEDS {
        let world = world(seed);
        drop(world.driver.pool().filled(0, 10, 0));
        let what = world.breach();
        assert!(what.contains("lent twice"), "{what}");
    }
}
