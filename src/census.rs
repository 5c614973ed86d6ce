//! What is queued and what runs, counted when somebody asks and for all who ask.
//!
//! Counting costs more the more tasks are queued, so an answer is given again until it is 2 s old,
//! or 20 times as old as it took to count: however many dashboards, scrapers and monitors ask, and
//! however long the queues are, a node's counting takes at most a twentieth of one connection's time.

pub mod standing;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    clock,
    store::{
        Store, StoreError,
        census::{Census, LaneCensus},
    },
    task::Lane,
};

/// How old an answer may always be.
const TTL: Duration = Duration::from_secs(2);

/// How much longer than it took to count an answer is given again.
const SHARE: u32 = 20;

/// Counts lanes; cheap to clone.
#[derive(Clone)]
pub struct CensusTaker(Arc<Shared>);

struct Shared {
    store: Store,
    /// Held by whoever counts. One that stops waiting hands the turn to the next.
    turn: tokio::sync::Mutex<()>,
    latest: Mutex<Option<Taken>>,
    /// Somebody was given an answer that is past half of its time.
    wanted: Notify,
}

/// A census, and for how long it is good.
struct Taken {
    census: Arc<Census>,
    at: Instant,
    good_for: Duration,
}

impl CensusTaker {
    /// One that has not counted yet.
    pub fn new(store: Store) -> CensusTaker {
        let shared =
            Shared { store, turn: tokio::sync::Mutex::default(), latest: Mutex::default(), wanted: Notify::new() };
        CensusTaker(Arc::new(shared))
    }

    /// The numbers, at most `max(2 s, 20 × the time it takes to count)` old. Those who ask at the same
    /// time share one count.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn look(&self) -> Result<Arc<Census>, StoreError> {
        if let Some((census, left)) = self.0.good() {
            if left < 0.5 {
                self.0.wanted.notify_one();
            }
            return Ok(census);
        }
        let _turn = self.0.turn.lock().await;
        // Whoever had the turn before may have counted.
        match self.0.good() {
            Some((census, _)) => Ok(census),
            None => self.0.count().await,
        }
    }

    /// Counts anew, until `stop`, whenever somebody was given an answer that is past half of its time:
    /// so whoever asks often never waits.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.0.wanted.notified() => {}
                () = stop.cancelled() => return,
            }
            let _turn = self.0.turn.lock().await;
            if self.0.good().is_none_or(|(_, left)| left < 0.5)
                && let Err(error) = self.0.count().await
            {
                // Whoever asks next counts itself, and is told.
                debug!(%error, "cannot count the lanes");
            }
        }
    }
}

impl Shared {
    /// The latest numbers while they are good, and how much of their time is left, from 1 to 0.
    fn good(&self) -> Option<(Arc<Census>, f64)> {
        let latest = self.latest();
        let taken = latest.as_ref()?;
        let left = 1.0 - taken.at.elapsed().div_duration_f64(taken.good_for);
        (left > 0.0).then(|| (taken.census.clone(), left))
    }

    async fn count(&self) -> Result<Arc<Census>, StoreError> {
        let at = clock::tick();
        let mut census = self.store.count_lanes().await?;
        let good_for = (at.elapsed() * SHARE).max(TTL);
        let mut latest = self.latest();
        remember(&mut census, latest.as_ref().map(|taken| &*taken.census));
        let census = Arc::new(census);
        *latest = Some(Taken { census: census.clone(), at, good_for });
        Ok(census)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Taken>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says of each lane since when the same task has been its oldest: workers take the oldest first, so
/// nothing was started in that time.
fn remember(census: &mut Census, before: Option<&Census>) {
    let before: HashMap<Lane, &LaneCensus> =
        before.iter().flat_map(|census| &census.lanes).map(|lane| (lane.lane, lane)).collect();
    for lane in &mut census.lanes {
        lane.waiting_since = since(lane, before.get(&lane.lane).copied(), census.taken_at);
    }
}

fn since(lane: &LaneCensus, before: Option<&LaneCensus>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let oldest = lane.oldest_enqueue_at?;
    let unmoved = before.filter(|before| before.oldest_enqueue_at == Some(oldest));
    Some(unmoved.and_then(|before| before.waiting_since).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{ModelId, TenantId};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn census(taken: i64, oldest: Option<i64>) -> Census {
        let lane = Lane { model: ModelId(1), tenant: TenantId(7) };
        let lane = LaneCensus { oldest_enqueue_at: oldest.map(at), ..LaneCensus::empty(lane, "tts".into()) };
        Census { taken_at: at(taken), lanes: vec![lane], models: HashMap::new(), workers: 1 }
    }

    fn waiting_since(census: &mut Census, before: Option<&Census>) -> Option<i64> {
        remember(census, before);
        census.lanes[0].waiting_since.map(|at| at.timestamp())
    }

    #[test]
    fn a_lane_waits_since_its_oldest_task_was_first_seen_to_be_that() {
        let mut first = census(100, Some(10));
        assert_eq!(waiting_since(&mut first, None), Some(100));
        let mut second = census(140, Some(10));
        assert_eq!(waiting_since(&mut second, Some(&first)), Some(100), "the same task is still the oldest");
        let mut third = census(150, Some(20));
        assert_eq!(waiting_since(&mut third, Some(&second)), Some(150), "the oldest was started");
        assert_eq!(waiting_since(&mut census(160, None), Some(&third)), None, "nothing waits");
    }
}
