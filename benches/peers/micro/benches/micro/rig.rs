//! Where the measured futures run.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use evenfall::{Cores, Handle, Runtime};

/// The core that measures.
pub(crate) const HERE: usize = 0;

/// The core that is sent to; the same one where there is only one processor.
pub(crate) fn there() -> usize {
    handle().cores() - 1
}

/// The runtime, which lives as long as the process.
pub(crate) fn handle() -> &'static Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let (tell, told) = channel();
        thread::spawn(move || {
            let cores = thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
            let runtime = Runtime::builder()
                .cores(Cores::Count(cores))
                .signals([])
                .build()
                .expect("this machine has io_uring");
            tell.send(runtime.handle()).expect("it is waited for");
            let run = runtime.run(|_| std::future::pending::<std::io::Result<()>>());
            panic!("the runtime ended: {run:?}");
        });
        told.recv().expect("the runtime was built")
    })
}

/// Runs what `start` makes on the measuring core, and gives its time.
pub(crate) fn measure<F, Fut>(start: F) -> Duration
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Duration> + 'static,
{
    let task = handle().spawn_on(HERE, start);
    let task = task.unwrap_or_else(|refused| panic!("{refused}"));
    wait_for(task).expect("the measured task did not panic")
}

/// Runs a future on this thread, which sleeps in between.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

/// The runtime that is compared with.
pub(crate) fn tokio() -> tokio::runtime::Runtime {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.expect("epoll is always there")
}

/// The same on tokio: in a task of a `LocalSet`, whose tasks need not be `Send` either.
pub(crate) fn measure_tokio<Fut>(future: Fut) -> Duration
where
    Fut: Future<Output = Duration> + 'static,
{
    measure_tokio_on(&tokio(), future)
}

/// The same on a runtime that was there before.
pub(crate) fn measure_tokio_on<Fut>(runtime: &tokio::runtime::Runtime, future: Fut) -> Duration
where
    Fut: Future<Output = Duration> + 'static,
{
    let local = tokio::task::LocalSet::new();
    // A task of its own: what `block_on` polls itself gives way to the driver each time.
    local.block_on(runtime, async {
        let task = tokio::task::spawn_local(future);
        task.await.expect("the measured task did not panic")
    })
}

/// Runs a closure on a thread of its own, bound to the measuring core's processor.
pub(crate) fn on_the_core(run: impl FnOnce() -> Duration + Send + 'static) -> Duration {
    let thread = beside(HERE, run);
    thread.join().expect("the measured thread did not panic")
}

/// A thread of its own that runs a closure, bound to the processor of that core.
pub(crate) fn beside<T: Send + 'static>(
    core: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let cpu = processor(core);
    thread::spawn(move || {
        // SAFETY: a set of processors is plain bits, and all zero is the empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the macro checks the bound and touches only `set`.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: the set lives over the call, and the length is its own.
        let bound = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
        assert_eq!(bound, 0, "the core runs on that processor too");
        run()
    })
}

/// The processor that a core is bound to.
fn processor(core: usize) -> usize {
    let task = handle().spawn_on(core, || async { first_cpu() });
    let task = task.unwrap_or_else(|refused| panic!("{refused}"));
    wait_for(task).expect("it does not panic")
}

/// The first processor that the calling thread may use.
fn first_cpu() -> usize {
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is ours, and the length is its own.
    let got = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    assert_eq!(got, 0, "a thread may ask for its processors");
    // SAFETY: the macro checks the bound and only reads `set`.
    let allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    (0..1024).find(allowed).expect("it runs on one of them")
}

/// An eventfd whose reads block.
pub(crate) fn bell() -> File {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "a descriptor is free");
    // SAFETY: the call made this descriptor, and nobody else knows of it.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes it readable: one system call.
pub(crate) fn ring(mut bell: &File) {
    let written = bell.write(&1_u64.to_ne_bytes());
    assert_eq!(written.expect("far from its limit"), 8);
}

/// Waits until it was rung, in one system call that sleeps.
pub(crate) fn hear(mut bell: &File) {
    let mut count = [0; 8];
    bell.read_exact(&mut count).expect("it was rung");
}
