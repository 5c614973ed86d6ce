//! Permits: how many calls of a lane may run at once, over all nodes.
//!
//! A permit is a lease that expires by itself and is renewed while the call runs. Dropping it gives
//! it back. Redis (or this process) is the gate; the database's own count at the claim is the bound,
//! so when Redis is gone the gate stands open and nothing fails.

pub mod in_process;
pub mod redis;

pub mod breaker;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{config, task::Lane};

/// How long a permit outlives its last renewal at most, and so how long a dead node's permits are
/// missing. It is renewed three times as often, which is also how fast a gate that lost its memory
/// heals.
pub const LONGEST_TTL: Duration = Duration::from_secs(30);

/// What a node asks for one lane.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The lane.
    pub lane: Lane,
    /// The lane's `maxConcurrency`.
    pub limit: u32,
    /// The shared model's `totalConcurrency`; `None` = no such limit.
    pub total: Option<u32>,
    /// What the tenant may have running over all models; `None` = no such limit.
    pub cap: Option<u32>,
    /// Permits wanted, at least 1.
    pub want: u32,
}

impl Ask {
    /// True where the lane has a limit in common with others.
    pub fn shares(&self) -> bool {
        self.total.is_some() || self.cap.is_some()
    }
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
    #[expect(dead_code, reason = "held for its drop")]
    held: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
enum Held {
    Redis(redis::RedisPermit),
    InProcess(in_process::InProcessPermit),
}

impl Permits {
    /// The gate that the configuration asks for.
    ///
    /// # Errors
    /// Where the Redis URL cannot be read. Redis being down is no error: the breaker opens.
    pub fn open(config: Option<&config::Redis>) -> Result<Permits, String> {
        Permits::open_with_ttl(config, LONGEST_TTL)
    }

    /// As [`Permits::open`], with a life of permits other than 30 s. All nodes on one Redis should
    /// agree on it; in process it means nothing, because there permits die with their holder.
    ///
    /// # Errors
    /// As [`Permits::open`].
    pub fn open_with_ttl(config: Option<&config::Redis>, ttl: Duration) -> Result<Permits, String> {
        match config {
            Some(config) => redis::RedisPermits::open(config, ttl).map(Permits::Redis),
            None => Ok(Permits::InProcess(in_process::InProcessPermits::default())),
        }
    }

    /// For each ask, in order, as many permits as fit: one Redis round trip for all of them.
    /// With the breaker open, as many as wanted.
    ///
    /// Permits that this node dropped before it asks are free again in the answer. Redis that dies
    /// unnoticed costs the first ask a second, and the next ones nothing.
    pub async fn try_acquire(&self, asks: &[Ask]) -> Vec<Vec<Permit>> {
        match self {
            Permits::Redis(gate) => wrapped(gate.try_acquire(asks).await, Held::Redis),
            Permits::InProcess(gate) => wrapped(gate.try_acquire(asks), Held::InProcess),
        }
    }

    /// Renews and gives back, until `stop` is set and every permit is back (or 5 s later).
    ///
    /// Without it permits are given back only with the next ask, an open breaker stays open, and
    /// what is held expires.
    pub async fn run(&self, stop: CancellationToken) {
        match self {
            Permits::Redis(gate) => gate.run(stop).await,
            Permits::InProcess(_) => stop.cancelled().await,
        }
    }

    /// Permits that this node holds.
    pub fn held(&self) -> usize {
        match self {
            Permits::Redis(gate) => gate.held(),
            Permits::InProcess(gate) => gate.held(),
        }
    }

    /// True while Redis is left alone and the gate stands open.
    pub fn is_open(&self) -> bool {
        match self {
            Permits::Redis(gate) => gate.is_open(),
            Permits::InProcess(_) => false,
        }
    }

    /// Asks Redis for a sign of life; always fine in process.
    ///
    /// # Errors
    /// Says what is wrong.
    pub async fn ping(&self) -> Result<(), String> {
        match self {
            Permits::Redis(gate) => gate.ping().await,
            Permits::InProcess(_) => Ok(()),
        }
    }
}

fn wrapped<P>(granted: Vec<Vec<P>>, held: fn(P) -> Held) -> Vec<Vec<Permit>> {
    let wrap = |permits: Vec<P>| permits.into_iter().map(|permit| Permit { held: held(permit) }).collect();
    granted.into_iter().map(wrap).collect()
}
