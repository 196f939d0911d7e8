//! Where the memory of tasks goes, and comes from.

use super::*;
use crate::task::spare::{BYTES_MAX, KEEPS};

/// What is kept where so much would be, if anything is.
fn where_kept(bytes: usize) -> usize {
    if KEEPS { bytes } else { 0 }
}

/// A future that gives the sum of what it was given, which is as much as `N` bytes.
fn sum_of<const N: usize>(byte: u8) -> impl Future<Output = usize> {
    let bytes = [byte; N];
    poll_fn(move |_| Poll::Ready(bytes.iter().map(|byte| usize::from(*byte)).sum()))
}

impl Tasks {
    fn kept(&self) -> usize {
        self.local().spare.bytes()
    }

    /// A task that is over, and its output, which nobody takes.
    fn over<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let handle = self.go(future);
        self.settle();
        assert!(handle.is_finished());
        handle
    }
}

/// The output of a task that is over.
fn output<T>(mut handle: JoinHandle<T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut handle).poll(&mut context) {
        Poll::Ready(output) => output.expect("it gave an output"),
        Poll::Pending => panic!("it is over"),
    }
}

#[test]
fn the_next_task_has_the_memory_of_the_last() {
    let (tasks, _bell) = core();
    drop(tasks.over(async { 7 }));
    let small = tasks.kept();
    assert!(!KEEPS || small > 0);
    let second = tasks.over(async { 8 });
    assert_eq!(tasks.kept(), 0, "it has what was kept");
    // Another one meanwhile is none of its business.
    drop(tasks.over(async { 9 }));
    assert_eq!(tasks.kept(), small);
    assert_eq!(output(second), 8);
    assert_eq!(tasks.kept(), 2 * small);
    // Of another size, it has memory of its own.
    assert_eq!(output(tasks.over(sum_of::<300>(1))), 300);
    assert!(!KEEPS || tasks.kept() > 2 * small + 300);
}

#[test]
fn memory_goes_from_type_to_type_and_each_finds_its_own() {
    let (tasks, _bell) = core();
    for round in 0..200_u8 {
        let numbers = [round; 3].map(|number| tasks.go(async move { number }));
        let words = tasks.go(async move { format!("the words of round {round}") });
        let sums = (tasks.go(sum_of::<40>(round)), tasks.go(sum_of::<41>(round)));
        let failed: JoinHandle<()> =
            tasks.go(async move { std::panic::resume_unwind(Box::new(round)) });
        let aborted = tasks.go(pending::<String>());
        aborted.abort();
        tasks.settle();
        let waits = tasks.go(pending::<[u64; 4]>());
        for number in numbers {
            assert_eq!(output(number), round);
        }
        assert_eq!(output(words), format!("the words of round {round}"));
        assert_eq!(output(sums.1), 41 * usize::from(round));
        assert_eq!(output(sums.0), 40 * usize::from(round));
        assert!(failed.is_finished() && aborted.is_finished());
        drop((failed, aborted));
        waits.abort();
    }
    assert!(tasks.kept() < 4096);
}

#[test]
fn what_fills_the_place_gives_way_to_another_size() {
    let (tasks, _bell) = core();
    let crowd: Vec<_> = (0..2000)
        .map(|number| tasks.go(async move { number }))
        .collect();
    tasks.settle();
    let mut most = 0;
    for (number, handle) in crowd.into_iter().enumerate() {
        assert_eq!(output(handle), number);
        most = tasks.kept().max(most);
        assert!(tasks.kept() <= BYTES_MAX);
    }
    assert!(most >= where_kept(BYTES_MAX * 9 / 10));
    // As much as there is place for, and no less is kept of it than of the first.
    let crowd: Vec<_> = (0..60).map(|_| tasks.go(sum_of::<900>(1))).collect();
    tasks.settle();
    let before = tasks.kept();
    drop(crowd);
    assert!(tasks.kept() <= BYTES_MAX);
    assert!(!KEEPS || tasks.kept() != before);
    let more = tasks.kept();
    let _again = tasks.go(sum_of::<900>(1));
    assert!(!KEEPS || tasks.kept() < more - 900);
}

#[test]
fn the_memory_of_a_task_that_another_thread_had_last_is_not_kept() {
    let (tasks, bell) = core();
    let waker = Rc::new(RefCell::new(None));
    let place = waker.clone();
    drop(tasks.over(poll_fn(move |context| {
        *place.borrow_mut() = Some(context.waker().clone());
        Poll::Ready(())
    })));
    let waker = waker.take().expect("it was polled");
    assert_eq!(tasks.kept(), 0);
    std::thread::spawn(move || drop(waker)).join().unwrap();
    assert_eq!(tasks.kept(), 0);
    drop(tasks);
    assert_eq!(
        Arc::strong_count(&bell),
        1,
        "its share of the core went with it"
    );
}

#[test]
fn a_large_and_an_aligned_task_are_not_kept_and_lie_as_they_must() {
    /// Says whether it lies as it must.
    #[repr(align(64))]
    struct Aligned(u8);
    impl Future for Aligned {
        type Output = bool;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<bool> {
            let address = std::ptr::from_ref(&*self).addr();
            Poll::Ready(std::hint::black_box(address) % 64 == 0 && self.0 == 5)
        }
    }
    let (tasks, _bell) = core();
    // So that there is something else that could be taken for theirs.
    drop([(); 20].map(|()| tasks.over(sum_of::<60>(1))));
    let before = tasks.kept();
    for _ in 0..20 {
        assert!(output(tasks.over(Aligned(5))));
        assert_eq!(output(tasks.over(sum_of::<4096>(3))), 3 * 4096);
    }
    assert_eq!(tasks.kept(), before);
}

#[test]
fn a_core_that_ends_gives_back_what_it_kept() {
    let (tasks, bell) = core();
    let late = tasks.over(async { "late" });
    drop([(); 50].map(|()| tasks.over(sum_of::<200>(1))));
    drop([(); 50].map(|()| tasks.over(async { 1 })));
    assert!(!KEEPS || tasks.kept() > 100 * 100);
    // Its tasks, the shares that were kept, and the core itself hold what it rings.
    assert_eq!(Arc::strong_count(&bell), 2);
    drop(tasks);
    assert_eq!(Arc::strong_count(&bell), 2, "one task holds the core");
    assert_eq!(output(late), "late");
    assert_eq!(Arc::strong_count(&bell), 1);
}
