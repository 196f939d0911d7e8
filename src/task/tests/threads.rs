//! Wakers on other threads: while the core polls, while it goes away, and after.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::sync::atomic::AtomicBool;

const THREADS: usize = 4;

#[test]
fn a_foreign_wake_rings_and_is_collected() {
    let (tasks, bell) = core();
    let place = Rc::default();
    let _handle = tasks.go(park((), &place));
    tasks.settle();
    let waker = place.take().unwrap();
    thread::spawn(move || {
        waker.wake_by_ref();
        waker.wake_by_ref();
        waker.wake();
    })
    .join()
    .unwrap();
    assert_eq!(bell.rings.load(Ordering::Relaxed), 1);
    assert!(tasks.foreign_pending());
    assert!(!tasks.has_ready());
    assert_eq!(tasks.collect_foreign(), 1);
    assert!(!tasks.foreign_pending());
    assert_eq!(tasks.run(10).polled, 1);
    assert!(place.borrow().is_some());
}

#[test]
fn foreign_wakes_are_served_in_their_order() {
    let (tasks, _) = core();
    let order = Rc::new(RefCell::new(Vec::new()));
    let wakers = Rc::new(RefCell::new(Vec::new()));
    for number in 0..5 {
        let (order, wakers) = (order.clone(), wakers.clone());
        drop(tasks.go(poll_fn(move |context| {
            order.borrow_mut().push(number);
            wakers.borrow_mut().push(context.waker().clone());
            Poll::<()>::Pending
        })));
    }
    tasks.settle();
    order.borrow_mut().clear();
    let taken: Vec<Waker> = wakers.take();
    let wake_all = move || taken.into_iter().for_each(Waker::wake);
    thread::spawn(wake_all).join().unwrap();
    tasks.settle();
    assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_task_woken_here_and_there_is_collected_but_not_moved() {
    let (tasks, _) = core();
    let place = Rc::default();
    let _handle = tasks.go(park((), &place));
    tasks.settle();
    let waker: Waker = place.take().unwrap();
    waker.wake_by_ref();
    thread::spawn(move || waker.wake()).join().unwrap();
    assert_eq!(tasks.collect_foreign(), 0);
    assert_eq!(tasks.run(10).polled, 1);
}

#[test]
fn a_waker_is_the_cores_own_on_its_thread_alone_and_only_while_it_is_there() {
    let (tasks, _) = core();
    let place = Rc::default();
    let _handle = tasks.go(park((), &place));
    tasks.settle();
    let waker: Waker = place.take().unwrap();
    let kept = Kept::of(&waker);
    assert!(kept.wake_own());
    assert_eq!(tasks.run(10).polled, 1);
    let noop = Kept::of(Waker::noop());
    assert!(!noop.wake_own(), "that one is not a task's");
    let elsewhere = waker.clone();
    let seen = thread::spawn(move || Kept::from(elsewhere).wake_own()).join();
    assert!(!seen.unwrap(), "there it takes the foreign queue");
    drop(tasks);
    assert!(!kept.wake_own(), "the core is gone");
}

#[test]
fn a_tasks_waker_in_one_word_is_the_same_waker_marked_or_not() {
    let (tasks, _) = core();
    let (place, other) = (Rc::default(), Rc::default());
    let _handles = (tasks.go(park((), &place)), tasks.go(park((), &other)));
    tasks.settle();
    let [waker, other]: [Waker; 2] = [&place, &other].map(|place| place.take().unwrap());
    let mut kept = Kept::of(&waker);
    for marked in [false, true] {
        if marked {
            assert!(!kept.mark_again(&other) && kept.mark_again(&waker));
        }
        assert_eq!(kept.is_marked(), marked);
        assert!(kept.wakes(&waker) && !kept.wakes(&other) && !kept.wakes(Waker::noop()));
        assert!(kept.wake_own());
        assert_eq!(tasks.run(10).polled, 1);
    }
    assert!(kept.take().unwrap().will_wake(&waker));
    assert!(!kept.wake_own() && kept.take().is_none());
}

#[test]
fn a_waker_in_one_word_keeps_the_tasks_memory_and_nothing_more() {
    let (tasks, _) = core();
    let place = Rc::default();
    let probe = Rc::new(());
    let handle = tasks.go(park(probe.clone(), &place));
    tasks.settle();
    let mut kept = Kept::from(place.take().unwrap());
    kept.mark();
    drop(handle);
    drop(tasks);
    assert_eq!(Rc::strong_count(&probe), 1, "the future went with the core");
    assert!(!kept.wake_own());
    drop(kept);
}

/// A task that ends when `sum` has reached `goal`, and sends a waker to each place at its first
/// poll.
fn adder(
    sum: Arc<AtomicUsize>,
    goal: usize,
    mut places: Vec<mpsc::Sender<Waker>>,
) -> impl Future<Output = usize> {
    poll_fn(move |context| {
        for place in places.drain(..) {
            place.send(context.waker().clone()).unwrap();
        }
        match sum.load(Ordering::Relaxed) {
            reached if reached == goal => Poll::Ready(reached),
            _ => Poll::Pending,
        }
    })
}

#[test]
fn no_wake_of_a_racing_thread_is_lost() {
    let (tasks, bell) = core();
    let wakes = 5_000;
    let sum = Arc::new(AtomicUsize::new(0));
    let mut places = Vec::new();
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let (place, wakers) = mpsc::channel::<Waker>();
        places.push(place);
        let sum = sum.clone();
        threads.push(thread::spawn(move || {
            let waker = wakers.recv().unwrap();
            for turn in 0..wakes {
                // Relaxed here and in the task: the wake alone makes the sum visible.
                sum.fetch_add(1, Ordering::Relaxed);
                match (turn + number) % 3 {
                    0 => waker.wake_by_ref(),
                    1 => vec![waker.clone(); 2].into_iter().for_each(Waker::wake),
                    _ => drop((waker.clone(), waker.wake_by_ref())),
                }
            }
        }));
    }
    let handle = tasks.go(adder(sum, THREADS * wakes, places));
    tasks.finish(&bell, &handle);
    assert_eq!(result(handle).unwrap(), THREADS * wakes);
    for thread in threads {
        thread.join().unwrap();
    }
    tasks.settle();
    drop(tasks);
    assert_eq!(Arc::strong_count(&bell), 1, "every task is freed");
}

