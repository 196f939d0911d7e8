//! Aborts, panics and drops: every way to end without an output, and destructors that misbehave.

use std::panic::panic_any;

use super::*;

#[test]
fn an_abort_before_the_first_poll_drops_the_future() {
    let (tasks, _) = core();
    let drops = Drops::new();
    let held = drops.probe();
    let handle = tasks.go(async move { drop(held) });
    handle.abort();
    drops.assert(1);
    assert_eq!(tasks.run(10).polled, 0);
    let error = error(handle);
    assert!(error.is_cancelled() && !error.is_dropped() && !error.is_panic());
    assert!(error.to_string().ends_with("was aborted"), "{error}");
    assert!(error.into_panic().unwrap_err().is_cancelled());
    assert_eq!(tasks.counters().cancelled, 1);
    tasks.assert_balanced();
}

#[test]
fn an_abort_of_a_waiting_task_drops_the_future_at_once() {
    let (tasks, _) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    let handle = tasks.go(park(drops.probe(), &place));
    tasks.settle();
    handle.abort();
    handle.abort();
    drops.assert(1);
    place.take().unwrap().wake();
    assert!(
        !tasks.has_ready(),
        "a wake of a task that is over does nothing"
    );
    assert!(error(handle).is_cancelled());
    assert_eq!(tasks.counters().cancelled, 1);
}

#[test]
fn an_abort_of_a_woken_task_prevents_the_poll() {
    let (tasks, _) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    let handle = tasks.go(park(drops.probe(), &place));
    tasks.settle();
    place.take().unwrap().wake();
    handle.abort();
    drops.assert(1);
    drop(handle);
    assert_eq!(tasks.run(10).polled, 0);
    assert!(!tasks.has_ready());
    tasks.assert_balanced();
}

#[test]
fn an_abort_from_inside_the_poll_drops_the_future_after_it() {
    let (tasks, _) = core();
    let (drops, own) = (Drops::new(), Rc::new(RefCell::new(None::<JoinHandle<()>>)));
    let (held, place, seen) = (drops.probe(), own.clone(), drops.clone());
    *own.borrow_mut() = Some(tasks.go(async move {
        place.borrow().as_ref().unwrap().abort();
        seen.assert(0);
        turn().await;
        drop(held);
        unreachable!("it was aborted");
    }));
    assert_eq!(tasks.run(10).polled, 1);
    drops.assert(1);
    assert!(error(own.take().unwrap()).is_cancelled());
    tasks.assert_balanced();
}

#[test]
fn an_abort_in_the_last_poll_comes_too_late() {
    let (tasks, _) = core();
    let own = Rc::new(RefCell::new(None::<JoinHandle<u32>>));
    let place = own.clone();
    *own.borrow_mut() = Some(tasks.go(async move {
        place.borrow().as_ref().unwrap().abort();
        7
    }));
    tasks.settle();
    let handle = own.take().unwrap();
    handle.abort();
    assert_eq!(result(handle).unwrap(), 7);
    assert_eq!(tasks.counters().cancelled, 0);
    assert_eq!(tasks.counters().completed, 1);
}

#[test]
fn an_abort_of_a_finished_task_changes_nothing() {
    let (tasks, _) = core();
    let handle = tasks.go(async { 7 });
    tasks.settle();
    handle.abort();
    assert_eq!(result(handle).unwrap(), 7);
    tasks.assert_balanced();
}

#[test]
fn an_abort_tells_whoever_waits() {
    let (tasks, _) = core();
    let inner = Rc::new(RefCell::new(tasks.go(pending::<()>())));
    let waited = inner.clone();
    let outer = tasks.go(poll_fn(move |context| {
        Pin::new(&mut *waited.borrow_mut()).poll(context)
    }));
    tasks.settle();
    inner.borrow().abort();
    tasks.settle();
    assert!(result(outer).unwrap().unwrap_err().is_cancelled());
}

