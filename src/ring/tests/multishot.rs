//! Multishot operations: one arming, many completions, and the last of them is told apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::{ALARM_ONLY, PATIENCE, close_empty, open, open_with, reap_until, settle};
use crate::config::{BUFFER_BYTES, Features, POOL_BUFFERS, POOL_FIRST};
use crate::ring::chunk::Chunk;
use crate::ring::driver::{Completion, Driver};
use crate::ring::entry::Sqe;
use crate::ring::port::Wait;
use crate::ring::token::{Kind, Token};

/// The connection the receives are charged to.
const INDEX: u32 = 3;

/// More than the whole pool holds.
const TOTAL: usize = (2 * POOL_BUFFERS as usize + 100) * BUFFER_BYTES;

/// The byte at that place of the stream.
fn byte_at(place: usize) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8
}

/// Two ends of a connection over loopback.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let peer = TcpStream::connect(address).expect("a connection");
    let (ours, _) = listener.accept().expect("a connection");
    (ours, peer)
}

/// One arming of a multishot operation.
fn arming(kind: Kind, generation: u32) -> Token {
    Token {
        kind,
        index: INDEX,
        generation,
    }
}

/// A peer that has `TOTAL` bytes to send.
struct Sender {
    socket: TcpStream,
    data: Vec<u8>,
    sent: usize,
}

impl Sender {
    /// Sends what the socket takes, and ends the stream after the last byte.
    fn send_some(&mut self) {
        while self.sent < self.data.len() {
            match self.socket.write(&self.data[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("send: {error}"),
            }
            if self.sent == self.data.len() {
                self.socket.shutdown(Shutdown::Write).expect("a peer");
            }
        }
    }
}

/// Lets the peer send until the receive ends; its chunks, and the result it ended with.
fn receive(driver: &mut Driver, sender: &mut Sender, token: Token) -> (Vec<Chunk>, i32) {
    let mut chunks = Vec::new();
    loop {
        sender.send_some();
        let came = reap_until(driver, "something from the peer", |_, all| !all.is_empty());
        for completion in came {
            let Completion {
                result,
                more,
                chunk,
                token: named,
                ..
            } = completion;
            assert_eq!(named, token);
            chunks.extend(chunk);
            if !more {
                return (chunks, result);
            }
        }
    }
}

/// All the bytes, in order.
fn joined(chunks: &[Chunk]) -> Vec<u8> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.iter().copied())
        .collect()
}

#[test]
fn a_receive_that_empties_the_pool_ends_and_loses_no_byte() {
    let mut driver = open();
    let (ours, socket) = connection();
    socket.set_nonblocking(true).expect("a socket");
    let data: Vec<u8> = (0..TOTAL).map(byte_at).collect();
    let mut sender = Sender {
        socket,
        data,
        sent: 0,
    };
    let recv = Sqe::RecvMulti {
        fd: ours.as_raw_fd(),
        bytes_most: 0,
    };

    driver.submit(recv, arming(Kind::Recv, 1));
    let (chunks, ended) = receive(&mut driver, &mut sender, arming(Kind::Recv, 1));
    assert_eq!(ended, -libc::ENOBUFS, "the pool is empty");
    assert_eq!(chunks.len(), usize::from(POOL_FIRST));
    assert_eq!(driver.pool().ready(), 0);
    assert_eq!(driver.pool().charged(INDEX), u32::from(POOL_FIRST));
    let mut bytes = joined(&chunks);

    // With nothing in the pool an arming fails at once, and takes nothing from the socket.
    driver.submit(recv, arming(Kind::Recv, 2));
    let (none, ended) = receive(&mut driver, &mut sender, arming(Kind::Recv, 2));
    assert_eq!((none.len(), ended), (0, -libc::ENOBUFS));

    // What the stock has is another half of it.
    driver.pool().grow();
    driver.submit(recv, arming(Kind::Recv, 3));
    let (more, ended) = receive(&mut driver, &mut sender, arming(Kind::Recv, 3));
    assert_eq!(
        (more.len(), ended),
        (usize::from(POOL_FIRST), -libc::ENOBUFS)
    );
    bytes.extend(joined(&more));
    drop(more);

    drop(chunks);
    assert_eq!(driver.pool().lent(), 0, "every buffer came back");
    let mut generation = 3;
    let ended = loop {
        generation += 1;
        driver.submit(recv, arming(Kind::Recv, generation));
        let (chunks, ended) = receive(&mut driver, &mut sender, arming(Kind::Recv, generation));
        bytes.extend(joined(&chunks));
        assert!(
            ended == 0 || !chunks.is_empty(),
            "nothing came although buffers are free: {ended}"
        );
        if ended != -libc::ENOBUFS {
            break ended;
        }
    };
    assert_eq!(ended, 0, "the end of the stream");
    assert!(bytes == sender.data, "{} of {TOTAL} bytes", bytes.len());
    assert_eq!((driver.pool().lent(), driver.pool().charged(INDEX)), (0, 0));
    assert_eq!(driver.in_flight(), ALARM_ONLY);
    close_empty(driver);
}

#[test]
fn a_receive_that_is_cancelled_gives_back_every_buffer() {
    let mut driver = open();
    let (ours, mut peer) = connection();
    let token = arming(Kind::Recv, 1);
    let fd = ours.as_raw_fd();
    driver.submit(Sqe::RecvMulti { fd, bytes_most: 0 }, token);
    for _ in 0..10 {
        peer.write_all(b"piece").expect("a peer");
        let came = reap_until(&mut driver, "a piece", |_, all| !all.is_empty());
        assert!(came.iter().all(|completion| completion.more));
        assert!(driver.pool().lent() > 0, "the chunks are alive");
    }
    driver.cancel(token);
    let came = settle(&mut driver);
    assert_eq!(came.last().map(|last| last.result), Some(-libc::ECANCELED));
    drop(came);
    assert_eq!(driver.pool().lent(), 0);
    assert_eq!(driver.counts().cancelled, 1);
    close_empty(driver);
}

