//! Defects beneath the turn: in the driver as it submits, and with a user's things in the turn's
//! hands.

#![forbid(unsafe_code)]

use super::*;

/// A handler has had its answer queued; the turn sends it, and the driver panics.
#[test]
fn a_driver_that_panics_as_it_submits_ends_its_core_alone() {
    let (report, answered) = run(
        |_| {},
        |handle, address| {
            let mut peers = peers(address);
            let mut phases = handle.phases();
            let (striking, _) = peers
                .iter_mut()
                .find(|(_, core)| *core == STRUCK)
                .expect("one of so many");
            striking.write_all(STRIKES).expect("it is connected");
            assert_eq!(phases.wait_next().ok(), Some(Some(Phase::Draining)));
            let end = |(mut peer, core): (Peer, usize)| (core, answer(&mut peer).is_ok());
            peers.into_iter().map(end).collect::<Vec<_>>()
        },
    );
    failed(&report);
    // It was counted before it came to the ring: what may be in the kernel's hands counts as there.
    let leaked = [STRUCK, 1 - STRUCK].map(|core| report.cores[core].ops.leaked);
    assert!(leaked[0] <= 1 && leaked[1] == 0, "{leaked:?}");
    assert!(answered.iter().all(|(_, more)| !more), "{answered:?}");
    let of_struck = answered.iter().filter(|(core, _)| *core == STRUCK).count();
    let ends = &report.cores[STRUCK].connections;
    assert_eq!(
        (ends.at_start, ends.forced),
        (of_struck as u64, of_struck as u64)
    );
}

/// It panics in a task's own poll, which made the operation: for the core that is the task's panic.
/// An operation that was counted and never submitted is waited for by nobody beyond the deadline.
#[test]
fn a_driver_that_panics_in_a_tasks_poll_ends_that_task_and_the_stop_still_ends() {
    let (report, connected) = run(
        |_| {},
        |handle, address| {
            drop(peers(address));
            let (told, tells) = mpsc::channel();
            let connect = move || async move {
                let connecting = spawn::spawn(async move {
                    fake::strike_at(Place::Submit);
                    TcpStream::connect(address).await
                });
                let panicked = connecting.await.is_err_and(|error| error.is_panic());
                told.send(panicked).expect("the thread waits");
            };
            drop(handle.spawn_on(STRUCK, connect).expect("the core lives"));
            let panicked = tells.recv_timeout(PATIENCE);
            handle.shutdown_within(Duration::from_secs(2));
            panicked
        },
    );
    assert_eq!(connected, Ok(true));
    assert_eq!(report.imbalances(), Vec::<String>::new());
    assert_eq!(report.cores[1 - STRUCK].outcome, CoreOutcome::Finished);
}

/// What a turn has taken out of the records to run it is a user's: its destructor may panic, and
/// must not while the turn unwinds, for that would end the process.
#[test]
fn a_turn_that_panics_with_a_users_things_in_its_hands_drops_them_when_it_has_unwound() {
    let (report, ()) = run(
        |_| {},
        |handle, address| {
            drop(peers(address));
            let begin = || {
                // Due at one time, so that all are in the turn's hands together.
                for _ in 0..3 {
                    let bomb = PanicsWhenDropped;
                    drop(time::spawn_after(Duration::from_millis(5), async move {
                        std::future::pending::<()>().await;
                        drop(bomb);
                    }));
                }
                fake::strike_at(Place::Timers);
                async {}
            };
            let begun = handle.spawn_on(STRUCK, begin).expect("the core lives");
            drop(begun);
        },
    );
    failed_alone(&report);
    let timers = &report.cores[STRUCK].timers;
    assert_eq!(timers.fired + timers.cancelled, 3, "{report}");
}

/// A user's value with the worst destructor there is.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        // Without the panic hook: nothing is wrong.
        std::panic::resume_unwind(Box::new("a destructor of a user's"));
    }
}

/// Bytes whose owner panics when it gives them up.
struct Trapped(Vec<u8>);

impl AsRef<[u8]> for Trapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Trapped {
    fn drop(&mut self) {
        panic!("a user's memory was given up");
    }
}

/// They are in the kernel's hands when the core fails, and come back with its last completions. Two, for
/// the second panic in one list of them would be the end of the process.
#[test]
fn what_a_failed_core_had_to_send_may_panic_as_it_is_dropped() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = deaf.local_addr().expect("it is bound");
    let (report, ()) = run(
        |_| {},
        move |handle, address| {
            drop(peers(address));
            let (told, tells) = mpsc::channel();
            let send = move || async move {
                let mut streams = Vec::new();
                for _ in 0..2 {
                    let mut stream = TcpStream::connect(to).await.expect("a backlog has room");
                    // More than two sockets take in.
                    let all = bytes::Bytes::from_owner(Trapped(vec![0; 64 << 20]));
                    stream.send(all).await.expect("nothing stands before it");
                    streams.push(stream);
                }
                time::sleep(Duration::from_millis(50)).await;
                told.send(()).expect("the thread waits");
                std::future::pending::<()>().await;
                drop(streams);
            };
            drop(handle.spawn_on(STRUCK, send).expect("the core lives"));
            tells.recv_timeout(PATIENCE).expect("it sends");
            strike(&handle, 1);
        },
    );
    failed_alone(&report);
    drop(deaf);
}
