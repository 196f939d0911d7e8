//! What a handler does with its connection: dice decide, and each byte is looked at.

#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::users::{Book, once};
use crate::net::{Chunk, ReadHalf, TcpStream, WriteHalf};
use crate::ring::fake::installed;
use crate::ring::fake::peer::{NOBODY, is_stream, size, stream as stream_of};
use crate::{spawn, time};

/// Handles one connection.
pub(super) async fn talk(book: Rc<Book>, stream: TcpStream) -> io::Result<()> {
    let mut talk = Talk {
        own: book.register(),
        peer: None,
        at: 0,
        book,
    };
    match talk.book.below(12) {
        0 => talk.in_halves(stream).await,
        1..5 => talk.serve(stream).await,
        _ => talk.ramble(stream).await,
    }
}

/// Memory of a user's, which is worthless from the moment it is dropped.
struct Owned(Vec<u8>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(script) = installed() {
            let from = self.0.as_ptr() as usize;
            script.borrow_mut().freed(from, self.0.len());
        }
        self.0.fill(0xdd);
    }
}

/// What one handler knows of its connection.
struct Talk {
    /// The book of all.
    book: Rc<Book>,
    /// Its place among those who send.
    own: usize,
    /// Whom it talks to, once a byte came.
    peer: Option<u8>,
    /// How many bytes came.
    at: u64,
}

/// Receiving.
impl Talk {
    /// Looks at bytes that came: the next ones of the one stream.
    fn check(&mut self, bytes: &[u8]) {
        let Some(first) = bytes.first() else {
            return;
        };
        let peer = *self.peer.get_or_insert(*first);
        let (at, len) = (self.at, bytes.len() as u64);
        if !is_stream(peer, at, bytes) {
            let what = format!("{len} bytes from {at} on are not those of {peer}");
            self.book.wrong(what);
        }
        self.at += len;
        self.book.taken.set(self.book.taken.get() + len);
    }

    /// The stream has ended: if that was not for a stop, all is here that was sent.
    fn check_end(&self, draining: bool) {
        let peer = self.peer.filter(|peer| *peer != NOBODY && !draining);
        let sent = peer.and_then(|peer| self.book.script.borrow().arrived_of(peer));
        if sent.is_some_and(|sent| sent != self.at) {
            let what = format!("{} bytes came of {sent:?} of {peer:?}", self.at);
            self.book.wrong(what);
        }
    }

    /// A chunk came; it is dropped or kept. `false` for the last one, which is empty.
    fn receive(&mut self, chunk: Chunk, draining: bool) -> bool {
        let at = self.at;
        self.check(&chunk);
        if chunk.is_empty() {
            self.check_end(draining);
            return false;
        }
        match (self.book.below(8), self.peer) {
            (0, Some(peer)) => self.book.kept.borrow_mut().push((chunk, peer, at)),
            (1, Some(peer)) => {
                let mut rest = chunk;
                let head = rest.split_to(rest.len() / 2);
                let middle = at + head.len() as u64;
                let parts = [(head, peer, at), (rest, peer, middle)];
                self.book.kept.borrow_mut().extend(parts);
            }
            _ => {}
        }
        if self.book.below(12) == 0 {
            self.book.let_go();
        }
        true
    }
}

/// Sending.
impl Talk {
    /// Bytes to hand over, as many as the dice want; noted as handed over.
    fn words(&self) -> Vec<u8> {
        let count = size(&mut self.book.dice.borrow_mut());
        let mut all = self.book.handed.borrow_mut();
        let handed = &mut all[self.own];
        let at = handed.bytes.len() as u64;
        let words = stream_of(self.own as u8, at, count as usize).into_owned();
        handed.bytes.extend_from_slice(&words);
        words
    }

    /// Whether what was noted last may not have been queued wholly.
    fn loose(&self, loose: bool) {
        self.book.handed.borrow_mut()[self.own].loose = loose;
    }

    /// What was noted last was not queued at all.
    fn take_back(&self, count: usize) {
        let mut handed = self.book.handed.borrow_mut();
        let bytes = &mut handed[self.own].bytes;
        bytes.truncate(bytes.len() - count);
    }

