//! The operation log: one row per changing call, written in batches behind the caller's back.
//!
//! It never fails or slows a call: calls go into a bounded channel with their bodies as they were,
//! and what does not fit is dropped and counted. The writer masks secrets, off the request path.

mod masking;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::masking::masked_json;
use self::masking::{MAX_BODY, truncated};
use crate::{
    clock,
    store::{Store, StoreError},
    task::TenantId,
};

/// Most calls that wait to be written; those that come on top are dropped.
const MAX_QUEUED: usize = 10_000;

/// Most bytes of texts and bodies that wait to be written, those in the writer's hands included.
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// Most rows written at once.
const MAX_BATCH: usize = 1024;

/// How long the first call of a batch waits for others, so that a busy service writes a few large
/// batches and is not busier still with many small ones. The log may lag behind.
const LINGER: Duration = Duration::from_millis(100);

/// Bytes from which a call is worth a break after it is masked.
const LONG: u32 = 4 << 10;

/// Most characters of an error's message. Its column is as wide as any text.
const MAX_ERROR: usize = 4096;

/// How long one write may take before the database counts as out of reach.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the writer goes on after the stop.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The rest after a first failed write; it doubles with each further one.
const FIRST_REST: Duration = Duration::from_millis(250);

/// The longest rest between tries.
const LONGEST_REST: Duration = Duration::from_secs(15);

/// Time between two warnings of dropped calls.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// One row of `asynch_op_log`.
#[derive(Debug, Clone, Default)]
pub struct OpLog {
    /// Number of the row; 0 before it is written.
    pub id: i64,
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// User who called.
    pub creator: String,
    /// When the call came in.
    pub created_at: DateTime<Utc>,
    /// Address of the caller.
    pub ip: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// Path of the route.
    pub api_path: String,
    /// Method of the request.
    pub http_method: String,
    /// `bizName` of the request.
    pub biz_name: String,
    /// Model the call was about.
    pub model_name: String,
    /// Task the call was about.
    pub task_id: String,
    /// The route's last name, such as `createTask`.
    pub op_type: String,
    /// Whether the answer's code was 0.
    pub success: bool,
    /// The answer's message where it was not.
    pub error_msg: String,
    /// How long the call took.
    pub cost_ms: i64,
    /// Request body (or query), JSON text with secrets masked.
    pub request_payload: Option<String>,
    /// Answer, JSON text with secrets masked.
    pub response_payload: Option<String>,
}

/// One changing call as the API saw it: its row without the bodies, and those still raw. The writer
/// masks and shortens them, so that no caller waits for that.
#[derive(Debug, Clone)]
pub struct OpRecord {
    /// The row; its number and payloads are filled in later.
    pub row: OpLog,
    /// The request's body as it came in (or its query as JSON); empty if there was none.
    pub request: Bytes,
    /// The answer's body as it went out; empty if there was none.
    pub response: Bytes,
}

/// Where calls are handed in; cheap to clone.
#[derive(Clone)]
pub struct OpLogger {
    calls: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    drops: Arc<Drops>,
}

/// The loop that writes them.
pub struct OpLogWriter {
    calls: mpsc::Receiver<Queued>,
    drops: Arc<Drops>,
    /// Masked and not yet written, oldest first.
    pending: Vec<OpLog>,
    /// What `pending` takes of the room.
    held: Vec<OwnedSemaphorePermit>,
    /// The database has refused a row since the last batch that it took whole.
    refusing: bool,
}

/// A call on its way to the writer.
struct Queued {
    record: OpRecord,
    held: OwnedSemaphorePermit,
}

/// How many calls got no row.
#[derive(Default)]
struct Drops {
    count: AtomicU64,
    warned_of: AtomicU64,
    happened: Notify,
}

/// A logger and its writer.
pub fn channel() -> (OpLogger, OpLogWriter) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED);
    let drops = Arc::new(Drops::default());
    let logger = OpLogger { calls: sender, room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)), drops: drops.clone() };
    let writer = OpLogWriter { calls: receiver, drops, pending: Vec::new(), held: Vec::new(), refusing: false };
    (logger, writer)
}

impl OpLogger {
    /// Hands a call in; drops and counts it where the writer cannot keep up. Never waits.
    pub fn record(&self, record: OpRecord) {
        let record = record.bounded();
        let queued = match self.room.clone().try_acquire_many_owned(record.size()) {
            Ok(held) => self.calls.try_send(Queued { record, held }).is_ok(),
            Err(_) => false,
        };
        if !queued {
            self.drops.add(1);
        }
    }

    /// Calls that got no row since the start.
    pub fn dropped(&self) -> u64 {
        self.drops.count.load(Ordering::Relaxed)
    }
}

