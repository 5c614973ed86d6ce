//! What a model is asked: method, URL, headers and body, to the letter as the caller gave them.

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;
use hyper::{
    Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
};
use serde_json::value::RawValue;
use url::Url;

use super::{client::Body, failure};
use crate::{
    model::{HttpMethod, Model},
    task::{Failure, FailureKind, Running, trace::TraceContext},
};

/// Who calls.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("model-asynch/", env!("CARGO_PKG_VERSION")));

/// The request for a task, which is sent to `url`. `payload` is the task's, given away: while the
/// model works nobody holds it.
pub(super) fn request(
    task: &Running,
    payload: Option<String>,
    model: &Model,
    mut url: Url,
    context: TraceContext,
) -> Result<Request<Body>, Failure> {
    let (method, body) = match model.spec.http_method {
        HttpMethod::Get => {
            ask(&mut url, &query(task, payload.as_deref()).map_err(unsendable)?);
            (Method::GET, Bytes::new())
        }
        HttpMethod::Post => (Method::POST, body(task, payload)),
    };
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(String::from(url)).map_err(|error| unsendable(format!("the URL: {error}")))?;
    *request.headers_mut() = headers(task, model, context).map_err(unsendable)?;
    Ok(request)
}

/// What no other try could send either.
pub(super) fn unsendable(message: String) -> Failure {
    failure(FailureKind::Unsendable, message)
}

/// The JSON body: the payload, the reference, both, or `{}`.
fn body(task: &Running, payload: Option<String>) -> Bytes {
    let reference = || serde_json::Value::from(task.input_ref.as_str());
    let Some(payload) = payload else {
        return match task.input_ref.as_str() {
            "" => Bytes::from_static(b"{}"),
            _ => format!(r#"{{"inputRef":{}}}"#, reference()).into(),
        };
    };
    if task.input_ref.is_empty() {
        return payload.into();
    }
    // Spliced into the text, so that the model gets the caller's own numbers and order.
    match fields(&payload) {
        Some(fields) if !fields.contains_key("inputRef") => {
            let rest = payload.trim_start().strip_prefix('{').unwrap_or_default();
            let comma = if fields.is_empty() { "" } else { "," };
            format!(r#"{{"inputRef":{}{comma}{rest}"#, reference()).into()
        }
        Some(_) | None => payload.into(),
    }
}

/// Adds to the query of a URL.
fn ask(url: &mut Url, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    } else if url.query() == Some("") {
        url.set_query(None);
    }
}

/// The query string of a GET: the top-level fields, texts without their quotes, the rest as JSON.
fn query(task: &Running, payload: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    if let Some(payload) = payload {
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
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(USER_AGENT).or_insert(AGENT);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::sample;

    fn task(input_ref: &str) -> Running {
        Running { input_ref: input_ref.to_owned(), ..sample::running() }
    }

    fn sent(payload: Option<&str>, input_ref: &str) -> String {
        String::from_utf8(body(&task(input_ref), payload.map(str::to_owned)).into()).unwrap()
    }

    #[test]
    fn the_body_is_the_payload_the_reference_both_or_an_empty_object() {
        assert_eq!(sent(None, ""), "{}");
        assert_eq!(sent(None, "oss://\"x\""), r#"{"inputRef":"oss://\"x\""}"#);
        assert_eq!(sent(Some(r#"{"n": 1.0}"#), ""), r#"{"n": 1.0}"#);
        assert_eq!(sent(Some(r#"{"n": 1.0}"#), "r"), r#"{"inputRef":"r","n": 1.0}"#);
        assert_eq!(sent(Some("{ }"), "r"), r#"{"inputRef":"r" }"#);
        assert_eq!(sent(Some(r#"{"inputRef":"mine"}"#), "r"), r#"{"inputRef":"mine"}"#);
        assert_eq!(sent(Some(r#"{"input\u0052ef":"mine"}"#), "r"), r#"{"input\u0052ef":"mine"}"#);
        assert_eq!(sent(Some("[1,2]"), "r"), "[1,2]");
    }

    #[test]
    fn a_get_sends_the_top_level_fields_as_its_query() {
        let pairs = query(&task("r"), Some(r#"{"b":"x y","a":1.50,"c":[1, 2],"d":null,"e":"\u00e4"}"#)).unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let expected = [("a", "1.50"), ("b", "x y"), ("c", "[1, 2]"), ("d", "null"), ("e", "ä"), ("inputRef", "r")];
        assert_eq!(pairs, expected);
        assert!(query(&task(""), Some("[1]")).is_err());
        assert!(query(&task(""), None).unwrap().is_empty());
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
            let pairs = query(&task(&input_ref), Some(&text)).unwrap();
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
            let said: serde_json::Value = serde_json::from_str(&sent(Some(&text), &input_ref)).unwrap();
            let mut expected = payload;
            if let Some(fields) = expected.as_object_mut().filter(|_| !input_ref.is_empty()) {
                fields.entry("inputRef").or_insert_with(|| input_ref.into());
            }
            prop_assert_eq!(said, expected);
        }

        #[test]
        fn no_payload_is_too_odd_to_be_sent_or_refused(payload: String, input_ref: String) {
            prop_assert!(!sent(Some(&payload), &input_ref).is_empty() || payload.is_empty());
            prop_assert!(query(&task(&input_ref), Some(&payload)).is_ok() || fields(&payload).is_none());
        }
    }
}
