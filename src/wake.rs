//! Wake-ups: telling workers which lanes may have work, so that nobody has to poll for it.
//!
//! This process first, by `Notify`; then the other nodes, by Redis PUBLISH of lane names, coalesced
//! and after the commit. A wake-up that gets lost costs time only: workers look for themselves now
//! and then.

pub mod redis;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{config, task::Lane};

/// Lanes that a tray holds at most. More than these are left to the workers' own looking, so that
/// what comes over the network cannot fill the memory.
const MAX_LANES: usize = 100_000;

/// A lane that may have work (or room).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeUp {
    /// The lane.
    pub lane: Lane,
    /// A task may have come back before the place that a worker's cursor has passed.
    pub rewind: bool,
}

/// The bus; cheap to clone.
#[derive(Clone)]
pub struct Wake {
    /// For this process' dispatcher; `None` where there is none, so that nothing piles up.
    inbox: Option<Arc<Tray>>,
    /// To and from the other nodes.
    redis: Option<Arc<redis::RedisWake>>,
}

/// Wake-ups waiting to be taken, at most one per lane.
#[derive(Default)]
struct Tray {
    lanes: Mutex<HashMap<Lane, bool>>,
    filled: Notify,
    /// Of a taker that has nothing to do.
    listener: Mutex<Option<oneshot::Sender<Lane>>>,
}

impl Wake {
    /// A bus over Redis, or within this process only. `listens`: this node has a worker.
    ///
    /// # Errors
    /// Where the Redis URL cannot be read.
    pub fn open(config: Option<&config::Redis>, listens: bool) -> Result<Wake, String> {
        let redis = config.map(redis::RedisWake::open).transpose()?.map(Arc::new);
        Ok(Wake { inbox: listens.then(Arc::default), redis })
    }

    /// Tells this process at once and the other nodes soon. Never blocks.
    pub fn send(&self, wake_ups: impl IntoIterator<Item = WakeUp>) {
        let wake_ups: Vec<WakeUp> = wake_ups.into_iter().collect();
        if let Some(redis) = &self.redis {
            redis.send(wake_ups.iter().copied());
        }
        // Last, as the runtime goes on with whom it was told of last.
        if let Some(inbox) = &self.inbox {
            inbox.put(wake_ups);
        }
    }

    /// Tells this process' dispatcher, if it has nothing to do, that a task is about to be committed to a
    /// lane. Whether it comes is told by [`Wake::send`]. Never blocks.
    pub fn announce(&self, lane: Lane) {
        let listener = self.inbox.as_ref().and_then(|inbox| inbox.listener().take());
        if let Some(listener) = listener {
            // A dispatcher that has found something to do listens no more.
            listener.send(lane).ok();
        }
    }

    /// The lane of the next task that is announced. For the one dispatcher of this process; where the
    /// node does not listen it waits for ever. What is announced while it is not waited for is lost.
    pub async fn announced(&self) -> Lane {
        let (tell, told) = oneshot::channel();
        if let Some(inbox) = &self.inbox {
            *inbox.listener() = Some(tell);
            if let Ok(lane) = told.await {
                return lane;
            }
        }
        std::future::pending().await
    }

    /// What was sent since the last call, here or elsewhere, each lane once; waits for the first.
    /// For the one dispatcher of this process; where the node does not listen it waits for ever.
    /// Cancel safe: what it did not return is returned by the next call.
    pub async fn next(&self) -> Vec<WakeUp> {
        match &self.inbox {
            Some(inbox) => inbox.next().await,
            None => std::future::pending().await,
        }
    }

    /// Publishes and listens, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        match &self.redis {
            Some(redis) => redis.run(self.inbox.as_deref(), stop).await,
            None => stop.cancelled().await,
        }
    }
}

impl Tray {
    fn listener(&self) -> MutexGuard<'_, Option<oneshot::Sender<Lane>>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, wake_ups: impl IntoIterator<Item = WakeUp>) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for WakeUp { lane, rewind } in wake_ups {
            let full = lanes.len() >= MAX_LANES;
            match lanes.entry(lane) {
                Entry::Occupied(mut known) => *known.get_mut() |= rewind,
                Entry::Vacant(_) if full => {}
                Entry::Vacant(new) => {
                    new.insert(rewind);
                }
            }
        }
        let any = !lanes.is_empty();
        drop(lanes);
        if any {
            self.filled.notify_one();
        }
    }

    fn take(&self) -> Vec<WakeUp> {
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        lanes.into_iter().map(|(lane, rewind)| WakeUp { lane, rewind }).collect()
    }

    /// Everything in the tray, as soon as there is anything. For one taker.
    async fn next(&self) -> Vec<WakeUp> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{ModelId, TenantId};

    fn wake_up(model: i64, rewind: bool) -> WakeUp {
        WakeUp { lane: Lane { model: ModelId(model), tenant: TenantId(7) }, rewind }
    }

    #[tokio::test]
    async fn a_lane_is_woken_once_and_rewinds_if_anyone_said_so() {
        let wake = Wake::open(None, true).unwrap();
        wake.send([wake_up(1, false), wake_up(2, false)]);
        wake.send([wake_up(1, true)]);
        wake.send([wake_up(1, false)]);
        let mut woken = wake.next().await;
        woken.sort_by_key(|wake_up| wake_up.lane);
        assert_eq!(woken, [wake_up(1, true), wake_up(2, false)]);
    }

    #[tokio::test]
    async fn waiting_can_be_given_up_without_losing_a_wake_up() {
        let wake = Wake::open(None, true).unwrap();
        for model in 0..100 {
            tokio::select! {
                biased;
                _ = wake.next() => panic!("nothing was sent"),
                () = tokio::task::yield_now() => {}
            }
            wake.send([wake_up(model, false)]);
            assert_eq!(wake.next().await, [wake_up(model, false)]);
        }
    }

    #[tokio::test]
    async fn a_waiting_dispatcher_is_woken() {
        let wake = Wake::open(None, true).unwrap();
        let (woken, ()) = tokio::join!(wake.next(), async { wake.send([wake_up(1, false)]) });
        assert_eq!(woken, [wake_up(1, false)]);
    }

    #[tokio::test]
    async fn a_task_is_announced_to_a_dispatcher_that_listens_and_to_nobody_else() {
        let wake = Wake::open(None, true).unwrap();
        let [lost, heard] = [wake_up(1, false).lane, wake_up(2, false).lane];
        wake.announce(lost);
        let mut gone = Box::pin(wake.announced());
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        wake.announce(lost);
        let (announced, ()) = tokio::join!(wake.announced(), async { wake.announce(heard) });
        assert_eq!(announced, heard);
    }

    #[test]
    fn a_full_tray_takes_no_new_lanes_but_keeps_the_known_ones_right() {
        let tray = Tray::default();
        tray.put((0..200_000).map(|model| wake_up(model, false)));
        tray.put([wake_up(0, true)]);
        let taken = tray.take();
        assert_eq!(taken.len(), MAX_LANES);
        assert!(taken.contains(&wake_up(0, true)));
    }
}