impl OpLogWriter {
    /// Writes until `stop`, then what is left, for 5 s at most. While the database is
    /// out of reach rows wait here and in the channel.
    pub async fn run(mut self, store: Store, stop: CancellationToken) {
        let drops = self.drops.clone();
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WRITES).await;
        };
        tokio::select! {
            () = self.write(&store, &stop) => {}
            () = overdue => {}
            () = drops.warn_as_they_happen() => {}
        }
        self.calls.close();
        let left = self.pending.len() + self.calls.len();
        if left > 0 {
            drops.add(left as u64);
        }
        drops.warn();
    }

    async fn write(&mut self, store: &Store, stop: &CancellationToken) {
        let mut failures = 0;
        loop {
            if self.pending.is_empty() {
                self.refill(stop).await;
            }
            if self.pending.is_empty() {
                return;
            }
            let Err(error) = self.write_pending(store).await else {
                failures = 0;
                continue;
            };
            if failures == 0 {
                warn!(%error, "cannot write the operation log, trying again until it works");
            }
            failures += 1;
            rest(failures, stop).await;
        }
    }

    /// Waits for a call, then a little for others, and takes what is there, a batch at most. Takes
    /// nothing only where nothing can come any more.
    async fn refill(&mut self, stop: &CancellationToken) {
        let first = tokio::select! {
            call = self.calls.recv() => call,
            () = stop.cancelled() => {
                self.calls.close();
                self.calls.recv().await
            }
        };
        let Some(first) = first else { return };
        self.take(first).await;
        // Not by waiting for each of them: that would wake this loop for every call.
        if self.calls.len() < MAX_BATCH {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = stop.cancelled() => {}
            }
        }
        while self.pending.len() < MAX_BATCH {
            let Ok(next) = self.calls.try_recv() else { return };
            self.take(next).await;
        }
    }

    async fn take(&mut self, Queued { record, held }: Queued) {
        let is_long = record.size() > LONG;
        self.pending.push(record.into_log());
        self.held.push(held);
        // Masking a long body takes a while; others want this thread in between.
        match is_long {
            true => tokio::task::yield_now().await,
            false => tokio::task::coop::consume_budget().await,
        }
    }

    /// Writes what is pending; what the database refuses is dropped, so that one bad row costs
    /// only itself. An error leaves pending what has still to be written. A batch whose commit was
    /// not confirmed is written again: two rows for one call are better than none.
    async fn write_pending(&mut self, store: &Store) -> Result<(), StoreError> {
        match insert(store, &self.pending).await {
            Ok(()) => {
                self.pending.clear();
                self.refusing = false;
            }
            Err(StoreError::Broken(_)) => self.write_one_by_one(store).await?,
            Err(away @ StoreError::Unavailable(_)) => return Err(away),
        }
        self.held.clear();
        Ok(())
    }

    async fn write_one_by_one(&mut self, store: &Store) -> Result<(), StoreError> {
        while let Some(row) = self.pending.first() {
            match insert(store, std::slice::from_ref(row)).await {
                Ok(()) => {}
                Err(StoreError::Broken(error)) => {
                    if !self.refusing {
                        warn!(error, op_type = row.op_type, "the database refuses rows of the operation log");
                    }
                    self.refusing = true;
                    self.drops.add(1);
                }
                Err(away @ StoreError::Unavailable(_)) => return Err(away),
            }
            self.pending.remove(0);
        }
        Ok(())
    }
}

impl Drops {
    fn add(&self, calls: u64) {
        self.count.fetch_add(calls, Ordering::Relaxed);
        self.happened.notify_one();
    }

    /// Warns of the first at once, of later ones together. Never returns.
    async fn warn_as_they_happen(&self) {
        loop {
            self.happened.notified().await;
            self.warn();
            tokio::time::sleep(WARN_EVERY).await;
        }
    }

    fn warn(&self) {
        let count = self.count.load(Ordering::Relaxed);
        let dropped = count - self.warned_of.swap(count, Ordering::Relaxed);
        if dropped > 0 {
            warn!(dropped, total = count, "{dropped} calls got no row in the operation log");
        }
    }
}

impl OpRecord {
    /// This record with texts as long as their columns and no body that will not be kept anyway.
    fn bounded(mut self) -> OpRecord {
        let row = &mut self.row;
        let texts = [
            (&mut row.creator, 64),
            (&mut row.ip, 64),
            (&mut row.user_agent, 256),
            (&mut row.api_path, 256),
            (&mut row.http_method, 16),
            (&mut row.biz_name, 128),
            (&mut row.model_name, 128),
            (&mut row.task_id, 64),
            (&mut row.op_type, 64),
            (&mut row.error_msg, MAX_ERROR),
        ];
        for (text, width) in texts {
            cut(text, width);
        }
        for body in [&mut self.request, &mut self.response] {
            if body.len() > MAX_BODY {
                *body = Bytes::from(truncated(body.len()));
            }
        }
        self
    }

