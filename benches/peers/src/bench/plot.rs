//! Pictures, as SVG.

use std::io;

use plotters::prelude::*;

use crate::bench::sample::Spread;

/// One mark: a median, and a line over its quartiles.
pub struct Point {
    /// Which server: its colour, and the legend's text.
    pub series: String,
    /// Which column.
    pub place: usize,
    /// What was measured.
    pub spread: Spread,
}

/// Colours that are told apart also by those who see no red or no green.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
];

/// A column for each name, and in it a mark for each series.
pub fn points(title: &str, names: &[String], marks: &[Point], log: bool) -> io::Result<String> {
    let mut text = String::new();
    draw(&mut text, title, names, marks, log).map_err(io::Error::other)?;
    Ok(text)
}

/// Where the axis ends, as a value of the axis.
fn ends(marks: &[Point], log: bool) -> (f64, f64) {
    let values = || {
        marks
            .iter()
            .flat_map(|mark| [mark.spread.low, mark.spread.high])
    };
    let high = values().fold(f64::MIN, f64::max);
    let low = values().fold(f64::MAX, f64::min);
    if log {
        return (low.max(1e-3).log10().floor(), high.max(1e-2).log10().ceil());
    }
    (0.0, (high * 1.1).max(0.1))
}

fn draw(
    text: &mut String,
    title: &str,
    names: &[String],
    marks: &[Point],
    log: bool,
) -> Result<(), String> {
    let said = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let (low, high) = ends(marks, log);
    let height = move |value: f64| if log { value.max(1e-3).log10() } else { value };
    let width = 220 + 110 * names.len().max(3) as u32;
    let area = SVGBackend::with_string(text, (width, 520)).into_drawing_area();
    area.fill(&WHITE).map_err(said)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        // The legend stands there.
        .margin_right(140)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..names.len() as f64, low..high)
        .map_err(said)?;
    let scale = |value: &f64| {
        if log {
            format!("{}", 10f64.powf(*value))
        } else {
            format!("{value:.1}")
        }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(if log { (high - low) as usize + 1 } else { 12 })
        .y_label_formatter(&scale)
        .light_line_style(WHITE)
        .draw()
        .map_err(said)?;
    let mut series: Vec<&String> = Vec::new();
    for mark in marks {
        if !series.contains(&&mark.series) {
            series.push(&mark.series);
        }
    }
    for (index, name) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let aside = (index as f64 + 1.0) / (series.len() as f64 + 1.0);
        for mark in marks.iter().filter(|mark| &mark.series == *name) {
            let x = mark.place as f64 + aside;
            let ends = [mark.spread.low, mark.spread.high].map(|value| (x, height(value)));
            let line = PathElement::new(ends.to_vec(), colour.stroke_width(3));
            chart.plotting_area().draw(&line).map_err(said)?;
            let place = (x, height(mark.spread.median));
            let dot = Circle::new(place, 4, colour.filled());
            chart.plotting_area().draw(&dot).map_err(said)?;
        }
        legend(&area, index, name, colour, width).map_err(said)?;
    }
    columns(&area, &chart, names, low).map_err(said)?;
    area.present().map_err(said)
}

/// One line of the legend, to the right of the chart.
fn legend<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    index: usize,
    name: &str,
    colour: RGBColor,
    width: u32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let left = width as i32 - 125;
    let top = 60 + 22 * index as i32;
    area.draw(&Circle::new((left, top), 5, colour.filled()))?;
    area.draw(&Text::new(
        name.to_owned(),
        (left + 12, top - 7),
        ("sans-serif", 14),
    ))
}

/// The columns' names, below the chart.
fn columns<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    chart: &ChartContext<
        '_,
        B,
        Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
    >,
    names: &[String],
    low: f64,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    for (place, name) in names.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(place as f64 + 0.5, low));
        // Long names take two lines; the comma is where they break.
        for (line, part) in name.split(", ").enumerate() {
            let left = x - part.chars().count() as i32 * 3;
            let at = (left, y + 8 + 15 * line as i32);
            area.draw(&Text::new(part.to_owned(), at, ("sans-serif", 13)))?;
        }
        let (edge, _) = chart.backend_coord(&(place as f64, low));
        let top = 50;
        let line = PathElement::new(vec![(edge, top), (edge, y)], RGBColor(210, 210, 210));
        area.draw(&line)?;
    }
    Ok(())
}
