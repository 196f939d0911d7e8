//! Whether what was sampled is flat: the median of a run's last tenth beside that of its second, for
//! the first makes what is made once.

use crate::gauges::{GAUGES, Gauge, Sample};

/// One gauge over a run.
pub struct Course {
    /// Which.
    pub gauge: &'static Gauge,
    /// The median of the second tenth.
    pub early: f64,
    /// The median of the last tenth.
    pub late: f64,
    /// The lowest and the highest of all after the first tenth.
    pub range: (f64, f64),
    /// How much it may rise.
    pub allowed: f64,
}

impl Course {
    /// Whether it has not risen by more than it may.
    pub fn is_flat(&self) -> bool {
        self.late - self.early <= self.allowed
    }
}

/// A tenth has at least so many samples, or its median says little.
const TENTH_MIN: usize = 10;

/// The courses of all gauges; `None` if the run was too short to tell.
pub fn courses(samples: &[Sample]) -> Option<Vec<Course>> {
    let tenth = samples.len() / 10;
    if tenth < TENTH_MIN {
        return None;
    }
    let second = &samples[tenth..2 * tenth];
    let last = &samples[samples.len() - tenth..];
    let between = (last[0].stops - second[0].stops) as f64;
    let course = |(place, gauge): (usize, &'static Gauge)| {
        let values = |samples: &[Sample]| -> Vec<f64> {
            let mut values: Vec<f64> = samples.iter().map(|sample| sample.values[place]).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |samples: &[Sample]| values(samples)[samples.len() / 2];
        let all = values(&samples[tenth..]);
        Course {
            gauge,
            early: median(second),
            late: median(last),
            range: (all[0], all[all.len() - 1]),
            allowed: gauge.slack.least + gauge.slack.per_stop * between,
        }
    };
    Some(GAUGES.iter().enumerate().map(course).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand samples, of which the gauge of this name follows `value`.
    fn samples(name: &str, value: impl Fn(u64) -> f64) -> Vec<Sample> {
        let place = GAUGES.iter().position(|gauge| gauge.name == name);
        let sample = |stops| {
            let mut values = [7.0; GAUGES.len()];
            values[place.expect("a gauge")] = value(stops);
            Sample {
                stops,
                values,
                ..Sample::NONE
            }
        };
        (1..=1_000).map(sample).collect()
    }

    fn risen(samples: &[Sample]) -> Vec<&'static str> {
        let courses = courses(samples).expect("enough of them");
        let risen = courses.iter().filter(|course| !course.is_flat());
        risen.map(|course| course.gauge.name).collect()
    }

    #[test]
    fn a_descriptor_left_now_and_then_is_seen() {
        let leak = samples("fds", |stops| 9.0 + (stops / 300) as f64);
        assert_eq!(risen(&leak), ["fds"]);
    }

    #[test]
    fn a_block_left_in_every_tenth_round_is_seen() {
        let leak = samples("heap_blocks", |stops| 900.0 + (stops / 10) as f64);
        assert_eq!(risen(&leak), ["heap_blocks"]);
    }

    #[test]
    fn what_swings_and_comes_back_is_flat() {
        let swings = samples("resident_kib", |stops| 9_000.0 + (stops % 7) as f64 * 500.0);
        assert!(risen(&swings).is_empty());
        let warms_up = samples("heap_bytes", |stops| 1e6 * (stops.min(50) as f64));
        assert!(risen(&warms_up).is_empty());
    }

    #[test]
    fn few_rounds_say_nothing() {
        assert!(courses(&samples("fds", |_| 9.0)[..99]).is_none());
    }
}
