//! Sends that are over when they are submitted: what the kernel says of them, and what it does not.
//!
//! On each kernel that the library runs on it has to be so: the records take silence for success.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::{close_empty, open, settle};
use crate::ring::driver::Driver;
use crate::ring::entry::Sqe;
use crate::ring::port::Wait;
use crate::ring::token::{Kind, Token};

/// What the kernel says of a success.
const NOTHING: [i32; 0] = [];

/// A connection; ours is the first.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let theirs = TcpStream::connect(address).expect("it listens");
    let (ours, _) = listener.accept().expect("it has connected");
    (ours, theirs)
}

/// Sends `bytes`, which enter has seen when this returns, and gives what the kernel said.
fn send(driver: &mut Driver, generation: u32, stream: &TcpStream, bytes: &[u8]) -> Vec<i32> {
    let token = Token {
        kind: Kind::Send,
        index: 0,
        generation,
    };
    let sqe = Sqe::SendAtOnce {
        fd: stream.as_raw_fd(),
        from: bytes.as_ptr(),
        len: bytes.len() as u32,
    };
    driver.submit(sqe, token);
    assert!(!driver.is_all_seen(), "no enter has taken it");
    driver.enter(Wait::No).expect("the ring is open");
    assert!(driver.is_all_seen());
    let mut batch = Vec::new();
    driver.reap(&mut batch);
    let said = batch.iter().filter(|c| c.token == token).map(|c| c.result);
    let said: Vec<i32> = said.collect();
    if said.is_empty() {
        // The books count completions, and this operation has none.
        driver.count_last(0);
    }
    said
}

#[test]
fn a_send_that_fits_is_over_with_the_enter_and_says_nothing() {
    let mut driver = open();
    let (ours, mut theirs) = pair();
    for generation in 1..=100 {
        assert_eq!(send(&mut driver, generation, &ours, &[7; 64]), NOTHING);
        let mut came = [0; 64];
        theirs.read_exact(&mut came).expect("it was sent");
        assert_eq!(came, [7; 64]);
    }
    close_empty(driver);
}

#[test]
fn a_send_into_a_full_socket_says_how_much_it_took_and_is_over() {
    let mut driver = open();
    let (ours, mut theirs) = pair();
    let piece = vec![5; 60_000];
    let (mut taken, mut generation, mut short) = (0, 0, false);
    loop {
        generation += 1;
        match *send(&mut driver, generation, &ours, &piece) {
            [] => taken += piece.len(),
            [result] if result > 0 => {
                assert!((result as usize) < piece.len(), "all of it is no failure");
                taken += result as usize;
                short = true;
            }
            [result] => {
                assert_eq!(result, -libc::EAGAIN);
                break;
            }
            ref more => panic!("one send said {more:?}"),
        }
        assert!(generation < 10_000, "the socket never fills");
    }
    assert!(short || taken % piece.len() == 0);
    assert!(settle(&mut driver).is_empty(), "nothing of it is left");
    drop(ours);
    let mut came = Vec::new();
    theirs.read_to_end(&mut came).expect("it ends in order");
    assert_eq!(came.len(), taken);
    close_empty(driver);
}

#[test]
fn a_send_on_a_broken_connection_says_so() {
    let mut driver = open();
    let (ours, theirs) = pair();
    socket2::SockRef::from(&theirs)
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("it is open");
    drop(theirs);
    let said = send(&mut driver, 1, &ours, b"too late");
    let refused = [-libc::EPIPE, -libc::ECONNRESET];
    assert!(said.len() == 1 && refused.contains(&said[0]), "{said:?}");
    close_empty(driver);
}
