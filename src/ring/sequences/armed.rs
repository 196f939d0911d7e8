//! The lives of operations that complete many times, each armed again by its owner when it is over,
//! and of the buffers and descriptors that come with their completions; in every order.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use super::world::{Spare, World, a_descriptor};
use super::{Watched, each_sequence};
use crate::ring::chunk::Chunk;
use crate::ring::driver::{Completion, OpCounts};
use crate::ring::entry::Sqe;
use crate::ring::fake::kernel::Kernel;
use crate::ring::fake::peer::is_stream;
use crate::ring::token::{Kind, Token};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The owner arms it, if it is not armed.
    Arm,
    /// What was asked for goes to the kernel.
    Enter,
    /// What has completed is taken.
    Reap,
    /// Bytes or a connection come, and more will; or that was the last completion.
    More,
    Last,
    /// It ends with nothing: no buffer, or no descriptor, is left; the peer or the listener is gone.
    Refused,
    Over,
    /// The owner calls it back; the kernel ends it for that.
    CallBack,
    Cancelled,
    /// The owner calls back an arming that is over.
    LateCallBack,
    /// What came first is let go of.
    LetGo,
}

const EVENTS: [Event; 11] = [
    Event::Arm,
    Event::Enter,
    Event::Reap,
    Event::More,
    Event::Last,
    Event::Refused,
    Event::Over,
    Event::CallBack,
    Event::Cancelled,
    Event::LateCallBack,
    Event::LetGo,
];

/// The name of the peer that sends.
const PEER: u8 = 1;

/// How many bytes come at once.
const BYTES: u64 = 10;

/// The owner's place in its table.
const INDEX: u32 = 7;

/// A completion: whether something came with it, whether more will, and whether it was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Posted {
    brings: bool,
    more: bool,
    is_cancelled: bool,
}

/// A receive or an accept, its owner, and what a naive observer knows of both.
struct Armed<'a> {
    kind: Kind,
    world: World,
    /// Where the world goes that is as empty as it was.
    spare: &'a Spare,
    /// What the driver had counted before.
    before: OpCounts,
    /// What is received from or accepted on.
    fd: OwnedFd,
    /// The socket in the script, of a receive.
    socket: usize,
    /// The arming that the owner knows of, and whether it was called back.
    armed: Option<(Token, bool)>,
    /// The last one that is over.
    late: Option<Token>,
    /// How often it was armed, and how often that was over and reaped, and by a cancel.
    arms: u64,
    ended: u64,
    cancelled: u64,
    /// What the kernel has posted and nobody has reaped.
    posted: Vec<Posted>,
    /// What came and is held.
    chunks: Vec<Chunk>,
    descriptors: Vec<OwnedFd>,
    /// Bytes that were received.
    received: u64,
}

impl Armed<'_> {
    fn new(kind: Kind, spare: &Spare) -> Armed<'_> {
        let world = World::from(spare);
        let fd = a_descriptor();
        let socket = match kind {
            Kind::Recv => world.kernel(|kernel| kernel.adopt_by_hand(fd.as_raw_fd(), PEER)),
            _ => 0,
        };
        Armed {
            kind,
            before: world.driver.counts(),
            world,
            spare,
            fd,
            socket,
            armed: None,
            late: None,
            arms: 0,
            ended: 0,
            cancelled: 0,
            posted: Vec::new(),
            chunks: Vec::new(),
            descriptors: Vec::new(),
            received: 0,
        }
    }

    /// The kernel does something.
    fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        self.world.kernel(act)
    }

    fn apply(&mut self, event: Event) -> Result<bool, String> {
        Ok(match event {
            Event::Arm => self.arm(),
            Event::Enter => self.world.enter(),
            Event::Reap => return self.reap(),
            Event::More => self.something_comes(false),
            Event::Last => self.something_comes(true),
            Event::Refused if self.kind == Kind::Recv => self.ends(-libc::ENOBUFS),
            Event::Refused => self.ends(-libc::EMFILE),
            Event::Over if self.kind == Kind::Recv => self.ends(0),
            Event::Over => self.ends(-libc::EINVAL),
            Event::CallBack => self.call_back(),
            Event::Cancelled => {
                let called_back = |(token, _)| self.kernel(|kernel| kernel.is_called_back(token));
                self.armed.is_some_and(called_back) && self.ends(-libc::ECANCELED)
            }
            Event::LateCallBack => self.late.is_some_and(|token| {
                self.world.driver.cancel(token);
                true
            }),
            Event::LetGo if self.chunks.is_empty() && self.descriptors.is_empty() => false,
            Event::LetGo => {
                drop((
                    self.chunks.drain(..1.min(self.chunks.len())),
                    self.descriptors.pop(),
                ));
                true
            }
        })
    }

    fn arm(&mut self) -> bool {
        if self.armed.is_some() {
            return false;
        }
        let token = Token {
            kind: self.kind,
            index: INDEX,
            generation: self.world.generations.advance(),
        };
        let fd = self.fd.as_raw_fd();
        let bytes_most = 0;
        self.world.driver.submit(
            match self.kind {
                Kind::Recv => Sqe::RecvMulti { fd, bytes_most },
                _ => Sqe::Accept { fd, multi: true },
            },
            token,
        );
        self.armed = Some((token, false));
        self.arms += 1;
        true
    }
}

