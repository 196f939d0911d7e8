//! The conformance list: what Netty's own tests ask of a graceful shutdown.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use evenfall::net::{TcpListener, TcpStream};
use evenfall::report::Verdict;
use evenfall::time::spawn_after;
use evenfall::{Phase, spawn};
use futures_util::FutureExt;

use super::{
    Running, built, cases, checked, elapsed, gracefully, is_clean, millis, outcome, ran,
    takes_a_task, until, until_stopped,
};
use crate::process::WATCHDOG;
use crate::server::answer_all;
use crate::sys;

cases![
    a_stop_before_the_start_ends_at_once_and_takes_no_task,
    a_quiet_period_before_the_start_is_kept,
    a_runtime_that_never_runs_ends_when_it_is_dropped,
    a_stop_after_the_start_ends_in_its_quiet_period_and_takes_no_task_after,
    queued_tasks_all_run_although_the_first_one_blocks,
    four_tasks_one_after_the_other_all_run,
    a_registration_after_the_end_fails_and_gives_back_what_was_given,
    whoever_waits_for_a_registration_that_failed_is_told,
    tasks_every_100_ms_restart_a_quiet_second,
    with_two_seconds_of_two_tasks_are_taken_for_one_and_rejected_in_the_end,
    an_open_listener_does_not_hold_up_a_stop_of_no_quiet,
    a_stop_of_no_time_right_after_a_task_ends_100_times_over,
    a_stop_of_one_millisecond_ends,
    a_live_server_its_client_and_the_accepted_connection_are_all_closed,
    an_operation_after_the_end_of_its_core_is_an_error,
    a_failure_that_escapes_a_core_reaches_the_result,
    a_delay_beyond_all_time_overflows_nothing_and_holds_up_nothing,
];

/// `SingleThreadEventLoopTest.shutdownBeforeStart`,
/// `AbstractSingleThreadEventLoopTest.shutdownBeforeStart` and
/// `shutdownGracefullyZeroQuietBeforeStart`.
fn a_stop_before_the_start_ends_at_once_and_takes_no_task() {
    let runtime = built(2, gracefully(Duration::ZERO, Duration::from_secs(2)));
    let handle = runtime.handle();
    handle.shutdown();
    let report = ran(runtime, |core| until_stopped(core.handle()));
    is_clean(&report);
    assert!(elapsed(&report) < millis(1_500), "{report}");
    assert!(!takes_a_task(&handle));
}

/// `AbstractSingleThreadEventLoopTest.shutdownGracefullyBeforeStart`.
fn a_quiet_period_before_the_start_is_kept() {
    let runtime = built(2, gracefully(millis(200), Duration::from_secs(30)));
    runtime.handle().shutdown();
    let report = ran(runtime, |core| until_stopped(core.handle()));
    is_clean(&report);
    assert!(elapsed(&report) >= millis(200), "{report}");
}

/// As the two before, for one that nobody starts at all: its loops are gone
/// with its group there, its cores with the `Runtime` here.
fn a_runtime_that_never_runs_ends_when_it_is_dropped() {
    let runtime = built(2, gracefully(millis(200), Duration::from_secs(30)));
    let handle = runtime.handle();
    let queued = handle.spawn_on(0, || async {}).expect("no stop has begun");
    drop(runtime);
    let _ran_or_told = outcome(queued);
    checked(handle.wait().expect("this is no core"));
    assert!(!takes_a_task(&handle));
}

/// `AbstractSingleThreadEventLoopTest.gracefulShutdownAfterStart` and
/// `SingleThreadEventLoopTest.shutdownAfterStart`.
fn a_stop_after_the_start_ends_in_its_quiet_period_and_takes_no_task_after() {
    let running = Running::idle(2, gracefully(millis(200), Duration::from_secs(30)));
    running.has_begun();
    let handle = running.handle.clone();
    handle.shutdown();
    let report = running.ended();
    is_clean(&report);
    assert!(elapsed(&report) >= millis(200), "{report}");
    assert!(!takes_a_task(&handle));
    assert_eq!(handle.phase(), Phase::Terminated);
}

