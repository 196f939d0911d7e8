//! A core that has much to drop at its end is not taken for one that hangs.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use evenfall::{Cores, Shutdown, spawn_background};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::server::conclude;

promises![a_core_with_many_tasks_to_drop_is_not_taken_for_one_that_hangs];

/// Tasks that wait for ever and that no stop waits for, so it drops them.
const TASKS: u64 = 600;

/// How long the destructor of each takes: together four times `STUCK_AFTER`.
const EACH: Duration = Duration::from_millis(2);

/// How long one thing may take.
const STUCK_AFTER: Duration = Duration::from_millis(300);

fn a_core_with_many_tasks_to_drop_is_not_taken_for_one_that_hangs() {
    let server = Program::role("burdened", &[]);
    let ended = server.finish();
    let told = ended.json("report ");
    let core = &told["cores"][0];
    assert_eq!(core["outcome"], "finished", "{}", ended.told("stuck"));
    assert_eq!(core["tasks"]["background_dropped"], TASKS);
    ended.report(0);
}

/// Takes its time when it is dropped.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        // Time is the subject: a destructor that closes a file on a slow disk, say.
        std::thread::sleep(EACH);
    }
}

/// One core with `TASKS` tasks that are slow to drop.
pub(crate) fn burdened(args: Args) -> ExitCode {
    args.finish();
    let result = (|| {
        let shutdown = Shutdown::default()
            .timeout(Duration::from_secs(20))
            .stuck_after(STUCK_AFTER);
        let runtime = crate::process::builder()
            .cores(Cores::Count(1))
            .shutdown(shutdown)
            .build()?;
        runtime.run(|_| async {
            for _ in 0..TASKS {
                let slow = Slow;
                drop(spawn_background(async move {
                    std::future::pending::<()>().await;
                    drop(slow);
                }));
            }
            // The end of the main is the stop.
            Ok(())
        })
    })();
    conclude(result, &json!({}))
}
