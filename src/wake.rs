//! Wake-ups: telling workers which lanes may have work, so that nobody has to poll for it.
//!
//! This process first, by `Notify`; then the other nodes, by Redis PUBLISH of lane names, coalesced
//! and after the commit. A wake-up that gets lost costs time only: workers look for themselves now
//! and then.

pub mod redis;

use tokio_util::sync::CancellationToken;

use crate::{config, task::Lane};

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
    #[expect(dead_code)]
    inner: (),
}

impl Wake {
    /// A bus over Redis, or within this process only. `listens`: this node has a worker.
    ///
    /// # Errors
    /// Where the Redis URL cannot be read.
    pub fn open(_config: Option<&config::Redis>, _listens: bool) -> Result<Wake, String> {
        todo!()
    }

    /// Tells this process at once and the other nodes soon. Never blocks.
    pub fn send(&self, _wake_ups: impl IntoIterator<Item = WakeUp>) {
        todo!()
    }

    /// What was sent since the last call, here or elsewhere; waits for the first. For the one
    /// dispatcher of this process.
    pub async fn next(&self) -> Vec<WakeUp> {
        todo!()
    }

    /// Publishes and listens, until `stop`.
    pub async fn run(&self, _stop: CancellationToken) {
        todo!()
    }
}
