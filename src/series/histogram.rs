//! How long things took, in buckets each 19 % wider than the one before: a percentile is right to
//! within 10 %, histograms of several nodes add up, and an hour of them is some bytes.

use std::{fmt, str::FromStr, time::Duration};

/// Buckets for each doubling of the time.
const PER_DOUBLING: f64 = 4.0;

/// The last bucket: it begins at 2^31 ms, some 25 days, and has no end.
const LAST: usize = 125;

/// How many things took how long. Bucket 0 ends at 1 ms, and bucket `n` at 2^(n/4) ms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// As far as the last bucket that has any.
    counts: Vec<u64>,
}

/// A text that is no histogram.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a histogram: {0:?}")]
pub struct Unreadable(String);

impl Histogram {
    /// Counts one that took so long.
    pub fn record(&mut self, took: Duration) {
        self.put(bucket(took), 1);
    }

    /// Adds another one's counts.
    pub fn add(&mut self, other: &Histogram) {
        for (bucket, count) in other.filled() {
            self.put(bucket, count);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What that share of them (0 to 1) took at most, in milliseconds; 0 where there are none.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let reached = self.filled().find(|(_, count)| {
            below += count;
            below >= rank
        });
        reached.map_or(0.0, |(bucket, _)| middle_ms(bucket))
    }

    fn put(&mut self, bucket: usize, count: u64) {
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
    }

    fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}

fn bucket(took: Duration) -> usize {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 1.0 { 0 } else { ((ms.log2() * PER_DOUBLING) as usize + 1).min(LAST) }
}

/// Between the bounds of a bucket, in proportion.
fn middle_ms(bucket: usize) -> f64 {
    match bucket {
        0 => 0.5,
        _ => ((bucket as f64 - 0.5) / PER_DOUBLING).exp2(),
    }
}

/// As it is stored: `3:12 17:1`, twelve in bucket 3 and one in bucket 17.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (bucket, count)) in self.filled().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{bucket}:{count}")?;
        }
        Ok(())
    }
}

impl FromStr for Histogram {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Histogram, Unreadable> {
        let mut histogram = Histogram::default();
        for pair in text.split_ascii_whitespace() {
            let (bucket, count) = pair.split_once(':').ok_or_else(|| Unreadable(text.to_owned()))?;
            match (bucket.parse::<usize>(), count.parse::<u64>()) {
                (Ok(bucket @ 0..=LAST), Ok(count)) => histogram.put(bucket, count),
                _ => return Err(Unreadable(text.to_owned())),
            }
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times_ms: impl IntoIterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        times_ms.into_iter().for_each(|ms| histogram.record(Duration::from_secs_f64(ms / 1000.0)));
        histogram
    }

    #[test]
    fn a_percentile_is_right_to_within_a_tenth() {
        for scale in [1.3, 17.0, 250.0, 3e5, 1e6] {
            let histogram = of((1..=1000).map(|n| f64::from(n) * scale));
            for (share, exact) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
                let ratio = histogram.percentile_ms(share) / (exact * scale);
                assert!((0.9..1.1).contains(&ratio), "{scale} {share}: {ratio}");
            }
        }
        assert_eq!(of([]).percentile_ms(0.5), 0.0);
        assert_eq!(of([0.0, 0.2, 0.9]).percentile_ms(0.95), 0.5);
    }

    #[test]
    fn what_lies_on_a_bound_is_in_the_bucket_that_it_begins() {
        assert_eq!([0.999, 1.0, 2.0, 4.0].map(|ms| bucket(Duration::from_secs_f64(ms / 1000.0))), [0, 1, 5, 9]);
        assert_eq!(bucket(Duration::MAX), LAST);
    }

    #[test]
    fn it_is_stored_as_a_short_text_and_read_again() {
        let histogram = of([0.1, 2.0, 2.1, 86_400_000.0]);
        assert_eq!(histogram.to_string(), "0:1 5:2 106:1");
        assert_eq!(histogram.to_string().parse(), Ok(histogram));
        assert_eq!("".parse(), Ok(Histogram::default()));
        for text in ["1", "1:x", "-1:2", "126:1", "1:2,3:4", "999999999999:1"] {
            assert_eq!(text.parse::<Histogram>(), Err(Unreadable(text.to_owned())));
        }
    }

    #[test]
    fn histograms_of_several_nodes_add_up() {
        let mut both = of([1.0, 5.0]);
        both.add(&of([5.0, 5000.0]));
        assert_eq!(both, of([1.0, 5.0, 5.0, 5000.0]));
    }
}
