//! Pictures, as SVG.

use std::io;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

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
const COLOURS: [RGBColor; 11] = [
    RGBColor(0, 0, 0),
    RGBColor(130, 130, 130),
    RGBColor(213, 64, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(190, 160, 40),
    RGBColor(148, 103, 189),
    RGBColor(110, 85, 75),
    RGBColor(60, 60, 140),
];

/// So wide that the longest part of a column's name fits.
const COLUMN_WIDTH: u32 = 112;

/// Where an axis begins, and how it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// At nothing, so that twice as high is twice as much.
    FromZero,
    /// By powers of ten.
    Logarithmic,
}

/// A picture: a column for each name, and in it a mark for each series.
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// The columns' names; a comma is where they break.
    pub columns: &'a [String],
    /// What is drawn.
    pub points: &'a [Point],
    /// The upward axis.
    pub scale: Scale,
}

/// Which series stands out.
const OURS: &str = "evenfall";

/// Draws it.
pub fn points(chart: &Chart) -> io::Result<String> {
    let mut text = String::new();
    draw(&mut text, chart).map_err(io::Error::other)?;
    Ok(text)
}

impl Chart<'_> {
    /// Where the axis ends, as values of the axis.
    fn ends(&self) -> (f64, f64) {
        let values = || {
            let spreads = self.points.iter().map(|point| point.spread);
            spreads.flat_map(|spread| [spread.low, spread.high])
        };
        let high = values().fold(f64::MIN, f64::max);
        let low = values().fold(f64::MAX, f64::min);
        match self.scale {
            Scale::FromZero => (0.0, (high * 1.05).max(0.1)),
            Scale::Logarithmic if self.points.is_empty() => (0.0, 1.0),
            Scale::Logarithmic => (low.max(1e-3).log10().floor(), high.max(1e-2).log10().ceil()),
        }
    }

    /// A value's place on the axis.
    fn height(&self, value: f64) -> f64 {
        match self.scale {
            Scale::FromZero => value,
            Scale::Logarithmic => value.max(1e-3).log10(),
        }
    }

    /// An axis value's label.
    fn label(&self, value: f64) -> String {
        match self.scale {
            Scale::FromZero => format!("{value:.1}"),
            Scale::Logarithmic => format!("{}", 10f64.powf(value)),
        }
    }

    /// The series in the order of their first marks.
    fn series(&self) -> Vec<&str> {
        let mut series: Vec<&str> = Vec::new();
        for point in self.points {
            if !series.contains(&point.series.as_str()) {
                series.push(&point.series);
            }
        }
        series
    }
}

/// The colour of a series: ours has the only warm one, so that it is found at a glance.
fn colour(name: &str, index: usize) -> RGBColor {
    if name == OURS {
        return RGBColor(213, 64, 0);
    }
    COLOURS[index % COLOURS.len()]
}

fn draw(text: &mut String, what: &Chart) -> Result<(), String> {
    let said = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let (low, high) = what.ends();
    let width = 230 + COLUMN_WIDTH * what.columns.len().max(3) as u32;
    let area = SVGBackend::with_string(text, (width, 540)).into_drawing_area();
    area.fill(&WHITE).map_err(said)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(what.title, ("sans-serif", 20))
        .margin(12)
        // The legend stands there.
        .margin_right(150)
        .x_label_area_size(56)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..what.columns.len().max(1) as f64, low..high)
        .map_err(said)?;
    let steps = match what.scale {
        Scale::FromZero => 12,
        Scale::Logarithmic => (high - low) as usize + 1,
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(steps)
        .y_label_formatter(&|value| what.label(*value))
        .bold_line_style(RGBColor(225, 225, 225))
        .light_line_style(WHITE)
        .draw()
        .map_err(said)?;
    let series = what.series();
    for (index, name) in series.iter().enumerate() {
        let colour = colour(name, index);
        let ours = *name == OURS;
        let aside = (index as f64 + 1.0) / (series.len() as f64 + 1.0);
        for point in what.points.iter().filter(|point| point.series == *name) {
            let at = |value| (point.place as f64 + aside, what.height(value));
            let ends = vec![at(point.spread.low), at(point.spread.high)];
            let line = PathElement::new(ends, colour.stroke_width(if ours { 4 } else { 2 }));
            chart.plotting_area().draw(&line).map_err(said)?;
            let size = if ours { 6 } else { 4 };
            let dot = Circle::new(at(point.spread.median), size, colour.filled());
            chart.plotting_area().draw(&dot).map_err(said)?;
        }
        legend(&area, index, name, colour, width).map_err(said)?;
    }
    columns(&area, &chart, what.columns, low).map_err(said)?;
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
    let left = width as i32 - 138;
    let top = 60 + 22 * index as i32;
    let ours = name == OURS;
    let style = if ours {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    let font = ("sans-serif", 14, style).into_font();
    let size = if ours { 7 } else { 5 };
    area.draw(&Circle::new((left, top), size, colour.filled()))?;
    area.draw(&Text::new(name.to_owned(), (left + 13, top - 7), font))
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
        // Long names take several lines; the comma is where they break.
        for (line, part) in name.replace(" beside", ", beside").split(", ").enumerate() {
            let at = (x, y + 8 + 15 * line as i32);
            let style = ("sans-serif", 13).into_text_style(area);
            let style = style.pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(part.to_owned(), at, style))?;
        }
        let (edge, _) = chart.backend_coord(&(place as f64, low));
        let top = 50;
        let line = PathElement::new(vec![(edge, top), (edge, y)], RGBColor(210, 210, 210));
        area.draw(&line)?;
    }
    Ok(())
}
