//! Contract §5, step 2 and 3: call the model, and stream its answer into the spool.

use std::{borrow::Cow, collections::HashMap, error::Error, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::value::RawValue;

use crate::{
    clock,
    consul::Services,
    egress::{Denied, Egress, Unreachable},
    faults::{self, Point},
    model::{HttpMethod, Model},
    spool::{Parked, Spool},
    task::{Failure, FailureKind, Running, retry::MAX_RETRY_AFTER, trace::TraceContext},
    trace::{Kind, Span, Tracer, steps},
};

/// Characters of a model's answer that go into `errorMsg`.
const SNIPPET: usize = 500;

/// Bytes of a failed answer that are read for it: 500 characters of at most four bytes, and the
/// longest header value, so that a key is masked before the text is cut through it.
const SNIPPET_BYTES: usize = 4 * SNIPPET + crate::model::headers::MAX_LENGTH;

/// How a call ended, and how long it took.
pub(super) struct Called {
    /// The result on disk, or what went wrong.
    pub(super) outcome: Result<Parked, Failure>,
    /// From connect to the last byte.
    pub(super) took: Duration,
}

/// How a call is told of in traces.
struct Traced {
    span: Span,
    /// What the model is told, whether or not we record anything.
    context: TraceContext,
}

/// What models are called with: it connects only to what may be called.
pub(super) struct ModelClient {
    http: Client,
    egress: Egress,
    services: Services,
    tracer: Tracer,
}

impl ModelClient {
    /// No redirects (a model that moved is registered anew), no proxy (it would dial instead of us),
    /// connections kept for the next call.
    ///
    /// # Errors
    /// Where the TLS set-up of the machine is unusable.
    pub(super) fn new(egress: &Egress, services: Services, tracer: Tracer) -> reqwest::Result<ModelClient> {
        let http = Client::builder()
            .dns_resolver(Arc::new(egress.clone()))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_keepalive(Duration::from_secs(30))
            .pool_max_idle_per_host(1024)
            .user_agent(concat!("model-asynch/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(ModelClient { http, egress: egress.clone(), services, tracer })
    }
}

/// Calls the model once and parks its answer.
pub(super) async fn call(client: &ModelClient, spool: &Spool, task: &Running, model: &Model, max_bytes: u64) -> Called {
    let began = clock::tick();
    let limit = model.spec.timeout();
    let (span, context) = client.tracer.call(task, model);
    let mut traced = Traced { span, context };
    let answered = attempt(client, spool, task, model, max_bytes, began, &mut traced);
    let ended = tokio::time::timeout(limit, answered).await;
    let outcome = ended.unwrap_or_else(|_| {
        let message = format!("the model did not answer within {} s", limit.as_secs());
        Err(failure(FailureKind::Timeout, message))
    });
    if let Err(failure) = &outcome
        && failure.kind != FailureKind::Spool
    {
        steps::failed(&mut traced.span, failure);
    }
    let outcome = outcome.map_err(|failure| {
        let message = model.spec.api_key.mask_in(&failure.message);
        Failure { message, ..failure }
    });
    Called { outcome, took: began.elapsed() }
}

async fn attempt(
    client: &ModelClient,
    spool: &Spool,
    task: &Running,
    model: &Model,
    max_bytes: u64,
    began: std::time::Instant,
    traced: &mut Traced,
) -> Result<Parked, Failure> {
    let answer = request(client, task, model, traced).await?.send().await.map_err(|error| broken(&error))?;
    traced.span.set("http.response.status_code", i64::from(answer.status().as_u16()));
    if !answer.status().is_success() {
        return Err(refused(answer, model).await);
    }
    let too_large = || failure(FailureKind::TooLarge, format!("the result is larger than {max_bytes} bytes"));
    if answer.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut draft = spool.draft(task.key, task.attempt);
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        draft.write(chunk.map_err(|error| broken(&error))?).await.map_err(|error| unparked(&error))?;
        if draft.size() > max_bytes {
            return Err(too_large());
        }
    }
    if draft.size() == 0 {
        return Err(failure(FailureKind::EmptyBody, "the model answered without a body"));
    }
    traced.span.set_with("http.response.body.size", || i64::try_from(draft.size()).unwrap_or(i64::MAX));
    traced.span.end();
    let mut parking = client.tracer.step("park", Kind::Internal, task);
    faults::pass(Point::AfterCall);
    draft.finish(content_type.as_deref(), began.elapsed()).await.map_err(|error| {
        parking.fail("spool", "the result could not be parked");
        unparked(&error)
    })
}

async fn request(
    client: &ModelClient,
    task: &Running,
    model: &Model,
    traced: &mut Traced,
) -> Result<RequestBuilder, Failure> {
    let unsendable = |message: String| failure(FailureKind::Unsendable, message);
    let url = model.spec.call_url().map_err(|error| unsendable(error.to_string()))?;
    let url = client.services.resolve(&url).await;
    let url = url.map_err(|error| failure(FailureKind::Connection, error.to_string()))?;
    steps::goes_to(&mut traced.span, &url);
    client.egress.check_literal(&url).map_err(|denied| unsendable(denied.to_string()))?;
    let request = match model.spec.http_method {
        HttpMethod::Get => client.http.get(url).query(&query(task).map_err(unsendable)?),
        HttpMethod::Post => client.http.post(url).body(body(task).into_owned()),
    };
    Ok(request.headers(headers(task, model, traced.context).map_err(unsendable)?))
}

/// The JSON body: the payload, the reference, both, or `{}`.
fn body(task: &Running) -> Cow<'_, str> {
    let reference = || serde_json::Value::from(task.input_ref.as_str());
    match &task.request_payload {
        None if task.input_ref.is_empty() => Cow::Borrowed("{}"),
        None => Cow::Owned(format!(r#"{{"inputRef":{}}}"#, reference())),
        Some(payload) if task.input_ref.is_empty() => Cow::Borrowed(payload),
        // Spliced into the text, so that the model gets the caller's own numbers and order.
        Some(payload) => match fields(payload) {
            Some(fields) if !fields.contains_key("inputRef") => {
                let rest = payload.trim_start().strip_prefix('{').unwrap_or_default();
                let comma = if fields.is_empty() { "" } else { "," };
                Cow::Owned(format!(r#"{{"inputRef":{}{comma}{rest}"#, reference()))
            }
            Some(_) | None => Cow::Borrowed(payload),
        },
    }
}

/// The query string of a GET: the top-level fields, texts without their quotes, the rest as JSON.
fn query(task: &Running) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    if let Some(payload) = &task.request_payload {
        let fields = fields(payload)
            .ok_or_else(|| "this model is called with GET, which takes an object as requestPayload".to_owned())?;
        for (name, value) in fields {
            let text = match serde_json::from_str::<Cow<'_, str>>(value.get()) {
                Ok(text) => text.into_owned(),
                Err(_) => value.get().to_owned(),
            };
            pairs.push((name.into_owned(), text));
        }
        pairs.sort();
    }
    if !task.input_ref.is_empty() && !pairs.iter().any(|(name, _)| name == "inputRef") {
        pairs.push(("inputRef".to_owned(), task.input_ref.clone()));
    }
    Ok(pairs)
}

fn fields(payload: &str) -> Option<HashMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(payload).ok()
}

fn headers(task: &Running, model: &Model, context: TraceContext) -> Result<HeaderMap, String> {
    let unsendable = |name: &str| format!("the header {name} cannot be sent");
    let value = |name: &str, text: &str| HeaderValue::from_str(text).map_err(|_| unsendable(name));
    let id = task.key.id.to_string();
    let mut headers = HeaderMap::new();
    if model.spec.http_method == HttpMethod::Post {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, text) in model.spec.api_key.pairs() {
        let mut value = value(name, text)?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable(name))?, value);
    }
    // Ours last: a model's own header must not pass for a task's identity.
    headers.insert("x-task-id", value("X-Task-Id", &id)?);
    headers.insert("x-task-attempt", HeaderValue::from(task.attempt.0));
    headers.insert("idempotency-key", value("Idempotency-Key", &id)?);
    headers.insert("traceparent", value("traceparent", &context.to_string())?);
    Ok(headers)
}

