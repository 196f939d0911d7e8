//! What the kernel puts off until this thread enters: one enter does only a part of it.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::{close_empty, open, settle};
use crate::config::DRAIN_BATCH;
use crate::ring::entry::Sqe;
use crate::ring::port::Wait;
use crate::ring::token::{Kind, Token};

/// Ends of stream at one moment: more than one turn can take.
const ENDS: u32 = 200;

#[test]
fn a_turn_hears_of_as_many_ends_as_it_tells_connections_to_end() {
    let mut driver = open();
    let pairs: Vec<(UnixStream, UnixStream)> = (0..ENDS)
        .map(|_| UnixStream::pair().expect("two ends"))
        .collect();
    for (index, (ours, _)) in (0..).zip(&pairs) {
        let fd = ours.as_raw_fd();
        let token = Token {
            kind: Kind::Recv,
            index,
            generation: 1,
        };
        driver.submit(Sqe::RecvMulti { fd, bytes_most: 0 }, token);
    }
    driver.enter(Wait::No).expect("the ring is open");
    for (_, peer) in &pairs {
        peer.shutdown(Shutdown::Write).expect("it is connected");
    }
    driver.enter(Wait::No).expect("the ring is open");
    driver.catch_up().expect("the ring is open");
    let mut batch = Vec::new();
    driver.reap(&mut batch);
    let ends = |all: &[_]| {
        let end =
            |c: &&crate::ring::driver::Completion| c.token.kind == Kind::Recv && c.result == 0;
        all.iter().filter(end).count()
    };
    let first = ends(&batch);
    assert!(first >= DRAIN_BATCH, "a turn heard of {first}");
    driver.watch_alarm();
    let rest = settle(&mut driver);
    assert_eq!(first + ends(&rest), ENDS as usize);
    drop((batch, rest));
    close_empty(driver);
}
