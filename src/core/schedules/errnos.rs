//! Every errno that the kernel may give, one at a time: what is told, and to whom.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::world::{adds_up, core};
use crate::config::{ACCEPT_BACKOFF, ACCEPT_FAILURES_MOST};
use crate::context::{self, Entered, Local};
use crate::core::report::{self, Facts};
use crate::core::stop::CoreStop;
use crate::core::{fail, turn};
use crate::io::Leftovers;
use crate::kept;
use crate::net::{TcpListener, TcpStream, WriteError};
use crate::report::{Connections, CoreReport, ListenerReport};
use crate::ring::fake::answers::{AGAIN, FATAL, LOST, SEND_FAILURES, WANTS};
use crate::ring::fake::dice::Dice;
use crate::ring::fake::kernel::Kernel;
use crate::ring::fake::peer::{Act, BREAKS, Peer};
use crate::ring::fake::{self, Installed};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{spawn, time};

/// More turns than any of these tests needs.
const TURNS_MOST: u64 = 5_000;

/// Network errors that were pending on a connection, which its accept gives out (accept(2)), and
/// one that no manual names: each costs the one connection.
const PENDING: &[i32] = &[
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EACCES,
    libc::EIO,
];

/// A core on a script that does what is planned, and nothing else by chance.
struct Rig {
    local: Rc<Local>,
    stop: CoreStop,
    leftovers: Leftovers,
    clock: &'static AtomicU64,
    /// Before `kernel`: what it leaves behind is asked of the script.
    entered: Entered,
    kernel: Installed,
}

impl Rig {
    /// To which so many peers come that do `acts`; `main` serves them.
    fn new<Fut>(peers: u8, acts: &[Act], main: Fut) -> Rig
    where
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let clock = kept::for_ever(AtomicU64::new(1_000_000));
        let mut dice = Dice::new(7);
        let peer = |name| Peer {
            name,
            acts: acts.iter().copied().collect(),
            drinks: true,
            answers_fin: true,
            dribbles: false,
        };
        let arrivals = (0..peers).map(peer).collect();
        let mut kernel = Kernel::new(dice.fork(), clock, arrivals, Vec::new());
        kernel.calm();
        let kernel = fake::install(kernel);
        let local = core(clock, &mut dice);
        let entered = context::enter(local.clone());
        assert!(local.begin_main(main, Location::caller()));
        Rig {
            local,
            stop: CoreStop::new(),
            leftovers: Leftovers::default(),
            clock,
            entered,
            kernel,
        }
    }

    /// Turns until `done`.
    #[track_caller]
    fn turn_until(&mut self, done: impl Fn() -> bool) {
        for _ in 0..TURNS_MOST {
            if done() {
                return;
            }
            turn(&self.local, &mut self.stop, &mut self.leftovers, None).expect("a ring");
        }
        panic!("it never comes: {:?}", self.local.io.borrow().listeners);
    }

    /// The core's last word: it adds up, and the law of the ring was kept.
    #[track_caller]
    fn end(mut self) -> CoreReport {
        let end = "the end".to_owned();
        let report = fail(&self.local, &mut self.stop, &mut self.leftovers, end);
        assert_eq!(adds_up(report.clone()), Ok(0));
        assert_eq!(self.kernel.0.borrow().broken(), None);
        drop(self.entered);
        report
    }

    /// Nanoseconds since the beginning.
    fn elapsed_ns(&self) -> u64 {
        self.clock.load(Ordering::Relaxed) - 1_000_000
    }
}

/// What the accepts of one listener gave, until one gave a connection or the same error came twice.
type Told = Rc<RefCell<Vec<Result<(), Option<i32>>>>>;

async fn accept_one(told: Told) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
    for _ in 0..2 {
        let given = listener.accept().await;
        let given = given.map(|stream| assert!(stream.is_some(), "no stop is under way"));
        let over = given.is_ok();
        told.borrow_mut().push(given.map_err(|e| e.raw_os_error()));
        if over {
            break;
        }
    }
    // It stays open to the end, for its report.
    let _open = listener;
    std::future::pending().await
}

/// What `accept` tells, and the listener's report, where the first accepts end with `errnos`.
#[track_caller]
fn accepted(errnos: &[i32]) -> (Vec<Result<(), Option<i32>>>, ListenerReport, u64) {
    let told = Told::default();
    let mut rig = Rig::new(1, &[], accept_one(told.clone()));
    let script = rig.kernel.0.clone();
    script.borrow_mut().plan.accepts.extend(errnos);
    let over = || told.borrow().last() == Some(&Ok(())) || told.borrow().len() == 2;
    rig.turn_until(over);
    let elapsed_ns = rig.elapsed_ns();
    // Before the end: a core that fails keeps no listener that is closed.
    let listener = report::of(&rig.local, &Facts::default())
        .listeners
        .remove(0);
    rig.end();
    let told = told.borrow().clone();
    (told, listener, elapsed_ns)
}

#[test]
fn an_accept_that_finds_no_descriptor_waits_and_says_so_in_the_report() {
    for &errno in WANTS {
        let (told, report, elapsed_ns) = accepted(&[errno]);
        assert_eq!(told, [Ok(())], "errno {errno}");
        assert_eq!(report.pauses, 1, "errno {errno}");
        let words = io::Error::from_raw_os_error(errno).to_string();
        assert_eq!(report.paused_by, Some(words));
        assert!(elapsed_ns >= ACCEPT_BACKOFF.as_nanos() as u64);
    }
}

