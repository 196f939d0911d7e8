//! What of a task depends on its future's type: the slot behind the header, and the functions by
//! which the rest reaches it.

use std::future::Future;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::header::{Header, Phase};
use super::join::JoinError;
use super::spare::Room;
use crate::panics::{Payload, discard, quietly};

/// What one poll came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Polled {
    /// The task waits.
    Pending,
    /// The future gave its output, which is in the slot.
    Completed,
    /// The future or its destructor panicked; the payload is in the slot.
    Panicked,
}

/// The whole allocation. Only ever reached by raw pointers: a reference to it would claim header
/// and slot together.
#[repr(C)]
pub(super) struct Whole<F: Future> {
    pub(super) header: Header,
    pub(super) slot: Slot<F>,
}

/// The future or its output, as the phase says. `repr(C)` puts both at the beginning.
#[repr(C)]
pub(super) union Slot<F: Future> {
    pub(super) future: ManuallyDrop<F>,
    output: ManuallyDrop<Result<F::Output, JoinError>>,
}

/// What depends on the future's type. Each function wants a live task of that very type.
pub(super) struct VTable {
    /// Polls the future, which the slot holds; if it ends, puts the output in its place.
    pub(super) poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Polled,
    /// Destroys the future, which the slot holds.
    pub(super) drop_future: unsafe fn(NonNull<Header>),
    /// Puts an error into the slot, which is empty.
    pub(super) fail: unsafe fn(NonNull<Header>, JoinError),
    /// Destroys the output, which the slot holds.
    pub(super) drop_output: unsafe fn(NonNull<Header>),
    /// Where the slot begins (bytes from the header).
    pub(super) slot: usize,
    /// The memory of the whole.
    pub(super) room: Room,
}

/// The functions of the vtable for futures of type `F`.
pub(super) struct Of<F>(PhantomData<F>);

impl<F> Of<F>
where
    F: Future + 'static,
    F::Output: 'static,
{
    pub(super) const VTABLE: VTable = VTable {
        poll: Self::poll,
        drop_future: Self::drop_future,
        fail: Self::fail,
        drop_output: Self::drop_output,
        slot: offset_of!(Whole<F>, slot),
        room: Room::of::<Whole<F>>(),
    };

    /// Where the slot begins.
    ///
    /// # Safety
    ///
    /// The pointer is to a live task of this type.
    unsafe fn slot(pointer: NonNull<Header>) -> *mut () {
        let whole = pointer.cast::<Whole<F>>().as_ptr();
        // SAFETY: the header is the first field of a `repr(C)` allocation of this type, and the
        // pointer was made from the whole of it (`Task::allocate`), so the place exists.
        let slot = unsafe { &raw mut (*whole).slot };
        slot.cast()
    }

    /// Polls; when the future has ended, destroys it and puts the output in its place.
    ///
    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the future, and nobody else
    /// touches the slot before this returns.
    unsafe fn poll(pointer: NonNull<Header>, context: &mut Context<'_>) -> Polled {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the slot holds the future and is ours alone for now (the caller's promise).
            let future = unsafe { &mut *slot.cast::<F>() };
            // SAFETY: the future was moved to the heap by `Task::allocate`, and never moves again
            // before it is dropped in place.
            let future = unsafe { Pin::new_unchecked(future) };
            future.poll(context)
        }));
        let output = match polled {
            Ok(Poll::Pending) => return Polled::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(payload),
        };
        // SAFETY: the header is shared by all who hold references, and only borrowed shared.
        let header = unsafe { pointer.as_ref() };
        // From here on the future must not be mistaken for one, whatever its destructor does.
        header.phase.set(Phase::Busy);
        let dropped = if mem::needs_drop::<F>() {
            catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: the slot still holds the future, and after this nobody takes it for one.
                unsafe { Self::drop_future(pointer) }
            }))
        } else {
            Ok(())
        };
        let output = first_panic(output, dropped)
            .map_err(|payload| JoinError::panicked(header.site, payload));
        let ended = match output {
            Ok(_) => Polled::Completed,
            Err(_) => Polled::Panicked,
        };
        // SAFETY: the future is gone, so the slot is free, and it is large and aligned enough for
        // the output, being a union of both.
        unsafe { slot.cast::<Result<F::Output, JoinError>>().write(output) };
        ended
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the future, nobody else touches
    /// the slot before this returns, and nobody takes it for a future afterwards.
    unsafe fn drop_future(pointer: NonNull<Header>) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot holds a future that is dropped here and only here.
        unsafe { slot.cast::<F>().drop_in_place() };
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot is empty and touched by nobody else.
    unsafe fn fail(pointer: NonNull<Header>, error: JoinError) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot is empty, and large and aligned enough, being a union with this type.
        unsafe {
            slot.cast::<Result<F::Output, JoinError>>()
                .write(Err(error))
        };
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the output, nobody else touches
    /// the slot before this returns, and nobody takes it for an output afterwards.
    unsafe fn drop_output(pointer: NonNull<Header>) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot holds an output that is dropped here and only here.
        unsafe { slot.cast::<Result<F::Output, JoinError>>().drop_in_place() };
    }
}

/// A future that gave an output and then panicked in its destructor has panicked. Of two panics
/// the first one is told.
fn first_panic<T>(output: Result<T, Payload>, dropped: Result<(), Payload>) -> Result<T, Payload> {
    match (output, dropped) {
        (output, Ok(())) => output,
        (Ok(output), Err(payload)) => {
            quietly(|| drop(output));
            Err(payload)
        }
        (Err(payload), Err(second)) => {
            discard(second);
            Err(payload)
        }
    }
}
