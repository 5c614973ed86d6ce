//! A registered model service: its fields, their defaults and rules, and the URL that is called.

pub mod headers;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::Url;

use crate::{
    model::headers::Headers,
    task::{ModelId, TenantId, retry::RetryPolicy},
};

/// Most characters in a model's name.
pub const MAX_NAME: usize = 128;
/// Most characters in a base URL and in a route.
pub const MAX_URL: usize = 256;
/// What a base URL may be.
const BASE_URL: &str = "an absolute http(s) URL, or consul://service/path where the service uses Consul";
/// Most characters of free text in `remark`.
pub const MAX_REMARK: usize = 4096;

/// A model as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its number.
    pub id: ModelId,
    /// The tenant that registered it.
    pub tenant: TenantId,
    /// User who registered it.
    pub creator: String,
    /// User who changed it last.
    pub updater: String,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// What can be configured.
    pub spec: ModelSpec,
}

/// What can be configured of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Unique per tenant among models not deleted.
    pub model_name: String,
    /// Absolute http(s) URL.
    pub base_url: String,
    /// Joined to `base_url` with exactly one slash.
    pub route: String,
    /// How the model is called.
    pub http_method: HttpMethod,
    /// Headers for the model.
    pub api_key: Headers,
    /// A disabled model takes no new tasks and its queued tasks wait.
    pub enabled: bool,
    /// Calls running at once per lane, over all nodes.
    pub max_concurrency: i32,
    /// Calls running at once over all tenants of a shared model; 0 = no such limit.
    pub total_concurrency: i32,
    /// Tasks queued or running per lane; 0 = no limit.
    pub queue_limit: i32,
    /// One call, from connect to the last byte, in seconds.
    pub timeout_seconds: i32,
    /// Further tries after the first one failed.
    pub retry_times: i32,
    /// Where a retry goes, in seconds of the task's age; 0 = always to the head.
    pub retry_queue_max_seconds: i32,
    /// How long a picked-up or finally failed task is kept, in seconds.
    pub auto_clean_seconds: i32,
    /// Free text.
    pub remark: String,
    /// Every tenant may call it; only for tenant 0.
    pub shared: bool,
}

/// How a model is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// The payload's top-level fields become the query string.
    Get,
    /// The payload is the JSON body.
    Post,
}

/// The fields of createModel and updateModel as sent: what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelPatch {
    /// See [`ModelSpec::model_name`].
    pub model_name: Option<String>,
    /// See [`ModelSpec::base_url`].
    pub base_url: Option<String>,
    /// See [`ModelSpec::route`].
    pub route: Option<String>,
    /// `GET` or `POST`, in any case.
    pub http_method: Option<String>,
    /// `Key:Value,Key2:Value2`; a value of `****` keeps the stored one.
    pub api_key: Option<String>,
    /// 0 or 1.
    pub enabled: Option<i64>,
    /// See [`ModelSpec::max_concurrency`].
    pub max_concurrency: Option<i64>,
    /// See [`ModelSpec::total_concurrency`].
    pub total_concurrency: Option<i64>,
    /// See [`ModelSpec::queue_limit`].
    pub queue_limit: Option<i64>,
    /// See [`ModelSpec::timeout_seconds`].
    pub timeout_seconds: Option<i64>,
    /// See [`ModelSpec::retry_times`].
    pub retry_times: Option<i64>,
    /// See [`ModelSpec::retry_queue_max_seconds`].
    pub retry_queue_max_seconds: Option<i64>,
    /// See [`ModelSpec::auto_clean_seconds`].
    pub auto_clean_seconds: Option<i64>,
    /// See [`ModelSpec::remark`].
    pub remark: Option<String>,
    /// See [`ModelSpec::shared`].
    pub shared: Option<bool>,
}

/// A field that breaks its rule; the message says what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What is wrong and what is accepted.
    pub message: String,
    /// True where the value is fine but this caller may not set it.
    pub forbidden: bool,
}

impl FieldError {
    /// A value that breaks its field's rule.
    pub fn new(field: &'static str, message: impl Into<String>) -> FieldError {
        FieldError { field, message: message.into(), forbidden: false }
    }
}

impl HttpMethod {
    /// The word on the wire and in the database.
    pub const fn word(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
        }
    }

    /// Reads the word, in any case.
    pub fn from_word(word: &str) -> Option<HttpMethod> {
        [HttpMethod::Get, HttpMethod::Post].into_iter().find(|method| method.word().eq_ignore_ascii_case(word))
    }
}

impl ModelSpec {
    /// Every default of the contract; name and URL are still empty and have to come from a patch.
    fn blank() -> ModelSpec {
        ModelSpec {
            model_name: String::new(),
            base_url: String::new(),
            route: String::new(),
            http_method: HttpMethod::Post,
            api_key: Headers::default(),
            enabled: true,
            max_concurrency: 10,
            total_concurrency: 0,
            queue_limit: 1000,
            timeout_seconds: 60,
            retry_times: 0,
            retry_queue_max_seconds: 0,
            auto_clean_seconds: 86400,
            remark: String::new(),
            shared: false,
        }
    }

