//! Spawning, polling, waking on the owner's thread, joining, detaching, counting.

use super::*;

#[test]
fn a_handle_gives_the_output() {
    let (tasks, _) = core();
    let mut handle = tasks.go(async { String::from("done") });
    assert!(look(&mut handle).is_pending());
    assert!(!handle.is_finished());
    assert_eq!(
        tasks.run(10),
        Ran {
            polled: 1,
            essential: 1
        }
    );
    assert_eq!(result(handle).unwrap(), "done");
    assert_eq!(tasks.counters().completed, 1);
    tasks.assert_balanced();
}

#[test]
fn the_oldest_ready_task_is_polled_first() {
    let (tasks, _) = core();
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in 0..3 {
        let order = order.clone();
        drop(tasks.go(async move {
            order.borrow_mut().push(name);
            turn().await;
            order.borrow_mut().push(name + 10);
        }));
    }
    tasks.settle();
    assert_eq!(*order.borrow(), [0, 1, 2, 10, 11, 12]);
}

#[test]
fn a_run_ends_at_its_budget() {
    let (tasks, _) = core();
    let spin = async {
        loop {
            turn().await;
        }
    };
    let handle = tasks.go(spin);
    assert_eq!(tasks.run(0), Ran::default());
    assert_eq!(tasks.run(7).polled, 7);
    assert!(tasks.has_ready());
    handle.abort();
    assert_eq!(tasks.run(7).polled, 0);
    assert!(!tasks.has_ready());
}

#[test]
fn only_main_and_essential_polls_count_as_essential() {
    let (tasks, _) = core();
    for kind in Kind::ALL {
        drop(tasks.spawn(async {}, kind, Location::caller()));
        assert_eq!(tasks.live(kind), 1);
    }
    assert_eq!(
        tasks.run(10),
        Ran {
            polled: 4,
            essential: 2
        }
    );
    assert_eq!(tasks.counters().spawned, 3, "a hook is not counted");
    assert_eq!(tasks.counters().completed, 3);
    tasks.assert_balanced();
}

#[test]
fn many_wakes_are_one_poll() {
    let (tasks, bell) = core();
    let polls = Rc::new(Cell::new(0));
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let (seen, kept) = (polls.clone(), wakers.clone());
    let _handle = tasks.go(poll_fn(move |context| {
        seen.set(seen.get() + 1);
        kept.borrow_mut().push(context.waker().clone());
        Poll::<()>::Pending
    }));
    tasks.settle();
    let many = vec![wakers.borrow()[0].clone(); 1000];
    for waker in many {
        waker.wake();
    }
    tasks.settle();
    assert_eq!(polls.get(), 2);
    assert_eq!(
        bell.rings.load(Ordering::Relaxed),
        0,
        "no alarm is needed here"
    );
    let wakers = wakers.borrow();
    assert!(wakers[0].will_wake(&wakers[1]));
}

#[test]
fn a_task_that_wakes_itself_goes_to_the_back() {
    let (tasks, _) = core();
    let order = Rc::new(RefCell::new(Vec::new()));
    let (first, second) = (order.clone(), order.clone());
    let _one = tasks.go(async move {
        first.borrow_mut().push(1);
        turn().await;
        first.borrow_mut().push(3);
    });
    let _two = tasks.go(async move { second.borrow_mut().push(2) });
    assert_eq!(tasks.run(10).polled, 3);
    assert_eq!(*order.borrow(), [1, 2, 3]);
}

#[test]
fn a_task_may_wait_for_another() {
    let (tasks, _) = core();
    let inner = tasks.go(async {
        turn().await;
        20
    });
    let outer = tasks.go(async move { inner.await.unwrap() + 22 });
    tasks.settle();
    assert_eq!(result(outer).unwrap(), 42);
    tasks.assert_balanced();
}

#[test]
fn a_spawn_inside_a_poll_runs_in_the_same_run() {
    let (tasks, _) = core();
    let tasks = Rc::new(tasks);
    let inside = Rc::downgrade(&tasks);
    let handle = tasks.go(async move {
        let spawned = inside.upgrade().unwrap().go(async { 5 });
        spawned.await.unwrap()
    });
    assert_eq!(tasks.run(10).polled, 3);
    assert_eq!(result(handle).unwrap(), 5);
}

