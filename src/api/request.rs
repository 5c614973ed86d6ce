//! What a request asks for, read once: the query and, by POST and PUT, the body. Both become the
//! text of a JSON object, from which [`Ask`] reads the fields that a handler wants.
//!
//! Whatever comes in, the outcome is a value or an error that says what is wrong: limits on size,
//! time and nesting stand before anything is parsed.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use bytes::Bytes;
use futures::StreamExt;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::{error::ApiError, reception::Received, wire::Id};
use crate::task::TenantId;

/// How long a whole body may take to arrive: 10 MiB over a slow line fit in, a caller that dribbles
/// to keep a connection busy does not.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Deepest nesting of a body: far more than anyone needs, far less than what overflows the stack of
/// a recursive reader, here, in the database or in the model.
const MAX_DEPTH: usize = 128;

/// Most memory set aside for a body on the caller's word alone.
const TRUSTED_LENGTH: usize = 64 * 1024;

/// What was sent where nothing was.
const NOTHING: &str = "{}";

/// What a body may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most bytes.
    bytes: usize,
    /// How long it may take to arrive.
    time: Duration,
}

/// What came with a request.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The query, where there is one, as a JSON object whose values are texts.
    query: Option<Arc<String>>,
    /// The body, where the method has one.
    body: Option<Arc<String>>,
}

/// The fields of a request, from the body where its method has one and from the query otherwise.
#[derive(Debug)]
pub(crate) struct Ask<T>(pub(crate) T);

/// The one field that every route takes, in the query and in the body.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Naming {
    tenant_id: Option<Id>,
}

/// Reads what was sent, a body within `limits`, for the extractors.
///
/// # Errors
/// What is too much, too slow, or no JSON object at first sight.
pub(crate) async fn receive(parts: &Parts, body: Body, limits: Limits) -> Result<Sent, ApiError> {
    let query = match parts.uri.query() {
        None | Some("") => None,
        Some(query) => Some(Arc::new(query_object(query)?)),
    };
    let body = match parts.method {
        Method::POST | Method::PUT => Some(Arc::new(body_object(&parts.headers, body, limits).await?)),
        _ => None,
    };
    Ok(Sent { query, body })
}

impl Limits {
    /// At most so many bytes.
    pub(crate) fn of_bytes(bytes: usize) -> Limits {
        Limits { bytes, time: BODY_TIMEOUT }
    }
}

impl Sent {
    /// The text of a JSON object.
    pub(crate) fn text(&self) -> &str {
        self.body.as_ref().or(self.query.as_ref()).map_or(NOTHING, |text| text)
    }

    /// The same text, for the operation log.
    pub(crate) fn bytes(&self) -> Bytes {
        match self.body.as_ref().or(self.query.as_ref()) {
            Some(text) => Bytes::from_owner(Shared(text.clone())),
            None => Bytes::from_static(NOTHING.as_bytes()),
        }
    }

    /// The tenant that the request names; the body has the last word.
    ///
    /// # Errors
    /// Where body or query is not JSON all through, or names something that is no tenant.
    pub(crate) fn named_tenant(&self) -> Result<Option<TenantId>, ApiError> {
        let named_in = |text: &Option<Arc<String>>| match text {
            Some(text) => read::<Naming>(text).map(|naming| naming.tenant_id),
            None => Ok(None),
        };
        let in_query = named_in(&self.query)?;
        Ok(named_in(&self.body)?.or(in_query).map(|id| TenantId(id.0)))
    }
}

/// A text that the operation log and the extractors hold together.
struct Shared(Arc<String>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Ask<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Ask<T>, ApiError> {
        read(Received::of(parts)?.sent.text()).map(Ask)
    }
}

/// Reads a JSON object.
///
/// # Errors
/// `malformed` where it is not JSON, `validation` with the field where it is not what `T` wants.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    // The fast way first: only a request that failed is read again to find out why.
    serde_json::from_str(text).map_err(|_| explain::<T>(text))
}

