//! Object storage: where results lie for the business to fetch.

pub mod fs;
pub mod http;
pub mod s3;

use std::time::Duration;

use chrono::DateTime;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::{
    clock,
    config::{Config, OssKind},
    consul::Services,
    spool::{Parked, ReadError},
    task::{CallerHeaders, TaskId, lifecycle::StoredFile},
};

/// Longest wait for a sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Results on their way into a folder at once: two batches, one that waits while one is synced.
const MOST_INTO_FOLDER: usize = 1024;

/// Uploads to a service at once.
const MOST_OVER_NETWORK: usize = 64;

/// Most of a foreign answer that goes into an error message, in characters.
const MAX_EXCERPT: usize = 200;

/// The storage that the configuration asks for; cheap to clone.
#[derive(Clone)]
pub enum Storage {
    /// Files served by the service itself.
    Fs(fs::FsStorage),
    /// Any S3-compatible store.
    S3(s3::S3Storage),
    /// A file service.
    Http(http::HttpStorage),
}

/// An upload, deletion or check that failed. Always worth another try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StorageError {
    /// For people; no secrets, no local paths.
    pub message: String,
    /// The parked file itself is missing or not what was parked: only a new call helps.
    pub file_gone: bool,
}

/// Where an object came to lie.
struct Placed {
    /// Its URL; empty where a fresh one is made at every look.
    url: String,
    /// Its key; empty where storage does not know keys.
    key: String,
}

impl Storage {
    /// Builds it; makes folders, opens no connection. `public_url` is how callers reach this
    /// service, without the trailing `/file/`; `services` knows where a file service is that is named by
    /// a service.
    ///
    /// # Errors
    /// Says what is wrong with the configuration.
    pub fn open(config: &Config, public_url: &Url, services: &Services) -> Result<Storage, String> {
        let timeout = config.oss.timeout;
        match &config.oss.kind {
            OssKind::Fs { path, url_ttl, packs } => {
                let signing = url_ttl.map(|ttl| (&config.vault, ttl));
                fs::FsStorage::open(path, public_url, signing, *packs, timeout).map(Storage::Fs)
            }
            OssKind::S3(store) => s3::S3Storage::open(store, timeout).map(Storage::S3),
            OssKind::Http { url, url_pointer } => {
                http::HttpStorage::open(url, services, url_pointer.as_deref(), timeout).map(Storage::Http)
            }
        }
    }

