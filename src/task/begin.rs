//! A future that is made by its task, at the first poll, and is all that the task then holds.
//!
//! ```text
//!         first poll: make            ready
//!  Asked ─────────────────▶ Runs ───────────────▶ Over
//! ```
//! Written out, for an `async` block keeps what it was given beside what it made of it: the task of
//! a handler had its stream twice. And where it is stands in the lowest bits of the address of whom
//! it tells that it has ended, for a tag of its own would take a word: both together are 32 bytes of
//! each idle connection.

use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Who is told that a [`Begin`] has ended.
pub(crate) trait Ended {
    /// A future is gone: it was ready, it was dropped, or it panicked.
    fn ended(&self);
}

/// See the module.
pub(crate) struct Begin<M, F, E: Ended> {
    /// What makes the future, or the future, or nothing, as `word` says. A future in here never
    /// moves again before it is dropped.
    work: Work<M, F>,
    /// An `Rc<E>` as a raw pointer, which is this value's own, and in its lowest bits the stage.
    word: *const E,
    /// It owns an `Rc<E>`.
    teller: PhantomData<Rc<E>>,
}

/// What a [`Begin`] works with.
union Work<M, F> {
    asked: ManuallyDrop<M>,
    runs: ManuallyDrop<F>,
}

/// Nothing is in `work`: the future was ready, or making it panicked.
const OVER: usize = 0;
/// `work.asked` is there: it was not polled yet.
const ASKED: usize = 1;
/// `work.runs` is there.
const RUNS: usize = 2;
/// The bits of the stage.
const STAGE: usize = 3;

impl<M, F, E: Ended> Begin<M, F, E> {
    /// The future that `make` makes. When it is gone, whatever the reason, `teller` is told.
    pub(crate) fn new(make: M, teller: Rc<E>) -> Begin<M, F, E> {
        const {
            assert!(
                align_of::<E>() > STAGE,
                "its address has bits for the stage"
            )
        };
        let asked = ManuallyDrop::new(make);
        Begin {
            work: Work { asked },
            word: Rc::into_raw(teller).map_addr(|address| address | ASKED),
            teller: PhantomData,
        }
    }

    /// Where it is.
    #[inline]
    fn stage(&self) -> usize {
        self.word.addr() & STAGE
    }

    /// Notes where it is.
    #[inline]
    fn set_stage(&mut self, stage: usize) {
        self.word = self.word.map_addr(|address| (address & !STAGE) | stage);
    }

    /// Drops what is in `work`.
    fn clear(&mut self) {
        let stage = self.stage();
        // First of all, so that a destructor that panics is not run again.
        self.set_stage(OVER);
        if stage == ASKED {
            // SAFETY: the stage said that this is what is there.
            let asked = unsafe { &mut self.work.asked };
            // SAFETY: it says now that nothing is.
            unsafe { ManuallyDrop::drop(asked) };
        } else if stage == RUNS {
            // SAFETY: the stage said that this is what is there.
            let runs = unsafe { &mut self.work.runs };
            // SAFETY: it says now that nothing is. The future is dropped where it lies.
            unsafe { ManuallyDrop::drop(runs) };
        }
    }
}

impl<M, F, E: Ended> Begin<M, F, E>
where
    M: FnOnce() -> F,
{
    /// Makes the future, if it is asked for and not made.
    #[cold]
    fn make_if_asked(&mut self) {
        if self.stage() != ASKED {
            return;
        }
        self.set_stage(OVER);
        // SAFETY: this is what was there before the line above.
        let asked = unsafe { &mut self.work.asked };
        // SAFETY: the stage says now that it is not.
        let make = unsafe { ManuallyDrop::take(asked) };
        let runs = ManuallyDrop::new(make());
        self.work = Work { runs };
        self.set_stage(RUNS);
    }
}

impl<M, F, E> Future for Begin<M, F, E>
where
    M: FnOnce() -> F,
    F: Future,
    E: Ended,
{
    type Output = ();

    // Not beside it: the poll of a task is one function, as it is without this.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: nothing is moved out of `this` but what makes the future, which is not pinned:
        // nobody is given a pinned reference to it. The future itself is only borrowed, and dropped
        // where it lies.
        let this = unsafe { self.get_unchecked_mut() };
        if this.stage() != RUNS {
            this.make_if_asked();
            if this.stage() != RUNS {
                return Poll::Ready(());
            }
        }
        // SAFETY: the stage says that this is what is there.
        let future = unsafe { &mut *this.work.runs };
        // SAFETY: the future lies in a pinned `Begin`, and stays there until it is dropped.
        let future = unsafe { Pin::new_unchecked(future) };
        let _output = ready!(future.poll(context));
        this.clear();
        Poll::Ready(())
    }
}

