//! A bar for each hook: when it ran, for how long, and how it ended.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::super::words::{columns, duration, exact, fit};
use super::super::{HookOutcome, HookReport, Report};
use super::canvas::{Area, Canvas, HALO, Side, width_of};
use super::scale::{LEFT, RIGHT, Scale};

/// Bars that are drawn at most, those that did not succeed first.
const BARS: usize = 24;

/// Bars of hooks that succeeded, at most: those that took longest. On many
/// cores they are many, and all alike.
const GOOD_BARS: usize = 10;

/// The height of a row.
const ROW: f64 = 18.0;

/// The room above the first row.
const HEAD: f64 = 30.0;

/// A hook and where it ran.
struct Bar<'a> {
    hook: &'a HookReport,
    /// The number of its core; `None` for one of the whole process.
    core: Option<usize>,
}

/// The bars of a report.
pub(super) struct Bars<'a> {
    /// In the order in which they are drawn.
    bars: Vec<Bar<'a>>,
    /// Hooks that are not among them.
    left_out: usize,
}

impl<'a> Bars<'a> {
    /// The hooks of this report that tell most, in the order of time.
    pub(super) fn of(report: &'a Report) -> Bars<'a> {
        let of_cores = report.cores.iter().flat_map(|core| {
            let bar = |hook| Bar {
                hook,
                core: Some(core.core),
            };
            core.hooks.iter().map(bar)
        });
        let of_process = report.hooks.iter().map(|hook| Bar { hook, core: None });
        let mut bars: Vec<Bar<'a>> = of_cores.chain(of_process).collect();
        bars.sort_by(|a, b| {
            let failed = |bar: &Bar<'_>| Reverse(bar.hook.outcome != HookOutcome::Ok);
            let longer = b.hook.elapsed_ms.total_cmp(&a.hook.elapsed_ms);
            failed(a).cmp(&failed(b)).then(longer)
        });
        let bad = bars
            .iter()
            .take_while(|bar| bar.hook.outcome != HookOutcome::Ok);
        let shown = (bad.count() + GOOD_BARS).min(BARS).min(bars.len());
        let left_out = bars.split_off(shown).len();
        bars.sort_by(|a, b| a.hook.start_ms.total_cmp(&b.hook.start_ms));
        Bars { bars, left_out }
    }

    /// The height of all bars; 0 without a hook.
    pub(super) fn height(&self) -> f64 {
        match self.bars.len() + usize::from(self.left_out > 0) {
            0 => 0.0,
            rows => HEAD + rows as f64 * ROW,
        }
    }

    /// Draws the bars from `y` down.
    pub(super) fn draw(&self, canvas: &mut Canvas, scale: &Scale, y: f64) {
        if self.bars.is_empty() {
            return;
        }
        canvas.text(
            (LEFT - 8.0, y + 20.0),
            Side::Left,
            "font-weight=\"600\"",
            "hooks",
        );
        for (i, bar) in self.bars.iter().enumerate() {
            draw_bar(canvas, scale, bar, y + HEAD + i as f64 * ROW);
        }
        if self.left_out > 0 {
            let base = y + HEAD + self.bars.len() as f64 * ROW + 12.0;
            let words = format!("… {} more hooks", exact(self.left_out as u128));
            let look = format!("fill=\"#59636e\" {HALO}");
            canvas.text((LEFT + 6.0, base), Side::Right, &look, &words);
        }
    }
}

/// The colour of a bar, and that of words beside it.
pub(super) fn colour(outcome: HookOutcome) -> (&'static str, &'static str) {
    match outcome {
        HookOutcome::Ok => ("#3f9c54", "#59636e"),
        HookOutcome::Failed | HookOutcome::Panicked => ("#cf222e", "#cf222e"),
        HookOutcome::Overran => ("#d4740c", "#a85500"),
    }
}

/// One row: the name, the bar, and words on that side of it that has room.
fn draw_bar(canvas: &mut Canvas, scale: &Scale, bar: &Bar<'_>, y: f64) {
    let hook = bar.hook;
    let (fill, ink) = colour(hook.outcome);
    let base = y + 11.0;
    let name = fit(&hook.name, 21);
    canvas.text((LEFT - 8.0, base), Side::Left, "", &name);
    let place = match bar.core {
        Some(core) => format!("core {core}"),
        None => "process".to_owned(),
    };
    let at = (RIGHT + 12.0, base);
    canvas.text(at, Side::Right, "fill=\"#59636e\"", &fit(&place, 24));
    let end_ms = hook.start_ms + hook.elapsed_ms;
    let Some((from, to)) = scale.span(hook.start_ms, end_ms) else {
        return;
    };
    let from = from.min(RIGHT - 2.0);
    let to = to.max(from + 2.0);
    let area = Area {
        x: from,
        y: y + 2.0,
        width: to - from,
        height: 11.0,
    };
    let title = format!("{name}: {}", words_of(hook, 200));
    canvas.titled_rect(area, &format!("rx=\"1\" fill=\"{fill}\""), &title);
    let room_left = from - LEFT;
    let room_right = RIGHT - to;
    let room = room_left.max(room_right) - 8.0;
    let most = (room / width_of(1, 11.0)).max(0.0) as usize;
    let words = words_of(hook, most);
    let fits_right = width_of(columns(&words), 11.0) + 8.0 <= room_right;
    let (x, side) = if fits_right {
        (to + 5.0, Side::Right)
    } else {
        (from - 5.0, Side::Left)
    };
    let look = format!("fill=\"{ink}\" {HALO}");
    canvas.text((x, base), side, &look, &words);
}

/// `failed after 12.4 ms: connection reset by peer`
fn words_of(hook: &HookReport, width: usize) -> String {
    let mut words = format!("{} {}", hook.outcome.word(), duration(hook.elapsed_ms));
    if hook.outcome != HookOutcome::Ok {
        words = format!(
            "{} after {}",
            hook.outcome.word(),
            duration(hook.elapsed_ms)
        );
    }
    if let Some(error) = &hook.error {
        words.push_str(&format!(": {}", fit(error, 200)));
    }
    fit(&words, width)
}
