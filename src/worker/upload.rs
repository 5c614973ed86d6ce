//! Contract §5, step 4: from the spool to object storage, with a retry clock of its own.

use std::{pin::pin, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::run::Run;
use crate::{
    clock,
    faults::{self, Point},
    spool::Parked,
    storage::StorageError,
    task::{
        lifecycle::{self, Applied, StoredFile},
        retry,
    },
    trace::Kind,
};

/// An upload that takes longer than this is written to the row as phase 1, so that the database's
/// count of running calls lets the next one in. Quicker ones spare themselves the write.
const SLOW: Duration = Duration::from_millis(200);

/// How an upload ended.
pub(super) enum Uploaded {
    /// The object is in storage.
    Stored(StoredFile),
    /// The parked file is missing or damaged.
    FileGone(String),
    /// It failed for as long as it may.
    GivenUp(String),
    /// The service stops.
    GraceOver,
    /// The lease is lost, or the row moved on.
    NotOurs,
}

/// Tries until it is stored, or there is no point in trying.
pub(super) async fn upload(run: &mut Run, parked: &mut Parked) -> Uploaded {
    let mut failures = 0;
    loop {
        let error = match attempt(run, parked).await {
            Tried::Ended(uploaded) => return uploaded,
            Tried::Failed(error) => error,
        };
        if error.file_gone {
            return Uploaded::FileGone(error.message);
        }
        failures += 1;
        // By the file's own age: a restarted node goes on with the time its predecessor began.
        if run.shared.spool.age(parked).await >= run.shared.upload_for {
            return Uploaded::GivenUp(format!("the result could not be stored: {}", error.message));
        }
        let pause = clock::jittered(retry::backoff(failures).mul_f64(0.75));
        warn!(error = error.message, delay_ms = pause.as_millis() as u64, "the upload failed, next try in {pause:?}");
        // It may have to wait for hours: not in memory, and not in one of the few slots.
        if let Err(error) = run.shared.spool.settle(parked).await {
            warn!(%error, "cannot give the parked result a file of its own, it stays in its slot");
        }
        if mark_parked(run, parked, Some(format!("the upload failed: {}", error.message))).await == Applied::Stale {
            return Uploaded::NotOurs;
        }
        faults::pass(Point::AfterParkedMark);
        tokio::select! {
            () = sleep(pause) => {}
            () = run.cut.lease_lost.cancelled() => return Uploaded::NotOurs,
            () = run.cut.grace_over.cancelled() => return Uploaded::GraceOver,
        }
    }
}

enum Tried {
    Ended(Uploaded),
    Failed(StorageError),
}

async fn attempt(run: &mut Run, parked: &Parked) -> Tried {
    let shared = run.shared.clone();
    let headers = run.task.caller_headers.clone();
    let mut put = pin!(async {
        // Never closed, so the permit is always there in the end.
        let _gate = shared.upload_gate.acquire().await;
        let began = clock::tick();
        let stored = shared.storage.put(parked, &headers).await;
        shared.metrics.uploaded(began.elapsed(), stored.is_ok());
        stored
    });
    let mut span = run.shared.tracer.step("upload", Kind::Client, &run.task);
    span.set_with("model_asynch.file_size", || i64::try_from(parked.size).unwrap_or(i64::MAX));
    let cut = run.cut.clone();
    let mut slow = pin!(sleep(SLOW));
    let mut marked = false;
    loop {
        tokio::select! {
            stored = &mut put => {
                return match stored {
                    Ok(stored) => Tried::Ended(Uploaded::Stored(stored)),
                    Err(error) => {
                        span.fail("storage", "the result could not be stored");
                        Tried::Failed(error)
                    }
                };
            }
            () = cut.lease_lost.cancelled() => return Tried::Ended(Uploaded::NotOurs),
            () = cut.grace_over.cancelled() => return Tried::Ended(Uploaded::GraceOver),
            () = &mut slow, if !marked => {
                marked = true;
                if mark_parked(run, parked, None).await == Applied::Stale {
                    return Tried::Ended(Uploaded::NotOurs);
                }
                info!("the result is parked, its upload takes a while");
            }
        }
    }
}

/// Writes to the row that its result is parked, with the call that led to it.
pub(super) async fn mark_parked(run: &mut Run, parked: &Parked, error: Option<String>) -> Applied {
    let call = run.uncounted.take();
    let tmp_file = parked.lies_in().to_string_lossy().into_owned();
    run.apply(lifecycle::parked(&run.task, tmp_file, error, call)).await
}