/// A task whose destructor aborts the next one, and so on.
#[test]
fn a_long_chain_of_aborts_needs_no_long_stack() {
    let (tasks, _) = core();
    let drops = Drops::new();
    let length = 100_000;
    let mut next: Option<JoinHandle<()>> = None;
    for _ in 0..length {
        let (held, later) = (drops.probe(), next.take());
        next = Some(tasks.go(async move {
            let _abort = OnDrop(move || {
                if let Some(later) = &later {
                    later.abort();
                }
            });
            let _held = held;
            pending::<()>().await;
        }));
    }
    tasks.settle();
    next.take().unwrap().abort();
    tasks.settle();
    drops.assert(length);
    assert_eq!(tasks.counters().cancelled, length as u64);
    tasks.assert_balanced();
}

#[test]
fn a_panic_reaches_the_handle() {
    let (tasks, _) = core();
    let drops = Drops::new();
    let (held, number) = (drops.probe(), 5);
    let line = line!() + 1;
    let handle = tasks.go(async move {
        let _held = held;
        turn().await;
        panic!("number {number}");
    });
    let other = tasks.go(async { 1 });
    tasks.settle();
    drops.assert(1);
    assert_eq!(result(other).unwrap(), 1, "the core goes on");
    let error = error::<()>(handle);
    assert!(error.is_panic() && !error.is_cancelled());
    assert_eq!(error.spawned_at().line(), line);
    assert!(error.to_string().ends_with("panicked: number 5"), "{error}");
    let payload = error.into_panic().unwrap();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "number 5");
    assert_eq!(tasks.counters().panicked, 1);
    tasks.assert_balanced();
}

#[test]
fn a_panic_nobody_waits_for_is_counted() {
    let (tasks, _) = core();
    drop(tasks.go(async { panic!("fixed") }));
    drop(tasks.go(async { panic_any(Nasty) }));
    tasks.settle();
    assert_eq!(tasks.counters().panicked, 2);
    tasks.assert_balanced();
}

#[test]
fn a_payload_with_a_panicking_destructor_kills_nobody() {
    let (tasks, _) = core();
    let handle = tasks.go(async { panic_any(Nasty) });
    tasks.settle();
    drop(handle);
    let handle = tasks.go(async { panic_any(Nasty) });
    tasks.settle();
    let payload = error::<()>(handle).into_panic().unwrap();
    assert!(payload.is::<Nasty>());
    std::mem::forget(payload);
}

/// Ready at once, with a destructor of its own.
struct Ends<D: FnMut()>(Arc<Drops>, OnDrop<D>);

impl<D: FnMut()> Future for Ends<D> {
    type Output = Probe;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Probe> {
        Poll::Ready(self.0.probe())
    }
}

#[test]
fn a_panic_in_the_destructor_of_a_finished_future_reaches_the_handle() {
    let (tasks, _) = core();
    let outputs = Drops::new();
    let bad = OnDrop(|| panic!("in the destructor"));
    let handle = tasks.go(Ends(outputs.clone(), bad));
    tasks.settle();
    outputs.assert(1);
    let error = error(handle);
    assert!(error.is_panic());
    assert!(error.to_string().ends_with("in the destructor"), "{error}");
    assert_eq!(tasks.counters().panicked, 1);
    tasks.assert_balanced();
}

/// Panics in the poll and again in the destructor, which is not during the unwinding.
struct TwoPanics;

impl Future for TwoPanics {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        panic!("the first");
    }
}

impl Drop for TwoPanics {
    fn drop(&mut self) {
        panic_any(Nasty);
    }
}

#[test]
fn of_two_panics_the_first_is_told() {
    let (tasks, _) = core();
    let handle = tasks.go(TwoPanics);
    tasks.settle();
    let error = error(handle);
    assert!(error.to_string().ends_with("the first"), "{error}");
}

#[test]
fn a_panicking_destructor_of_an_aborted_task_ends_there() {
    let (tasks, _) = core();
    let drops = Drops::new();
    let held = drops.probe();
    let handle = tasks.go(async move {
        let _held = held;
        let _bad = OnDrop(|| panic_any(Nasty));
        pending::<()>().await;
    });
    tasks.settle();
    handle.abort();
    drops.assert(1);
    assert!(error(handle).is_cancelled());
    tasks.assert_balanced();
}

