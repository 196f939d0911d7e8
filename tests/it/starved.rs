//! A core that other threads keep from its processor is not taken for one that
//! hangs in a user's code.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evenfall::{Cores, Phase, Shutdown, spawn, yield_now};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{heavy, promises};
use crate::server::conclude;
use crate::sys;

promises![
    a_core_that_has_no_processor_is_said_to_have_none,
    a_core_that_had_no_processor_for_a_while_is_not_stuck_and_ends_its_work,
];

/// Far beyond the hard deadline of this test's server, and all that follows it.
const RIVALRY: Duration = Duration::from_secs(2);

fn a_core_that_has_no_processor_is_said_to_have_none() {
    let _alone = heavy();
    let mut server = Program::role("starves", &["timeout=300"]);
    server.line("ready");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let told = ended.json("report ");
    let core = &told["cores"][0];
    let words = core["stuck"]["state"].as_str().unwrap_or_default();
    // The kernel may have let it have its last words after all.
    let finished = core["outcome"] == "finished";
    let kept = words == "R (ready, but kept from its processor)";
    assert!(finished || kept, "{}", ended.told("neither"));
    ended.report(if finished { 81 } else { 82 });
}

/// Its turns are far longer than `stuck_after` while it is kept from its
/// processor, and short again when it is not: nobody has left it behind.
fn a_core_that_had_no_processor_for_a_while_is_not_stuck_and_ends_its_work() {
    let _alone = heavy();
    let words = ["timeout=20000", "stuck_after=100", "ends=true"];
    let mut server = Program::role("starves", &words);
    server.line("ready");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    // Otherwise the test has missed what it is about.
    let longest_ms = &report.cores()[0]["turns"]["longest_ms"];
    let starved = longest_ms.as_f64().is_some_and(|longest| longest > 100.0);
    assert!(starved, "no turn was kept long enough: {longest_ms} ms");
}

/// A core whose task is always ready, and from Draining on a rival for its
/// processor that is always preferred. The task ends with the rival, or never.
pub(crate) fn starves(mut args: Args) -> ExitCode {
    let mut shutdown = Shutdown::default();
    if let Some(timeout) = args.millis("timeout") {
        shutdown = shutdown.timeout(timeout);
    }
    if let Some(stuck_after) = args.millis("stuck_after") {
        shutdown = shutdown.stuck_after(stuck_after);
    }
    let ends = args.number("ends", false);
    args.finish();
    static RIVAL_IS_GONE: AtomicBool = AtomicBool::new(false);
    let result = (|| {
        let runtime = crate::process::builder()
            .cores(Cores::Count(1))
            .shutdown(shutdown)
            .build()?;
        runtime.run(move |core| async move {
            let (mut phases, cpu) = (core.handle().phases(), core.cpu());
            std::thread::spawn(move || {
                let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
                assert!(pinned, "a thread can be where its sibling is");
                while phases.wait_next().expect("no core") != Some(Phase::Draining) {}
                let began = Instant::now();
                while began.elapsed() < RIVALRY {
                    std::hint::spin_loop();
                }
                RIVAL_IS_GONE.store(true, Ordering::Relaxed);
            });
            sys::run_only_when_idle().expect("a thread may want less");
            let work = spawn(async move {
                while !(ends && RIVAL_IS_GONE.load(Ordering::Relaxed)) {
                    yield_now().await;
                }
            });
            say("ready");
            work.await.map_err(io::Error::other)
        })
    })();
    conclude(result, &json!({}))
}
