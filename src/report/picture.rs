//! The report as a picture: one SVG, with no script, font or file beside it.
//!
//! ```text
//!   [ verdict ]  what happened, in a sentence
//!   budget       ▓▓░░░░░░░░░░░░░░░│░░░│░░│    on a scale of its own
//!                   ▼ trigger       ▼ cut     what came when
//!   all cores    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓█            the phases of the whole
//!   open         ▔▔▔▔▔╲▁▁▁▁▁╲____             connections, of all cores
//!   core 0       ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓█            a lane each: `lanes`
//!   hooks                      ▬▬ ▬▬▬         a bar each: `bars`
//!   left over    what it was, what it did     a row each: `left_over`
//! ```
//! Pure: words and numbers in, text out. All that came from outside passes
//! `canvas`, which makes it harmless; every list has a bound, so that the
//! size has one.
#![forbid(unsafe_code)]

mod bars;
mod budget;
mod canvas;
mod flags;
mod lanes;
pub(super) mod left_over;
mod open;
mod scale;

use super::reasons::{alarms, by_whom, course, headline, sum};
use super::words::{duration, exact, fit, plural};
use super::{CoreReport, Report, TriggerKind, Verdict};
use bars::Bars;
use canvas::{Area, Canvas, HALO, Side};
use flags::Flag;
use lanes::{Lanes, PHASE_COLOURS};
use open::Steps;
use scale::{LEFT, RIGHT, Scale};

/// The width of the picture.
const WIDTH: f64 = 1100.0;

/// The room at all edges.
const MARGIN: f64 = 20.0;

/// Lines of what went wrong, at most.
const ALARMS: usize = 6;

/// Columns of such a line.
const ALARM_COLUMNS: usize = 172;

/// Triggers that are drawn at most.
const TRIGGERS: usize = 32;

/// The height of the lane for all cores.
const ALL: f64 = 20.0;

/// The height of the chart of open connections.
const CHART: f64 = 84.0;

/// The room between parts.
const GAP: f64 = 16.0;

/// The height of the legend.
const LEGEND: f64 = 30.0;

/// The colour of what was cut, and of who called for it.
const CUT: &str = "#cf222e";
const CALL: &str = "#0b3a5e";

impl Report {
    /// The whole stop as a picture, in SVG.
    ///
    /// The phases of each core are lanes, with the number of its open
    /// connections in them; hooks are bars; triggers, cuts and the deadlines
    /// that were reached are marks. It needs nothing beside itself, is never
    /// larger than a megabyte, and shows what the report says: where that
    /// knows nothing, the picture is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report = evenfall::Report::default();
    /// // let report = runtime.run(main)?;
    /// assert!(report.to_svg().starts_with("<svg "));
    /// ```
    pub fn to_svg(&self) -> String {
        let mut canvas = Canvas::default();
        let scale = Scale::of(self);
        let mut y = header(&mut canvas, self);
        if !budget::deadlines(self).is_empty() {
            budget::draw(&mut canvas, self, colour_of(self.verdict), y);
            y += budget::HEIGHT + GAP;
        }
        let y = body(&mut canvas, self, &scale, y);
        let y = left_over::draw(&mut canvas, self, y);
        let y = legend(&mut canvas, self, y);
        canvas.finish(WIDTH, y, &headline(self))
    }
}

/// The verdict, the sentence, the counts and the alarms; where they end.
fn header(canvas: &mut Canvas, report: &Report) -> f64 {
    let verdict = report.verdict;
    let words = format!("{verdict} · exit {}", verdict.code());
    let pill = Area {
        x: MARGIN,
        y: MARGIN,
        width: 26.0 + words.chars().count() as f64 * 9.0,
        height: 30.0,
    };
    let look = format!("rx=\"6\" fill=\"{}\"", colour_of(verdict));
    canvas.rect(pill, &look);
    let middle = (pill.x + pill.width / 2.0, pill.y + 20.5);
    let look = "font-size=\"15\" font-weight=\"700\" fill=\"#ffffff\"";
    canvas.text(middle, Side::Middle, look, &words);
    let beside = (pill.x + pill.width + 14.0, pill.y + 20.5);
    let sentence = fit(&course(report), 100);
    canvas.text(beside, Side::Right, "font-size=\"15\"", &sentence);
    let mut y = pill.y + 50.0;
    canvas.text(
        (MARGIN, y),
        Side::Right,
        "fill=\"#59636e\"",
        &counts(report),
    );
    let alarms = alarms(report);
    for alarm in alarms.iter().take(ALARMS) {
        y += 16.0;
        let look = format!("fill=\"{CUT}\"");
        let at = (MARGIN, y);
        canvas.text(at, Side::Right, &look, &fit(alarm, ALARM_COLUMNS));
    }
    if alarms.len() > ALARMS {
        y += 16.0;
        let words = format!("… {} more", exact((alarms.len() - ALARMS) as u128));
        canvas.text((MARGIN, y), Side::Right, &format!("fill=\"{CUT}\""), &words);
    }
    y + GAP
}

