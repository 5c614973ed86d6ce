//! Writes what the metrics add up minute by minute to the store, from every node on its own, and
//! deletes what is older than anybody looks at.

use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    clock,
    metrics::Metrics,
    periodic::{Pace, Swept},
    series::{SeriesRow, Span},
    store::{Store, StoreError},
    task::NodeId,
};

/// Time between writes: how far the series lags behind, and what a killed process loses of it.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// How long a process that stops writes what is left.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The recorder of this process.
pub struct Recorder {
    store: Store,
    metrics: Metrics,
    /// Whose rows are this process' own.
    node: NodeId,
}

impl Recorder {
    /// Builds it; nothing runs yet.
    pub fn new(store: Store, metrics: Metrics) -> Recorder {
        Recorder { store, metrics, node: clock::node_id() }
    }

    /// Writes now and then until `stop`, and then what is left.
    pub async fn run(self, stop: CancellationToken) {
        let mut pace = Pace::new("writing the series", WRITE_EVERY);
        while pace.wait(&stop).await {
            pace.ticked(self.write(false).await);
        }
        match tokio::time::timeout(LAST_WRITES, self.write_the_rest()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the last moments of the series could not be written"),
            Err(_) => warn!("the last moments of the series could not be written in time"),
        }
    }

    async fn write_the_rest(&self) -> Result<(), StoreError> {
        while self.write(true).await? == Swept::More {}
        Ok(())
    }

    /// Writes one batch.
    async fn write(&self, last: bool) -> Result<Swept, StoreError> {
        let batch = self.metrics.unwritten(last);
        let rows: Vec<&SeriesRow> = batch.rows().collect();
        self.store.write_series(self.node, &rows).await?;
        self.metrics.written(&batch);
        Ok(if batch.more { Swept::More } else { Swept::All })
    }
}

/// Deletes at most `most` points of each span that are older than anybody looks at.
///
/// # Errors
/// Where the database is out of reach.
pub async fn purge(store: &Store, most: u32) -> Result<Swept, StoreError> {
    let mut swept = Swept::All;
    for span in Span::ALL {
        let before = clock::now() - kept(span);
        if store.purge_series(span, before, most).await? >= u64::from(most) {
            swept = Swept::More;
        }
    }
    Ok(swept)
}

/// How long points are kept: as long as the longest look at points of that size, and a little more.
pub const fn kept(span: Span) -> TimeDelta {
    match span {
        Span::Minute => TimeDelta::days(8),
        Span::Hour => TimeDelta::days(63),
    }
}
