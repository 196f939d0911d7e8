//! How many connections were open, over the time of a stop.
//!
//! A bounded list of steps. When it is full it is thinned to one point for each of some equal
//! parts of the time it spans, so that every part of a long stop is drawn as finely as any other,
//! however many connections ended in one moment of it.

#![forbid(unsafe_code)]

use crate::config::{COURSE_PARTS, COURSE_POINTS};

/// The course of a number that begins with the stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Course {
    /// Since when (ns) the number was what; in the order of time, at most `COURSE_POINTS`. The
    /// first and the last that were noted are always there.
    points: Vec<(u64, u64)>,
}

impl Course {
    /// From `at_ns` on the number is `value`. Of one turn the last word counts, but the first
    /// point of all stays.
    pub(crate) fn note(&mut self, at_ns: u64, value: u64) {
        let begun = self.points.len() > 1;
        match self.points.last_mut() {
            Some(last) if begun && last.0 >= at_ns => last.1 = value,
            _ => {
                if self.points.len() >= COURSE_POINTS {
                    self.thin();
                }
                self.points.push((at_ns, value));
            }
        }
    }

    /// The points, in the order of time.
    pub(crate) fn points(&self) -> &[(u64, u64)] {
        &self.points
    }

    /// Of all points that lie in one part of the time, only the last stays: the value with which
    /// the part ends. A value that did not stand for so long may be lost with it.
    fn thin(&mut self) {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return;
        };
        let (from_ns, to_ns) = (first.0, last.0);
        let width_ns = to_ns.saturating_sub(from_ns) / COURSE_PARTS + 1;
        let part = |at_ns: u64| at_ns.saturating_sub(from_ns) / width_ns;
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(COURSE_POINTS);
        for &point in &self.points {
            let begun = kept.len() > 1;
            match kept.last_mut() {
                Some(last) if begun && part(last.0) == part(point.0) => *last = point,
                _ => kept.push(point),
            }
        }
        self.points = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_point_stay_however_many_there_are() {
        let mut course = Course::default();
        for i in 0..100_000 {
            course.note(7 + i * i, 100_000 - i);
            let points = course.points();
            assert!(points.len() <= COURSE_POINTS);
            assert_eq!(points[0], (7, 100_000));
            assert_eq!(points.last(), Some(&(7 + i * i, 100_000 - i)));
            assert!(points.is_sorted_by_key(|point| point.0));
        }
    }

    #[test]
    fn a_burst_takes_no_room_from_the_rest_of_the_time() {
        let mut course = Course::default();
        for second in 0..20 {
            course.note(second * 1_000_000, 1_000 - second);
        }
        for burst in 0..5_000 {
            course.note(20_000_000 + burst, 900 - burst.min(900));
        }
        let early = course.points().iter().filter(|point| point.0 < 20_000_000);
        assert_eq!(early.count(), 20);
    }

    #[test]
    fn one_turn_leaves_one_point_beside_the_first() {
        let mut course = Course::default();
        for value in [9, 8, 7, 6] {
            course.note(50, value);
        }
        course.note(60, 5);
        assert_eq!(course.points(), [(50, 9), (50, 6), (60, 5)]);
    }
}