#[test]
fn an_accept_that_fails_for_one_connection_goes_on_with_the_next() {
    for &errno in LOST.iter().chain(PENDING).chain(&[libc::EAGAIN]) {
        let (told, report, _) = accepted(&[errno]);
        assert_eq!(told, [Ok(())], "errno {errno}");
        assert_eq!(report.pauses, 0, "errno {errno}");
    }
}

#[test]
fn a_listener_that_is_broken_tells_every_accept() {
    for &errno in FATAL {
        let (told, report, _) = accepted(&[errno]);
        assert_eq!(told, [Err(Some(errno)); 2], "errno {errno}");
        assert_eq!(report.pauses, 0, "errno {errno}");
    }
}

/// As a security module does: the connection stays where it was, and the next accept meets it.
#[test]
fn a_policy_that_refuses_every_accept_does_not_keep_the_core_busy() {
    const REFUSALS: usize = 100;
    let (told, report, elapsed_ns) = accepted(&[libc::EPERM; REFUSALS]);
    assert_eq!(told, [Ok(())]);
    let pauses = REFUSALS as u64 - u64::from(ACCEPT_FAILURES_MOST) + 1;
    assert_eq!(report.pauses, pauses);
    assert!(elapsed_ns >= pauses * ACCEPT_BACKOFF.as_nanos() as u64);
}

/// The last handle is dropped while three wait in the backlog, whom nothing but a refusal or a
/// network error keeps from being taken and closed in order.
#[test]
fn a_sweep_takes_everybody_whatever_an_accept_says_in_between() {
    for &errno in LOST.iter().chain(PENDING).chain(WANTS) {
        let listens = Rc::new(Cell::new(true));
        let until = listens.clone();
        let mut rig = Rig::new(3, &[], async move {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
            while until.get() {
                time::sleep(Duration::from_millis(1)).await;
            }
            drop(listener);
            std::future::pending().await
        });
        let script = rig.kernel.0.clone();
        script.borrow_mut().plan.accepts.extend([libc::EMFILE; 9]);
        rig.turn_until(|| script.borrow().waiting() == 3);
        script.borrow_mut().plan.accepts = [errno, errno].into();
        listens.set(false);
        let local = rig.local.clone();
        rig.turn_until(|| local.io.borrow().listeners.is_empty());
        let report = rig.end();
        assert_eq!(report.connections.accepted_total, 3, "errno {errno}");
    }
}

/// What one handler was told, and the connections' counts, when the peer does `acts` and the sends
/// fail by `sends`.
#[track_caller]
fn talked(acts: &[Act], sends: &[i32]) -> (io::Result<()>, io::Result<()>, Connections) {
    let told = Rc::new(RefCell::new(None));
    let result = told.clone();
    let mut rig = Rig::new(1, acts, async move {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
        let stream = listener.accept().await?.expect("no stop is under way");
        let ended = spawn(talk(stream)).await.map_err(io::Error::other)?;
        *result.borrow_mut() = Some(ended);
        let _open = listener;
        std::future::pending().await
    });
    rig.kernel.0.borrow_mut().plan.sends.extend(sends);
    rig.turn_until(|| told.borrow().is_some());
    let (read, written) = told.take().expect("it was awaited");
    (read, written, rig.end().connections)
}

/// Reads to the end, writes, and says what came of either.
async fn talk(mut stream: TcpStream) -> (io::Result<()>, io::Result<()>) {
    let read = loop {
        match stream.recv().await {
            Ok(chunk) if chunk.is_empty() => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    let written = match stream.write_all(b"an answer").await {
        Ok(()) => stream.flush().await,
        Err(error) => Err(error),
    };
    (read, written)
}

#[test]
fn what_breaks_a_connection_is_told_to_who_reads_and_to_who_writes() {
    for &errno in BREAKS {
        let (read, written, _) = talked(&[Act::Say(5), Act::Break(errno)], &[]);
        let read = read.expect_err("it broke");
        assert_eq!(read.raw_os_error(), Some(errno));
        written.expect_err("nothing goes out on a connection that is broken");
    }
}

#[test]
fn a_send_that_fails_is_told_with_its_errno_and_what_was_taken() {
    for &errno in SEND_FAILURES {
        let (read, written, _) = talked(&[Act::Fin], &[errno]);
        read.expect("the peer's FIN is no error");
        let error = written.expect_err("the send failed");
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<WriteError>());
        let inner = inner.unwrap_or_else(|| panic!("errno {errno}: {error}"));
        assert_eq!((inner.raw_os_error(), inner.taken()), (errno, 0));
        assert_eq!(error.kind(), io::Error::from_raw_os_error(errno).kind());
    }
}

#[test]
fn a_send_that_is_to_be_made_again_is_made_again() {
    for &errno in AGAIN {
        let (read, written, _) = talked(&[Act::Fin], &[errno; 3]);
        read.expect("the peer's FIN is no error");
        written.unwrap_or_else(|error| panic!("errno {errno}: {error}"));
    }
}
