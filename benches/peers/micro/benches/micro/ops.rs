//! Operations: a nop, submitted and completed. One at a time it is a turn of its own with a system
//! call, and so is the bare ring's beside it; 64 at once share one.

use std::time::Instant;

use criterion::{Criterion, Throughput};
use evenfall::nop::nop;
use io_uring::{IoUring, opcode};

use crate::rig::measure;

/// Nops of one burst.
const BURST: usize = 64;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("op submit + complete (nop)");
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    nop().await.expect("the ring is open");
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("bare ring", |bencher| {
        let mut ring = bare_ring();
        bencher.iter(|| round(&mut ring, 1));
    });
    group.finish();
    let mut group = criterion.benchmark_group("op submit + complete (nop), 64 at once");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    let tasks: Vec<_> = (0..BURST).map(|_| evenfall::spawn(nop())).collect();
                    for task in tasks {
                        let outcome = task.await.expect("it does not panic");
                        outcome.expect("the ring is open");
                    }
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("bare ring", |bencher| {
        let mut ring = bare_ring();
        bencher.iter(|| round(&mut ring, BURST));
    });
    group.finish();
}

/// A ring set up as a core's.
fn bare_ring() -> IoUring {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    builder.build(256).expect("this machine has io_uring")
}

/// So many nops through a bare ring, with one system call.
fn round(ring: &mut IoUring, count: usize) {
    for _ in 0..count {
        // SAFETY: a nop points to no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("there is room");
    }
    ring.submit_and_wait(count).expect("nothing interrupts it");
    assert_eq!(ring.completion().count(), count);
}