#[test]
fn a_chunk_outlives_the_ring_it_came_through() {
    let mut driver = open();
    let (ours, mut peer) = connection();
    let fd = ours.as_raw_fd();
    driver.submit(Sqe::RecvMulti { fd, bytes_most: 0 }, arming(Kind::Recv, 1));
    peer.write_all(b"kept").expect("a peer");
    let mut came = reap_until(&mut driver, "the bytes", |_, all| !all.is_empty());
    let chunk = came.remove(0).chunk.expect("bytes come in a chunk");
    driver.cancel(arming(Kind::Recv, 1));
    settle(&mut driver);
    close_empty(driver);
    peer.write_all(b"late").expect("a peer");
    assert_eq!(&*chunk, b"kept");
}

/// Waits for the peer to end the connection. A descriptor that stays open somewhere shows as a
/// read that times out.
#[track_caller]
fn assert_closed_by_peer(mut socket: TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut byte = [0];
    assert_eq!(
        socket.read(&mut byte).map_err(|error| error.kind()),
        Ok(0),
        "the other end is closed"
    );
}

#[test]
fn an_accept_gives_each_connection_once_and_dropping_it_closes_it() {
    let mut driver = open();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let token = arming(Kind::Accept, 1);
    let fd = listener.as_raw_fd();
    driver.submit(Sqe::Accept { fd, multi: true }, token);
    let peers: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).expect("a connection"))
        .collect();
    let came = reap_until(&mut driver, "every connection", |_, all| {
        all.len() == peers.len()
    });
    let mut named: Vec<_> = came.iter().filter_map(|one| one.fd.as_ref()).collect();
    assert!(came.iter().all(|one| one.more && one.token == token));
    named.sort_by_key(|fd| fd.as_raw_fd());
    named.dedup_by_key(|fd| fd.as_raw_fd());
    assert_eq!(named.len(), peers.len(), "each has a descriptor of its own");
    drop(came);
    peers.into_iter().for_each(assert_closed_by_peer);

    driver.cancel(token);
    let ended = settle(&mut driver);
    assert_eq!((ended[0].result, ended[0].more), (-libc::ECANCELED, false));
    assert!(ended[0].fd.is_none());
    close_empty(driver);
}

#[test]
fn connections_that_nobody_took_are_closed_with_the_driver() {
    let mut driver = open();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let token = arming(Kind::Accept, 1);
    let fd = listener.as_raw_fd();
    driver.submit(Sqe::Accept { fd, multi: true }, token);
    driver.enter(Wait::No).expect("the ring is open");
    let peers: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).expect("a connection"))
        .collect();
    driver
        .enter(Wait::AtMost(PATIENCE))
        .expect("the ring is open");
    assert!(driver.has_unseen(), "accepted, and not reaped");
    driver.cancel(token);
    drop(driver);
    drop(listener);
    peers.into_iter().for_each(assert_closed_by_peer_or_reset);
}

/// As [`assert_closed_by_peer`], for connections that the listener may still have had: those end
/// by a reset.
#[track_caller]
fn assert_closed_by_peer_or_reset(mut socket: TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    match socket.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the other end is closed, not {other:?}"),
    }
}

/// What a bounded receive may bring.
const BOUND: usize = 100_000;

#[test]
fn a_receive_ends_at_its_bound_however_much_there_is() {
    // What is new in Linux 6.17 is what is looked at: it ends with the buffer in which the bound lies.
    bounded(Features::All, BOUND..BOUND + BUFFER_BYTES);
}

#[test]
fn a_kernel_that_knows_no_bound_brings_one_buffer_at_a_time() {
    bounded(Features::Oldest, 1..BUFFER_BYTES + 1);
}

/// Receives all that a peer sends, each time with a bound, and so many bytes come each time but the
/// last.
#[track_caller]
fn bounded(features: Features, expected: Range<usize>) {
    let mut driver = open_with(features);
    let (ours, socket) = connection();
    socket.set_nonblocking(true).expect("a socket");
    let data: Vec<u8> = (0..TOTAL).map(byte_at).collect();
    let mut sender = Sender {
        socket,
        data,
        sent: 0,
    };
    let recv = Sqe::RecvMulti {
        fd: ours.as_raw_fd(),
        bytes_most: BOUND as u32,
    };
    let mut bytes = Vec::new();
    let mut generation = 0;
    loop {
        generation += 1;
        let token = arming(Kind::Recv, generation);
        driver.submit(recv, token);
        let (chunks, ended) = receive(&mut driver, &mut sender, token);
        let came = joined(&chunks);
        if ended == 0 {
            assert!(came.len() < BOUND + BUFFER_BYTES);
            bytes.extend(came);
            break;
        }
        let bounded = expected.contains(&came.len()) && ended > 0;
        let last = bytes.len() + came.len() == TOTAL;
        let count = came.len();
        assert!(
            bounded || last,
            "it ends with {expected:?} bytes: {count}, {ended}"
        );
        bytes.extend(came);
    }
    assert!(bytes == sender.data, "{} of {TOTAL} bytes", bytes.len());
    assert_eq!(driver.pool().lent(), 0);
    close_empty(driver);
}
