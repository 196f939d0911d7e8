//! A lane for each core: its phases, how many connections it had open, and
//! what went wrong there. The more lanes there are, the thinner they get.
#![forbid(unsafe_code)]

use super::super::words::{byte_count, duration, exact, fit};
use super::super::{CoreOutcome, CoreReport, HookOutcome, PhaseSpan};
use super::canvas::{Area, Canvas, Side};
use super::open::Steps;
use super::scale::{LEFT, RIGHT, Scale};

/// Lanes that are drawn at most: more than any machine we know has cores.
const LANES: usize = 256;

/// Phases drawn in one lane at most. There are four.
const PHASES: usize = 16;

/// The room from one line of words to the next.
const LINE: f64 = 12.0;

/// Columns for a remark at the right of a lane.
const REMARK: usize = 30;

/// From this height on a lane has room for the course of its connections.
const ROOMY: f64 = 13.0;

/// The colour of a phase, in the order of the legend.
pub(super) const PHASE_COLOURS: [(&str, &str); 4] = [
    ("notice", "#dbe3ec"),
    ("draining", "#a5d3ec"),
    ("hooks", "#f7cf7c"),
    ("closing", "#bda9da"),
];

/// The colour of a phase that has no name we know.
const OTHER: &str = "#cccccc";

/// The look of a core that hangs.
pub(super) const STUCK: &str = "fill=\"url(#hatch)\"";

/// How all lanes are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// The lanes that are drawn.
    pub(super) shown: usize,
    /// The height of one, without the gap to the next.
    height: f64,
    /// From the top of one to the top of the next.
    pitch: f64,
}

impl Lanes {
    /// The layout for so many cores.
    pub(super) fn for_cores(cores: usize) -> Lanes {
        let (height, gap) = match cores {
            0..=8 => (26.0, 6.0),
            9..=16 => (18.0, 4.0),
            17..=32 => (13.0, 2.0),
            33..=64 => (8.0, 1.0),
            65..=128 => (5.0, 1.0),
            _ => (3.0, 0.5),
        };
        Lanes {
            shown: cores.min(LANES),
            height,
            pitch: height + gap,
        }
    }

    /// The height of all lanes.
    pub(super) fn height(&self) -> f64 {
        self.shown as f64 * self.pitch
    }

    /// Draws the lanes from `y` down.
    pub(super) fn draw(&self, canvas: &mut Canvas, cores: &[CoreReport], scale: &Scale, y: f64) {
        let cores = &cores[..self.shown];
        let courses: Vec<Steps> = cores
            .iter()
            .map(|core| Steps::of(std::slice::from_ref(core), scale))
            .collect();
        // One measure for all lanes, so that they can be compared.
        let most = courses.iter().map(Steps::most).fold(0.0, f64::max);
        let label_every = (LINE / self.pitch).ceil().max(1.0) as usize;
        let mut remarks_from = y;
        for (i, (core, course)) in cores.iter().zip(&courses).enumerate() {
            let top = y + i as f64 * self.pitch;
            let area = Area {
                x: LEFT,
                y: top,
                width: RIGHT - LEFT,
                height: self.height,
            };
            canvas.begin(&format!("class=\"lane\" data-core=\"{}\"", core.core));
            canvas.rect(area, "fill=\"#f3f5f7\"");
            draw_phases(canvas, &core.phases, scale, area);
            draw_stuck(canvas, core, scale, area);
            if self.height >= ROOMY && most > 0.0 {
                let looks = ("fill=\"#0b3a5e\" fill-opacity=\"0.45\"", "");
                course.draw(canvas, area, most, looks);
            }
            let base = top + self.height / 2.0 + 4.0;
            if i % label_every == 0 {
                let name = fit(&format!("core {}", core.core), 20);
                canvas.text((LEFT - 8.0, base), Side::Left, "fill=\"#59636e\"", &name);
            }
            // Where lanes are thin, those in order keep silent for those that are not.
            let faults = faults(core);
            let talks = !faults.is_empty() || self.pitch >= LINE;
            if talks && top >= remarks_from {
                self.draw_remark(canvas, core, &faults, base);
                remarks_from = top + LINE;
            }
            if !faults.is_empty() {
                let mark = Area {
                    x: RIGHT + 3.0,
                    width: 4.0,
                    ..area
                };
                canvas.rect(mark, "fill=\"#cf222e\"");
            }
            canvas.end();
        }
    }

