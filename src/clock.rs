//! The only place that reads time, makes ids or rolls dice.
//!
//! Leases and deadlines are never compared here: they live on the database's or Redis' clock.

#![expect(clippy::disallowed_methods, reason = "this is that one place")]

use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, SubsecRound, Utc};
use chrono_tz::Tz;
use uuid::Uuid;

use crate::task::{NodeId, TaskId};

/// Wall time, cut to microseconds, the resolution of both databases.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// How long ago a file's time was; nothing where that lies ahead.
pub fn since(at: std::time::SystemTime) -> Duration {
    at.elapsed().unwrap_or_default()
}

/// Monotonic time, for measuring how long something took.
pub fn tick() -> Instant {
    Instant::now()
}

/// The day a moment belongs to in the statistics' time zone.
pub fn day(at: DateTime<Utc>, zone: Tz) -> NaiveDate {
    at.with_timezone(&zone).date_naive()
}

/// A fresh task id: `UUIDv7`, increasing within this process.
pub fn task_id() -> TaskId {
    TaskId(Uuid::now_v7())
}

/// A fresh identity for a worker's incarnation.
pub fn node_id() -> NodeId {
    NodeId(Uuid::new_v4())
}

/// 122 random bits as 32 hex digits: request ids, unguessable parts of URLs.
pub fn token() -> String {
    Uuid::new_v4().simple().to_string()
}

/// The id of a new trace, never 0.
pub fn trace_id() -> u128 {
    Uuid::new_v4().as_u128()
}

/// The id of a new span, never 0.
pub fn span_id() -> u64 {
    fastrand::u64(1..)
}

/// 256 random bits that nobody can guess; `None` where the system has no random numbers.
pub fn secret() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).ok().map(|()| bytes)
}

/// A number in 0..1 for jitter.
pub fn dice() -> f64 {
    fastrand::f64()
}

/// `base` times a random 0.5 to 1.5, so that nodes do not act in step.
pub fn jittered(base: Duration) -> Duration {
    base.mul_f64(0.5 + dice())
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn a_day_begins_at_midnight_of_the_zone() {
        let at = Utc.with_ymd_and_hms(2026, 11, 22, 16, 30, 0).unwrap();
        assert_eq!(day(at, Tz::UTC).to_string(), "2026-11-22");
        assert_eq!(day(at, Tz::Asia__Shanghai).to_string(), "2026-11-23");
    }

    #[test]
    fn task_ids_increase() {
        let ids: Vec<TaskId> = (0..1000).map(|_| task_id()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn jitter_stays_around_its_base() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&wait));
        }
    }
}