#[test]
fn a_run_inside_a_poll_does_nothing() {
    let (tasks, _) = core();
    let tasks = Rc::new(tasks);
    let inside = Rc::downgrade(&tasks);
    let handle = tasks.go(poll_fn(move |context| {
        context.waker().wake_by_ref();
        Poll::Ready(inside.upgrade().unwrap().run(10))
    }));
    let _other = tasks.go(async {});
    assert_eq!(tasks.run(1).polled, 1);
    assert_eq!(result(handle).unwrap(), Ran::default());
    assert_eq!(tasks.run(10).polled, 1);
}

#[test]
fn the_current_task_is_known_during_its_poll_only() {
    let (tasks, _) = core();
    let tasks = Rc::new(tasks);
    let inside = Rc::downgrade(&tasks);
    let line = line!() + 1;
    let handle = tasks.go(async move { inside.upgrade().unwrap().current().unwrap() });
    assert!(tasks.current().is_none());
    tasks.settle();
    assert!(tasks.current().is_none());
    let info = result(handle).unwrap();
    assert_eq!((info.id, info.kind), (1, Kind::Essential));
    assert_eq!(info.site.line(), line);
}

fn ids(infos: &[Info]) -> Vec<u64> {
    infos.iter().map(|info| info.id).collect()
}

#[test]
fn live_tasks_are_shown_with_their_origin() {
    let (tasks, _) = core();
    let handles: Vec<_> = (0..4).map(|_| tasks.go(pending::<()>())).collect();
    handles[1].abort();
    let of_essential = |most| tasks.some_live(&Kind::is_essential, most);
    let shown = of_essential(9);
    assert!(
        shown
            .iter()
            .all(|info| info.site.file().ends_with("life.rs"))
    );
    assert_eq!(ids(&shown), [1, 3, 4]);
    assert_eq!(ids(&of_essential(2)), [1, 3], "the oldest");
    handles[2].abort();
    assert_eq!(ids(&of_essential(9)), [1, 4]);
    assert!(tasks.some_live(&|kind| kind == Kind::Hook, 9).is_empty());
    assert_eq!(tasks.live(Kind::Essential), 2);
}

#[test]
fn a_detached_task_runs_on_and_its_output_is_dropped() {
    let (tasks, _) = core();
    let (futures, outputs) = (Drops::new(), Drops::new());
    let (held, output) = (futures.probe(), outputs.probe());
    drop(tasks.go(async move {
        turn().await;
        drop(held);
        output
    }));
    assert_eq!(tasks.run(1).polled, 1);
    futures.assert(0);
    tasks.settle();
    futures.assert(1);
    outputs.assert(1);
    assert_eq!(tasks.counters().completed, 1);
}

#[test]
fn an_output_that_nobody_took_is_dropped_with_the_handle() {
    let (tasks, _) = core();
    let outputs = Drops::new();
    let output = outputs.probe();
    let handle = tasks.go(async move { output });
    tasks.settle();
    outputs.assert(0);
    drop(handle);
    outputs.assert(1);
}

#[test]
fn an_output_that_was_taken_is_dropped_once() {
    let (tasks, _) = core();
    let outputs = Drops::new();
    let output = outputs.probe();
    let mut handle = tasks.go(async move { output });
    tasks.settle();
    let Poll::Ready(Ok(output)) = look(&mut handle) else {
        panic!("no output")
    };
    drop(handle);
    outputs.assert(0);
    drop(output);
    outputs.assert(1);
}

#[test]
#[should_panic(expected = "polled after its result")]
fn a_handle_polled_after_its_result_says_so() {
    let (tasks, _) = core();
    let mut handle = tasks.go(async {});
    tasks.settle();
    assert!(look(&mut handle).is_ready());
    let _ = look(&mut handle);
}