/// `SingleThreadEventLoopTest.shutdownWithPendingTasks`.
fn queued_tasks_all_run_although_the_first_one_blocks() {
    const TASKS: usize = 3;
    let running = Running::idle(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let begun = Arc::new(AtomicUsize::new(0));
    for _ in 0..TASKS {
        let (released, begun) = (Arc::clone(&released), Arc::clone(&begun));
        let task = running.handle.spawn_on(0, move || async move {
            begun.fetch_add(1, Ordering::SeqCst);
            // Blocks the core until the sender is gone.
            let released = released.lock().expect("nobody panicked");
            assert!(released.recv_timeout(WATCHDOG).is_err());
        });
        drop(task.expect("no stop has begun"));
    }
    until("the first task", || begun.load(Ordering::SeqCst) > 0);
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    running.handle.shutdown();
    drop(release);
    let report = running.ended();
    is_clean(&report);
    assert_eq!(begun.load(Ordering::SeqCst), TASKS);
}

/// `IoUringEventLoopTest.testSubmitMultipleTasksAndEnsureTheseAreExecuted`.
fn four_tasks_one_after_the_other_all_run() {
    let running = Running::idle(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    for _ in 0..4 {
        running.has_begun();
    }
    running.handle.shutdown();
    let report = running.ended();
    is_clean(&report);
    assert_eq!(report.cores[0].letters.handled, 5, "four, and the main");
}

/// `SingleThreadEventLoopTest.testRegistrationAfterShutdown`.
fn a_registration_after_the_end_fails_and_gives_back_what_was_given() {
    let running = Running::idle(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let handle = running.handle.clone();
    handle.shutdown();
    is_clean(&running.ended());
    let channel = String::from("a channel");
    let refused = handle
        .spawn_on(0, move || async move { channel })
        .expect_err("the core is gone");
    assert_eq!(refused.phase(), Some(Phase::Terminated));
    assert_eq!(refused.time_left().map(|left| left.is_zero()), Some(false));
    let given_back = refused.into_inner()().now_or_never();
    assert_eq!(given_back.as_deref(), Some("a channel"));
}

/// `SingleThreadEventLoopTest.testRegistrationAfterShutdown2`: its listener is
/// told. What a hook hands to a core is taken, and never done.
fn whoever_waits_for_a_registration_that_failed_is_told() {
    let waiting = Arc::new(Mutex::new(None));
    let inside = Arc::clone(&waiting);
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let report = ran(runtime, move |core| {
        let (handle, waiting) = (core.handle(), Arc::clone(&inside));
        core.on_shutdown("registers", Duration::from_secs(1), async move || {
            let never = || async {
                std::future::pending::<()>().await;
            };
            let registered = handle.spawn_on(0, never).map_err(|_| "refused")?;
            *waiting.lock().expect("nobody panicked") = Some(registered);
            Ok::<(), &str>(())
        });
        async { Ok(()) }
    });
    // It came to be a task, or Closing began before the letter was read.
    let core = &report.cores[0];
    let ended = core.tasks.dropped + core.letters.returned;
    assert_eq!(ended, 1, "{report}");
    let registered = waiting.lock().expect("nobody panicked").take();
    let told = outcome(registered.expect("the hook has run"));
    assert!(told.expect_err("it never ended").is_dropped());
}

/// `SingleThreadEventLoopTest.testGracefulShutdownQuietPeriod`; their timeout
/// is as long as it gets, too.
fn tasks_every_100_ms_restart_a_quiet_second() {
    let running = Running::idle(1, gracefully(Duration::from_secs(1), Duration::MAX));
    running.has_begun();
    running.handle.shutdown();
    let begun = Instant::now();
    let mut last = begun;
    while begun.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(millis(100));
        last = Instant::now();
        assert!(takes_a_task(&running.handle), "{:?}", begun.elapsed());
    }
    assert_eq!(running.handle.phase(), Phase::Draining);
    let report = running.ended();
    is_clean(&report);
    assert!(last.elapsed() >= Duration::from_secs(1), "{report}");
}

/// `SingleThreadEventLoopTest.testGracefulShutdownTimeout`.
fn with_two_seconds_of_two_tasks_are_taken_for_one_and_rejected_in_the_end() {
    let two = Duration::from_secs(2);
    let running = Running::idle(1, gracefully(two, two));
    running.has_begun();
    running.handle.shutdown();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(takes_a_task(&running.handle), "{:?}", begun.elapsed());
        std::thread::sleep(millis(100));
    }
    while takes_a_task(&running.handle) {
        assert!(begun.elapsed() < WATCHDOG, "they are taken for ever");
        std::thread::sleep(millis(100));
    }
    let report = running.ended();
    // Nothing was alive at the deadline, so nothing was cut.
    is_clean(&report);
    assert!(elapsed(&report) >= two, "{report}");
}

/// `AbstractEventLoopTest.testShutdownGracefullyNoQuietPeriod`, which
/// `NioEventLoopTest` inherits.
fn an_open_listener_does_not_hold_up_a_stop_of_no_quiet() {
    let mut runtime = built(2, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let report = ran(runtime, move |core| {
        let listener = listener.on(&core);
        async move {
            core.handle().shutdown();
            listener.serve(answer_all).await
        }
    });
    is_clean(&report);
    assert!(elapsed(&report) < millis(600), "{report}");
}

/// `IoUringEventLoopTest.shutdownNotSoGracefully`, which is repeated 100 times.
fn a_stop_of_no_time_right_after_a_task_ends_100_times_over() {
    for round in 0..100 {
        let running = Running::idle(1, gracefully(Duration::ZERO, Duration::ZERO));
        running.has_begun();
        running.handle.shutdown();
        let report = running.ended();
        assert!(elapsed(&report) < millis(1_500), "round {round}: {report}");
    }
}

/// `IoUringEventLoopTest.shutsDownGracefully`.
fn a_stop_of_one_millisecond_ends() {
    let one = millis(1);
    let running = Running::idle(1, gracefully(one, one));
    running.handle.shutdown();
    let report = running.ended();
    assert!(elapsed(&report) < millis(1_500), "{report}");
}

/// A listener, a connection that it has accepted and the client of that, which
/// is the runtime's, too: all registered when the stop comes, none afterwards.
/// Theirs is the rule of every `IoHandler`, that `prepareToDestroy` closes
/// what is registered.
fn a_live_server_its_client_and_the_accepted_connection_are_all_closed() {
    // What a process makes once, for its first runtime, is no leak.
    let warm = Running::idle(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    warm.handle.shutdown();
    is_clean(&warm.ended());
    let before = sys::open_fds();
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let report = ran(runtime, |core| async move {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
        let mut client = TcpStream::connect(listener.local_addr()).await?;
        drop(spawn(async move { listener.serve(answer_all).await }));
        client.write_all(b"alive").await?;
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"alive");
        core.handle().shutdown();
        // The client waits, until the server's end of the connection is closed.
        assert!(client.recv().await?.is_empty());
        Ok(())
    });
    is_clean(&report);
    let connections = report.cores[0].connections;
    assert_eq!((connections.accepted_total, connections.drained), (1, 1));
    assert_eq!(sys::open_fds(), before);
}

thread_local! {
    /// Lives as long as the core's thread, so longer than the core.
    static KEPT: RefCell<Option<AsksAfterTheEnd>> = const { RefCell::new(None) };
}

/// Asks a connection for more when its core is gone.
struct AsksAfterTheEnd {
    /// Connected while the core lived.
    stream: TcpStream,
    /// Where to say what it was told.
    tell: mpsc::Sender<[io::Result<()>; 2]>,
}

impl Drop for AsksAfterTheEnd {
    fn drop(&mut self) {
        let written = self.stream.write_all(b"late").now_or_never();
        let read = self.stream.recv().now_or_never();
        let told = [written, read.map(|read| read.map(drop))];
        let pending = || Err(io::ErrorKind::WouldBlock.into());
        let told = told.map(|told| told.unwrap_or_else(pending));
        self.tell.send(told).expect("somebody waits");
    }
}

/// `IoUringIoHandlerTest.testSubmitAfterDestroy`.
fn an_operation_after_the_end_of_its_core_is_an_error() {
    let peer = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = peer.local_addr().expect("it is bound");
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let report = ran(runtime, move |_core| {
        let tell = tell.lock().expect("nobody panicked").clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let asks = AsksAfterTheEnd { stream, tell };
            KEPT.with_borrow_mut(|kept| *kept = Some(asks));
            Ok(())
        }
    });
    is_clean(&report);
    for told in told.recv_timeout(WATCHDOG).expect("the thread has ended") {
        let error = told.expect_err("the core is gone");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    }
}

/// `SingleThreadEventExecutorTest.testExceptionIsPropagatedToTerminationFuture`.
fn a_failure_that_escapes_a_core_reaches_the_result() {
    let runtime = built(2, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let handle = runtime.handle();
    let waiting = std::thread::spawn(move || handle.wait().expect("this is no core"));
    let report = ran(runtime, |core| async move {
        if core.index() == 0 {
            panic!("the disk is on fire");
        }
        until_stopped(core.handle()).await
    });
    assert_eq!(report.verdict, Verdict::Failed, "{report}");
    let error = report.cores[0].error.as_deref().unwrap_or_default();
    assert!(error.contains("the disk is on fire"), "{error}");
    assert_eq!(waiting.join().expect("it only waits"), report);
}

/// `NioEventLoopTest.testScheduleBigDelayNotOverflow`.
fn a_delay_beyond_all_time_overflows_nothing_and_holds_up_nothing() {
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let report = ran(runtime, |core| async move {
        let never = spawn_after(Duration::MAX, async {});
        core.handle().shutdown();
        let told = never.await.expect_err("it is due after everything");
        assert!(told.is_cancelled(), "{told}");
        Ok(())
    });
    is_clean(&report);
    assert_eq!(report.cores[0].timers.cancelled, 1);
    assert!(elapsed(&report) < Duration::from_secs(30), "{report}");
}