/// What the stop had to bring to an end, and what became of it.
fn counts(report: &Report) -> String {
    let cores = &report.cores;
    let total = |field: fn(&CoreReport) -> u64| sum(cores, field);
    let open = total(|core| core.connections.at_start);
    let mut words = format!(
        "{}, {} open at the trigger, {} accepted since",
        plural(cores.len() as u128, "core"),
        plural(open, "connection"),
        exact(total(|core| core.connections.accepted)),
    );
    let ends = [
        (total(|core| core.connections.drained), "drained"),
        (
            total(|core| core.connections.closed_by_peer),
            "ended by the peer",
        ),
        (
            total(|core| core.connections.closed_by_handler),
            "closed by handlers",
        ),
        (total(|core| core.connections.aborted), "aborted"),
        (
            total(|core| core.connections.peer_reset),
            "reset by the peer",
        ),
        (total(|core| core.connections.forced), "cut"),
        (total(|core| core.connections.abandoned), "abandoned"),
    ];
    let ends: Vec<String> = ends
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{} {word}", exact(*n)))
        .collect();
    if !ends.is_empty() {
        words.push_str(&format!("; {}", ends.join(", ")));
    }
    if report.suspended_ms > 0.0 {
        words.push_str(&format!(
            "; suspended for {}",
            duration(report.suspended_ms)
        ));
    }
    fit(&words, ALARM_COLUMNS)
}

/// Everything that has a place in time, from `y` down; where it ends.
fn body(canvas: &mut Canvas, report: &Report, scale: &Scale, y: f64) -> f64 {
    let mut flags = events(report, scale);
    let places = flags::places(&mut flags);
    let lanes = Lanes::for_cores(report.cores.len());
    let bars = Bars::of(report);
    let total = Steps::of(&report.cores, scale);

    let axis = y + 14.0;
    let all = axis + 8.0 + flags::rows(&places) as f64 * flags::ROW;
    let chart = all + ALL + GAP;
    let chart_height = if total.most() > 0.0 { CHART } else { 14.0 };
    let first_lane = chart + chart_height + GAP;
    let left_out = report.cores.len() - lanes.shown;
    let after_lanes = first_lane + lanes.height() + if left_out > 0 { 16.0 } else { 0.0 };
    let bottom = after_lanes + bars.height();

    scale.draw(canvas, axis, bottom);
    let area = Area {
        x: LEFT,
        y: all,
        width: RIGHT - LEFT,
        height: ALL,
    };
    draw_whole(canvas, report, scale, area);
    let area = Area {
        y: chart,
        height: chart_height,
        ..area
    };
    draw_chart(canvas, &total, area);
    lanes.draw(canvas, &report.cores, scale, first_lane);
    if left_out > 0 {
        let words = format!("… {} more cores, in the sums only", exact(left_out as u128));
        let at = (LEFT + 6.0, after_lanes - 4.0);
        canvas.text(at, Side::Right, "fill=\"#59636e\"", &words);
    }
    bars.draw(canvas, scale, after_lanes);
    // Last, so that a cut is seen across everything it cut.
    flags::draw(canvas, &flags, &places, axis + 4.0, bottom);
    bottom + GAP
}

/// The phases as the coordinator saw them, with their names where they fit.
fn draw_whole(canvas: &mut Canvas, report: &Report, scale: &Scale, area: Area) {
    let base = area.y + 14.0;
    let look = "font-weight=\"600\"";
    canvas.text((LEFT - 8.0, base), Side::Left, look, "phases");
    lanes::draw_phases(canvas, &report.phases, scale, area);
    for phase in report.phases.iter().take(ALARMS) {
        let Some((from, to)) = scale.span(phase.start_ms, phase.end_ms) else {
            continue;
        };
        let room = (to - from - 8.0) / canvas::width_of(1, 11.0);
        let length = duration(phase.end_ms - phase.start_ms);
        let words = format!("{} {length}", fit(&phase.name, 20));
        if room >= words.chars().count() as f64 {
            canvas.text(((from + to) / 2.0, base), Side::Middle, "", &words);
        }
    }
}