    /// The spec that createModel asks for.
    ///
    /// # Errors
    /// The first field that is missing or breaks its rule.
    pub fn create(patch: &ModelPatch, tenant: TenantId) -> Result<ModelSpec, FieldError> {
        if patch.model_name.is_none() {
            return Err(FieldError::new("modelName", "is required: 1 to 128 characters"));
        }
        if patch.base_url.is_none() {
            return Err(FieldError::new("baseUrl", format!("is required: {BASE_URL}")));
        }
        ModelSpec::blank().patched(patch, tenant)
    }

    /// This spec with the patch's fields in place of its own.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn patched(&self, patch: &ModelPatch, tenant: TenantId) -> Result<ModelSpec, FieldError> {
        let mut spec = self.clone();
        if let Some(name) = &patch.model_name {
            spec.model_name = text("modelName", name, 1, MAX_NAME)?;
        }
        if let Some(url) = &patch.base_url {
            spec.base_url = base_url(url)?;
        }
        if let Some(route) = &patch.route {
            spec.route = text("route", route, 0, MAX_URL)?;
        }
        if let Some(word) = &patch.http_method {
            spec.http_method =
                HttpMethod::from_word(word).ok_or_else(|| FieldError::new("httpMethod", "must be GET or POST"))?;
        }
        if let Some(written) = &patch.api_key {
            spec.api_key = Headers::parse(written)
                .and_then(|headers| headers.with_masked_kept(&self.api_key))
                .map_err(|message| FieldError::new("apiKey", message))?;
        }
        if let Some(enabled) = patch.enabled {
            spec.enabled = number("enabled", enabled, 0, 1)? == 1;
        }
        let numbers = [
            (&mut spec.max_concurrency, "maxConcurrency", patch.max_concurrency, 1, 1_000_000),
            (&mut spec.total_concurrency, "totalConcurrency", patch.total_concurrency, 0, 1_000_000),
            (&mut spec.queue_limit, "queueLimit", patch.queue_limit, 0, i32::MAX),
            (&mut spec.timeout_seconds, "timeoutSeconds", patch.timeout_seconds, 1, 86_400),
            (&mut spec.retry_times, "retryTimes", patch.retry_times, 0, 100),
            (&mut spec.retry_queue_max_seconds, "retryQueueMaxSeconds", patch.retry_queue_max_seconds, 0, i32::MAX),
            (&mut spec.auto_clean_seconds, "autoCleanSeconds", patch.auto_clean_seconds, 0, i32::MAX),
        ];
        for (place, field, value, least, most) in numbers {
            if let Some(value) = value {
                *place = number(field, value, least, most)?;
            }
        }
        if let Some(remark) = &patch.remark {
            spec.remark = text("remark", remark, 0, MAX_REMARK)?;
        }
        if let Some(shared) = patch.shared {
            if shared && tenant != TenantId(0) {
                let message = "only models of tenant 0 can be shared; leave it out".to_owned();
                return Err(FieldError { field: "shared", message, forbidden: true });
            }
            spec.shared = shared;
        }
        spec.call_url()?;
        Ok(spec)
    }

    /// The URL that is called: base and route with exactly one slash between them.
    ///
    /// # Errors
    /// Where the route makes the URL unreadable.
    pub fn call_url(&self) -> Result<Url, FieldError> {
        let joined = if self.route.is_empty() {
            self.base_url.clone()
        } else {
            format!("{}/{}", self.base_url.trim_end_matches('/'), self.route.trim_start_matches('/'))
        };
        Url::parse(&joined).map_err(|error| FieldError::new("route", format!("does not make a URL: {error}")))
    }

    /// One call's time limit.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_seconds.unsigned_abs()))
    }

    /// The settings for retries.
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            retry_times: self.retry_times,
            queue_max: Duration::from_secs(u64::from(self.retry_queue_max_seconds.unsigned_abs())),
        }
    }
}

/// A text of so many characters, without control characters that the database or a header refuses.
///
/// # Errors
/// Says what is accepted.
pub fn text(field: &'static str, value: &str, least: usize, most: usize) -> Result<String, FieldError> {
    let length = value.chars().count();
    if length < least || length > most {
        return Err(FieldError::new(field, format!("must have {least} to {most} characters, not {length}")));
    }
    if value.contains('\0') {
        return Err(FieldError::new(field, "must not contain a NUL character"));
    }
    if least > 0 && value.trim().is_empty() {
        return Err(FieldError::new(field, "must not be blank"));
    }
    Ok(value.to_owned())
}

fn number(field: &'static str, value: i64, least: i32, most: i32) -> Result<i32, FieldError> {
    i32::try_from(value)
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| FieldError::new(field, format!("must be between {least} and {most}, not {value}")))
}

