//! The users of a core: a main, what it listens at and what it connects to; and the book in which
//! they write what they did.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::talk;
use crate::config::DrainPolicy;
use crate::handle::Core;
use crate::net::{Chunk, TcpListener, TcpStream};
use crate::ring::fake::Script;
use crate::ring::fake::dice::Dice;
use crate::ring::fake::peer::is_stream;
use crate::{spawn, time};

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    /// What decides.
    pub(super) dice: RefCell<Dice>,
    /// What stands for the kernel, to compare with.
    pub(super) script: Script,
    /// What was handed over for sending, by each who sends; the first byte is its place here.
    pub(super) handed: RefCell<Vec<Handed>>,
    /// Chunks that are kept, whose stream they are of, and from where on.
    pub(super) kept: RefCell<Vec<(Chunk, u8, u64)>>,
    /// Bytes that came into users' hands.
    pub(super) taken: Cell<u64>,
    /// The first thing that was not as promised.
    wrong: RefCell<Option<String>>,
}

/// What one user has handed over.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// The bytes, in order.
    pub(super) bytes: Vec<u8>,
    /// Whether a part of the last ones may never have been queued.
    pub(super) loose: bool,
}

impl Book {
    /// An empty one.
    pub(super) fn new(dice: Dice, script: Script) -> Book {
        Book {
            dice: RefCell::new(dice),
            script,
            handed: RefCell::default(),
            kept: RefCell::default(),
            taken: Cell::new(0),
            wrong: RefCell::new(None),
        }
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.dice.borrow_mut().below(bound)
    }

    /// Notes what is not as promised.
    pub(super) fn wrong(&self, what: String) {
        self.wrong.borrow_mut().get_or_insert(what);
    }

    /// A name for one more who sends.
    pub(super) fn register(&self) -> usize {
        let mut handed = self.handed.borrow_mut();
        handed.push(Handed::default());
        handed.len() - 1
    }

    /// Whether all was as promised so far.
    pub(super) fn look(&self) -> Result<(), String> {
        match self.wrong.borrow_mut().take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    /// How many chunks that are kept have a buffer of the pool.
    pub(super) fn kept_in_pool(&self) -> u64 {
        let kept = self.kept.borrow();
        kept.iter().filter(|(chunk, ..)| chunk.is_pooled()).count() as u64
    }

    /// Drops the chunks that were kept; each still has its bytes.
    pub(super) fn let_go(&self) {
        for (chunk, name, at) in self.kept.take() {
            if !is_stream(name, at, &chunk) {
                self.wrong(format!("a chunk of {name}'s from {at} was overwritten"));
            }
        }
    }

    /// Compares what was handed over with what was taken, when the core is gone and has left
    /// `leaked` operations behind.
    pub(super) fn settle(&self, leaked: u64) -> Result<(), String> {
        let accounts = self.script.borrow_mut().close(leaked)?;
        self.let_go();
        self.look()?;
        let read: u64 = accounts.iter().map(|account| account.read).sum();
        if self.taken.get() > read {
            return Err(format!(
                "{} bytes were given out of {read}",
                self.taken.get()
            ));
        }
        let handed = self.handed.borrow();
        for account in accounts {
            let Some(&name) = account.sent.first() else {
                continue;
            };
            let Some(of) = handed.get(usize::from(name)) else {
                return Err(format!("{name} has sent something, and is no user"));
            };
            let (sent, all) = (account.sent.len(), of.bytes.len());
            if !of.bytes.starts_with(&account.sent) {
                return Err(format!(
                    "{sent} bytes of {name}'s are not those of its {all}"
                ));
            }
            if account.whole && !of.loose && leaked == 0 && sent < all {
                return Err(format!("of {name}'s {all} bytes {sent} were sent"));
            }
        }
        Ok(())
    }
}

/// The main future of the core.
pub(super) async fn main(book: Rc<Book>) -> io::Result<()> {
    if book.below(3) == 0 {
        let own = book.clone();
        let hook = async move || connect_out(own.clone()).await;
        Core::current().on_shutdown("a hook", Duration::from_millis(50), hook);
    }
    for _ in 0..book.below(3) {
        drop(spawn(connect_out(book.clone())));
    }
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
    let listener = match book.below(6) {
        0 => listener.drain_policy(DrainPolicy::new().cut()),
        1 => listener.drain_policy(DrainPolicy::new().spread(Duration::from_millis(30))),
        2 => listener.drain_policy(DrainPolicy::new().linger(Duration::from_millis(3))),
        _ => listener,
    };
    match book.below(12) {
        0 => return accept_some(book, listener).await,
        1 => {
            // It goes on when the main has ended, and through a cut.
            drop(spawn::spawn_background(accept_some(book, listener)));
            return Ok(());
        }
        _ => {}
    }
    let limit = 1 + book.below(20) as usize;
    let handler = move |stream| talk::talk(book.clone(), stream);
    listener.serve_limited(limit, handler).await
}

/// Accepts a few, drops futures of `accept` in between, and then the listener.
async fn accept_some(book: Rc<Book>, listener: TcpListener) -> io::Result<()> {
    for _ in 0..book.below(6) {
        if book.below(2) == 0 {
            if let Some(Ok(Some(stream))) = once(listener.accept()).await {
                drop(spawn(talk::talk(book.clone(), stream)));
            }
            time::sleep(Duration::from_micros(book.below(300))).await;
            continue;
        }
        match listener.accept().await {
            Ok(Some(stream)) => drop(spawn(talk::talk(book.clone(), stream))),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(())
}

/// Connects to a peer and talks to it, or gives up in the middle.
async fn connect_out(book: Rc<Book>) -> io::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    if book.below(5) == 0 {
        drop(once(TcpStream::connect(address)).await);
        return Ok(());
    }
    let stream = TcpStream::connect(address).await?;
    talk::talk(book, stream).await
}

/// Polls `future` once and drops it.
pub(super) async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