#[test]
fn the_last_waker_left_with_a_handle_is_the_one_woken() {
    let (tasks, _) = core();
    let (place_one, place_two) = (Rc::default(), Rc::default());
    let _one = tasks.go(park((), &place_one));
    let _two = tasks.go(park((), &place_two));
    tasks.settle();
    let mut handle = tasks.go(async {});
    for place in [&place_one, &place_two, &place_two] {
        let waker = place.borrow().clone().unwrap();
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut handle).poll(&mut context).is_pending());
    }
    place_one.take();
    place_two.take();
    assert_eq!(tasks.run(1).polled, 1);
    assert_eq!(tasks.run(10).polled, 1);
    assert!(place_one.borrow().is_none());
    assert!(place_two.borrow().is_some(), "the second was polled again");
}

#[test]
fn a_task_waiting_for_itself_is_dropped_without_a_leak() {
    let (tasks, bell) = core();
    let drops = Drops::new();
    let (place, held) = (Rc::new(RefCell::new(None::<JoinHandle<()>>)), drops.probe());
    let own = place.clone();
    *place.borrow_mut() = Some(tasks.go(async move {
        let _held = held;
        let handle = own.borrow_mut().take().unwrap();
        let _ = handle.await;
    }));
    tasks.settle();
    let bell_gone = Arc::downgrade(&bell);
    drop((tasks, bell));
    drops.assert(1);
    assert!(bell_gone.upgrade().is_none(), "nothing holds the core");
}

#[test]
fn a_hundred_thousand_tasks_run_and_end() {
    let (tasks, bell) = core();
    let drops = Drops::new();
    let count = 100_000;
    let handles: Vec<_> = (0..count)
        .map(|number| {
            let held = drops.probe();
            tasks.go(async move {
                turn().await;
                drop(held);
                number
            })
        })
        .collect();
    tasks.settle();
    drops.assert(count);
    let sum: usize = handles
        .into_iter()
        .map(|handle| result(handle).unwrap())
        .sum();
    assert_eq!(sum, count * (count - 1) / 2);
    for _ in 0..count {
        drop(tasks.go(park(drops.probe(), &Rc::default())));
    }
    tasks.settle();
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), count);
    drops.assert(2 * count);
    tasks.assert_balanced();
    drop(tasks);
    assert_eq!(Arc::strong_count(&bell), 1, "every task is freed");
}

#[test]
fn two_cores_on_one_thread_keep_apart() {
    let (one, bell_one) = core();
    let (two, bell_two) = core();
    let (place_one, place_two) = (Rc::default(), Rc::default());
    let _one = one.go(park((), &place_one));
    let _two = two.go(park((), &place_two));
    one.settle();
    two.settle();
    place_one.take().unwrap().wake();
    place_two.take().unwrap().wake();
    assert_eq!(bell_one.rings.load(Ordering::Relaxed), 1);
    assert_eq!(bell_two.rings.load(Ordering::Relaxed), 0);
    assert!(one.foreign_pending() && !one.has_ready());
    assert!(!two.foreign_pending() && two.has_ready());
    drop(two);
    assert_eq!(one.collect_foreign(), 1);
    assert_eq!(one.run(10).polled, 1);
}

#[test]
fn a_task_has_one_allocation_with_a_small_header() {
    assert!(
        size_of::<header::Header>() <= 128,
        "{}",
        size_of::<header::Header>()
    );
}

#[test]
fn a_handle_stays_on_its_core_and_an_error_goes_anywhere() {
    /// Ambiguous, and so not compiled, for a type that is `Send`.
    trait NotSend<Marker> {
        fn holds() -> bool {
            true
        }
    }
    struct Sendable;
    impl<T: ?Sized> NotSend<()> for T {}
    impl<T: ?Sized + Send> NotSend<Sendable> for T {}
    trait Anywhere: std::error::Error + Send + Sync + Unpin + 'static {
        const HOLDS: bool = true;
    }
    impl Anywhere for JoinError {}
    assert!(<JoinHandle<u8> as NotSend<_>>::holds());
    assert!(<Tasks as NotSend<_>>::holds());
    const { assert!(<JoinError as Anywhere>::HOLDS) };
}

#[test]
fn the_header_of_a_task_has_not_grown() {
    assert_eq!(size_of::<header::Header>(), 80);
    assert_eq!(size_of::<Kept>(), 8);
}