    /// Bytes it takes while it waits.
    fn size(&self) -> u32 {
        let row = &self.row;
        let texts = [
            &row.creator,
            &row.ip,
            &row.user_agent,
            &row.api_path,
            &row.http_method,
            &row.biz_name,
            &row.model_name,
            &row.task_id,
            &row.op_type,
            &row.error_msg,
        ];
        let bytes = texts.iter().map(|text| text.len()).sum::<usize>() + self.request.len() + self.response.len();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// The row to write, bodies masked.
    fn into_log(self) -> OpLog {
        OpLog { request_payload: masked_json(&self.request), response_payload: masked_json(&self.response), ..self.row }
    }
}

/// Cuts a text to so many characters and removes NUL, which Postgres refuses in any text.
fn cut(text: &mut String, width: usize) {
    // A text of fewer bytes has fewer characters, so the usual one is left alone.
    if text.len() > width || text.contains('\0') {
        *text = text.chars().filter(|c| *c != '\0').take(width).collect();
    }
}

async fn insert(store: &Store, rows: &[OpLog]) -> Result<(), StoreError> {
    match tokio::time::timeout(WRITE_TIMEOUT, store.insert_op_logs(rows)).await {
        Ok(written) => written,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {WRITE_TIMEOUT:?}"))),
    }
}

/// Rests before the next try; the longer the more have failed, and briefly once time is short.
async fn rest(failures: u32, stop: &CancellationToken) {
    if stop.is_cancelled() {
        return tokio::time::sleep(FIRST_REST).await;
    }
    let pause = FIRST_REST.saturating_mul(2u32.saturating_pow(failures - 1)).min(LONGEST_REST);
    tokio::select! {
        () = tokio::time::sleep(clock::jittered(pause)) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str) -> OpRecord {
        let row =
            OpLog { tenant: TenantId(7), creator: "ann".into(), op_type: "createTask".into(), ..OpLog::default() };
        OpRecord { row, request: Bytes::copy_from_slice(body.as_bytes()), response: Bytes::new() }
    }

    #[test]
    fn texts_are_cut_between_characters_and_lose_nul() {
        let cut_to = |text: &str, width| {
            let mut text = text.to_owned();
            cut(&mut text, width);
            text
        };
        assert_eq!(cut_to("日本語", 2), "日本");
        assert_eq!(cut_to("日本", 2), "日本");
        assert_eq!(cut_to("a\0b\0c", 2), "ab");
        assert_eq!(cut_to("short", 64), "short");
    }

    #[test]
    fn a_record_is_bounded_before_it_waits() {
        let long = "日".repeat(10_000);
        let mut record = record(&"x".repeat(MAX_BODY + 1));
        for text in
            [&mut record.row.creator, &mut record.row.biz_name, &mut record.row.user_agent, &mut record.row.error_msg]
        {
            text.clone_from(&long);
        }
        let record = record.bounded();
        let lengths = [&record.row.creator, &record.row.biz_name, &record.row.user_agent, &record.row.error_msg];
        assert_eq!(lengths.map(|text| text.chars().count()), [64, 128, 256, MAX_ERROR]);
        assert!(record.size() < 16_384, "{}", record.size());
        let row = record.into_log();
        assert_eq!(row.request_payload.unwrap(), format!(r#"{{"truncated":true,"bytes":{}}}"#, MAX_BODY + 1));
        assert_eq!(row.response_payload, None);
    }

    #[test]
    fn calls_over_the_limit_are_dropped_and_counted() {
        let (logger, _writer) = channel();
        for _ in 0..MAX_QUEUED + 3 {
            logger.record(record("{}"));
        }
        assert_eq!(logger.dropped(), 3);
    }

    #[test]
    fn bodies_over_the_limit_are_dropped_and_counted() {
        let (logger, _writer) = channel();
        let body = "x".repeat(MAX_BODY);
        let fit = MAX_QUEUED_BYTES / record(&body).size() as usize;
        for _ in 0..fit + 3 {
            logger.record(record(&body));
        }
        assert_eq!(logger.dropped(), 3);
    }

    #[test]
    fn without_a_writer_every_call_is_dropped_and_counted() {
        let (logger, writer) = channel();
        drop(writer);
        logger.record(record("{}"));
        assert_eq!(logger.dropped(), 1);
    }
}