    /// Stores a result under its own key: the same at every try, but for one that came to share a
    /// file with others. The parked file stays. Takes at most `oss.timeout`.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn put(&self, parked: &Parked, headers: &CallerHeaders) -> Result<StoredFile, StorageError> {
        let placed = match self {
            Storage::Fs(storage) => storage.put(parked).await?,
            Storage::S3(storage) => storage.put(parked).await?,
            Storage::Http(storage) => storage.put(parked, headers).await?,
        };
        Ok(StoredFile {
            oss_file: placed.url,
            oss_key: placed.key,
            file_type: parked.file_type.clone(),
            file_size: parked.size,
        })
    }

    /// How many results may be on their way there at once. A folder takes as many as come, since it
    /// places them in batches. Over the network there are few enough that the end of an outage is
    /// no flood of connections.
    pub fn most_at_once(&self) -> usize {
        match self {
            Storage::Fs(_) => MOST_INTO_FOLDER,
            Storage::S3(_) | Storage::Http(_) => MOST_OVER_NETWORK,
        }
    }

    /// Deletes an object. One that is not there is fine; storage `http` cannot delete and says so.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn delete(&self, oss_key: &str) -> Result<(), StorageError> {
        match self {
            Storage::Fs(storage) => storage.delete(oss_key).await,
            Storage::S3(storage) => storage.delete(oss_key).await,
            Storage::Http(_) => Err(StorageError::new("the file service offers no deletion")),
        }
    }

    /// The URL under which the object can be fetched now: `oss_file`, or one made at this look where
    /// that is empty or would not do any more. Empty if there is neither.
    pub async fn url(&self, oss_file: &str, oss_key: &str) -> String {
        match self {
            Storage::S3(storage) if oss_file.is_empty() && !oss_key.is_empty() => storage.presigned(oss_key).await,
            Storage::Fs(storage) => storage.url(oss_file, oss_key),
            Storage::S3(_) | Storage::Http(_) => oss_file.to_owned(),
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn ping(&self) -> Result<(), StorageError> {
        match self {
            Storage::Fs(storage) => storage.ping().await,
            Storage::S3(storage) => storage.ping().await,
            Storage::Http(storage) => storage.ping().await,
        }
    }

    /// The storage whose files the service itself serves below `/file/`; `None` where another
    /// service does.
    pub fn served(&self) -> Option<&fs::FsStorage> {
        match self {
            Storage::Fs(storage) => Some(storage),
            Storage::S3(_) | Storage::Http(_) => None,
        }
    }
}

impl StorageError {
    fn new(message: impl Into<String>) -> StorageError {
        StorageError { message: message.into(), file_gone: false }
    }
}

impl From<ReadError> for StorageError {
    fn from(error: ReadError) -> StorageError {
        let file_gone = match error {
            ReadError::Gone(_) => true,
            ReadError::Disk(_) => false,
        };
        StorageError { message: error.to_string(), file_gone }
    }
}

/// The key of a result: unguessable, the same at every try, another one for every attempt, so that
/// a node that is taken for dead cannot overwrite what its successor stored.
fn object_key(parked: &Parked) -> String {
    let Parked { key, attempt, token, file_type, .. } = parked;
    format!("{}/{}/{}-{attempt}-{token}.{file_type}", key.tenant, day(key.id), key.id)
}

/// The day a task was created, read from its id, which keeps folders small and easy to age out.
fn day(id: TaskId) -> String {
    id.0.get_timestamp()
        .and_then(|time| DateTime::from_timestamp(i64::try_from(time.to_unix().0).ok()?, 0))
        .map_or_else(|| "undated".to_owned(), |time| time.format("%Y%m%d").to_string())
}

/// A stored key, unless it leads out of the storage.
fn checked_key(key: &str) -> Result<&str, StorageError> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if key.split('/').all(plain) { Ok(key) } else { Err(StorageError::new("the object's key is not one of ours")) }
}

/// A URL to which paths can be appended.
fn base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// The moment that is `limit` from now.
fn deadline(limit: Duration) -> Instant {
    Instant::from_std(clock::tick()) + limit
}

/// Gives up on `work` at the deadline.
async fn by<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, StorageError>> + Send,
) -> Result<T, StorageError> {
    match timeout_at(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(StorageError::new("storage did not answer in time (oss.timeout)")),
    }
}

/// The beginning of a foreign answer, on one line.
fn excerpt(answer: &str) -> String {
    answer.trim().chars().take(MAX_EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use uuid::Uuid;

    use super::*;
    use crate::task::{Attempt, TaskKey, TenantId};

    fn parked(id: &str) -> Parked {
        Parked {
            path: PathBuf::new(),
            key: TaskKey { tenant: TenantId(7), id: TaskId(id.parse::<Uuid>().unwrap()) },
            attempt: Attempt(3),
            file_type: "wav".into(),
            size: 5,
            crc: 0,
            call_time: Duration::ZERO,
            token: "00112233445566778899aabbccddeeff".into(),
            slot: None,
        }
    }

    #[test]
    fn a_key_follows_from_what_is_parked_and_names_the_day_of_the_task() {
        assert_eq!(
            object_key(&parked("019aa9b1-7c00-7000-8000-000000000001")),
            "7/20251122/019aa9b1-7c00-7000-8000-000000000001-3-00112233445566778899aabbccddeeff.wav"
        );
        assert!(object_key(&parked("6ba7b810-9dad-41d1-80b4-00c04fd430c8")).starts_with("7/undated/"));
    }

    #[test]
    fn keys_that_lead_elsewhere_are_refused() {
        assert!(checked_key("7/20251122/a-1-b.wav").is_ok());
        for key in ["", "/", "/etc/passwd", "..", "7/../../x", "7//x", "7/./x", "7/", "a\\..\\b", "a\0b"] {
            assert!(checked_key(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt(" a\nb\u{7}c "), "a b c");
        assert_eq!(excerpt(&"é".repeat(300)).chars().count(), MAX_EXCERPT);
    }
}
