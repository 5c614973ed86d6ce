//! A no-op model in this process, which tells of each call when it comes: for times between a
//! request here and a call there. Processor time is not told apart then, and little at these rates.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{
    model::{Call, NoopModel},
    stage::Bed,
    wire::Target,
};

/// How long a call may take to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// The calls of the model, as they come.
pub(super) struct Nearby {
    url: String,
    calls: UnboundedReceiver<Call>,
}

/// Runs a measurement with a model of its own beside it.
pub(super) async fn with_model<T>(
    bed: &Bed,
    measure: impl AsyncFnOnce(Nearby) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (tell, calls) = mpsc::unbounded_channel();
    let host = bed.options.model_address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
    let model = NoopModel::bind(&format!("{host}:0"), Some(tell)).await.context("cannot start the no-op model")?;
    let nearby = Nearby { url: model.url(), calls };
    tokio::select! {
        ended = model.serve() => {
            ended.context("the no-op model ended")?;
            anyhow::bail!("the no-op model ended")
        }
        measured = measure(nearby) => measured,
    }
}

impl Nearby {
    /// Base URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Moves a gate.
    pub(super) async fn gate(&self, path: &str) -> anyhow::Result<()> {
        let model = Target::new(&self.url, &[])?;
        model.connect().await?.ask(&model.post(path, "{}")).await.map(drop)
    }

    /// The next call.
    pub(super) async fn next(&mut self) -> anyhow::Result<Call> {
        let call = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        call.ok().flatten().with_context(|| format!("the model was not called within {} s", PATIENCE.as_secs()))
    }

    /// The call for that task; others are let go by.
    pub(super) async fn call_for(&mut self, task_id: &str) -> anyhow::Result<Call> {
        loop {
            let call = self.next().await?;
            if call.task_id == task_id {
                return Ok(call);
            }
        }
    }
}

/// How much later; nothing where it was earlier, as a call may be that overtakes its answer.
pub(super) fn later(moment: Instant, than: Instant) -> Duration {
    moment.saturating_duration_since(than)
}
