//! One cell of the echo matrix, and one measurement of it.

use std::io;
use std::time::Duration;

use crate::bench::Setting;
use crate::child::Server;
use crate::load::closed::{Closed, Spec, Tally};
use crate::load::stream::Streams;
use crate::serve::{Kind, Mode, Plan};
use crate::sys::Usage;

/// The cell that asks what a heavy stream costs the others.
pub const BESIDE: &str = "64 B × 63 beside a stream";

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
    /// The same requests without and then with one heavy stream beside them, echoed too.
    Beside(Spec),
}

/// The names of a round's figures in the kept file.
pub const FIGURES: [&str; 9] = [
    "rate",
    "cpu_us",
    "user_us",
    "p50_us",
    "p99_us",
    "busy",
    "load",
    "p99_alone_us",
    "streamed_mib",
];

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
    /// All but a hundredth, before the heavy stream began; none where there is no such stream.
    pub p99_alone_us: Option<f64>,
    /// MiB a second that the heavy stream brought there and back meanwhile; none where there is none.
    pub streamed_mib: Option<f64>,
}

impl Round {
    /// In the order of [`FIGURES`].
    pub fn values(&self) -> Vec<Option<f64>> {
        vec![
            Some(self.rate),
            Some(self.cpu_us),
            Some(self.user_us),
            self.p50_us,
            self.p99_us,
            Some(self.busy),
            Some(self.load),
            self.p99_alone_us,
            self.streamed_mib,
        ]
    }
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
        let few = Spec {
            active: 63,
            idle: 0,
            size: 64,
            depth: 1,
        };
        cells.push(Cell {
            name: BESIDE.to_owned(),
            work: Work::Beside(few),
            both: false,
        });
        cells
    }

    /// Whether rates compare in the cell of this name. Beside a stream they do not: who brings more of
    /// the stream has less time for the requests, which are all that is counted.
    pub fn compares(name: &str) -> bool {
        name != BESIDE
    }

    /// How many connections it has, busy and idle.
    pub fn connections(&self) -> usize {
        match self.work {
            Work::Closed(spec) => spec.active + spec.idle,
            Work::Beside(spec) => spec.active + spec.idle + 1,
            Work::Stream(count) => count,
        }
    }

    /// What a request is, in the cell of this name.
    pub fn unit(name: &str) -> &'static str {
        if name.ends_with("stream") || name.ends_with("streams") {
            return if name == BESIDE { "request" } else { "MiB" };
        }
        "request"
    }

    /// Measures one server once.
    pub fn measure(&self, kind: Kind, setting: &Setting) -> io::Result<Round> {
        let mode = match self.work {
            Work::Closed(_) | Work::Beside(_) => Mode::Echo,
            Work::Stream(_) => Mode::Sink,
        };
        let plan = Plan {
            cpus: setting.cpus(self.both),
            mode,
            graceful: false,
            alone: false,
        };
        let mut server = setting.start(kind, &plan, &[])?;
        let warm_up = kind.warm_up(setting.length);
        let length = setting.length;
        match self.work {
            Work::Closed(spec) => self.measure_closed(&spec, &mut server, warm_up, length),
            Work::Stream(count) => self.measure_streams(count, &mut server, warm_up, length),
            Work::Beside(spec) => self.measure_beside(&spec, &mut server, warm_up, length),
        }
    }

    /// A closed loop.
    fn measure_closed(
        &self,
        spec: &Spec,
        server: &mut Server,
        warm_up: Duration,
        length: Duration,
    ) -> io::Result<Round> {
        let mut load = Closed::connect(server.port, spec)?;
        load.run(warm_up, u64::MAX)?;
        self.run_closed(&mut load, server, length)
    }

    /// A closed loop that is warm.
    fn run_closed(
        &self,
        load: &mut Closed,
        server: &mut Server,
        length: Duration,
    ) -> io::Result<Round> {
        let before = server.usage()?;
        let tally = load.run(length, u64::MAX)?;
        let used = server.usage()?.since(before);
        if tally.requests == 0 {
            return Err(io::Error::other("not one reply"));
        }
        Ok(Round {
            p50_us: Some(quantile_us(&tally, 0.5)),
            p99_us: Some(quantile_us(&tally, 0.99)),
            ..self.round(tally.requests as f64, tally.elapsed, used, tally.load)
        })
    }

    /// A closed loop without, and then with a stream beside it.
    fn measure_beside(
        &self,
        spec: &Spec,
        server: &mut Server,
        warm_up: Duration,
        length: Duration,
    ) -> io::Result<Round> {
        let mut load = Closed::connect(server.port, spec)?;
        load.run(warm_up, u64::MAX)?;
        let alone = self.run_closed(&mut load, server, length)?;
        load.begin_stream(server.port)?;
        load.run(warm_up, u64::MAX)?;
        let before = load.streamed_bytes();
        let round = self.run_closed(&mut load, server, length)?;
        let streamed = (load.streamed_bytes() - before) as f64 / (1024.0 * 1024.0);
        Ok(Round {
            p99_alone_us: alone.p99_us,
            streamed_mib: Some(streamed / length.as_secs_f64()),
            ..round
        })
    }

    /// Streams, whose byte counts are compared at the end.
    fn measure_streams(
        &self,
        count: usize,
        server: &mut Server,
        warm_up: Duration,
        length: Duration,
    ) -> io::Result<Round> {
        let mut load = Streams::connect(server.port, count)?;
        load.run(warm_up)?;
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
            p99_alone_us: None,
            streamed_mib: None,
        }
    }
}

/// So many of the replies were there after this many µs.
fn quantile_us(tally: &Tally, part: f64) -> f64 {
    tally.latency.value_at_quantile(part) as f64 / 1e3
}
