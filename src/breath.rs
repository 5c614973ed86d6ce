//! A pause between two batches while there is much to do: what arrives meanwhile goes into the next
//! one, and a busy service makes few commits. An idle one never waits.

use std::time::{Duration, Instant};

use crate::clock;

/// A batch of so many came from a busy service: more will arrive within a [`PAUSE`].
const BUSY: usize = 16;

/// From the end of a batch to the next one, at most. Short beside any call of a model.
const PAUSE: Duration = Duration::from_millis(6);

/// When the next batch may be made.
#[derive(Debug, Default)]
pub(crate) struct Breath {
    until: Option<Instant>,
}

impl Breath {
    /// A batch of `many` was made just now.
    pub(crate) fn took(&mut self, many: usize) {
        self.until = (many >= BUSY).then(|| clock::tick() + PAUSE);
    }

    /// True if the next batch may be made.
    pub(crate) fn is_over(&mut self) -> bool {
        self.until = self.until.filter(|until| *until > clock::tick());
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

    #[test]
    fn only_a_busy_service_pauses_between_batches() {
        let mut breath = Breath::default();
        assert!(breath.is_over());
        breath.took(BUSY - 1);
        assert!(breath.is_over());
        breath.took(BUSY);
        assert!(breath.until.is_some_and(|until| until <= clock::tick() + PAUSE));
        breath.took(1);
        assert!(breath.is_over());
    }

    #[tokio::test]
    async fn the_pause_ends_by_itself() {
        let mut breath = Breath::default();
        breath.took(BUSY);
        breath.end().await;
        assert!(breath.is_over());
    }
}