#[test]
fn a_panicking_destructor_of_an_output_ends_there() {
    let (tasks, _) = core();
    let output = || OnDrop(|| panic_any(Nasty));
    drop(tasks.go(async move { output() }));
    let handle = tasks.go(async move { output() });
    tasks.settle();
    drop(handle);
    assert_eq!(tasks.counters().completed, 2);
    tasks.assert_balanced();
}

#[test]
fn a_handle_dropped_inside_its_own_task_detaches_it() {
    let (tasks, _) = core();
    let outputs = Drops::new();
    let own = Rc::new(RefCell::new(None::<JoinHandle<Probe>>));
    let (place, output) = (own.clone(), outputs.probe());
    *own.borrow_mut() = Some(tasks.go(async move {
        drop(place.borrow_mut().take());
        output
    }));
    tasks.settle();
    outputs.assert(1);
    tasks.assert_balanced();
}

#[test]
fn a_handle_dropped_by_the_destructor_of_its_own_task_is_sound() {
    let (tasks, _) = core();
    let own = Rc::new(RefCell::new(None::<JoinHandle<()>>));
    let place = own.clone();
    *own.borrow_mut() = Some(tasks.go(async move {
        let _end = OnDrop(move || {
            let handle = place.borrow_mut().take().unwrap();
            handle.abort();
            assert!(!handle.is_finished());
        });
        pending::<()>().await;
    }));
    tasks.settle();
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), 1);
    assert!(own.borrow().is_none());
    assert_eq!(tasks.counters().dropped, 1);
    tasks.assert_balanced();
}

#[test]
fn drop_all_takes_the_kinds_asked_for() {
    let (tasks, _) = core();
    let mut handles = Vec::new();
    for kind in Kind::ALL.into_iter().chain(Kind::ALL) {
        handles.push(tasks.spawn(pending::<()>(), kind, Location::caller()));
    }
    tasks.settle();
    assert_eq!(tasks.drop_all(&|kind| kind == Kind::Background, &|| {}), 2);
    assert_eq!(tasks.live(Kind::Background), 0);
    assert_eq!(tasks.live(Kind::Main), 2);
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), 6);
    for handle in handles {
        let error = error(handle);
        assert!(error.is_dropped());
        assert!(
            error.to_string().ends_with("dropped by the stop"),
            "{error}"
        );
    }
    let counters = tasks.counters();
    assert_eq!((counters.dropped, counters.background_dropped), (6, 2));
    tasks.assert_balanced();
}

#[test]
fn drop_all_skips_the_task_being_polled() {
    let (tasks, _) = core();
    let tasks = Rc::new(tasks);
    let drops = Drops::new();
    let (inside, held) = (Rc::downgrade(&tasks), drops.probe());
    let handle = tasks.go(async move {
        let dropped = inside.upgrade().unwrap().drop_all(&|_| true, &|| {});
        drop(held);
        dropped
    });
    let _other = tasks.go(pending::<()>());
    tasks.settle();
    drops.assert(1);
    assert_eq!(result(handle).unwrap(), 1);
    tasks.assert_balanced();
}

#[test]
fn destructors_that_wake_and_abort_others_are_no_trouble_to_drop_all() {
    let (tasks, _) = core();
    let drops = Drops::new();
    let places: Vec<Rc<RefCell<Option<Waker>>>> = (0..50).map(|_| Rc::default()).collect();
    let handles = Rc::new(RefCell::new(Vec::new()));
    for number in 0..places.len() {
        let (all, aborted) = (places.clone(), handles.clone());
        let wakes_all = OnDrop(move || {
            for place in &all {
                let waker = place.borrow().clone();
                waker.unwrap().wake();
            }
            let handles: std::cell::Ref<'_, Vec<JoinHandle<()>>> = aborted.borrow();
            handles[(number + 7) % 50].abort();
            panic!("and it panics");
        });
        let handle = tasks.go(park((wakes_all, drops.probe()), &places[number]));
        handles.borrow_mut().push(handle);
    }
    tasks.settle();
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), 50);
    drops.assert(50);
    assert_eq!(tasks.counters().cancelled + tasks.counters().dropped, 50);
    tasks.assert_balanced();
    assert_eq!(tasks.run(100).polled, 0);
    handles.borrow_mut().clear();
}

