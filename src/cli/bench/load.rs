//! Load: so many connections, each sending its next request when it has the answer to the last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::wire::{Connection, Target};
use crate::clock;

/// Longest latency that is told apart, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// How long connections work before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Latencies, in microseconds.
pub(super) struct Latencies(Histogram<u64>);

/// What came of a load.
pub(super) struct Loaded {
    /// Answers while it counted.
    pub(super) answers: u64,
    /// Answers in all, before and after that too.
    pub(super) in_all: u64,
    pub(super) latencies: Latencies,
}

impl Latencies {
    pub(super) fn new() -> Latencies {
        let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("3 is a number of digits it knows"));
        histogram.auto(true);
        Latencies(histogram)
    }

    pub(super) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        // It resizes by itself, so there is nothing that does not fit.
        self.0.record(micros).ok();
    }

    pub(super) fn add(&mut self, other: &Latencies) {
        // As above.
        self.0.add(&other.0).ok();
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn summary(&self) -> Latency {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Latency { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: self.0.max() as f64 / 1000.0 }
    }
}

/// Sends `request` through `connections` for as long as `measured` runs, after a warm-up. The
/// answers that came while it ran are counted.
pub(super) async fn press<T>(
    target: &Target,
    request: &[u8],
    connections: usize,
    measured: impl AsyncFnOnce() -> T,
) -> anyhow::Result<(Loaded, T)> {
    let (counting, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let mut connection = target.connect().await?;
        let (request, counting, stop) = (request.to_vec(), counting.clone(), stop.clone());
        senders.spawn(async move {
            let (mut latencies, mut in_all) = (Latencies::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                let began = clock::tick();
                expect_success(&mut connection, &request).await?;
                in_all += 1;
                if counting.load(Ordering::Relaxed) {
                    latencies.record(began.elapsed());
                }
            }
            anyhow::Ok((latencies, in_all))
        });
    }
    tokio::time::sleep(WARM_UP).await;
    counting.store(true, Ordering::Relaxed);
    let result = measured().await;
    counting.store(false, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    let mut loaded = Loaded { answers: 0, in_all: 0, latencies: Latencies::new() };
    while let Some(ended) = senders.join_next().await {
        let (latencies, in_all) = ended??;
        loaded.answers += latencies.len();
        loaded.in_all += in_all;
        loaded.latencies.add(&latencies);
    }
    Ok((loaded, result))
}

/// Sends `count` requests, taking turns between `requests`; returns what `read` found in each answer.
pub(super) async fn send<T: Send + 'static>(
    target: &Target,
    requests: Vec<Vec<u8>>,
    connections: usize,
    count: u64,
    read: fn(&[u8]) -> Option<T>,
) -> anyhow::Result<Vec<T>> {
    let (ticket, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(requests));
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let mut connection = target.connect().await?;
        let (ticket, requests) = (ticket.clone(), requests.clone());
        senders.spawn(async move {
            let mut found = Vec::new();
            loop {
                let number = ticket.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(found);
                }
                let request = &requests[usize::try_from(number)? % requests.len()];
                found.extend(read(expect_success(&mut connection, request).await?));
            }
        });
    }
    let mut found = Vec::new();
    while let Some(ended) = senders.join_next().await {
        found.append(&mut ended??);
    }
    Ok(found)
}

async fn expect_success<'a>(connection: &'a mut Connection, request: &[u8]) -> anyhow::Result<&'a [u8]> {
    let answer = connection.ask(request).await?;
    if answer.status != 200 {
        bail!("the service answered {}: {}", answer.status, String::from_utf8_lossy(answer.body));
    }
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up_in_milliseconds() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        for millis in 1..=50 {
            one.record(Duration::from_millis(millis));
            other.record(Duration::from_millis(50 + millis));
        }
        one.add(&other);
        let summary = one.summary();
        assert_eq!(one.len(), 100);
        assert!((summary.p50 - 50.0).abs() < 0.1 && (summary.p99 - 99.0).abs() < 0.1, "{summary:?}");
    }
}
