//! Any S3-compatible store.

use std::{error::Error, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    client::{HttpError, HttpErrorKind},
    path::Path,
    signer::Signer,
};
use reqwest::Method;
use tokio::time::{Instant, timeout};
use tracing::warn;
use url::Url;

use super::{PING_TIMEOUT, Placed, StorageError, base, by, checked_key, deadline, object_key};
use crate::{
    config,
    spool::{Parked, Reader, file_type},
};

/// Largest result that is sent in one request, and the size of the parts of a larger one, in bytes.
const PART: u64 = 8 * 1024 * 1024;

/// Most parts that S3 accepts; parts of a result that would need more are made larger.
const MAX_PARTS: u64 = 10_000;

/// Parts on their way at once. An upload takes this many parts of memory.
const PARTS_IN_FLIGHT: usize = 4;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the store to forget an upload that failed.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// A key that is never written, to ask for.
const PING_KEY: &str = "model-asynch-ping";

/// See the module.
#[derive(Clone)]
pub struct S3Storage {
    store: Arc<AmazonS3>,
    public_url: Option<Arc<str>>,
    presign_for: Duration,
    timeout: Duration,
}

impl S3Storage {
    pub(super) fn open(config: &config::S3, timeout: Duration) -> Result<S3Storage, String> {
        // One request may take as long as the whole upload: a part on a slow line takes its time.
        let client = ClientOptions::new().with_timeout(timeout).with_connect_timeout(CONNECT_TIMEOUT);
        // Hiccups only: the worker repeats uploads for hours.
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
            max_retries: 2,
            retry_timeout: Duration::from_secs(10),
        };
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry)
            .with_region(&config.region)
            .with_bucket_name(&config.bucket)
            .with_access_key_id(&config.access_key)
            .with_secret_access_key(&config.secret_key)
            .with_virtual_hosted_style_request(config.virtual_hosted)
            // Not every S3-compatible store can delete in bulk, and we delete one by one.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = &config.endpoint {
            let allow_http = endpoint.scheme() == "http";
            let endpoint =
                if config.virtual_hosted { bucket_host(endpoint, &config.bucket)? } else { endpoint.clone() };
            builder = builder.with_endpoint(base(&endpoint)).with_allow_http(allow_http);
        }
        let store = builder.build().map_err(|error| format!("oss: the S3 client cannot be built: {error}"))?;
        Ok(S3Storage {
            store: Arc::new(store),
            public_url: config.public_url.as_ref().map(|url| base(url).into()),
            presign_for: config.presign_for,
            timeout,
        })
    }

    pub(super) async fn put(&self, parked: &Parked) -> Result<Placed, StorageError> {
        let deadline = deadline(self.timeout);
        let key = object_key(parked);
        let path = Path::from(key.as_str());
        let reader = by(deadline, async { Ok(parked.open().await?) }).await?;
        if parked.size <= PART {
            by(deadline, self.put_small(&path, parked, reader)).await?;
        } else {
            self.put_large(&path, parked, reader, deadline).await?;
        }
        by(deadline, self.check_size(&path, parked.size)).await?;
        let url = self.public_url.as_ref().map_or_else(String::new, |base| format!("{base}/{key}"));
        Ok(Placed { url, key })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let path = Path::from(checked_key(key)?);
        by(deadline(self.timeout), async {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(describe(&error)),
            }
        })
        .await
    }

    /// Made from the keys alone, without asking the store.
    pub(super) async fn presigned(&self, key: &str) -> String {
        match self.store.signed_url(Method::GET, &Path::from(key), self.presign_for).await {
            Ok(url) => url.into(),
            Err(error) => {
                warn!(error = %describe(&error), "a result's URL could not be signed");
                String::new()
            }
        }
    }

    /// Asks for an object that does not exist. To be told so, or that we may not know, takes a
    /// store that lives, the bucket and keys that it knows.
    pub(super) async fn ping(&self) -> Result<(), StorageError> {
        by(deadline(PING_TIMEOUT), async {
            match self.store.get(&Path::from(PING_KEY)).await {
                Ok(_) => Ok(()),
                Err(error) => match Answer::of(&error).code.as_deref() {
                    Some("NoSuchKey" | "AccessDenied") => Ok(()),
                    _ => Err(describe(&error)),
                },
            }
        })
        .await
    }

    async fn put_small(&self, path: &Path, parked: &Parked, mut reader: Reader) -> Result<(), StorageError> {
        let content = reader.piece(usize_of(parked.size)).await?.unwrap_or_default();
        let options = PutOptions { attributes: attributes(parked), ..PutOptions::default() };
        self.store.put_opts(path, content.into(), options).await.map_err(|error| describe(&error))?;
        Ok(())
    }

    async fn put_large(
        &self,
        path: &Path,
        parked: &Parked,
        reader: Reader,
        deadline: Instant,
    ) -> Result<(), StorageError> {
        let options = PutMultipartOptions { attributes: attributes(parked), ..PutMultipartOptions::default() };
        let create = async { self.store.put_multipart_opts(path, options).await.map_err(|error| describe(&error)) };
        let mut upload = by(deadline, create).await?;
        let part = usize_of(parked.size.div_ceil(MAX_PARTS).max(PART));
        let sent = by(deadline, send_parts(upload.as_mut(), reader, part)).await;
        if sent.is_err() {
            // Parts that stay behind cost money; what even this misses is for a rule of the
            // bucket to clean up.
            if !matches!(timeout(ABORT_TIMEOUT, upload.abort()).await, Ok(Ok(()))) {
                let (task_id, tenant_id, attempt) = (parked.key.id, parked.key.tenant, parked.attempt);
                warn!(%task_id, %tenant_id, %attempt, "parts of a failed upload may be left in the bucket");
            }
        }
        sent
    }

    /// The last proof that the object is there and whole.
    async fn check_size(&self, path: &Path, size: u64) -> Result<(), StorageError> {
        match self.store.head(path).await {
            Ok(found) if found.size == size => Ok(()),
            Ok(found) => {
                let found = found.size;
                Err(StorageError::new(format!("storage holds {found} bytes of the result instead of {size}")))
            }
            // Keys that may write but not read: the store's word on the upload has to do.
            Err(object_store::Error::PermissionDenied { .. }) => Ok(()),
            Err(error) => Err(describe(&error)),
        }
    }
}

