//! When a job is due: a cron expression read in a time zone.
//!
//! Where a zone's clock is put forward, a time that does not exist that day counts as the moment after
//! the gap; where it is put back, an hour that comes twice has its times twice only for expressions
//! that name no fixed hour.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// When a job is due.
#[derive(Clone, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    text: String,
}

impl Schedule {
    /// Reads `minute hour day month weekday`, or `@daily` and the like.
    ///
    /// # Errors
    /// Says what is wrong with the expression.
    pub fn parse(expression: &str, zone: Tz) -> Result<Schedule, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| error.to_string())?;
        let schedule = Schedule { cron, zone, text: expression.split_whitespace().collect::<Vec<_>>().join(" ") };
        // The 30th of February can be written, and would be looked for at every tick.
        match schedule.next_after(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err("there is no such time".to_owned()),
        }
    }

    /// The first time after `at` that it is due.
    pub fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&at.with_timezone(&self.zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        &self.text
    }

    /// Where it is read.
    pub fn zone(&self) -> Tz {
        self.zone
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, zone: Tz, after: &str) -> String {
        let at = DateTime::parse_from_rfc3339(after).unwrap().to_utc();
        Schedule::parse(expression, zone).unwrap().next_after(at).unwrap().to_rfc3339()
    }

    #[test]
    fn a_schedule_is_read_in_its_time_zone() {
        assert_eq!(next("0 3 * * *", Tz::UTC, "2026-11-22T03:00:00Z"), "2026-11-23T03:00:00+00:00");
        assert_eq!(next("0 3 * * *", Tz::Asia__Shanghai, "2026-11-22T03:00:00Z"), "2026-11-22T19:00:00+00:00");
        assert_eq!(next("30 4 * * MON", Tz::UTC, "2026-11-22T05:00:00Z"), "2026-11-23T04:30:00+00:00");
        assert_eq!(next("@hourly", Tz::UTC, "2026-11-22T05:00:01Z"), "2026-11-22T06:00:00+00:00");
    }

    #[test]
    fn a_daily_job_is_due_once_on_days_when_the_clock_is_changed() {
        let berlin = Tz::Europe__Berlin;
        // 02:30 does not exist on 2026-03-29 and comes twice on 2026-10-25.
        let gap = next("30 2 * * *", berlin, "2026-03-28T12:00:00Z");
        assert!(gap.starts_with("2026-03-29T01:"), "{gap}");
        let after = next("30 2 * * *", berlin, &gap);
        assert_eq!(after, "2026-03-30T00:30:00+00:00");
        let first = next("30 2 * * *", berlin, "2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00+00:00");
        assert_eq!(next("30 2 * * *", berlin, &first), "2026-10-26T01:30:00+00:00");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for expression in ["", "daily", "0 3 * *", "0 0 3 * * *", "60 3 * * *", "0 3 30 2 *", "0 3 * * * 2026"] {
            assert!(Schedule::parse(expression, Tz::UTC).is_err(), "{expression}");
        }
    }
}
