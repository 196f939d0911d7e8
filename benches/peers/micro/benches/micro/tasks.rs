//! Tasks on one core: spawned and joined, and giving way.

use std::time::Instant;

use criterion::Criterion;

use crate::rig::{measure, measure_tokio};

pub(crate) fn bench(criterion: &mut Criterion) {
    spawn_join(criterion);
    yields(criterion);
}

fn spawn_join(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spawn + join");
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    evenfall::spawn(async {}).await.expect("it does not panic");
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("tokio", |bencher| {
        bencher.iter_custom(|count| {
            measure_tokio(async move {
                let start = Instant::now();
                for _ in 0..count {
                    let task = tokio::task::spawn_local(async {});
                    task.await.expect("it does not panic");
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}

fn yields(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("yield");
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    evenfall::yield_now().await;
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("tokio", |bencher| {
        bencher.iter_custom(|count| {
            measure_tokio(async move {
                let start = Instant::now();
                for _ in 0..count {
                    tokio::task::yield_now().await;
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}
