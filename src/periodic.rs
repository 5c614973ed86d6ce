//! The one timer loop: a tick every so often, at once while there is more to do, until told to
//! stop.
//!
//! ```ignore
//! let mut pace = Pace::new("cleaner", every);
//! while pace.wait(&stop).await {
//!     pace.ticked(tick().await);
//! }
//! ```

use std::{fmt, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;

/// Longest pause after ticks that failed.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Whether a tick left something for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// It found less than a full batch.
    All,
    /// A batch was full: go on at once.
    More,
}

/// Says when the next tick is due.
pub struct Pace {
    name: &'static str,
    every: Duration,
    pause: Duration,
    failures: u32,
}

impl Pace {
    /// A tick `every` so often; the first one is staggered, so that nodes do not act in step.
    pub fn new(name: &'static str, every: Duration) -> Pace {
        Pace { name, every, pause: every.mul_f64(clock::dice()), failures: 0 }
    }

    /// Waits for the next tick; false when it is time to stop.
    pub async fn wait(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(self.pause) => true,
        }
    }

    /// Takes a tick's outcome. An error is logged when it begins and when it is over; in between
    /// the ticks back off.
    pub fn ticked<E: fmt::Display>(&mut self, outcome: Result<Swept, E>) {
        self.pause = match outcome {
            Ok(swept) => {
                if std::mem::take(&mut self.failures) > 0 {
                    info!(duty = self.name, "{} works again", self.name);
                }
                if swept == Swept::More { Duration::ZERO } else { self.every }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == 1 {
                    warn!(duty = self.name, %error, "{} failed, trying again until it works", self.name);
                }
                let backoff = self.every.saturating_mul(2u32.saturating_pow(self.failures.min(8)));
                clock::jittered(backoff.min(MAX_BACKOFF))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_batch_goes_on_at_once_and_failures_back_off() {
        let every = Duration::from_secs(1);
        let mut pace = Pace::new("test", every);
        assert!(pace.pause <= every);
        pace.ticked(Ok::<_, String>(Swept::More));
        assert_eq!(pace.pause, Duration::ZERO);
        pace.ticked(Ok::<_, String>(Swept::All));
        assert_eq!(pace.pause, every);
        for _ in 0..20 {
            pace.ticked(Err("away"));
            assert!(pace.pause >= every && pace.pause <= MAX_BACKOFF.mul_f64(1.5));
        }
    }

    #[tokio::test]
    async fn a_loop_that_is_stopped_does_not_tick_again() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(!Pace::new("test", Duration::from_secs(3600)).wait(&stop).await);
    }
}
