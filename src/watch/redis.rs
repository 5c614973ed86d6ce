//! The board over Redis: one key for each watcher, gone when its word is not good any more.

use std::{sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, aio::MultiplexedConnection};
use tokio::{sync::Mutex, time::timeout};

use super::rules::{Heard, Word};
use crate::{config, task::NodeId};

/// How the words are written.
const IN_TOUCH: &str = "in touch";
const CUT_OFF: &str = "cut off";

/// See the module.
#[derive(Clone)]
pub(super) struct Board {
    client: Client,
    prefix: String,
    /// Made when first needed, and again after every error.
    connection: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl Board {
    pub(super) fn open(config: &config::Redis) -> Result<Board, String> {
        let client = Client::open(config.url.as_str())
            .map_err(|error| format!("cannot be read, it should look like redis://host:6379/0: {error}"))?;
        Ok(Board { client, prefix: config.key_prefix.clone(), connection: Arc::default() })
    }

    /// Says it for `good_for`. What cannot be said is silence, and safe; that Redis is gone is
    /// logged by the permits.
    pub(super) async fn say(&self, watcher: NodeId, word: Word, good_for: Duration, patience: Duration) {
        let millis = good_for.as_millis() as u64;
        let mut calls = redis::pipe();
        match word {
            Word::CutOff => {
                calls.cmd("SET").arg(self.key(watcher)).arg(CUT_OFF).arg("PX").arg(millis).ignore();
            }
            Word::InTouch => {
                calls.cmd("SET").arg(self.key(watcher)).arg(IN_TOUCH).arg("PX").arg(millis).ignore();
                calls.cmd("SET").arg(self.last_key()).arg(watcher.to_string()).arg("PX").arg(millis).ignore();
            }
        }
        self.ask::<()>(&calls, patience).await;
    }

    /// What they say; nothing where Redis does not answer, or with something that cannot be read.
    pub(super) async fn hear(&self, watchers: &[NodeId], patience: Duration) -> Option<Heard> {
        let mut calls = redis::pipe();
        calls.cmd("GET").arg(self.last_key());
        for watcher in watchers {
            calls.cmd("GET").arg(self.key(*watcher));
        }
        let (last, words) = match self.ask::<Vec<Option<String>>>(&calls, patience).await?.split_first()? {
            (Some(last), words) => (Some(NodeId(last.parse().ok()?)), words.to_vec()),
            (None, words) => (None, words.to_vec()),
        };
        let words = words.iter().map(|word| word.as_deref().and_then(read)).collect();
        Some(Heard { last_in_touch: last, words })
    }

    fn key(&self, watcher: NodeId) -> String {
        format!("{}watch:{watcher}", self.prefix)
    }

    /// Names the watcher that was the last to say "in touch".
    fn last_key(&self) -> String {
        format!("{}watch:last", self.prefix)
    }

    async fn ask<T: FromRedisValue>(&self, calls: &Pipeline, patience: Duration) -> Option<T> {
        let mut line = self.connection.lock().await;
        // Taken out, so that a call given up half way leaves no line behind.
        let old = line.take();
        let (answer, connection) = timeout(patience, self.ask_over(old, calls)).await.ok()?.ok()?;
        *line = Some(connection);
        Some(answer)
    }

    /// Over the old line, or over a new one where that is broken: Redis may have been restarted.
    async fn ask_over<T: FromRedisValue>(
        &self,
        old: Option<MultiplexedConnection>,
        calls: &Pipeline,
    ) -> Result<(T, MultiplexedConnection), RedisError> {
        if let Some(mut connection) = old
            && let Ok(answer) = calls.query_async(&mut connection).await
        {
            return Ok((answer, connection));
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let answer = calls.query_async(&mut connection).await?;
        Ok((answer, connection))
    }
}

fn read(word: &str) -> Option<Word> {
    match word {
        IN_TOUCH => Some(Word::InTouch),
        CUT_OFF => Some(Word::CutOff),
        _ => None,
    }
}