fn explain<T: DeserializeOwned>(text: &str) -> ApiError {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return ApiError::malformed(format!("the body is not JSON: {error}"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => field_error(error.path(), &error.inner().to_string()),
        Ok(_) => ApiError::malformed("the body cannot be read"),
    }
}

/// Names the field and says in words what it must be, from what the reader expected to find there.
fn field_error(path: &Path, complaint: &str) -> ApiError {
    let mut field = String::new();
    let mut in_list = false;
    for segment in path {
        match segment {
            Segment::Map { key } => push_name(&mut field, key),
            Segment::Seq { .. } => {
                in_list = true;
                break;
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let complaint = complaint.rsplit_once(" at line ").map_or(complaint, |(what, _)| what);
    for (beginning, words) in [("missing field `", "is required"), ("duplicate field `", "is given twice")] {
        if let Some(name) = complaint.strip_prefix(beginning).and_then(|rest| rest.strip_suffix('`')) {
            push_name(&mut field, name);
            return ApiError::validation(field, words);
        }
    }
    let Some((_, expected)) = complaint.rsplit_once(", expected ") else {
        return ApiError::validation(field, "cannot be read");
    };
    let expected = in_words(expected);
    let words = if in_list {
        format!("must be a list of which each entry is {expected}")
    } else {
        format!("must be {expected}")
    };
    ApiError::validation(field, &words)
}

fn push_name(field: &mut String, name: &str) {
    if !field.is_empty() {
        field.push('.');
    }
    field.push_str(name);
}

/// Plain words for what serde calls its types; our own types say it in words themselves.
fn in_words(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// The query as the text of a JSON object.
fn query_object(query: &str) -> Result<String, ApiError> {
    let mut fields = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        let value = decoded(value)?;
        if fields.insert(name.clone(), Value::String(value)).is_some() {
            return Err(ApiError::malformed(format!("the query gives {name} twice")));
        }
    }
    Ok(Value::Object(fields).to_string())
}

/// Undoes percent-encoding and `+`, strictly: what is no text would otherwise be guessed at.
fn decoded(written: &str) -> Result<String, ApiError> {
    let mut rest = written;
    while let Some((_, after)) = rest.split_once('%') {
        let is_hex = after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if !is_hex {
            return Err(ApiError::malformed("the query has a % that is not followed by two hex digits"));
        }
        rest = after;
    }
    let spaced = written.replace('+', " ");
    let text = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| ApiError::malformed("the query is not UTF-8"))
}

/// The body as the text of a JSON object (as far as one can tell without parsing it).
async fn body_object(headers: &HeaderMap, body: Body, limits: Limits) -> Result<String, ApiError> {
    if body.is_end_stream() {
        return Ok(NOTHING.to_owned());
    }
    check_media_type(headers)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.bytes) {
        return Err(ApiError::body_too_large(limits.bytes));
    }
    let bytes =
        tokio::time::timeout(limits.time, collected(body, length.unwrap_or_default(), limits.bytes)).await.map_err(
            |_| ApiError::malformed(format!("the body did not arrive within {} s", limits.time.as_secs())),
        )??;
    let text = String::from_utf8(bytes).map_err(|_| ApiError::malformed("the body is not UTF-8"))?;
    let beginning = text.trim_ascii_start();
    if beginning.is_empty() {
        return Ok(NOTHING.to_owned());
    }
    if !beginning.starts_with('{') {
        return Err(ApiError::malformed("the body must be a JSON object"));
    }
    if is_nested_deeper_than(&text, MAX_DEPTH) {
        return Err(ApiError::malformed(format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(text)
}

/// JSON, or nothing said about it.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let essence = |name| {
        let value = headers.get(name)?.to_str().unwrap_or("(not text)");
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    };
    let is_json =
        |kind: &String| kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if essence(header::CONTENT_TYPE).is_some_and(|kind| !is_json(&kind)) {
        let message = "send the body as JSON, with the header Content-Type: application/json";
        return Err(ApiError::unsupported_media_type(message));
    }
    if essence(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(ApiError::unsupported_media_type("send the body uncompressed, without Content-Encoding"));
    }
    Ok(())
}

async fn collected(body: Body, length: usize, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(length.min(TRUSTED_LENGTH));
    let mut frames = body.into_data_stream();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| ApiError::malformed("the body broke off before its end"))?;
        if bytes.len() + frame.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

/// One pass over the bytes, without a stack: brackets inside texts do not count.
fn is_nested_deeper_than(text: &str, most: usize) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::value::RawValue;

    use super::*;
    use crate::{
        api::{error::Kind, wire::PageAsk},
        model::ModelPatch,
    };

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Sample {
        model_name: String,
        page: Option<PageAsk>,
        task_ids: Option<Vec<String>>,
        payload: Option<Box<RawValue>>,
    }

    /// The message of the refusal.
    fn refusal<T: DeserializeOwned>(text: &str) -> (Kind, String) {
        let error = read::<T>(text).err().unwrap();
        let id = super::super::exchange::RequestId::example();
        (error.kind(), error.message(&id))
    }

    async fn body(content: impl Into<Body>, headers: &[(header::HeaderName, &'static str)]) -> Result<String, Kind> {
        let pairs = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        body_object(&pairs.collect(), content.into(), Limits::of_bytes(100)).await.map_err(|error| error.kind())
    }

    #[test]
    fn a_field_at_fault_is_named_in_words() {
        for (text, message) in [
            ("{}", "modelName is required"),
            (r#"{"modelName":5}"#, "modelName must be a text"),
            (r#"{"modelName":null}"#, "modelName must be a text"),
            (r#"{"modelName":"a","modelName":"b"}"#, "modelName is given twice"),
            (r#"{"modelName":"a","taskIds":{}}"#, "taskIds must be a list"),
            (r#"{"modelName":"a","taskIds":["a",1]}"#, "taskIds must be a list of which each entry is a text"),
            (r#"{"modelName":"a","page":3}"#, "page must be an object"),
            (r#"{"modelName":"\ud800"}"#, "modelName cannot be read"),
            (
                r#"{"modelName":"a","page":{"pageNum":"x, expected y at line 1"}}"#,
                "page.pageNum must be a whole number of 64 bits, written as a number or as a text of digits",
            ),
        ] {
            assert_eq!(refusal::<Sample>(text), (Kind::Validation, message.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_number_is_whole_and_of_64_bits() {
        for number in ["1.0", "1e2", "1e400", "99999999999999999999", "\"1\"", "true", "[]", "{}"] {
            let text = format!(r#"{{"maxConcurrency":{number}}}"#);
            let message = "maxConcurrency must be a whole number".to_owned();
            if number == "1e400" {
                assert_eq!(refusal::<ModelPatch>(&text).0, Kind::Validation);
            } else {
                assert_eq!(refusal::<ModelPatch>(&text), (Kind::Validation, message), "{number}");
            }
        }
        assert_eq!(
            refusal::<ModelPatch>(r#"{"shared":1}"#),
            (Kind::Validation, "shared must be true or false".to_owned())
        );
    }

    #[test]
    fn what_is_not_json_is_malformed_even_behind_a_wrong_field() {
        for text in ["{", r#"{"modelName":5,"#, "{'a':1}", r#"{"modelName":"a"} x"#, r#"{"modelName":"a","b":tru}"#] {
            assert_eq!(refusal::<Sample>(text).0, Kind::Malformed, "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_a_payload_is_kept_to_the_letter() {
        let deep = format!(r#"{{"modelName":"a","new":1e999,"payload":{{ "x" : 1.0, "y": 1e999 }}{}}}"#, " ");
        let sample: Sample = read(&deep).unwrap();
        assert_eq!(sample.payload.unwrap().get(), r#"{ "x" : 1.0, "y": 1e999 }"#);
    }

    #[test]
    fn a_query_becomes_an_object_of_texts() {
        assert_eq!(query_object("").unwrap(), "{}");
        assert_eq!(query_object("id=5&&b=%C3%A4+%2B&c").unwrap(), r#"{"id":"5","b":"ä +","c":""}"#);
        for query in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=1&a=2", "a=%é1"] {
            assert!(query_object(query).is_err(), "{query}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_texts_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_nested_deeper_than(&nested(128), 128));
        assert!(is_nested_deeper_than(&nested(129), 128));
        assert!(!is_nested_deeper_than(&format!(r#"["\"{}"]"#, "[".repeat(500)), 128));
        assert!(is_nested_deeper_than(&format!(r#"["\\",{}]"#, nested(128)), 128));
        assert!(!is_nested_deeper_than(&"[]".repeat(500), 128));
    }

    #[tokio::test]
    async fn an_object_is_taken_and_nothing_counts_as_an_empty_one() {
        assert_eq!(body(r#" {"a":1}"#, &[]).await.as_deref(), Ok(r#" {"a":1}"#));
        assert_eq!(body("", &[]).await.as_deref(), Ok("{}"));
        assert_eq!(body(" \n", &[]).await.as_deref(), Ok("{}"));
    }

    #[tokio::test]
    async fn what_is_no_object_is_malformed() {
        let deep = "[".repeat(60);
        for content in [&b"[]"[..], b"null", b"hello", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}", deep.as_bytes()] {
            assert_eq!(body(content.to_vec(), &[]).await, Err(Kind::Malformed), "{content:?}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_on_its_word_and_by_count() {
        assert_eq!(body("{}", &[(header::CONTENT_LENGTH, "101")]).await, Err(Kind::TooLarge));
        assert_eq!(body(format!("{{{}}}", " ".repeat(99)), &[]).await, Err(Kind::TooLarge));
        assert!(body(format!("{{{}}}", " ".repeat(98)), &[]).await.is_ok());
    }

    #[tokio::test]
    async fn only_json_is_taken() {
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/a+json"] {
            assert!(body("{}", &[(header::CONTENT_TYPE, kind)]).await.is_ok(), "{kind}");
        }
        for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""] {
            let refused = body("{}", &[(header::CONTENT_TYPE, kind)]).await;
            assert_eq!(refused, Err(Kind::UnsupportedMediaType), "{kind}");
        }
        assert_eq!(body("{}", &[(header::CONTENT_ENCODING, "gzip")]).await, Err(Kind::UnsupportedMediaType));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_or_breaks_off_is_given_up() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let impatient = Limits { bytes: 100, time: Duration::ZERO };
        let refused = body_object(&HeaderMap::new(), Body::from_stream(never), impatient).await;
        assert_eq!(refused.map_err(|error| error.kind()), Err(Kind::Malformed));
        let broken = futures::stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("reset"))]);
        assert_eq!(body(Body::from_stream(broken), &[]).await, Err(Kind::Malformed));
    }
}
