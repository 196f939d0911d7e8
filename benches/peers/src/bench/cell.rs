//! One cell of the echo matrix, and one measurement of it.

use std::io;
use std::time::Duration;

use crate::bench::Setting;
use crate::child::Server;
use crate::load::closed::{Closed, Spec};
use crate::load::stream::Streams;
use crate::serve::{Kind, Mode, Plan};
use crate::sys::Usage;

/// What is put on a server.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its name in tables.
    pub name: String,
    /// What the clients do.
    pub work: Work,
    /// Whether the server has both processors, and the load shares them.
    pub both: bool,
}

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Requests and replies.
    Closed(Spec),
    /// So many streams, one way.
    Stream(usize),
}

/// One measurement. A request of a stream is a MiB.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// What the server used for a request, in µs.
    pub cpu_us: f64,
    /// Of that, in user mode: sampled by the kernel's tick, so good only as a median of many.
    pub user_us: f64,
    /// Half of the replies were there after so many µs; none for streams.
    pub p50_us: Option<f64>,
    /// All but a hundredth.
    pub p99_us: Option<f64>,
    /// How much of its processors the server used.
    pub busy: f64,
    /// How much of its own the load used.
    pub load: f64,
}

impl Cell {
    /// A closed loop on one core.
    fn closed(name: &str, active: usize, idle: usize, size: usize, depth: usize) -> Cell {
        let spec = Spec {
            active,
            idle,
            size,
            depth,
        };
        Cell {
            name: name.to_owned(),
            work: Work::Closed(spec),
            both: false,
        }
    }

    /// The whole matrix.
    pub fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for (size, size_name) in [(64, "64 B"), (1024, "1 KiB"), (16_384, "16 KiB")] {
            for count in [1, 64, 1000] {
                let name = format!("{size_name} × {count}");
                cells.push(Cell::closed(&name, count, 0, size, 1));
            }
        }
        cells.push(Cell::closed("64 B × 64, 16 deep", 64, 0, 64, 16));
        cells.push(Cell::closed("100 of 10,100 busy", 100, 10_000, 64, 1));
        let mut both = Cell::closed("64 B × 64, both cores", 64, 0, 64, 1);
        both.both = true;
        cells.push(both);
        for (count, name) in [(1, "1 stream"), (64, "64 streams")] {
            cells.push(Cell {
                name: name.to_owned(),
                work: Work::Stream(count),
                both: false,
            });
        }
        cells
    }

    /// What a request is.
    pub fn unit(&self) -> &'static str {
        match self.work {
            Work::Closed(_) => "request",
            Work::Stream(_) => "MiB",
        }
    }

    /// Measures one server once.
    pub fn measure(&self, kind: Kind, setting: &Setting) -> io::Result<Round> {
        let mode = match self.work {
            Work::Closed(_) => Mode::Echo,
            Work::Stream(_) => Mode::Sink,
        };
        let plan = Plan {
            cpus: setting.cpus(self.both),
            mode,
            graceful: false,
            alone: false,
        };
        let mut server = setting.start(kind, &plan, &[])?;
        match self.work {
            Work::Closed(spec) => self.measure_closed(&spec, &mut server, setting.length),
            Work::Stream(count) => self.measure_streams(count, &mut server, setting.length),
        }
    }

    /// A closed loop.
    fn measure_closed(
        &self,
        spec: &Spec,
        server: &mut Server,
        length: Duration,
    ) -> io::Result<Round> {
        let mut load = Closed::connect(server.port, spec)?;
        load.run(length / 5, u64::MAX)?;
        let before = server.usage()?;
        let tally = load.run(length, u64::MAX)?;
        let used = server.usage()?.since(before);
        let quantile = |part| tally.latency.value_at_quantile(part) as f64 / 1e3;
        Ok(Round {
            p50_us: Some(quantile(0.5)),
            p99_us: Some(quantile(0.99)),
            ..self.round(tally.requests as f64, tally.elapsed, used, tally.load)
        })
    }

    /// Streams, whose byte counts are compared at the end.
    fn measure_streams(
        &self,
        count: usize,
        server: &mut Server,
        length: Duration,
    ) -> io::Result<Round> {
        let mut load = Streams::connect(server.port, count)?;
        load.run(length / 5)?;
        let before = server.usage()?;
        let flow = load.run(length)?;
        let used = server.usage()?.since(before);
        load.finish()?;
        let mib = flow.bytes as f64 / (1024.0 * 1024.0);
        Ok(self.round(mib, flow.elapsed, used, flow.load))
    }

    /// The figures that both have.
    fn round(&self, requests: f64, elapsed: Duration, used: Usage, load: Usage) -> Round {
        let elapsed_us = elapsed.as_secs_f64() * 1e6;
        let cores = if self.both { 2.0 } else { 1.0 };
        Round {
            rate: requests / elapsed_us * 1e6,
            cpu_us: used.total_us() as f64 / requests,
            user_us: used.user_us as f64 / requests,
            p50_us: None,
            p99_us: None,
            busy: used.total_us() as f64 / elapsed_us / cores,
            load: load.total_us() as f64 / elapsed_us,
        }
    }
}