impl<M, F, E: Ended> Drop for Begin<M, F, E> {
    fn drop(&mut self) {
        /// Tells, also when the destructor of the future panics.
        struct Teller<E: Ended>(Rc<E>);
        impl<E: Ended> Drop for Teller<E> {
            fn drop(&mut self) {
                self.0.ended();
            }
        }
        let address = self.word.map_addr(|address| address & !STAGE);
        // SAFETY: `new` made the address from an `Rc` that is this value's own, and nobody uses it
        // after this.
        let _teller = Teller(unsafe { Rc::from_raw(address) });
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    /// Notes its name when it is dropped or told.
    struct Noted(&'static str, Rc<RefCell<Vec<&'static str>>>);

    impl Ended for Noted {
        fn ended(&self) {
            self.1.borrow_mut().push("ended");
        }
    }

    impl Drop for Noted {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    fn poll(begin: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        begin.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn it_is_made_at_the_first_poll_and_tells_when_it_is_gone() {
        let drops: Rc<RefCell<Vec<_>>> = Rc::default();
        let noted = |name| Noted(name, drops.clone());
        let made = Cell::new(0);
        let (asked, future, after) = (noted("asked"), noted("future"), noted("after"));
        let mut ready = false;
        {
            let mut begin = pin!(Begin::new(
                || {
                    drop(asked);
                    made.set(made.get() + 1);
                    poll_fn(move |_| {
                        let _held = &future;
                        match std::mem::replace(&mut ready, true) {
                            true => Poll::Ready("output"),
                            false => Poll::Pending,
                        }
                    })
                },
                Rc::new(after),
            ));
            assert_eq!(made.get(), 0);
            assert!(poll(begin.as_mut()).is_pending() && made.get() == 1);
            assert_eq!(*drops.borrow(), ["asked"]);
            assert!(poll(begin.as_mut()).is_ready() && made.get() == 1);
            assert_eq!(*drops.borrow(), ["asked", "future"]);
        }
        assert_eq!(*drops.borrow(), ["asked", "future", "ended", "after"]);
    }

    #[test]
    fn dropped_before_its_first_poll_it_makes_nothing() {
        let drops: Rc<RefCell<Vec<_>>> = Rc::default();
        let noted = |name| Noted(name, drops.clone());
        let asked = noted("asked");
        let made = Cell::new(false);
        let make = || {
            drop(asked);
            made.set(true);
            std::future::pending::<()>()
        };
        drop(Begin::<_, std::future::Pending<()>, _>::new(
            make,
            Rc::new(noted("after")),
        ));
        assert!(!made.get());
        assert_eq!(*drops.borrow(), ["asked", "ended", "after"]);
    }

    #[test]
    fn a_panic_of_what_makes_it_leaves_nothing_to_poll_or_drop() {
        let drops: Rc<RefCell<Vec<_>>> = Rc::default();
        let noted = |name| Noted(name, drops.clone());
        let asked = noted("asked");
        let make = move || -> std::future::Pending<()> {
            let _asked = asked;
            std::panic::resume_unwind(Box::new("made to fail"))
        };
        {
            let mut begin = pin!(Begin::new(make, Rc::new(noted("after"))));
            assert!(catch_unwind(AssertUnwindSafe(|| poll(begin.as_mut()))).is_err());
            assert_eq!(*drops.borrow(), ["asked"]);
            assert!(poll(begin.as_mut()).is_ready());
        }
        assert_eq!(*drops.borrow(), ["asked", "ended", "after"]);
    }

    #[test]
    fn it_tells_also_when_its_future_panics_as_it_is_dropped() {
        /// Panics when it is dropped.
        struct Trap(Noted);
        impl Drop for Trap {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new(self.0.0));
            }
        }
        let drops: Rc<RefCell<Vec<_>>> = Rc::default();
        let noted = |name| Noted(name, drops.clone());
        for polls in 0..2 {
            let trap = Trap(noted("future"));
            let make = move || {
                let held = trap;
                poll_fn(move |_| {
                    let _held = &held;
                    Poll::<()>::Pending
                })
            };
            let mut begin = Box::pin(Begin::new(make, Rc::new(noted("after"))));
            for _ in 0..polls {
                assert!(poll(begin.as_mut()).is_pending());
            }
            assert!(catch_unwind(AssertUnwindSafe(|| drop(begin))).is_err());
            assert_eq!(drops.take(), ["future", "ended", "after"]);
        }
    }
}