    /// Copies something into the queue.
    async fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        let words = self.words();
        self.loose(true);
        stream.write_all(&words).await?;
        self.loose(false);
        Ok(())
    }

    /// Sends a chunk back; before the first, something of its own, for that begins with its name.
    async fn echo(&self, stream: &mut TcpStream, chunk: Chunk) -> io::Result<()> {
        let is_named = !self.book.handed.borrow()[self.own].bytes.is_empty();
        if !is_named {
            self.write(stream).await?;
        }
        let count = chunk.len();
        self.book.handed.borrow_mut()[self.own]
            .bytes
            .extend_from_slice(&chunk);
        self.loose(true);
        let sent = stream.send(chunk).await;
        if sent.is_err() {
            self.take_back(count);
        }
        self.loose(false);
        sent
    }
}

/// What a handler does.
impl Talk {
    /// Serves requests as most servers do.
    async fn serve(&mut self, mut stream: TcpStream) -> io::Result<()> {
        while stream.next_request().await? {
            let chunk = stream.recv().await?;
            self.check(&chunk);
            self.echo(&mut stream, chunk).await?;
        }
        self.check_end(stream.draining());
        Ok(())
    }

    /// Does this and that.
    async fn ramble(&mut self, mut stream: TcpStream) -> io::Result<()> {
        for _ in 0..self.book.below(14) {
            if !self.act(&mut stream).await? {
                break;
            }
        }
        match self.book.below(10) {
            0 => stream.abort(),
            1..3 => {
                let closed = stream.close().await;
                let all = self.book.script.borrow().has_acknowledged(self.own as u8);
                if closed.is_ok() && !all {
                    let what = "a close was Ok before all was acknowledged";
                    self.book.wrong(what.to_owned());
                }
            }
            3 => std::panic::resume_unwind(Box::new("a handler panics")),
            _ => {}
        }
        Ok(())
    }

    /// Does one thing; `false` at the end of the stream.
    async fn act(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        match self.book.below(18) {
            0..3 => return stream.next_request().await,
            3..7 => {
                let chunk = stream.recv().await?;
                return Ok(self.receive(chunk, stream.draining()));
            }
            7 => {
                let mut buffer = [0; 50];
                let count = stream.read(&mut buffer).await?;
                self.check(&buffer[..count]);
                return Ok(count > 0);
            }
            8..10 => self.write(stream).await?,
            10..12 => {
                let words = self.words();
                self.loose(true);
                stream.send(Bytes::from_owner(Owned(words))).await?;
                self.loose(false);
            }
            12 => stream.flush().await?,
            13 => time::sleep(Duration::from_micros(self.book.below(3_000))).await,
            14 => {
                if let Some(Ok(chunk)) = once(stream.recv()).await {
                    return Ok(self.receive(chunk, stream.draining()));
                }
            }
            15 => drop(once(stream.next_request()).await),
            16 => {
                let words = self.words();
                let count = words.len();
                let sending = stream.send(Bytes::from_owner(Owned(words)));
                if !matches!(once(sending).await, Some(Ok(()))) {
                    self.take_back(count);
                }
            }
            _ if self.book.below(4) == 0 => stream.finish().await?,
            _ => spawn::yield_now().await,
        }
        Ok(true)
    }

    /// Reads in one task and writes in another.
    async fn in_halves(&mut self, stream: TcpStream) -> io::Result<()> {
        let (read, write) = stream.into_split();
        let writer = Talk {
            book: self.book.clone(),
            own: self.own,
            peer: None,
            at: 0,
        };
        drop(spawn(writer.only_write(write)));
        self.only_read(read).await
    }

    /// The reading half.
    async fn only_read(&mut self, mut half: ReadHalf) -> io::Result<()> {
        for _ in 0..self.book.below(10) {
            let chunk = half.recv().await?;
            if !self.receive(chunk, half.draining()) {
                break;
            }
        }
        Ok(())
    }

    /// The writing half.
    async fn only_write(self, mut half: WriteHalf) -> io::Result<()> {
        for _ in 0..self.book.below(6) {
            let words = self.words();
            self.loose(true);
            half.write_all(&words).await?;
            self.loose(false);
            if self.book.below(3) == 0 {
                half.flush().await?;
            }
        }
        if self.book.below(2) == 0 {
            half.finish().await?;
        }
        Ok(())
    }
}
