//! The troubles of a plan, as the cores of its runtime have them.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenfall::net::{TcpListener, TcpStream};
use evenfall::time::{sleep, spawn_after};
use evenfall::{Core, Handle, Phase, spawn, spawn_on, try_spawn, yield_now};

use super::plan::{Lasts, Plan, Trouble};
use super::waits::current_thread;
use crate::sys;

/// What a deaf client asks for; whoever asks for anything else gets nothing.
pub(super) const ALL: u8 = b'a';

/// What a client says whose bytes are all kept. There is more of it in the buffers of a pool than the
/// pool has: 512 of 16 KiB.
pub(super) const HOARD: u8 = b'h';
pub(super) const HOARD_CLIENTS: usize = 40;
pub(super) const HOARD_BYTES: usize = 256 * 1024;

/// For how long after the beginning of the drain.
const HOARDED: Duration = Duration::from_millis(30);

/// Far more than the kernels and the stream's queue hold.
const ALL_BYTES: usize = 64 << 20;

/// What the cores have done, for the process to say.
#[derive(Debug)]
pub(super) struct Seen {
    /// Cores whose main future has begun.
    pub(super) up: AtomicU64,
    /// Requests that were read.
    pub(super) requests: AtomicU64,
    /// For each core, how often its first hook has run.
    hooks: Vec<AtomicU64>,
    /// For each core, its thread.
    threads: Vec<AtomicU64>,
}

impl Seen {
    pub(super) fn by_nobody(cores: usize) -> Seen {
        let none = || (0..cores).map(|_| AtomicU64::new(0)).collect();
        Seen {
            up: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            hooks: none(),
            threads: none(),
        }
    }

