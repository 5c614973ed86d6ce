//! The one timer loop: run a tick every so often, at once while there is more to do, until told to
//! stop.

use std::{fmt, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

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

/// Runs `tick` until `stop`. The first run is staggered; an error is logged when it begins, and
/// the loop backs off until a tick succeeds again.
pub async fn run<E: fmt::Display>(
    name: &'static str,
    every: Duration,
    stop: CancellationToken,
    mut tick: impl AsyncFnMut() -> Result<Swept, E>,
) {
    let mut pause = every.mul_f64(clock::dice());
    let mut failures = 0u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match tick().await {
            Ok(swept) => {
                failures = 0;
                if swept == Swept::More { Duration::ZERO } else { every }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == 1 {
                    warn!(duty = name, %error, "{name} failed, trying again until it works");
                }
                clock::jittered(every.saturating_mul(2u32.saturating_pow(failures.min(8))).min(MAX_BACKOFF))
            }
        };
    }
}