/// Spawns a task like itself when it is dropped, `left` times over.
fn heir(tasks: std::rc::Weak<Tasks>, drops: Arc<Drops>, left: usize) -> impl Future<Output = ()> {
    let held = drops.probe();
    let mut again = Some((tasks, drops));
    let end = OnDrop(move || {
        let (tasks, drops) = again.take().unwrap();
        if let (Some(alive), true) = (tasks.upgrade(), left > 0) {
            let next: Pin<Box<dyn Future<Output = ()>>> = Box::pin(heir(tasks, drops, left - 1));
            drop(alive.spawn(next, Kind::Background, Location::caller()));
        }
    });
    async move {
        let _ends = (held, end);
        pending::<()>().await;
    }
}

#[test]
fn drop_all_follows_tasks_that_destructors_spawn() {
    let (tasks, _) = core();
    let (tasks, drops) = (Rc::new(tasks), Drops::new());
    drop(tasks.go(heir(Rc::downgrade(&tasks), drops.clone(), 3)));
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), 4);
    drops.assert(4);
    assert_eq!(tasks.counters().background_dropped, 3);
    tasks.assert_balanced();
}

#[test]
fn drop_all_ends_where_destructors_spawn_for_ever() {
    let (tasks, _) = core();
    let (tasks, drops) = (Rc::new(tasks), Drops::new());
    drop(tasks.go(heir(Rc::downgrade(&tasks), drops.clone(), usize::MAX)));
    assert_eq!(tasks.drop_all(&|_| true, &|| {}), local::GENERATIONS_MAX);
    assert_eq!(tasks.live(Kind::Background), 1, "the youngest heir");
    drop(tasks);
    drops.assert(local::GENERATIONS_MAX + 1);
}

#[test]
fn dropping_the_core_drops_every_task_and_tells_the_handles() {
    let (tasks, bell) = core();
    let (futures, outputs) = (Drops::new(), Drops::new());
    let place = Rc::default();
    let waits = tasks.go(park(futures.probe(), &place));
    let output = outputs.probe();
    let done = tasks.go(async move { output });
    tasks.settle();
    let held = futures.probe();
    let queued = tasks.go(async move { drop(held) });
    drop(tasks);
    futures.assert(2);
    place.take().unwrap().wake();
    waits.abort();
    assert!(error(waits).is_dropped());
    assert!(error(queued).is_dropped());
    outputs.assert(0);
    drop(result(done).unwrap());
    outputs.assert(1);
    assert_eq!(Arc::strong_count(&bell), 1, "nothing holds the core");
}

#[test]
fn a_core_dropped_by_a_destructor_of_its_own_task_is_sound() {
    let (tasks, bell) = core();
    let tasks = Rc::new(tasks);
    let (drops, last) = (Drops::new(), tasks.clone());
    let _other = tasks.go(park(drops.probe(), &Rc::default()));
    let held = drops.probe();
    let mut last = Some(last);
    let handle = tasks.go(async move {
        let _held = held;
        let _last = OnDrop(move || drop(last.take()));
        pending::<()>().await;
    });
    tasks.settle();
    drop(tasks);
    drops.assert(0);
    handle.abort();
    drops.assert(2);
    assert!(error(handle).is_cancelled());
    drop(_other);
    assert_eq!(Arc::strong_count(&bell), 1, "nothing holds the core");
}

#[test]
fn the_counters_add_up_after_a_bit_of_everything() {
    let (tasks, _) = core();
    let mut handles = Vec::new();
    for number in 0..200_u32 {
        let kind = Kind::ALL[number as usize % 3];
        let future = async move {
            match number % 5 {
                0 => {}
                1 => turn().await,
                2 => panic!("one of many"),
                _ => pending().await,
            }
        };
        handles.push(tasks.spawn(future, kind, Location::caller()));
    }
    tasks.settle();
    handles.iter().step_by(3).for_each(JoinHandle::abort);
    tasks.drop_all(&|_| true, &|| {});
    tasks.assert_balanced();
    let counters = tasks.counters();
    assert_eq!(counters.spawned, 200);
    assert_eq!((counters.completed, counters.panicked), (80, 40));
    assert!(counters.cancelled > 0 && counters.background_dropped > 0);
}
