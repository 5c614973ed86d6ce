//! What happened in a span of time to one tenant's tasks for one model: counts, and how long things
//! took. Values only; [`metrics`](crate::metrics) adds them up, the store keeps them.

mod histogram;

use chrono::{DateTime, Utc};

pub use self::histogram::{Histogram, Unreadable};
use crate::task::TenantId;

/// The spans that are kept: minutes for a look at the last hours, hours for a look at the last weeks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// 60 seconds.
    Minute,
    /// 3600 seconds.
    Hour,
}

/// What happened in a span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Point {
    /// How often.
    pub counts: Counts,
    /// From its place in the queue to the claim.
    pub wait: Histogram,
    /// One call of the model.
    pub run: Histogram,
    /// From createTask to the end.
    pub total: Histogram,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks put in the queue.
    pub created: u64,
    /// Tasks whose result was stored.
    pub succeeded: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Calls that failed and are tried again.
    pub retried: u64,
    /// Attempts that were lost with their worker.
    pub lost: u64,
    /// Calls of the model that came to an end.
    pub calls: u64,
    /// Bytes of results.
    pub bytes: u64,
}

/// One point and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesRow {
    /// How long it is.
    pub span: Span,
    /// When it began.
    pub at: DateTime<Utc>,
    /// Whose tasks.
    pub tenant: TenantId,
    /// Name of the model when the tasks were created.
    pub model_name: String,
    /// What happened.
    pub point: Point,
}

impl Span {
    /// Every span.
    pub const ALL: [Span; 2] = [Span::Minute, Span::Hour];

    /// Its length.
    pub const fn seconds(self) -> i64 {
        match self {
            Span::Minute => 60,
            Span::Hour => 3600,
        }
    }

    /// The number of the span that a moment is in, counted from 1970.
    pub fn number(self, at: DateTime<Utc>) -> i64 {
        at.timestamp().div_euclid(self.seconds())
    }

    /// When the span of that number begins.
    pub fn begin(self, number: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(number.saturating_mul(self.seconds()), 0).unwrap_or_default()
    }
}

impl Point {
    /// Adds what happened elsewhere, or later.
    pub fn add(&mut self, other: &Point) {
        self.counts.add(other.counts);
        self.wait.add(&other.wait);
        self.run.add(&other.run);
        self.total.add(&other.total);
    }
}

impl Counts {
    /// Adds what happened elsewhere, or later.
    pub fn add(&mut self, other: Counts) {
        self.created += other.created;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.retried += other.retried;
        self.lost += other.lost;
        self.calls += other.calls;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn a_span_begins_at_a_round_time() {
        let at = Utc.with_ymd_and_hms(2026, 11, 22, 10, 41, 59).unwrap();
        let begins = Span::ALL.map(|span| span.begin(span.number(at)).format("%H:%M:%S").to_string());
        assert_eq!(begins, ["10:41:00", "10:00:00"]);
    }

    #[test]
    fn points_add_up() {
        let counts = Counts { created: 2, failed: 1, bytes: u64::MAX - 1, ..Counts::default() };
        let mut one = Point { counts, ..Point::default() };
        one.run.record(Duration::from_secs(1));
        let mut both = one.clone();
        both.add(&one);
        let sum = both.counts;
        assert_eq!((sum.created, sum.failed, sum.bytes, both.run.count()), (4, 2, u64::MAX, 2));
    }
}
