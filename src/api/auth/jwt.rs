//! Mode `jwt`: who calls with a token of an identity provider, and the provider's keys.
//!
//! Published keys are fetched at the start, every few minutes, and when a token names one that is
//! not known, but never more often than [`MIN_REST`] allows, whatever tokens come in. While the
//! provider is out of reach, the keys that were fetched last stay good.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use moka::future::Cache;
use reqwest::{Client, redirect};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::{
    api::error::ApiError,
    caller::Caller,
    clock,
    config::JwtKeys,
    jwt::{KeySet, Refusal, Rules, Verified},
};

/// How long a verified token is remembered. A key that the provider takes back is believed for that
/// long on top of [`REFRESH`].
const TTL: Duration = Duration::from_secs(60);

/// Most tokens remembered.
const CAPACITY: u64 = 20_000;

/// Time between looks at what the provider publishes.
const REFRESH: Duration = Duration::from_secs(300);

/// Least time between two of them.
const MIN_REST: Duration = Duration::from_secs(10);

/// Longest look.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for keys that its token needs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most bytes of a document of keys.
const MAX_DOCUMENT: usize = 1 << 20;

/// See the module.
#[derive(Clone)]
pub(super) struct Jwts {
    rules: Arc<Rules>,
    keys: Keys,
    /// By the hash of the token, so that no dump of memory has more of them than it must.
    known: Cache<[u8; digest::SHA256_OUTPUT_LEN], Arc<Verified>>,
}

#[derive(Clone)]
enum Keys {
    Fixed(Arc<KeySet>),
    Published(Arc<Publisher>),
}

/// Where the provider publishes its keys, and what was found there.
struct Publisher {
    url: Url,
    client: Client,
    seen: watch::Sender<Seen>,
    wanted: Notify,
}

/// What the last look brought.
#[derive(Clone, Default)]
struct Seen {
    /// The keys of the last look that succeeded.
    keys: Option<Arc<KeySet>>,
    /// When the last look ended, whether it succeeded or not.
    at: Option<Instant>,
}

impl Jwts {
    pub(super) fn new(rules: &Rules, keys: &JwtKeys) -> Result<Jwts, String> {
        let keys = match keys {
            JwtKeys::Fixed(keys) => Keys::Fixed(Arc::new(keys.clone())),
            JwtKeys::Published(url) => Keys::Published(Arc::new(Publisher::new(url)?)),
        };
        let known = Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build();
        Ok(Jwts { rules: Arc::new(rules.clone()), keys, known })
    }

    /// Keeps published keys fresh until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        match &self.keys {
            Keys::Fixed(_) => stop.cancelled().await,
            Keys::Published(publisher) => {
                stop.run_until_cancelled(publisher.watch()).await;
            }
        }
    }

    /// Who calls with it.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, ApiError> {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let hash = hash.as_ref().try_into().unwrap_or([0; digest::SHA256_OUTPUT_LEN]);
        if let Some(verified) = self.known.get(&hash).await
            && clock::now() < verified.until
        {
            return Ok(verified.caller.clone());
        }
        let verified = self.verified(token).await?;
        let caller = verified.caller.clone();
        self.known.insert(hash, Arc::new(verified)).await;
        Ok(caller)
    }

    async fn verified(&self, token: &str) -> Result<Verified, ApiError> {
        let refused = |refusal: &Refusal| ApiError::bad_token(format!("the token {refusal}"));
        let publisher = match &self.keys {
            Keys::Fixed(keys) => return self.rules.verify(token, keys, clock::now()).map_err(|error| refused(&error)),
            Keys::Published(publisher) => publisher,
        };
        let keys = publisher.keys(false).await?;
        match self.rules.verify(token, &keys, clock::now()) {
            Err(Refusal::UnknownKey) => {
                let keys = publisher.keys(true).await?;
                self.rules.verify(token, &keys, clock::now()).map_err(|error| refused(&error))
            }
            outcome => outcome.map_err(|error| refused(&error)),
        }
    }
}

impl Publisher {
    fn new(url: &Url) -> Result<Publisher, String> {
        let client = Client::builder()
            .timeout(FETCH_TIMEOUT)
            // Keys come from the place that was configured, or not at all.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Publisher { url: url.clone(), client, seen: watch::Sender::default(), wanted: Notify::new() })
    }

    /// The keys, of a new look where `newer` ones than those are wanted and it is time for one.
    async fn keys(&self, newer: bool) -> Result<Arc<KeySet>, ApiError> {
        let seen = self.seen.borrow().clone();
        let is_due = seen.at.is_none_or(|at| at.elapsed() >= MIN_REST);
        let seen = if (newer || seen.keys.is_none()) && is_due { self.look_after(seen.at).await } else { seen };
        let away = "the keys of the identity provider are out of reach; try again later";
        seen.keys.ok_or_else(|| ApiError::unavailable(away))
    }

    /// Asks for a look and waits for its end, but not for long.
    async fn look_after(&self, before: Option<Instant>) -> Seen {
        let mut seen = self.seen.subscribe();
        self.wanted.notify_one();
        // Whether it came or not: what is there now has to do.
        tokio::time::timeout(PATIENCE, seen.wait_for(|seen| seen.at != before)).await.ok();
        seen.borrow().clone()
    }

    async fn watch(&self) {
        let mut is_away = false;
        loop {
            let found = self.fetch().await;
            match &found {
                Ok(keys) if is_away || self.seen.borrow().keys.is_none() => {
                    info!(url = %self.url, ?keys, "fetched the keys of the identity provider");
                }
                Err(error) if !is_away => {
                    warn!(url = %self.url, error, "cannot fetch the keys of the identity provider, going on with what is known");
                }
                Ok(_) | Err(_) => {}
            }
            is_away = found.is_err();
            self.seen.send_modify(|seen| {
                seen.at = Some(clock::tick());
                seen.keys = found.ok().map(Arc::new).or_else(|| seen.keys.take());
            });
            tokio::time::sleep(MIN_REST).await;
            let rest = if is_away { Duration::ZERO } else { REFRESH.saturating_sub(MIN_REST) };
            tokio::time::timeout(rest, self.wanted.notified()).await.ok();
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let failed = |error: reqwest::Error| error.without_url().to_string();
        let mut answer = self.client.get(self.url.clone()).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if document.len() + piece.len() > MAX_DOCUMENT {
                return Err(format!("the document is over {MAX_DOCUMENT} bytes"));
            }
            document.extend_from_slice(&piece);
        }
        KeySet::from_jwks(&document).map_err(|accepted| format!("the document cannot be used; accepted: {accepted}"))
    }
}
