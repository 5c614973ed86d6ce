//! The yardsticks, taken in every round: what the database and plain HTTP do on this machine right
//! now. Ratios to them travel from machine to machine, and from a busy hour to a quiet one.

use std::time::Duration;

use super::{load, report::Sample, stage::Bed};
use crate::clock;

/// As `pgbench -c 8`.
const CLIENTS: u32 = 8;

/// Connections of the bare HTTP client.
const CONNECTIONS: usize = 64;

/// Longest time for each.
const LONGEST: Duration = Duration::from_millis(1500);

/// What one round's figures are compared with, per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yardstick {
    /// Single-row inserts.
    pub(super) inserts: Option<f64>,
    /// Requests of a bare client to the no-op model.
    pub(super) http: f64,
}

/// The yardsticks, and the samples that show them.
pub(super) struct Taken {
    pub(super) yardstick: Yardstick,
    pub(super) inserts: Option<Sample>,
    pub(super) http: Sample,
}

/// Takes both.
pub(super) async fn take(bed: &Bed) -> anyhow::Result<Taken> {
    let during = LONGEST.min(Duration::from_secs_f64(bed.options.seconds));
    let inserts = match bed.options.url {
        Some(_) => None,
        None => Some(inserts(bed, during).await?),
    };
    let model = bed.model()?;
    let request = model.post("/answer/100", "{}");
    let meter = bed.meter(None);
    let (loaded, used) = load::press(&model, &request, CONNECTIONS, async || {
        let before = meter.read().await;
        tokio::time::sleep(during).await;
        meter.read().await.since(&before)
    })
    .await?;
    let http = Sample::rate(loaded.answers, &used).with_latency(loaded.latencies.summary());
    let yardstick = Yardstick { inserts: inserts.as_ref().map(|sample| sample.value), http: http.value };
    Ok(Taken { yardstick, inserts, http })
}

async fn inserts(bed: &Bed, during: Duration) -> anyhow::Result<Sample> {
    let folder = bed.folder().join(clock::token());
    std::fs::create_dir(&folder)?;
    let (database, _) = bed.database(&folder).await?;
    let meter = bed.meter(Some(&database));
    let before = meter.read().await;
    let inserted = database.insert_one_by_one(CLIENTS, during).await;
    let used = meter.read().await.since(&before);
    database.remove().await?;
    let inserted = inserted?;
    Ok(Sample::rate_over(inserted.rows, inserted.took, &used))
}