impl Armed<'_> {
    /// The kernel posts a completion that brings something.
    fn something_comes(&mut self, last: bool) -> bool {
        let socket = self.socket;
        let came = match self.kind {
            Kind::Recv => self.kernel(|kernel| kernel.says(socket, BYTES, last)),
            _ => self.kernel(|kernel| {
                kernel.is_accepting() && kernel.connects(PEER) && kernel.accepts(last)
            }),
        };
        if came {
            self.posted.push(Posted {
                brings: true,
                more: !last,
                is_cancelled: false,
            });
        }
        came
    }

    /// The kernel posts the last completion, which brings nothing.
    fn ends(&mut self, result: i32) -> bool {
        let ended = self
            .armed
            .is_some_and(|(token, _)| self.kernel(|kernel| kernel.completes(token, result, false)));
        if ended {
            self.posted.push(Posted {
                brings: false,
                more: false,
                is_cancelled: result == -libc::ECANCELED,
            });
        }
        ended
    }

    fn call_back(&mut self) -> bool {
        let Some((token, false)) = self.armed else {
            return false;
        };
        self.armed = Some((token, true));
        self.world.driver.cancel(token);
        true
    }

    /// Takes what has completed, and looks whether it is what was posted.
    fn reap(&mut self) -> Result<bool, String> {
        if !self.world.driver.has_unseen() {
            return Ok(false);
        }
        let mut batch = Vec::new();
        self.world.driver.reap(&mut batch);
        let posted = std::mem::take(&mut self.posted);
        if batch.len() != posted.len() {
            return Err(format!("{posted:?} was posted, and {batch:?} came"));
        }
        for (completion, posted) in batch.into_iter().zip(posted) {
            self.take(completion, posted)?;
        }
        Ok(true)
    }

    fn take(&mut self, completion: Completion, posted: Posted) -> Result<(), String> {
        let Some((token, _)) = self.armed.filter(|(token, _)| *token == completion.token) else {
            return Err(format!("it is of no arming that is known: {completion:?}"));
        };
        let brings = match self.kind {
            Kind::Recv => completion.chunk.is_some(),
            _ => completion.fd.is_some(),
        };
        if (brings, completion.more) != (posted.brings, posted.more) {
            return Err(format!("{posted:?} was posted, and {completion:?} came"));
        }
        if let Some(chunk) = &completion.chunk {
            if !is_stream(PEER, self.received, chunk) {
                return Err("these are not the bytes that were sent".to_owned());
            }
            self.received += chunk.len() as u64;
        }
        self.chunks.extend(completion.chunk);
        self.descriptors.extend(completion.fd);
        if !completion.more {
            self.armed = None;
            self.late = Some(token);
            self.ended += 1;
            self.cancelled += u64::from(posted.is_cancelled);
        }
        Ok(())
    }

    /// What must be true between any two events.
    fn contradiction(&mut self) -> Option<String> {
        if let Some(broken) = self.kernel(|kernel| kernel.broken().map(str::to_owned)) {
            return Some(broken);
        }
        let called_back = |(token, called_back): (Token, bool)| {
            !called_back && self.kernel(|kernel| kernel.is_called_back(token))
        };
        if self.armed.is_some_and(called_back) {
            return Some("a late cancel has met it".to_owned());
        }
        let unreaped = self.posted.iter().filter(|posted| posted.brings).count();
        let (held, counts, before) = (self.chunks.len(), self.world.driver.counts(), self.before);
        let numbers = [
            ("submitted", self.arms, counts.submitted - before.submitted),
            ("completed", self.ended, counts.completed - before.completed),
            (
                "cancelled",
                self.cancelled,
                counts.cancelled - before.cancelled,
            ),
            ("stale", 0, counts.stale),
            (
                "lent buffers",
                held as u64,
                u64::from(self.world.driver.pool().lent()),
            ),
            (
                "open connections",
                self.open() as u64,
                match self.kind {
                    Kind::Recv => 1,
                    _ => (self.descriptors.len() + unreaped) as u64,
                },
            ),
        ];
        let wrong = numbers.iter().find(|(_, expected, is)| expected != is);
        wrong.map(|(what, expected, is)| format!("{is} {what}, not {expected}"))
    }

    /// How many sockets that the script knows are open.
    fn open(&self) -> usize {
        self.kernel(|kernel| {
            let sockets = 0..kernel.sockets_ever();
            sockets.filter(|socket| !kernel.is_closed(*socket)).count()
        })
    }
}

impl Watched for Armed<'_> {
    type Event = Event;

    fn step(&mut self, event: Event) -> Result<bool, String> {
        if !self.apply(event)? {
            return Ok(false);
        }
        self.contradiction().map_or(Ok(true), Err)
    }

    fn finish(mut self) -> Result<(), String> {
        for event in [Event::CallBack, Event::Enter, Event::Cancelled, Event::Reap] {
            self.step(event)?;
        }
        while self.step(Event::LetGo)? {}
        if self.armed.is_some() {
            return Err("its last completion did not come".to_owned());
        }
        drop(self.fd);
        self.world.spare(self.spare)
    }
}

#[test]
fn what_comes_with_completions_is_given_out_once_and_goes_back_in_every_sequence_of_seven_events() {
    for kind in [Kind::Recv, Kind::Accept] {
        let spare = Spare::default();
        let whole = each_sequence(&EVENTS, 7, |sequence| {
            Armed::new(kind, &spare).play(sequence)
        });
        assert_eq!(whole, 701, "{kind:?}");
        spare.close();
    }
}
