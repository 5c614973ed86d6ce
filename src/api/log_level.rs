//! The routes of the log level: this node's, until it ends.

use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::ToSchema;

use super::{
    auth::Acting,
    envelope::{self, Answer, Done, Envelope},
    error::ApiError,
    request::Ask,
};
use crate::{
    log_level::{self, Refused},
    model::text,
};

/// Most characters of a level.
const MAX_LEVEL: usize = 1000;

/// What is logged.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"level": "info"}))]
pub(crate) struct LogLevel {
    /// As `log.level` in the configuration.
    level: String,
}

/// What shall be logged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"level": "info,sqlx=debug"}))]
pub(crate) struct UpdateLogLevel {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, also by part: `info,sqlx=debug`.
    #[serde(default)]
    #[schema(required = true, min_length = 1, max_length = 1000)]
    level: String,
}

/// See what this node logs
#[utoipa::path(get, path = "/node/getLogLevel", tag = "tools", responses(
    (status = 200, description = "The level", body = Envelope<LogLevel>),
))]
pub(crate) async fn get_log_level() -> Answer<LogLevel> {
    envelope::ok(LogLevel { level: log_level::current() })
}

/// Change what this node logs
///
/// It holds for this node and until it ends; then `log.level` holds again.
#[utoipa::path(put, path = "/node/updateLogLevel", tag = "tools", request_body = UpdateLogLevel, responses(
    (status = 200, description = "It holds from now on", body = Envelope<Done>),
    (status = 409, description = "This process does not log"),
))]
pub(crate) async fn update_log_level(Acting(caller): Acting, Ask(ask): Ask<UpdateLogLevel>) -> Answer<Done> {
    let level = text("level", &ask.level, 1, MAX_LEVEL)?;
    let before = log_level::current();
    match log_level::change(&level) {
        Ok(()) => {}
        Err(refused @ Refused::NoLevel) => return Err(ApiError::validation("level", &refused.to_string())),
        Err(refused @ Refused::NotLogging) => return Err(ApiError::not_logging(refused.to_string())),
    }
    warn!(user = caller.user, level, before, "the log level was changed");
    envelope::ok(Done {})
}
