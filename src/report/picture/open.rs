//! The number of open connections as a line of steps.
#![forbid(unsafe_code)]

use super::super::CoreReport;
use super::canvas::{Area, Canvas};
use super::scale::{LEFT, RIGHT, Scale};

/// The places across the picture that are told apart, one a point: however
/// many steps there are, no more of them are drawn.
const PLACES: f64 = RIGHT - LEFT;

/// One step: from this place on, so many.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    x: f64,
    /// The largest number at this place.
    most: f64,
    /// The number that it is left with.
    last: f64,
}

/// The course of a number over the stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    /// In the order of their places, no two at one.
    steps: Vec<Step>,
}

impl Steps {
    /// The open connections of these cores together.
    pub(super) fn of(cores: &[CoreReport], scale: &Scale) -> Steps {
        let mut changes: Vec<(f64, f64)> = Vec::new();
        let mut open = 0.0;
        for core in cores {
            let mut before = 0.0;
            for (i, &(at_ms, now)) in core.open_connections.iter().enumerate() {
                let now = now as f64;
                if i == 0 {
                    // What a core found open had been open at the trigger.
                    open += now;
                } else {
                    changes.push((scale.x(at_ms), now - before));
                }
                before = now;
            }
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut steps = Steps::default();
        steps.push(LEFT, open);
        for (x, change) in changes {
            open = (open + change).max(0.0);
            steps.push(x, open);
        }
        steps
    }

    fn push(&mut self, x: f64, value: f64) {
        let x = LEFT + ((x - LEFT) / (RIGHT - LEFT) * PLACES).round();
        match self.steps.last_mut() {
            Some(step) if step.x >= x => {
                step.most = step.most.max(value);
                step.last = value;
            }
            _ => self.steps.push(Step {
                x,
                most: value,
                last: value,
            }),
        }
    }

    /// The largest number of all.
    pub(super) fn most(&self) -> f64 {
        self.steps.iter().map(|step| step.most).fold(0.0, f64::max)
    }

    /// Draws the line, and the area beneath it; `most` is at the top.
    pub(super) fn draw(&self, canvas: &mut Canvas, area: Area, most: f64, looks: (&str, &str)) {
        let bottom = area.y + area.height;
        let y = |value: f64| bottom - (value / most.max(1.0)).clamp(0.0, 1.0) * area.height;
        let mut corners: Vec<(f64, f64)> = Vec::new();
        let mut before = bottom;
        for (i, step) in self.steps.iter().enumerate() {
            if i > 0 {
                corners.push((step.x, before));
            }
            corners.push((step.x, y(step.most)));
            if step.last < step.most {
                corners.push((step.x, y(step.last)));
            }
            before = y(step.last);
        }
        corners.push((RIGHT, before));
        let (filled, drawn) = looks;
        let mut around = vec![(LEFT, bottom)];
        around.extend(&corners);
        around.push((RIGHT, bottom));
        canvas.path(&around, filled);
        if !drawn.is_empty() {
            canvas.path(&corners, drawn);
        }
    }
}
