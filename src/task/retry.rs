//! Is a failed call worth another try, when, and where in the queue? Pure: dice are passed in.

use std::time::Duration;

use super::{
    Failure, FailureKind, Running,
    lifecycle::{Place, Slot},
};

/// The longest rest that our own back-off asks for.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The longest rest that a model's `Retry-After` can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Statuses that will be the same next time: the request itself is at fault.
const FINAL_STATUSES: [u16; 9] = [400, 401, 403, 404, 405, 410, 413, 415, 422];

/// A model's settings for retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Further tries after the first one failed.
    pub retry_times: i32,
    /// 0: to the head. N > 0: to the tail, but to the head once the task is that old.
    pub queue_max: Duration,
}

impl FailureKind {
    /// Whether another try could end differently.
    pub fn is_retryable(self) -> bool {
        match self {
            FailureKind::Status(status) => !FINAL_STATUSES.contains(&status),
            FailureKind::EmptyBody | FailureKind::Timeout | FailureKind::Connection | FailureKind::Spool => true,
            FailureKind::TooLarge | FailureKind::Unsendable => false,
        }
    }
}

impl RetryPolicy {
    /// The slot for the next try, or `None` where there is none.
    ///
    /// `age` is the time since the task was created, `dice` a number in 0..1.
    pub fn next(&self, task: &Running, failure: &Failure, age: Duration, dice: f64) -> Option<Slot> {
        if !failure.kind.is_retryable() || task.retry_count >= self.retry_times {
            return None;
        }
        let own = backoff(task.retry_count.saturating_add(1)).mul_f64(jitter(dice));
        let delay = own.max(failure.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        let old = age.saturating_add(delay) >= self.queue_max;
        Some(Slot { delay, place: if old { Place::Head } else { Place::Tail } })
    }
}

/// The base curve, before jitter: min(30 s, 2^(n-1) s) for the n-th retry.
pub fn backoff(n: i32) -> Duration {
    let doublings = u32::try_from(n.saturating_sub(1)).unwrap_or(0);
    Duration::from_secs(1u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(MAX_BACKOFF)
}

/// Half to the whole of it, so that tasks that failed together do not come back together.
fn jitter(dice: f64) -> f64 {
    0.5 + dice.clamp(0.0, 1.0) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::sample;

    fn task(retry_count: i32) -> Running {
        Running { retry_count, ..sample::running() }
    }

    fn failure(kind: FailureKind, retry_after: Option<u64>) -> Failure {
        Failure { kind, message: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    const HEAD: RetryPolicy = RetryPolicy { retry_times: 3, queue_max: Duration::ZERO };
    const TAIL: RetryPolicy = RetryPolicy { retry_times: 3, queue_max: Duration::from_secs(60) };

    #[test]
    fn the_curve_doubles_up_to_thirty_seconds() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 4, 5, 6, 7, 100, i32::MAX].map(|n| backoff(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 30, 30, 30, 30]);
    }

    #[test]
    fn jitter_takes_half_to_the_whole() {
        let delay =
            |dice| HEAD.next(&task(1), &failure(FailureKind::Timeout, None), Duration::ZERO, dice).unwrap().delay;
        assert_eq!(delay(0.0), Duration::from_secs(1));
        assert_eq!(delay(0.5), Duration::from_millis(1500));
        assert_eq!(delay(1.0), Duration::from_secs(2));
    }

    #[test]
    fn tries_are_used_up() {
        let next = |count| HEAD.next(&task(count), &failure(FailureKind::Timeout, None), Duration::ZERO, 0.0);
        assert!(next(2).is_some());
        assert!(next(3).is_none());
    }

    #[test]
    fn requests_at_fault_are_not_repeated() {
        for status in FINAL_STATUSES {
            assert!(!FailureKind::Status(status).is_retryable(), "{status}");
        }
        for status in [301, 402, 408, 409, 429, 500, 502, 503, 504, 599] {
            assert!(FailureKind::Status(status).is_retryable(), "{status}");
        }
        assert!(!FailureKind::TooLarge.is_retryable());
        assert!(FailureKind::EmptyBody.is_retryable());
    }

    #[test]
    fn retry_after_is_a_floor_of_at_most_an_hour() {
        let delay = |after| {
            HEAD.next(&task(0), &failure(FailureKind::Status(429), Some(after)), Duration::ZERO, 1.0).unwrap().delay
        };
        assert_eq!(delay(0), Duration::from_secs(1));
        assert_eq!(delay(7), Duration::from_secs(7));
        assert_eq!(delay(999_999), MAX_RETRY_AFTER);
    }

    #[test]
    fn a_young_task_goes_to_the_tail_and_an_old_one_to_the_head() {
        let place = |policy: RetryPolicy, age| {
            policy.next(&task(0), &failure(FailureKind::Timeout, None), Duration::from_secs(age), 1.0).unwrap().place
        };
        assert_eq!(place(HEAD, 0), Place::Head);
        assert_eq!(place(TAIL, 0), Place::Tail);
        assert_eq!(place(TAIL, 58), Place::Tail);
        assert_eq!(place(TAIL, 59), Place::Head, "it will be 60 s old when its rest is over");
    }
}
