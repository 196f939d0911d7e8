//! How much of its budget the stop has taken, on a scale of its own: most
//! stops end so early that their deadlines would be far off the picture.
#![forbid(unsafe_code)]

use super::super::Report;
use super::super::words::duration;
use super::canvas::{Area, Canvas, Side};
use super::scale::{LEFT, RIGHT, Scale};

/// The colour of deadlines.
pub(super) const DEADLINE: &str = "#8250df";

/// The height of the bar with the words beneath it.
pub(super) const HEIGHT: f64 = 44.0;

/// The deadlines of a stop that has any, in the order in which they come.
/// The words say what each of them would have ended.
pub(super) fn deadlines(report: &Report) -> Vec<(&'static str, f64)> {
    let known = &report.deadlines;
    let has_any = known.hard_ms > 0.0 && known.hard_ms.is_finite();
    let all = [
        ("drain deadline", known.drain_ms),
        ("hook deadline", known.hooks_ms),
        ("hard deadline", known.hard_ms),
    ];
    all.into_iter().filter(|_| has_any).collect()
}

/// Draws the bar from `y` down, if the report knows its deadlines.
pub(super) fn draw(canvas: &mut Canvas, report: &Report, colour: &str, y: f64) {
    let deadlines = deadlines(report);
    if deadlines.is_empty() {
        return;
    }
    let scale = Scale::until(report.deadlines.hard_ms.max(report.elapsed_ms));
    let area = Area {
        x: LEFT,
        y: y + 16.0,
        width: RIGHT - LEFT,
        height: 8.0,
    };
    let base = y + 24.0;
    canvas.text(
        (LEFT - 8.0, base),
        Side::Left,
        "font-weight=\"600\"",
        "budget",
    );
    canvas.rect(area, "rx=\"2\" fill=\"#e4e8ec\"");
    let used = Area {
        width: (scale.x(report.elapsed_ms) - LEFT).max(1.5),
        ..area
    };
    canvas.rect(used, &format!("rx=\"2\" fill=\"{colour}\""));
    let share = report.elapsed_ms / report.deadlines.hard_ms * 100.0;
    if share.is_finite() && share < 1000.0 {
        let words = match share {
            share if share < 0.1 => "under 0.1 % used".to_owned(),
            share if share < 10.0 => format!("{share:.1} % used"),
            share => format!("{share:.0} % used"),
        };
        canvas.text(
            (RIGHT + 12.0, base),
            Side::Right,
            "fill=\"#59636e\"",
            &words,
        );
    }
    let ticks: Vec<f64> = deadlines.iter().map(|(_, at_ms)| scale.x(*at_ms)).collect();
    for x in &ticks {
        let look = format!("stroke=\"{DEADLINE}\" stroke-width=\"1.5\"");
        canvas.line((*x, y + 13.0), (*x, y + 27.0), &look);
    }
    // The deadlines often lie close together: one line of words for all, beneath the last.
    let words: Vec<String> = deadlines
        .iter()
        .map(|(name, at_ms)| format!("{name} {}", duration(*at_ms)))
        .collect();
    let look = format!("fill=\"{DEADLINE}\"");
    canvas.text((RIGHT, y + 40.0), Side::Left, &look, &words.join(" · "));
}