/// What the store says about a request that failed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// HTTP status.
    status: Option<u16>,
    /// S3's word for it, such as `NoSuchBucket`.
    code: Option<String>,
}

impl Answer {
    /// Reads it from the error's text: the client keeps the type to itself.
    fn of(error: &object_store::Error) -> Answer {
        Answer::read(&error.to_string())
    }

    fn read(text: &str) -> Answer {
        let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
        let plain = |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Answer { status, code: code.filter(plain).map(str::to_owned) }
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, mut reader: Reader, part: usize) -> Result<(), StorageError> {
    let mut in_flight = FuturesUnordered::new();
    while let Some(piece) = reader.piece(part).await? {
        in_flight.push(upload.put_part(piece.into()));
        if in_flight.len() >= PARTS_IN_FLIGHT
            && let Some(sent) = in_flight.next().await
        {
            sent.map_err(|error| describe(&error))?;
        }
    }
    while let Some(sent) = in_flight.next().await {
        sent.map_err(|error| describe(&error))?;
    }
    upload.complete().await.map_err(|error| describe(&error))?;
    Ok(())
}

fn attributes(parked: &Parked) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, file_type::content_type(&parked.file_type))])
}

/// `https://host` as `https://bucket.host`, unless it is already so.
fn bucket_host(endpoint: &Url, bucket: &str) -> Result<Url, String> {
    let host = endpoint.host_str().unwrap_or_default();
    if host.starts_with(&format!("{bucket}.")) {
        return Ok(endpoint.clone());
    }
    let mut endpoint = endpoint.clone();
    let host = format!("{bucket}.{host}");
    match endpoint.set_host(Some(&host)) {
        Ok(()) => Ok(endpoint),
        Err(_) => Err(format!("oss.endpoint: {host} is not a host name; virtual-hosted buckets need one")),
    }
}

/// The error in words of our own: the client's carry URLs, and the store's answers echo key ids.
fn describe(error: &object_store::Error) -> StorageError {
    let answer = Answer::of(error);
    let message = match (answer.status, answer.code) {
        (Some(status), Some(code)) => format!("storage answered {status} ({code})"),
        (Some(status), None) => format!("storage answered {status}"),
        (None, _) => match connection_trouble(error) {
            Some(HttpErrorKind::Connect) => "storage cannot be reached".to_owned(),
            Some(HttpErrorKind::Timeout) => "storage did not answer in time".to_owned(),
            Some(_) => "the connection to storage broke".to_owned(),
            None => "storage gave an answer that cannot be understood (is the region right?)".to_owned(),
        },
    };
    StorageError::new(message)
}

fn connection_trouble(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_hosted_bucket_is_part_of_the_host_once() {
        let with_bucket = |endpoint: &str| bucket_host(&Url::parse(endpoint).unwrap(), "b").map(|url| base(&url));
        assert_eq!(with_bucket("https://oss.example.com"), Ok("https://b.oss.example.com".to_owned()));
        assert_eq!(with_bucket("https://b.oss.example.com:8443/"), Ok("https://b.oss.example.com:8443".to_owned()));
        assert!(bucket_host(&Url::parse("https://host").unwrap(), "a b").is_err());
    }

    #[test]
    fn only_status_and_code_are_read_from_an_answer() {
        let text = "Error performing PUT http://h/b/k in 3ms - Server returned non-2xx status code: 403 Forbidden: \
                    <Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        let expected = Answer { status: Some(403), code: Some("InvalidAccessKeyId".into()) };
        assert_eq!(Answer::read(text), expected);
        assert_eq!(Answer::read("status code: é"), Answer::default());
        assert_eq!(Answer::read("<Code>a b</Code>"), Answer::default());
    }
}
