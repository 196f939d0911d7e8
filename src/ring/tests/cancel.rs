//! Cancels reach their operation, and only that.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};

use super::quarantine::Quarantine;
use super::source::{DATA, PIECE, Pipe};
use super::{ALARM_ONLY, PATIENCE, close_empty, open, read_of, reap_until, settle};
use crate::config::SQ_ENTRIES;
use crate::ring::driver::Driver;
use crate::ring::entry::Sqe;
use crate::ring::port::Wait;
use crate::ring::slot::{Key, Lent};
use crate::ring::token::{Kind, Token};

/// More operations than the submission queue holds, with room to spare.
const MANY: usize = SQ_ENTRIES as usize * 3 + 1;

/// Starts `MANY` reads of one empty pipe and abandons them all.
fn abandon_many(driver: &mut Driver, pipe: &Pipe, quarantine: &Quarantine) {
    let keys: Vec<Key> = (0..MANY)
        .map(|_| driver.start(read_of(&pipe.reader, quarantine.buffer(1))))
        .collect();
    for key in keys {
        assert!(
            driver.abandon(&key, &mut Vec::new()).is_none(),
            "what the kernel may hold is not given back"
        );
    }
}

/// Every one of the `MANY` reads ended, and the books say so.
#[track_caller]
fn assert_all_cancelled(driver: &mut Driver, quarantine: &Quarantine) {
    settle(driver);
    let counts = driver.counts();
    assert_eq!(counts.submitted, MANY as u64 + ALARM_ONLY);
    assert_eq!(counts.completed, MANY as u64);
    assert_eq!(counts.cancelled, MANY as u64);
    assert_eq!(counts.stale, 0);
    assert_eq!(driver.slots().taken(), 0);
    assert_eq!(quarantine.freed(), MANY);
}

#[test]
fn a_cancel_that_finds_the_submission_queue_full_is_not_lost() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    abandon_many(&mut driver, &pipe, &quarantine);
    assert_all_cancelled(&mut driver, &quarantine);
    close_empty(driver);
}

#[test]
fn a_cancel_that_the_kernel_has_no_memory_for_is_not_lost() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    driver.starve(true);
    abandon_many(&mut driver, &pipe, &quarantine);
    driver.enter(Wait::No).expect("not an error");
    assert_eq!(driver.counts().completed, 0, "nothing went through");
    driver.starve(false);
    assert_all_cancelled(&mut driver, &quarantine);
    close_empty(driver);
}

#[test]
fn operations_keep_their_order_when_they_have_to_wait_for_room() {
    let (mut driver, quarantine) = (open(), Quarantine::default());
    let pipe = Pipe::new();
    let writer = std::rc::Rc::new(pipe.writer.try_clone().expect("a descriptor").into());
    driver.starve(true);
    let keys: Vec<Key> = (0..MANY)
        .map(|number| {
            let mut buffer = quarantine.buffer(2);
            buffer
                .bytes_mut()
                .copy_from_slice(&(number as u16).to_ne_bytes());
            driver.start(Lent::Write {
                fd: std::rc::Rc::clone(&writer),
                buffer,
                offset: super::OWN_POSITION,
            })
        })
        .collect();
    driver.starve(false);
    settle(&mut driver);
    let sent: Vec<u16> = pipe
        .take()
        .chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
        .collect();
    assert!(
        sent.iter().copied().eq(0..MANY as u16),
        "out of order: {sent:?}"
    );
    for key in keys {
        assert!(
            driver.abandon(&key, &mut Vec::new()).is_some(),
            "complete, so given back"
        );
    }
    assert_eq!(driver.slots().taken(), 0);
    close_empty(driver);
}

/// The name of the one operation in a slot.
#[track_caller]
fn only_token(driver: &mut Driver) -> Token {
    match driver.slots().in_kernel()[..] {
        [token] => token,
        ref tokens => panic!("one operation, not {tokens:?}"),
    }
}

/// What the operation of `key` gave.
#[track_caller]
fn outcome(driver: &mut Driver, key: &Key) -> (i32, Lent) {
    let mut context = Context::from_waker(Waker::noop());
    match driver.slots().poll(key, &mut context, &mut Vec::new()) {
        Poll::Ready(Some(outcome)) => outcome,
        other => panic!("a completed operation, not {other:?}"),
    }
}