/// The open connections of all cores.
fn draw_chart(canvas: &mut Canvas, total: &Steps, area: Area) {
    let most = total.most();
    let look = "font-weight=\"600\"";
    let bottom = area.y + area.height;
    if most <= 0.0 {
        canvas.text((LEFT - 8.0, area.y + 11.0), Side::Left, look, "connections");
        let look = format!("fill=\"#59636e\" {HALO}");
        let at = (LEFT + 6.0, area.y + 11.0);
        canvas.text(at, Side::Right, &look, "none was open");
        return;
    }
    canvas.text((LEFT - 8.0, area.y + 20.0), Side::Left, look, "open");
    canvas.text((LEFT - 8.0, area.y + 33.0), Side::Left, look, "connections");
    let looks = (
        "fill=\"#2f7fb8\" fill-opacity=\"0.22\"",
        "fill=\"none\" stroke=\"#0b3a5e\" stroke-width=\"1.5\" stroke-linejoin=\"round\"",
    );
    total.draw(canvas, area, most, looks);
    canvas.line((LEFT, bottom), (RIGHT, bottom), "stroke=\"#8c959f\"");
    let grey = "fill=\"#59636e\"";
    canvas.text(
        (LEFT - 8.0, area.y + 7.0),
        Side::Left,
        grey,
        &exact(most as u128),
    );
    canvas.text((LEFT - 8.0, bottom), Side::Left, grey, "0");
}

/// Who called when, what was cut, and the deadlines that were reached.
fn events(report: &Report, scale: &Scale) -> Vec<Flag> {
    let calls = report.triggers.iter().take(TRIGGERS).map(|trigger| Flag {
        x: scale.x(trigger.at_ms),
        words: match trigger.kind {
            TriggerKind::Signal => by_whom(trigger).trim_start_matches("by ").to_owned(),
            _ => by_whom(trigger),
        },
        colour: CALL,
        dashed: false,
    });
    let cut = report
        .phases
        .iter()
        .take(ALARMS)
        .filter(|phase| !matches!(phase.ended_by.as_str(), "" | "goal"))
        // Notice lasts for its time; that its deadline ends it is no cut.
        .filter(|phase| (phase.name.as_str(), phase.ended_by.as_str()) != ("notice", "deadline"))
        .map(|phase| Flag {
            x: scale.x(phase.end_ms),
            words: format!(
                "{} cut by {}",
                fit(&phase.name, 12),
                fit(&phase.ended_by, 12)
            ),
            colour: CUT,
            dashed: false,
        });
    let cuts: Vec<Flag> = cut.collect();
    let reached = budget::deadlines(report)
        .into_iter()
        .filter(|(_, at_ms)| scale.holds(*at_ms))
        .map(|(name, at_ms)| Flag {
            x: scale.x(at_ms),
            words: format!("{name} {}", duration(at_ms)),
            colour: budget::DEADLINE,
            dashed: true,
        })
        // Where something was cut at its deadline, the cut says so.
        .filter(|flag| cuts.iter().all(|cut| (cut.x - flag.x).abs() > 2.0));
    calls.chain(reached).chain(cuts.iter().cloned()).collect()
}

/// What the colours mean; where it ends.
fn legend(canvas: &mut Canvas, report: &Report, y: f64) -> f64 {
    let mut x = LEFT;
    let mut entry = |canvas: &mut Canvas, look: &str, words: &str| {
        let square = Area {
            x,
            y: y + 1.0,
            width: 11.0,
            height: 11.0,
        };
        canvas.rect(square, look);
        canvas.text((x + 16.0, y + 11.0), Side::Right, "fill=\"#59636e\"", words);
        x += 34.0 + canvas::width_of(words.chars().count(), 11.0);
    };
    for (name, colour) in PHASE_COLOURS {
        entry(canvas, &format!("fill=\"{colour}\""), name);
    }
    if report.cores.iter().any(|core| core.stuck.is_some()) {
        entry(canvas, lanes::STUCK, "stuck");
    }
    if Steps::of(&report.cores, &Scale::of(report)).most() > 0.0 {
        let look = "fill=\"#0b3a5e\" fill-opacity=\"0.45\"";
        entry(canvas, look, "open connections");
    }
    y + LEGEND
}

/// The colour of a verdict, dark enough for white words.
fn colour_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "#1a7f37",
        Verdict::Degraded => "#9a6700",
        Verdict::Forced => "#bc4c00",
        Verdict::Failed => "#cf222e",
        Verdict::Stuck => "#82071e",
    }
}