/// An answer that is not 2xx.
async fn refused(answer: Response, model: &Model) -> Failure {
    let status = answer.status();
    let retry_after = retry_after(status, answer.headers(), clock::now());
    let beginning = model.spec.api_key.mask_in(&beginning(answer).await);
    let snippet: String = beginning.trim().chars().take(SNIPPET).collect();
    let colon = if snippet.is_empty() { "" } else { ": " };
    let message = format!("the model answered {status}{colon}{snippet}");
    Failure { kind: FailureKind::Status(status.as_u16()), message, retry_after }
}

/// The beginning of a failed answer, as far as it comes.
async fn beginning(answer: Response) -> String {
    let mut bytes = Vec::new();
    let mut body = answer.bytes_stream();
    while bytes.len() < SNIPPET_BYTES {
        match body.next().await {
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(SNIPPET_BYTES - bytes.len())]),
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `Retry-After` of a 429 or 503, in seconds or as a date (RFC 9110 §10.2.3), at most an hour.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date: DateTime<Utc> = httpdate::parse_http_date(text).ok()?.into();
            (date - now).to_std().unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// A connection that could not be made or broke. The chain is told without the URL, whose query
/// may carry a key.
fn broken(error: &reqwest::Error) -> Failure {
    if let Some(denied) = denied(error) {
        return failure(FailureKind::Unsendable, denied.to_string());
    }
    let what = if error.is_connect() { "could not connect to the model" } else { "the connection to the model broke" };
    let cause = causes(error).last();
    let message = cause.map_or_else(|| what.to_owned(), |cause| format!("{what}: {cause}"));
    failure(FailureKind::Connection, message)
}

/// The resolver's refusal, if that is what kept the connection from being made.
fn denied(error: &reqwest::Error) -> Option<&Denied> {
    causes(error).find_map(|cause| match cause.downcast_ref::<Unreachable>() {
        Some(Unreachable::Denied(denied)) => Some(denied),
        Some(Unreachable::Unresolved(_)) | None => None,
    })
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source())
}

