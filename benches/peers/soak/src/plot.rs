//! The plot: each gauge over the stops, one above the other.

use std::io;

use plotters::prelude::*;

use crate::gauges::{GAUGES, Sample};

/// Of the whole picture, in pixels, and of one gauge's part.
const WIDTH: u32 = 1_000;
const PART_HEIGHT: u32 = 120;

/// Draws all gauges.
pub fn draw(samples: &[Sample]) -> io::Result<String> {
    let mut text = String::new();
    parts(&mut text, samples).map_err(io::Error::other)?;
    Ok(text)
}

fn parts(text: &mut String, samples: &[Sample]) -> Result<(), String> {
    let said = |error: DrawingAreaErrorKind<io::Error>| error.to_string();
    let height = PART_HEIGHT * GAUGES.len() as u32 + 30;
    let area = SVGBackend::with_string(text, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(said)?;
    let most = samples.last().map_or(1, |sample| sample.stops.max(1));
    for (place, part) in area.split_evenly((GAUGES.len(), 1)).iter().enumerate() {
        let points = || {
            let point = |sample: &Sample| (sample.stops as f64, sample.values[place]);
            samples.iter().map(point)
        };
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        // From zero, so that a rise looks as large as it is; and with room above what is level.
        let end = (highest * 1.25).max(1.0);
        let mut chart = ChartBuilder::on(part)
            .caption(GAUGES[place].title, ("sans-serif", 18))
            .margin(4)
            .margin_right(20)
            .x_label_area_size(22)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..most as f64, 0.0..end)
            .map_err(said)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(RGBColor(225, 225, 225))
            .y_labels(4)
            .x_labels(11)
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| format!("{value}"))
            .draw()
            .map_err(said)?;
        let bends = bends(points().collect());
        let line = LineSeries::new(bends, RGBColor(0, 114, 178));
        chart.draw_series(line).map_err(said)?;
    }
    area.present().map_err(said)
}

/// The points of a line without those in the midst of a level part: most lines here are level.
fn bends(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let last = points.len().saturating_sub(1);
    let height = |at: usize| points[at].1;
    let is_bend = |at: &usize| {
        let at = *at;
        at == 0 || at == last || height(at - 1) != height(at) || height(at + 1) != height(at)
    };
    (0..points.len())
        .filter(is_bend)
        .map(|at| points[at])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_line_is_its_two_ends_and_a_step_keeps_both_of_its_own() {
        let line = |heights: &[f64]| -> Vec<(f64, f64)> {
            let places = (0..heights.len()).map(|at| at as f64);
            places.zip(heights.iter().copied()).collect()
        };
        let ends = bends(line(&[3.0; 9]));
        assert_eq!(ends, [(0.0, 3.0), (8.0, 3.0)]);
        let steps = bends(line(&[3.0, 3.0, 3.0, 4.0, 4.0, 4.0]));
        assert_eq!(steps, [(0.0, 3.0), (2.0, 3.0), (3.0, 4.0), (5.0, 4.0)]);
    }
}
