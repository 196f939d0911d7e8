//! What is due when the end has already begun.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::{sleep, spawn_after};
use evenfall::{Core, Handle, Phase};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{heavy, promises};
use crate::server::{Setup, conclude, host};

promises![
    delayed_spawns_that_are_overdue_at_the_end_end_with_the_core,
    a_hook_registered_when_the_cores_others_have_run_runs_too,
];

/// More timers than the turns of a forced stop get through.
const TIMERS: u64 = 50_000;

fn delayed_spawns_that_are_overdue_at_the_end_end_with_the_core() {
    let _alone = heavy();
    let ended = Program::role("overdue_timers", &["cores=1", "linger=200"]).finish();
    // Nobody reads what the connection sends: that much is lost.
    let report = ended.report(80);
    assert_eq!(report.cores()[0]["outcome"], "finished");
    report.leaves_nothing();
    assert_eq!(ended.json("facts ")["dropped"], TIMERS);
}

fn a_hook_registered_when_the_cores_others_have_run_runs_too() {
    let ended = Program::role("late_hook", &["cores=2"]).finish();
    let report = ended.report(0);
    report.loses_nothing();
    let hooks = [("other core", "ok"), ("late", "ok")];
    let hooks = hooks.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()));
    assert_eq!(report.hooks(), hooks);
}

/// Counts the futures that were dropped, run or not.
struct CountsItsEnd(Arc<AtomicU64>);

impl Drop for CountsItsEnd {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Timers that all come due in one turn, in which the stop is forced. A
/// connection to a peer that never reads makes Closing last for some turns.
pub(crate) fn overdue_timers(args: Args) -> ExitCode {
    let peer = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = peer.local_addr().expect("it is bound");
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&dropped);
    let result = host(Setup::only(args), move |core, _listener| {
        let counter = Arc::clone(&counter);
        async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.send(vec![1; 32 << 20]).await?;
            set_many_timers(&counter);
            core.handle().force();
            // The turn ends when the stop has begun: no later one fires what is due before it.
            while core.handle().phase() == Phase::Running {
                std::thread::yield_now();
            }
            Ok(())
        }
    });
    drop(peer);
    let dropped = dropped.load(Ordering::Relaxed);
    conclude(result, &json!({ "dropped": dropped }))
}

fn set_many_timers(dropped: &Arc<AtomicU64>) {
    for _ in 0..TIMERS {
        let counts = CountsItsEnd(Arc::clone(dropped));
        // The turn lasts longer than that: when it is over, all are due.
        let delay = Duration::from_millis(1);
        drop(spawn_after(delay, async { drop(counts) }));
    }
}

/// Core 0 has a hook, which registers another one on core 1, where there was
/// none to wait for.
pub(crate) fn late_hook(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |core, _listener| async move {
        if core.index() == 0 {
            let budget = Duration::from_secs(2);
            core.on_shutdown("other core", budget, register_on_core_1);
        }
        Ok(())
    });
    conclude(result, &json!({}))
}

async fn register_on_core_1() -> io::Result<()> {
    // Core 1 is through with its hooks by then.
    sleep(Duration::from_millis(50)).await;
    let registered = Handle::current().spawn_on(1, || async {
        let late = async || Ok::<(), io::Error>(());
        Core::current().on_shutdown("late", Duration::from_secs(1), late);
    });
    let registered = registered.map_err(|_| io::Error::other("refused"))?;
    registered.await.map_err(io::Error::other)
}
