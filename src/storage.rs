//! Object storage: where results lie for the business to fetch.

pub mod fs;
pub mod http;
pub mod s3;

use std::path::PathBuf;

use crate::{
    config::Config,
    spool::Parked,
    task::{CallerHeaders, lifecycle::StoredFile},
};

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
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StorageError {
    /// For people; no secrets, no local paths.
    pub message: String,
    /// The parked file itself is missing or not what was parked: only a new call helps.
    pub file_gone: bool,
}

impl Storage {
    /// Builds it; makes folders, opens no connection.
    ///
    /// # Errors
    /// Says what is wrong with the configuration.
    pub fn open(_config: &Config) -> Result<Storage, String> {
        todo!()
    }

    /// Stores a result under its own key, the same at every try. The parked file stays.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn put(&self, _parked: &Parked, _headers: &CallerHeaders) -> Result<StoredFile, StorageError> {
        todo!()
    }

    /// Deletes an object. One that is not there is fine; storage `http` cannot delete and says so.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn delete(&self, _oss_key: &str) -> Result<(), StorageError> {
        todo!()
    }

    /// The URL under which the object can be fetched now: `oss_file`, or a fresh presigned one.
    pub async fn url(&self, _oss_file: &str, _oss_key: &str) -> String {
        todo!()
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn ping(&self) -> Result<(), StorageError> {
        todo!()
    }

    /// The folder whose files the service itself serves below `/file/`; `None` where another
    /// service does.
    pub fn served_folder(&self) -> Option<PathBuf> {
        todo!()
    }
}