    /// The words at the right of a lane.
    fn draw_remark(&self, canvas: &mut Canvas, core: &CoreReport, faults: &[String], base: f64) {
        let (look, words) = if faults.is_empty() {
            ("fill=\"#59636e\"", connections(core))
        } else if self.pitch >= LINE {
            ("fill=\"#cf222e\"", faults.join(", "))
        } else {
            let words = format!("{}: {}", core.core, faults.join(", "));
            ("fill=\"#cf222e\"", words)
        };
        let at = (RIGHT + 12.0, base);
        canvas.text(at, Side::Right, look, &fit(&words, REMARK));
    }
}

/// Draws phases, the longest first: one of microseconds stays visible beside
/// one of seconds.
pub(super) fn draw_phases(canvas: &mut Canvas, phases: &[PhaseSpan], scale: &Scale, area: Area) {
    let mut by_length: Vec<&PhaseSpan> = phases.iter().take(PHASES).collect();
    by_length.sort_by(|a, b| (b.end_ms - b.start_ms).total_cmp(&(a.end_ms - a.start_ms)));
    for phase in by_length {
        let Some((from, to)) = scale.span(phase.start_ms, phase.end_ms) else {
            continue;
        };
        let known = PHASE_COLOURS.iter().find(|(name, _)| *name == phase.name);
        let colour = known.map_or(OTHER, |(_, colour)| colour);
        let place = Area {
            x: from.min(RIGHT - 1.5),
            width: (to - from).max(1.5),
            ..area
        };
        let title = format!(
            "{}: {}, from {} to {}",
            fit(&phase.name, 20),
            duration(phase.end_ms - phase.start_ms),
            duration(phase.start_ms),
            duration(phase.end_ms)
        );
        canvas.titled_rect(place, &format!("fill=\"{colour}\""), &title);
    }
}

/// A core that hangs left no report: from when it hung on, or where that is
/// not known from its last phase on, its lane is hatched to the end.
fn draw_stuck(canvas: &mut Canvas, core: &CoreReport, scale: &Scale, area: Area) {
    if core.outcome != CoreOutcome::Stuck && core.stuck.is_none() {
        return;
    }
    let seen = core.phases.iter().map(|phase| scale.x(phase.end_ms));
    let last_seen = seen.fold(LEFT, f64::max);
    let since = core.stuck.as_ref().map(|stuck| stuck.since_ms);
    let from = match since {
        Some(since_ms) if scale.holds(since_ms) => scale.x(since_ms),
        Some(since_ms) if since_ms < 0.0 => LEFT,
        _ => last_seen,
    };
    let from = from.min(RIGHT - 4.0);
    let place = Area {
        x: from,
        width: RIGHT - from,
        ..area
    };
    canvas.titled_rect(place, STUCK, "stuck: it did not come back from a turn");
}

/// `118 open, 14 new`: what the core had to bring to an end.
fn connections(core: &CoreReport) -> String {
    let ends = &core.connections;
    match (ends.at_start, ends.accepted) {
        (0, 0) => "idle".to_owned(),
        (open, 0) => format!("{} open", exact(open.into())),
        (open, new) => format!("{} open, {} new", exact(open.into()), exact(new.into())),
    }
}

/// What went wrong on this core, the worst first.
fn faults(core: &CoreReport) -> Vec<String> {
    let mut faults = Vec::new();
    match core.outcome {
        CoreOutcome::Stuck => faults.push("stuck".to_owned()),
        CoreOutcome::Failed => faults.push("failed".to_owned()),
        CoreOutcome::Finished => {}
    }
    let counts = [
        (core.connections.forced, "cut"),
        (core.connections.abandoned, "abandoned"),
        (core.ops.leaked, "leaked"),
    ];
    for (n, word) in counts {
        if n > 0 {
            faults.push(format!("{} {word}", exact(n.into())));
        }
    }
    let bytes = [
        (core.bytes.unsent, "unsent"),
        (core.bytes.unacked, "unacked"),
    ];
    for (n, word) in bytes {
        if n > 0 {
            faults.push(format!("{} {word}", byte_count(n.into())));
        }
    }
    if core
        .hooks
        .iter()
        .any(|hook| hook.outcome != HookOutcome::Ok)
    {
        faults.push("hook".to_owned());
    }
    if faults.is_empty() && !core.stragglers.is_empty() {
        faults.push("left over".to_owned());
    }
    faults
}
