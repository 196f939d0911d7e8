//! Everything around a stop: readiness, phases, guards, background work, hooks.
//!
//! ```text
//! cargo run --release --example stages
//! ```
//! Stop it with Ctrl-C or SIGTERM and watch the stages go by.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::{Core, Report, Runtime, Shutdown, spawn_background};

fn main() -> ExitCode {
    match serve() {
        Ok(report) => {
            println!("{report}");
            report.exit_code()
        }
        Err(error) => {
            eprintln!("stages: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve() -> evenfall::Result<Report> {
    let shutdown = Shutdown::default()
        .notice(Duration::from_millis(500)) // a load balancer's time to look elsewhere
        .timeout(Duration::from_secs(9));
    let mut runtime = Runtime::builder().shutdown(shutdown).build()?;
    let listener = runtime.bind("127.0.0.1:0")?;
    let address = listener.local_addr();
    let handle = runtime.handle();

    // A thread of our own that sees every phase, and one whose work the stop waits for.
    let mut phases = handle.phases();
    let watcher = std::thread::spawn(move || {
        while let Ok(Some(phase)) = phases.wait_next() {
            println!("phase: {phase}");
        }
    });
    let guard = handle.hold("compaction")?;
    let mut phases = handle.phases();
    let worker = std::thread::spawn(move || {
        // It compacts until the stop begins, finishes its piece, and lets go.
        let _begun = phases.wait_next();
        std::thread::sleep(Duration::from_millis(300));
        println!("the compaction is finished");
        drop(guard);
    });
    // Runs on one core when every core's own hooks have run.
    handle.on_shutdown("write the manifest", Duration::from_secs(1), async || {
        println!("the manifest is written");
        Ok::<(), io::Error>(())
    });

    println!("listening on {address} (pid {})", std::process::id());
    let report = runtime.run(move |core| {
        let listener = listener.on(&core);
        async move {
            prepare(&core);
            let handle = core.handle();
            listener
                .serve(move |mut stream| {
                    let handle = handle.clone();
                    async move {
                        while stream.next_request().await? {
                            stream.recv().await?;
                            let ready = if handle.is_ready() {
                                "ready\n"
                            } else {
                                "leaving\n"
                            };
                            stream.send(ready).await?;
                        }
                        Ok(())
                    }
                })
                .await
        }
    });
    // Both end with the stop, at the latest.
    let _ended = (watcher.join(), worker.join());
    report
}

/// What each core does beside its connections.
fn prepare(core: &Core) {
    let index = core.index();
    core.on_shutdown("close the store", Duration::from_secs(1), async || {
        Ok::<(), io::Error>(())
    });
    // The last registered runs first: the log is flushed before the store is closed.
    core.on_shutdown("flush the log", Duration::from_secs(1), async move || {
        println!("core {index}: the log is flushed");
        Ok::<(), io::Error>(())
    });
    // Housekeeping: no stop waits for it, and its interval ends with the drain.
    drop(spawn_background(async {
        let mut every = evenfall::time::interval(Duration::from_secs(1));
        while every.tick().await.is_some() {}
    }));
}