    /// For each core, how often its first hook has run.
    pub(super) fn hooks(&self) -> Vec<u64> {
        let counts = self.hooks.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// For each core, its thread.
    pub(super) fn threads(&self) -> Vec<u32> {
        let threads = self.threads.iter();
        threads
            .map(|one| one.load(Ordering::Relaxed) as u32)
            .collect()
    }
}

/// Registers the hooks of this core. The last one, which is the first to run,
/// tells that hooks have run.
pub(super) fn register(core: &Core, plan: &Plan, seen: &Arc<Seen>) {
    let index = core.index();
    seen.threads[index].store(current_thread().into(), Ordering::Relaxed);
    for trouble in &plan.cores[index] {
        begin_hook(core, *trouble);
    }
    let witness = Arc::clone(seen);
    core.on_shutdown("witness", Duration::from_secs(1), async move || {
        witness.hooks[index].fetch_add(1, Ordering::Relaxed);
        Ok::<(), io::Error>(())
    });
}

/// The main future of this core.
pub(super) async fn live(
    core: Core,
    listener: TcpListener,
    plan: Arc<Plan>,
    seen: Arc<Seen>,
) -> io::Result<()> {
    let counter = Arc::clone(&seen);
    let serves = spawn(async move {
        let handler = move |stream| answer(stream, Arc::clone(&counter));
        listener.serve(handler).await
    });
    let troubles = &plan.cores[core.index()];
    for trouble in troubles {
        begin(&core, *trouble, plan.wedged && core.index() == 0);
    }
    seen.up.fetch_add(1, Ordering::Release);
    if troubles
        .iter()
        .any(|trouble| matches!(trouble, Trouble::MainFails))
    {
        draining(&core.handle()).await;
        return Err(io::Error::other("as the plan says"));
    }
    serves.await.map_err(io::Error::other)?
}

async fn answer(mut stream: TcpStream, seen: Arc<Seen>) -> io::Result<()> {
    while stream.next_request().await? {
        let request = stream.recv().await?;
        if request.first() == Some(&HOARD) {
            let mut held = vec![request];
            while held.iter().map(|chunk| chunk.len()).sum::<usize>() < HOARD_BYTES {
                held.push(stream.recv().await?);
            }
            seen.requests.fetch_add(1, Ordering::Release);
            draining(&Handle::current()).await;
            sleep(HOARDED).await;
            continue;
        }
        seen.requests.fetch_add(1, Ordering::Release);
        if request.first() == Some(&ALL) {
            stream.write_all(&vec![0; ALL_BYTES]).await?;
        } else {
            // The rest of a request that never comes.
            stream.recv().await?;
        }
    }
    Ok(())
}

async fn draining(handle: &Handle) {
    let mut phases = handle.phases();
    while phases
        .next()
        .await
        .is_some_and(|phase| phase < Phase::Draining)
    {}
}

fn block(spins: bool, lasts: Lasts) {
    let until = match lasts {
        Lasts::Ms(ms) => Duration::from_millis(ms),
        Lasts::ForEver => Duration::from_secs(3600),
    };
    let began = Instant::now();
    while spins && began.elapsed() < until {
        std::hint::spin_loop();
    }
    std::thread::sleep(until.saturating_sub(began.elapsed()));
}

/// The troubles that are hooks.
fn begin_hook(core: &Core, trouble: Trouble) {
    let fails = Err::<(), _>(io::Error::other("as the plan says"));
    let second = Duration::from_secs(1);
    match trouble {
        Trouble::HookSleeps(lasts) => {
            core.on_shutdown("sleeps", second, async move || {
                block(false, lasts);
                Ok::<(), io::Error>(())
            });
        }
        Trouble::HookFails => {
            core.on_shutdown("fails", second, async move || fails);
        }
        Trouble::HookPanics => {
            core.on_shutdown("panics", second, async || -> io::Result<()> {
                panic!("as the plan says")
            });
        }
        Trouble::HookOverruns => {
            let budget = Duration::from_millis(20);
            core.on_shutdown("overruns", budget, async || -> io::Result<()> {
                pending().await
            });
        }
        _ => {}
    }
}

/// The troubles that are tasks.
fn begin(core: &Core, trouble: Trouble, wedges: bool) {
    let handle = core.handle();
    match trouble {
        Trouble::Spins(lasts) | Trouble::Sleeps(lasts) => {
            let spins = matches!(trouble, Trouble::Spins(_));
            drop(spawn(async move {
                draining(&handle).await;
                block(spins, lasts);
            }));
        }
        Trouble::CoreDies => drop(spawn(async move {
            draining(&handle).await;
            sys::refuse_io_uring_enter(libc::EIO).expect("a thread may");
        })),
        Trouble::NeverEnds if wedges => drop(spawn(hang_and_wedge(handle))),
        Trouble::NeverEnds => drop(spawn(pending::<()>())),
        Trouble::Resubmits => resubmit(),
        Trouble::Panics => drop(spawn(async move {
            draining(&handle).await;
            panic!("as the plan says");
        })),
        Trouble::Timers => {
            drop(spawn_after(Duration::from_millis(20), async {}));
            drop(spawn_after(Duration::from_secs(60), async {}));
        }
        Trouble::Letters(ms) => drop(spawn(async move {
            draining(&handle).await;
            let until = Instant::now() + Duration::from_millis(ms);
            bounce(handle, until).await;
        })),
        _ => {}
    }
}

/// Waits for ever, and before that sees to it that the coordinator, which is
/// this process's first thread, does so too.
async fn hang_and_wedge(handle: Handle) {
    draining(&handle).await;
    sys::wedge_first_thread().expect("a thread of this process");
    pending::<()>().await;
}

fn resubmit() {
    // Refused in Closing at the latest, and then nobody spawns any more.
    drop(try_spawn(async {
        yield_now().await;
        resubmit();
    }));
}

/// Goes from core to core until then, or until none takes it.
fn bounce(handle: Handle, until: Instant) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        if Instant::now() < until {
            let next = (Core::current().index() + 1) % handle.cores();
            drop(spawn_on(next, move || bounce(handle, until)));
        }
    })
}
