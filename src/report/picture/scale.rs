//! From an instant of the stop to a place on the picture.
#![forbid(unsafe_code)]

use super::super::Report;
use super::super::words::duration;
use super::canvas::{Canvas, Side};

/// Where time begins on the picture, and where it ends.
pub(super) const LEFT: f64 = 150.0;
pub(super) const RIGHT: f64 = 900.0;

/// The longest stop that is drawn to scale: as long as a nanosecond clock goes.
const LONGEST_MS: f64 = 2e13;

/// Ticks that a scale has at most.
const TICKS: f64 = 8.0;

/// The room that the word of a tick needs.
const WORD: f64 = 62.0;

/// Time, from the trigger to some end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Where it ends: finite and more than 0.
    end_ms: f64,
}

impl Scale {
    /// The time of the whole stop.
    pub(super) fn of(report: &Report) -> Scale {
        Scale::until(report.elapsed_ms)
    }

    /// Time up to some end, which may be anything.
    pub(super) fn until(end_ms: f64) -> Scale {
        // Written so that what is not a number takes the second way.
        let end_ms = if end_ms > 0.001 { end_ms } else { 0.001 };
        Scale {
            end_ms: end_ms.min(LONGEST_MS),
        }
    }

    /// The place of an instant; an instant outside of the stop is moved to
    /// its begin or end, and one that is not a number to the begin.
    pub(super) fn x(&self, at_ms: f64) -> f64 {
        let share = at_ms / self.end_ms;
        if share.is_nan() {
            return LEFT;
        }
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// The places between which something lasted; `None` if no part of it is
    /// on the picture.
    pub(super) fn span(&self, start_ms: f64, end_ms: f64) -> Option<(f64, f64)> {
        let shows = start_ms <= end_ms && start_ms <= self.end_ms && end_ms >= 0.0;
        shows.then(|| (self.x(start_ms), self.x(end_ms)))
    }

    /// Whether an instant is on the picture.
    pub(super) fn holds(&self, at_ms: f64) -> bool {
        (0.0..=self.end_ms).contains(&at_ms)
    }

    /// Round instants, some of them, from 0 on.
    fn ticks(&self) -> Vec<f64> {
        let least = self.end_ms / TICKS;
        let decade = 10_f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|n| n * decade)
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or(self.end_ms);
        (0..=TICKS as u32)
            .map(|i| f64::from(i) * step)
            .take_while(|at_ms| *at_ms <= self.end_ms)
            .collect()
    }

    /// Words at the ticks above `y`, and lines down from there to `bottom`.
    pub(super) fn draw(&self, canvas: &mut Canvas, y: f64, bottom: f64) {
        let end = self.x(self.end_ms);
        canvas.begin("stroke=\"#d8dee4\" stroke-width=\"1\"");
        for at_ms in self.ticks() {
            let x = self.x(at_ms);
            canvas.line((x, y), (x, bottom), "");
        }
        canvas.line((end, y), (end, bottom), "");
        canvas.line((LEFT, y), (RIGHT, y), "");
        canvas.end();
        canvas.begin("fill=\"#59636e\"");
        for at_ms in self.ticks() {
            let x = self.x(at_ms);
            if x + WORD < end {
                canvas.text((x, y - 5.0), Side::Middle, "", &duration(at_ms));
            }
        }
        let look = "font-weight=\"600\"";
        canvas.text((end, y - 5.0), Side::Middle, look, &duration(self.end_ms));
        canvas.end();
    }
}
