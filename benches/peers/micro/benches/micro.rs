//! The parts of a runtime, one by one, each beside tokio's where tokio has it.
//!
//! A measurement runs on a core of one runtime that lives as long as the bench; its clock is read
//! on that core, around the whole batch. A nop has no public call: it is measured where the library
//! is built with `--cfg evenfall_bench`, as `benches/run` does. What compares only with its neighbours
//! is measured first, in rounds that alternate, and written to `CRITERION_HOME`, if that is set.

#![expect(missing_docs, reason = "the function is a macro's")]

#[path = "micro/alternated.rs"]
mod alternated;
#[path = "micro/letters.rs"]
mod letters;
#[cfg(evenfall_bench)]
#[path = "micro/ops.rs"]
mod ops;
#[path = "micro/rig.rs"]
mod rig;
#[path = "micro/tasks.rs"]
mod tasks;
#[path = "micro/timers.rs"]
mod timers;

use std::path::PathBuf;

use criterion::{Criterion, criterion_group};

criterion_group! {
    name = parts;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(20);
    targets = tasks::bench, ops_bench, letters::bench, timers::bench
}

fn main() -> std::io::Result<()> {
    if let Some(folder) = std::env::var_os("CRITERION_HOME") {
        let quick = std::env::args().any(|argument| argument == "--quick");
        alternated::write(&PathBuf::from(folder), quick)?;
    }
    parts();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}

/// The operations, where the library shows one.
fn ops_bench(criterion: &mut Criterion) {
    #[cfg(evenfall_bench)]
    ops::bench(criterion);
    #[cfg(not(evenfall_bench))]
    let _none = criterion;
}