#[test]
fn each_single_wake_in_lockstep_arrives() {
    let (tasks, bell) = core();
    let rounds = 5_000;
    let (said, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (place, wakers) = mpsc::channel::<Waker>();
    let (says, hears) = (said.clone(), heard.clone());
    let thread = thread::spawn(move || {
        let waker = wakers.recv().unwrap();
        for round in 1..=rounds {
            says.store(round, Ordering::Relaxed);
            waker.wake_by_ref();
            while hears.load(Ordering::Relaxed) != round {
                thread::yield_now();
            }
        }
    });
    let mut place = Some(place);
    let handle = tasks.go(poll_fn(move |context| {
        if let Some(place) = place.take() {
            place.send(context.waker().clone()).unwrap();
        }
        let round = said.load(Ordering::Relaxed);
        heard.store(round, Ordering::Relaxed);
        if round == rounds {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    tasks.finish(&bell, &handle);
    thread.join().unwrap();
}

#[test]
fn many_tasks_woken_by_many_threads_all_end() {
    let (tasks, bell) = core();
    let count = 500;
    let drops = Drops::new();
    let mut senders = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..THREADS {
        let (sender, letters) = mpsc::channel::<(Waker, Arc<AtomicUsize>)>();
        senders.push(sender);
        threads.push(thread::spawn(move || {
            for (waker, sum) in letters {
                sum.fetch_add(1, Ordering::Relaxed);
                waker.wake();
            }
        }));
    }
    let handles: Vec<_> = (0..count)
        .map(|_| {
            let (held, sum, mut told) = (drops.probe(), Arc::default(), senders.clone());
            let sums: Arc<AtomicUsize> = sum;
            tasks.go(poll_fn(move |context| {
                let _held = &held;
                for sender in told.drain(..) {
                    sender
                        .send((context.waker().clone(), sums.clone()))
                        .unwrap();
                }
                match sums.load(Ordering::Relaxed) {
                    THREADS => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            }))
        })
        .collect();
    drop(senders);
    for handle in handles {
        tasks.finish(&bell, &handle);
        result(handle).unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    drops.assert(count);
    tasks.assert_balanced();
}

#[test]
fn wakers_outlive_their_core_on_other_threads() {
    let (tasks, bell) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    let handle = tasks.go(park(drops.probe(), &place));
    tasks.settle();
    let waker: Waker = place.take().unwrap();
    drop(tasks);
    drops.assert(1);
    assert!(error(handle).is_dropped());
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let waker = waker.clone();
            thread::spawn(move || {
                let clones = vec![waker; 100];
                clones.iter().for_each(Waker::wake_by_ref);
                clones.into_iter().for_each(Waker::wake);
            })
        })
        .collect();
    waker.wake();
    for thread in threads {
        thread.join().unwrap();
    }
    drops.assert(1);
    assert_eq!(bell.rings.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&bell), 1, "the last waker freed the task");
}

#[test]
fn a_woken_task_that_nobody_collected_is_freed_with_the_core() {
    let (tasks, bell) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    drop(tasks.go(park(drops.probe(), &place)));
    tasks.settle();
    let waker: Waker = place.take().unwrap();
    thread::spawn(move || waker.wake()).join().unwrap();
    assert!(tasks.foreign_pending());
    drop(tasks);
    drops.assert(1);
    assert_eq!(Arc::strong_count(&bell), 1, "nothing holds the core");
}

#[test]
fn a_task_aborted_while_in_the_foreign_queue_is_freed_when_collected() {
    let (tasks, bell) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    let handle = tasks.go(park(drops.probe(), &place));
    tasks.settle();
    let waker: Waker = place.take().unwrap();
    thread::spawn(move || waker.wake()).join().unwrap();
    handle.abort();
    drop(handle);
    drops.assert(1);
    assert_eq!(tasks.collect_foreign(), 0);
    assert_eq!(Arc::strong_count(&bell), 2, "held by the core and by us");
    drop(tasks);
    assert_eq!(Arc::strong_count(&bell), 1);
}

#[test]
fn wakes_that_race_with_the_end_of_the_core_leave_nothing_behind() {
    for round in 0..300 {
        let (tasks, bell) = core();
        let drops = Drops::new();
        let stop = Arc::new(AtomicBool::new(false));
        let (started, ready) = mpsc::channel();
        let wakers: Vec<Waker> = (0..8)
            .map(|_| {
                let place = Rc::default();
                drop(tasks.go(park(drops.probe(), &place)));
                tasks.settle();
                place.take().unwrap()
            })
            .collect();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (wakers, stop, started) = (wakers.clone(), stop.clone(), started.clone());
                thread::spawn(move || {
                    started.send(()).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        wakers.iter().for_each(Waker::wake_by_ref);
                    }
                })
            })
            .collect();
        drop(wakers);
        for _ in &threads {
            ready.recv().unwrap();
        }
        for _ in 0..round % 10 {
            tasks.collect_foreign();
            let _ = tasks.run(round % 7);
        }
        drop(tasks);
        drops.assert(8);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(
            Arc::strong_count(&bell),
            1,
            "round {round}: a task was leaked"
        );
    }
}

#[test]
fn a_waker_of_another_kind_in_a_handle_is_woken_and_dropped_here() {
    struct Told(AtomicUsize);
    impl std::task::Wake for Told {
        fn wake(self: Arc<Told>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("a waker that panics");
        }
    }
    let (tasks, _) = core();
    let told = Arc::new(Told(AtomicUsize::new(0)));
    let waker = Waker::from(told.clone());
    let (mut one, mut two) = (tasks.go(async { 1 }), tasks.go(async { 2 }));
    for handle in [&mut one, &mut two] {
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(handle).poll(&mut context).is_pending());
    }
    drop(waker);
    drop(two);
    assert_eq!(Arc::strong_count(&told), 2);
    tasks.settle();
    assert_eq!(told.0.load(Ordering::Relaxed), 1);
    assert_eq!(Arc::strong_count(&told), 1);
    assert_eq!(result(one).unwrap(), 1);
}
