//! Where the measured futures run.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
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
    let local = tokio::task::LocalSet::new();
    // A task of its own: what `block_on` polls itself gives way to the driver each time.
    local.block_on(&tokio(), async {
        let task = tokio::task::spawn_local(future);
        task.await.expect("the measured task did not panic")
    })
}
