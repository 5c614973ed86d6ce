//! Mode `token`: who calls with a token of ours, remembered for a second.
//!
//! Looking a token up by the hash of what was sent needs no comparison in constant time: to learn
//! from timing one would have to choose the hash, and nobody can.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tracing::debug;

use crate::{
    api::error::ApiError,
    caller::Caller,
    clock,
    store::{Store, StoreError},
    token::{Token, TokenHash},
};

/// How long an answer of the database is believed: half of the 2 s in which a revoked token stops to
/// work on every node.
const TTL: Duration = Duration::from_secs(1);

/// Most tokens remembered, of those that are known and of those that are not.
const CAPACITY: u64 = 20_000;

/// How exact "used last" is: a token costs one write in that time.
const USED_STEP: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// What every unusable token is told; which of the three it is helps only who should not know.
const REFUSED: &str = "the token is unknown, expired or revoked; `model-asynch token create` makes one";

/// See the module.
#[derive(Clone)]
pub(super) struct Tokens {
    store: Store,
    known: Cache<TokenHash, Arc<Token>>,
    /// Apart from the known ones, so that no flood of guesses can push those out.
    unknown: Cache<TokenHash, ()>,
}

/// Why a token was not found.
enum Miss {
    Unknown,
    Store(StoreError),
}

impl Tokens {
    pub(super) fn new(store: Store) -> Tokens {
        Tokens {
            store,
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
            unknown: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
        }
    }

    /// Who calls with it.
    pub(super) async fn caller(&self, text: &str) -> Result<Caller, ApiError> {
        let hash = TokenHash::of(text).ok_or_else(refused)?;
        let token = match self.known.get(&hash).await {
            Some(token) => token,
            None => self.looked_up(hash).await?,
        };
        if token.works(clock::now()) { Ok(token.caller()) } else { Err(refused()) }
    }

    /// Of requests that come at once, one asks the database.
    async fn looked_up(&self, hash: TokenHash) -> Result<Arc<Token>, ApiError> {
        if self.unknown.contains_key(&hash) {
            return Err(refused());
        }
        let found = self.known.try_get_with(hash, self.found(hash)).await;
        match found.as_ref().map_err(Arc::as_ref) {
            Ok(token) => Ok(token.clone()),
            Err(Miss::Unknown) => {
                self.unknown.insert(hash, ()).await;
                Err(refused())
            }
            Err(Miss::Store(error)) => Err(error.clone().into()),
        }
    }

    async fn found(&self, hash: TokenHash) -> Result<Arc<Token>, Miss> {
        let token = self.store.token(hash).await.map_err(Miss::Store)?.ok_or(Miss::Unknown)?;
        let now = clock::now();
        if token.works(now) && token.last_used_at.is_none_or(|at| now - at >= USED_STEP) {
            // Nice to know, and no reason to refuse anybody.
            if let Err(error) = self.store.token_used(token.id).await {
                debug!(token_id = token.id.0, %error, "could not note that a token was used");
            }
        }
        Ok(Arc::new(token))
    }
}

fn refused() -> ApiError {
    ApiError::bad_token(REFUSED)
}
