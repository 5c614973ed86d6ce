//! Permits: how many calls of a lane may run at once, over all nodes.
//!
//! A permit is a lease that expires by itself and is renewed while the call runs. Dropping it gives
//! it back. Redis (or this process) is the gate; the database's own count at the claim is the bound,
//! so when Redis is gone the gate stands open and nothing fails.

pub mod in_process;
pub mod redis;

use tokio_util::sync::CancellationToken;

use crate::{config, task::Lane};

/// What a node asks for one lane.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The lane.
    pub lane: Lane,
    /// The lane's `maxConcurrency`.
    pub limit: u32,
    /// The shared model's `totalConcurrency`; `None` = no such limit.
    pub total: Option<u32>,
    /// Permits wanted, at least 1.
    pub want: u32,
}

/// The gate; cheap to clone.
#[derive(Clone)]
pub enum Permits {
    /// Shared by all nodes.
    Redis(redis::RedisPermits),
    /// For a single process.
    InProcess(in_process::InProcessPermits),
}

/// The right to have one call running. Gives itself back when dropped.
#[must_use = "a dropped permit is given back"]
#[derive(Debug)]
pub struct Permit {
    #[expect(dead_code)]
    inner: (),
}

impl Permits {
    /// The gate that the configuration asks for.
    ///
    /// # Errors
    /// Where the Redis URL cannot be read. Redis being down is no error: the breaker opens.
    pub fn open(_config: Option<&config::Redis>) -> Result<Permits, String> {
        todo!()
    }

    /// For each ask, in order, as many permits as fit: one Redis round trip for all of them.
    /// With the breaker open, as many as wanted.
    pub async fn try_acquire(&self, _asks: &[Ask]) -> Vec<Vec<Permit>> {
        todo!()
    }

    /// Renews and gives back, until `stop` is set and every permit is back.
    pub async fn run(&self, _stop: CancellationToken) {
        todo!()
    }

    /// Asks Redis for a sign of life; always fine in process.
    ///
    /// # Errors
    /// Says what is wrong.
    pub async fn ping(&self) -> Result<(), String> {
        todo!()
    }
}
