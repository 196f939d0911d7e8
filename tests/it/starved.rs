//! A core that other threads keep from its processor is not taken for one that
//! hangs in a user's code.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenfall::{Cores, Phase, Shutdown, spawn, yield_now};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{heavy, promises};
use crate::server::conclude;
use crate::sys;

promises![a_core_that_has_no_processor_is_said_to_have_none];

/// Far beyond the hard deadline of this test's server, and all that follows it.
const RIVALRY: Duration = Duration::from_secs(2);

fn a_core_that_has_no_processor_is_said_to_have_none() {
    let _alone = heavy();
    let mut server = Program::role("starves", &[]);
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

/// A core whose task is always ready, and from Draining on a rival for its
/// processor that is always preferred.
pub(crate) fn starves(args: Args) -> ExitCode {
    args.finish();
    let result = (|| {
        let runtime = crate::process::builder()
            .cores(Cores::Count(1))
            .shutdown(Shutdown::default().timeout(Duration::from_millis(300)))
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
            });
            sys::run_only_when_idle().expect("a thread may want less");
            drop(spawn(async {
                loop {
                    yield_now().await;
                }
            }));
            say("ready");
            std::future::pending::<io::Result<()>>().await
        })
    })();
    conclude(result, &json!({}))
}