fn base_url(written: &str) -> Result<String, FieldError> {
    let written = text("baseUrl", written, 1, MAX_URL)?;
    let unusable = || FieldError::new("baseUrl", format!("must be {BASE_URL}"));
    let url = Url::parse(&written).map_err(|_| unusable())?;
    let usable = match url.scheme() {
        "http" | "https" => url.host_str().is_some(),
        // Consul knows the port.
        "consul" | "consul+https" => url.host_str().is_some_and(|name| !name.is_empty()) && url.port().is_none(),
        _ => false,
    };
    if !usable {
        return Err(unusable());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FieldError::new("baseUrl", "must not carry a user or password; put credentials in apiKey"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(FieldError::new("baseUrl", "must not carry a query or fragment; put a query in route"));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> ModelPatch {
        ModelPatch {
            model_name: Some("tts".into()),
            base_url: Some("http://127.0.0.1:9000/".into()),
            ..ModelPatch::default()
        }
    }

    fn field(patch: &ModelPatch) -> &'static str {
        ModelSpec::create(patch, TenantId(7)).unwrap_err().field
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let spec = ModelSpec::create(&minimal(), TenantId(7)).unwrap();
        assert_eq!(spec.http_method, HttpMethod::Post);
        assert!(spec.enabled && !spec.shared);
        let numbers = [
            spec.max_concurrency,
            spec.total_concurrency,
            spec.queue_limit,
            spec.timeout_seconds,
            spec.retry_times,
            spec.retry_queue_max_seconds,
            spec.auto_clean_seconds,
        ];
        assert_eq!(numbers, [10, 0, 1000, 60, 0, 0, 86400]);
    }

    #[test]
    fn base_and_route_are_joined_with_one_slash() {
        let joined = |base: &str, route: &str| {
            let patch = ModelPatch { base_url: Some(base.into()), route: Some(route.into()), ..minimal() };
            ModelSpec::create(&patch, TenantId(7)).unwrap().call_url().unwrap().to_string()
        };
        assert_eq!(joined("http://m", "v1"), "http://m/v1");
        assert_eq!(joined("http://m/", "/v1"), "http://m/v1");
        assert_eq!(joined("http://m/a", "b?x=1"), "http://m/a/b?x=1");
        assert_eq!(joined("http://m/a/", ""), "http://m/a/");
    }

    #[test]
    fn each_rule_names_its_field() {
        assert_eq!(field(&ModelPatch { model_name: None, ..minimal() }), "modelName");
        assert_eq!(field(&ModelPatch { model_name: Some("x".repeat(129)), ..minimal() }), "modelName");
        assert_eq!(field(&ModelPatch { model_name: Some("  ".into()), ..minimal() }), "modelName");
        assert_eq!(field(&ModelPatch { model_name: Some("a\0b".into()), ..minimal() }), "modelName");
        for url in ["", "ftp://x", "/relative", "http://", "http://u:p@h", "http://h?q=1"] {
            assert_eq!(field(&ModelPatch { base_url: Some(url.into()), ..minimal() }), "baseUrl", "{url}");
        }
        assert_eq!(field(&ModelPatch { http_method: Some("PUT".into()), ..minimal() }), "httpMethod");
        assert_eq!(field(&ModelPatch { enabled: Some(2), ..minimal() }), "enabled");
        assert_eq!(field(&ModelPatch { max_concurrency: Some(0), ..minimal() }), "maxConcurrency");
        assert_eq!(field(&ModelPatch { timeout_seconds: Some(86_401), ..minimal() }), "timeoutSeconds");
        assert_eq!(field(&ModelPatch { queue_limit: Some(i64::MAX), ..minimal() }), "queueLimit");
        assert_eq!(field(&ModelPatch { retry_times: Some(101), ..minimal() }), "retryTimes");
        assert_eq!(field(&ModelPatch { api_key: Some("no colon".into()), ..minimal() }), "apiKey");
    }

    #[test]
    fn only_tenant_zero_shares() {
        let patch = ModelPatch { shared: Some(true), ..minimal() };
        assert!(ModelSpec::create(&patch, TenantId(7)).unwrap_err().forbidden);
        assert!(ModelSpec::create(&patch, TenantId(0)).unwrap().shared);
        assert!(!ModelSpec::create(&ModelPatch { shared: Some(false), ..minimal() }, TenantId(7)).unwrap().shared);
    }

    #[test]
    fn a_patch_leaves_the_rest_alone_and_keeps_masked_secrets() {
        let spec =
            ModelSpec::create(&ModelPatch { api_key: Some("A:secret".into()), ..minimal() }, TenantId(7)).unwrap();
        let patch = ModelPatch { api_key: Some("A:****".into()), enabled: Some(0), ..ModelPatch::default() };
        let patched = spec.patched(&patch, TenantId(7)).unwrap();
        assert_eq!(patched, ModelSpec { enabled: false, ..spec });
    }
}