#[test]
fn a_late_cancel_does_not_end_the_next_operation_of_its_slot() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    let first = driver.start(read_of(&pipe.reader, quarantine.buffer(PIECE)));
    let late = only_token(&mut driver);
    pipe.put();
    settle(&mut driver);
    drop(outcome(&mut driver, &first));

    let second = driver.start(read_of(&pipe.reader, quarantine.buffer(PIECE)));
    let token = only_token(&mut driver);
    assert_eq!(token.index, late.index, "the same slot");
    driver.cancel(late);
    driver.enter(Wait::No).expect("the ring is open");
    assert!(
        driver.abandon(&first, &mut Vec::new()).is_none(),
        "the old key opens nothing"
    );
    driver.enter(Wait::No).expect("the ring is open");

    pipe.put();
    settle(&mut driver);
    let (result, lent) = outcome(&mut driver, &second);
    assert_eq!(result, PIECE as i32, "it was not cancelled");
    let Lent::Read { buffer, .. } = lent else {
        panic!("a read was lent");
    };
    assert!(buffer.bytes().iter().all(|&byte| byte == DATA));
    assert_eq!(driver.counts().cancelled, 0);
    close_empty(driver);
}

#[test]
fn a_late_cancel_does_not_end_a_receive_that_was_armed_again() {
    let mut driver = open();
    let (ours, mut peer) = UnixStream::pair().expect("a socket pair");
    let armed = |generation| Token {
        kind: Kind::Recv,
        index: 7,
        generation,
    };
    let recv = Sqe::RecvMulti {
        fd: ours.as_raw_fd(),
        bytes_most: 0,
    };
    driver.submit(recv, armed(1));
    driver.enter(Wait::No).expect("the ring is open");
    driver.cancel(armed(1));
    let ended = settle(&mut driver);
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].result, ended[0].more), (-libc::ECANCELED, false));

    driver.submit(recv, armed(2));
    driver.cancel(armed(1));
    driver.enter(Wait::No).expect("the ring is open");
    peer.write_all(b"still here").expect("a peer");
    let came = reap_until(&mut driver, "the bytes", |_, all| !all.is_empty());
    assert_eq!(came[0].token, armed(2));
    assert_eq!(came[0].chunk.as_deref(), Some(&b"still here"[..]));
    assert!(came[0].more, "the receive goes on");
    drop(came);

    driver.cancel(armed(2));
    settle(&mut driver);
    assert_eq!(driver.pool().lent(), 0);
    close_empty(driver);
}

#[test]
fn the_waker_of_an_abandoned_operation_comes_back_to_its_future() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    let key = driver.start(read_of(&pipe.reader, quarantine.buffer(1)));
    let mut context = Context::from_waker(Waker::noop());
    let poll = driver.slots().poll(&key, &mut context, &mut Vec::new());
    assert!(poll.is_pending());
    let mut spent = Vec::new();
    assert!(driver.abandon(&key, &mut spent).is_none(), "no receipt yet");
    assert_eq!(spent.len(), 1);
    settle(&mut driver);
    assert_eq!(quarantine.freed(), 1);
    close_empty(driver);
}

#[test]
fn a_cancel_that_comes_after_the_completion_changes_nothing() {
    let (mut driver, pipe, quarantine) = (open(), Pipe::new(), Quarantine::default());
    for _ in 0..100 {
        let key = driver.start(read_of(&pipe.reader, quarantine.buffer(PIECE)));
        pipe.put();
        driver
            .enter(Wait::AtMost(PATIENCE))
            .expect("the ring is open");
        assert!(driver.has_unseen(), "complete, and not reaped");
        assert!(
            driver.abandon(&key, &mut Vec::new()).is_none(),
            "no receipt yet"
        );
        settle(&mut driver);
    }
    assert_eq!(driver.slots().taken(), 0);
    assert_eq!(driver.counts().cancelled, 0);
    assert_eq!(quarantine.freed(), 100);
    close_empty(driver);
}