fn unparked(error: &std::io::Error) -> Failure {
    failure(FailureKind::Spool, format!("the result could not be parked on this node: {}", error.kind()))
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{sample, trace::Step};

    fn task(payload: Option<&str>, input_ref: &str) -> Running {
        Running { input_ref: input_ref.to_owned(), request_payload: payload.map(str::to_owned), ..sample::running() }
    }

    #[test]
    fn the_body_is_the_payload_the_reference_both_or_an_empty_object() {
        let body = |payload, input_ref| body(&task(payload, input_ref)).into_owned();
        assert_eq!(body(None, ""), "{}");
        assert_eq!(body(None, "oss://\"x\""), r#"{"inputRef":"oss://\"x\""}"#);
        assert_eq!(body(Some(r#"{"n": 1.0}"#), ""), r#"{"n": 1.0}"#);
        assert_eq!(body(Some(r#"{"n": 1.0}"#), "r"), r#"{"inputRef":"r","n": 1.0}"#);
        assert_eq!(body(Some("{ }"), "r"), r#"{"inputRef":"r" }"#);
        assert_eq!(body(Some(r#"{"inputRef":"mine"}"#), "r"), r#"{"inputRef":"mine"}"#);
        assert_eq!(body(Some(r#"{"input\u0052ef":"mine"}"#), "r"), r#"{"input\u0052ef":"mine"}"#);
        assert_eq!(body(Some("[1,2]"), "r"), "[1,2]");
    }

    #[test]
    fn a_get_sends_the_top_level_fields_as_its_query() {
        let pairs = query(&task(Some(r#"{"b":"x y","a":1.50,"c":[1, 2],"d":null,"e":"\u00e4"}"#), "r")).unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let expected = [("a", "1.50"), ("b", "x y"), ("c", "[1, 2]"), ("d", "null"), ("e", "ä"), ("inputRef", "r")];
        assert_eq!(pairs, expected);
        assert!(query(&task(Some("[1]"), "")).is_err());
        assert!(query(&task(None, "")).unwrap().is_empty());
    }

    #[test]
    fn retry_after_is_read_in_both_spellings_and_capped() {
        let now = DateTime::from_timestamp(784_111_777 - 60, 0).unwrap();
        let read = |status, text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(status, &headers, now)
        };
        let busy = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(read(busy, "7"), Some(Duration::from_secs(7)));
        assert_eq!(
            read(StatusCode::SERVICE_UNAVAILABLE, "Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(60))
        );
        assert_eq!(read(busy, "999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read(busy, "soon"), None);
        assert_eq!(read(StatusCode::INTERNAL_SERVER_ERROR, "7"), None);
    }

    #[test]
    fn the_model_gets_a_new_span_in_the_callers_trace() {
        let told = |traceparent: &str| {
            let tracer = Tracer::default();
            let task = Running { traceparent: traceparent.to_owned(), ..sample::running() };
            tracer.of_task(task.key.id, &task.traceparent).step(task.key.id, task.attempt, Step::Call).to_string()
        };
        let child = told("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(child.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && child.ends_with("-01"));
        assert!(!child.contains("00f067aa0ba902b7"));
        assert!(told("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").ends_with("-00"));
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                objects(inner).prop_map(serde_json::Value::Object),
            ]
        })
    }

    fn objects(
        values: impl Strategy<Value = serde_json::Value>,
    ) -> impl Strategy<Value = serde_json::Map<String, serde_json::Value>> {
        let names = prop_oneof![any::<String>(), Just("inputRef".to_owned())];
        prop::collection::vec((names, values), 0..4).prop_map(|fields| fields.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_query_says_what_the_payload_says(payload in objects(values()), input_ref: String) {
            let text = serde_json::to_string(&payload).unwrap();
            let pairs = query(&task(Some(&text), &input_ref)).unwrap();
            let mut expected = payload.clone();
            if !input_ref.is_empty() {
                expected.entry("inputRef").or_insert_with(|| input_ref.into());
            }
            prop_assert_eq!(pairs.len(), expected.len());
            for (name, text) in pairs {
                match &expected[&name] {
                    serde_json::Value::String(said) => prop_assert_eq!(&text, said),
                    said => prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&text).unwrap(), said),
                }
            }
        }

        #[test]
        fn a_body_is_the_payload_with_the_reference(
            payload in values(), pretty: bool, padding in "[ \n\t]{0,2}", input_ref: String,
        ) {
            let text = if pretty { serde_json::to_string_pretty(&payload) } else { serde_json::to_string(&payload) };
            let text = format!("{padding}{}{padding}", text.unwrap());
            let sent: serde_json::Value = serde_json::from_str(&body(&task(Some(&text), &input_ref))).unwrap();
            let mut expected = payload;
            if let Some(fields) = expected.as_object_mut().filter(|_| !input_ref.is_empty()) {
                fields.entry("inputRef").or_insert_with(|| input_ref.into());
            }
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn no_payload_is_too_odd_to_be_sent_or_refused(payload: String, input_ref: String) {
            let task = task(Some(&payload), &input_ref);
            prop_assert!(!body(&task).is_empty() || payload.is_empty());
            prop_assert!(query(&task).is_ok() || fields(&payload).is_none());
        }

        #[test]
        fn no_rest_is_longer_than_an_hour(
            text in prop_oneof![
                "[ -~]{0,40}",
                "[0-9]{1,25}",
                "(Mon|Sun), [0-3][0-9] (Jan|Nov) [0-9]{4} [0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT",
            ],
            now in 0..4_000_000_000_i64,
        ) {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(&text).unwrap())]);
            let now = DateTime::from_timestamp(now, 0).unwrap();
            prop_assert!(retry_after(StatusCode::TOO_MANY_REQUESTS, &headers, now) <= Some(MAX_RETRY_AFTER));
        }
    }
}
