//! A pause between two batches while there is much to do: what arrives meanwhile goes into the next
//! one, and a busy service makes few commits. It ends as soon as enough has come. An idle service never
//! waits.

use std::time::{Duration, Instant};

use crate::clock;

/// A batch of so many came from a busy service: more will arrive within the pause.
const BUSY: usize = 16;

/// When the next batch may be made.
#[derive(Debug)]
pub(crate) struct Breath {
    /// From the end of a batch to the next one, at most.
    pause: Duration,
    /// Upper bound of `enough`.
    most: usize,
    until: Option<Instant>,
    /// So many end the pause.
    enough: usize,
}

impl Breath {
    /// Between batches that somebody waits for who will then come again at once. The runtime counts whole
    /// milliseconds, so it may be two.
    pub(crate) fn of_callers() -> Breath {
        Breath::new(Duration::from_millis(1), 64)
    }

    /// Between batches of tasks that are claimed, or that ended. Short beside any call of a model.
    pub(crate) fn of_runs() -> Breath {
        Breath::new(Duration::from_millis(8), 128)
    }

    fn new(pause: Duration, most: usize) -> Breath {
        Breath { pause, most, until: None, enough: 0 }
    }

    /// A batch of `many` was made just now, and so many are `expected` to come soon.
    pub(crate) fn took(&mut self, many: usize, expected: usize) {
        self.until = (many >= BUSY).then(|| clock::tick() + self.pause);
        self.enough = expected.min(self.most);
    }

    /// True if the next batch may be made of what has come so far.
    pub(crate) fn is_over(&mut self, come: usize) -> bool {
        self.until = self.until.filter(|until| come < self.enough && *until > clock::tick());
        self.until.is_none()
    }

    /// Waits for the end of a pause that was not over when last asked; for ever where there is none.
    pub(crate) async fn end(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn only_a_busy_service_pauses_between_batches() {
        let mut breath = Breath::new(LONG, 100);
        assert!(breath.is_over(0));
        breath.took(BUSY - 1, 100);
        assert!(breath.is_over(0));
        breath.took(BUSY, 100);
        assert!(!breath.is_over(99));
        breath.took(1, 100);
        assert!(breath.is_over(0));
    }

    #[tokio::test]
    async fn the_pause_ends_when_all_have_come_who_were_expected() {
        let mut breath = Breath::new(LONG, 100);
        breath.took(BUSY, 40);
        assert!(!breath.is_over(39) && breath.is_over(40));
        breath.took(BUSY, 1000);
        assert!(!breath.is_over(99) && breath.is_over(100));
        // Or whoever waits for its end would look again and again.
        assert!(futures::poll!(std::pin::pin!(breath.end())).is_pending() && breath.is_over(0));
    }

    #[tokio::test]
    async fn the_pause_ends_by_itself() {
        let mut breath = Breath::new(Duration::from_millis(1), 100);
        breath.took(BUSY, 100);
        breath.end().await;
        assert!(breath.is_over(0));
    }
}
