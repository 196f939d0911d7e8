//! The figures of several rounds: medians, spread, and ratios within a round.

/// One figure, once for each round; a round that failed has none.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// By round.
    values: Vec<Option<f64>>,
}

/// A median with the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A quarter is below.
    pub low: f64,
    /// A half is below.
    pub median: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Sample {
    /// The figures in the order of the rounds.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Sample {
        Sample {
            values: values.into_iter().collect(),
        }
    }

    /// Median and quartiles of what there is.
    pub fn spread(&self) -> Option<Spread> {
        let mut sorted: Vec<f64> = self.values.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let below = sorted[place.floor() as usize];
            let above = sorted[place.ceil() as usize];
            below + (above - below) * place.fract()
        };
        Some(Spread {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        })
    }

    /// The median, or nothing.
    pub fn median(&self) -> Option<f64> {
        self.spread().map(|spread| spread.median)
    }

    /// This one's share of `base`, round by round: what disturbed a round disturbed both.
    pub fn over(&self, base: &Sample) -> Sample {
        let pairs = self.values.iter().zip(&base.values);
        Sample::of(pairs.map(|(one, other)| Some((*one)? / (*other)?)))
    }

    /// Both joined by `join`, round by round; where only one was measured, that one.
    pub fn with(&self, other: &Sample, join: fn(f64, f64) -> f64) -> Sample {
        let count = self.values.len().max(other.values.len());
        let at = |sample: &Sample, round: usize| sample.values.get(round).copied().flatten();
        Sample::of(
            (0..count).map(|round| match (at(self, round), at(other, round)) {
                (Some(one), Some(other)) => Some(join(one, other)),
                (one, other) => one.or(other),
            }),
        )
    }

    /// The sum of what there is.
    pub fn sum(&self) -> f64 {
        self.values.iter().flatten().sum()
    }

    /// The greatest.
    pub fn max(&self) -> Option<f64> {
        self.values.iter().flatten().copied().max_by(f64::total_cmp)
    }
}

/// The geometric mean.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    Some((sum / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let one = Sample::of([Some(2.0), Some(40.0), None]);
        let base = Sample::of([Some(1.0), Some(20.0), Some(7.0)]);
        let spread = one.over(&base).spread();
        let expected = Spread {
            low: 2.0,
            median: 2.0,
            high: 2.0,
        };
        assert_eq!(spread, Some(expected));
    }

    #[test]
    fn quartiles_lie_between_the_figures() {
        let spread = Sample::of([4.0, 1.0, 3.0, 2.0].map(Some)).spread();
        let expected = Spread {
            low: 1.75,
            median: 2.5,
            high: 3.25,
        };
        assert_eq!(spread, Some(expected));
    }

    #[test]
    fn nothing_measured_has_no_median() {
        assert_eq!(Sample::of([None, None]).median(), None);
    }
}
