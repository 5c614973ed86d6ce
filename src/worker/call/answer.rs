//! What a model answered: the pieces of its body, and why an answer is none.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::BodyExt as _;
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{HeaderMap, RETRY_AFTER},
};

use crate::{
    clock,
    model::Model,
    task::{Failure, FailureKind, retry::MAX_RETRY_AFTER},
};

/// Characters of a model's answer that go into `errorMsg`.
const SNIPPET: usize = 500;

/// Bytes of a failed answer that are read for it: 500 characters of at most four bytes, and the
/// longest header value, so that a key is masked before the text is cut through it.
const SNIPPET_BYTES: usize = 4 * SNIPPET + crate::model::headers::MAX_LENGTH;

/// The next piece of a body, as it came; trailers say nothing to us.
pub(super) async fn next(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await?.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(_trailers)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// An answer that is not 2xx.
pub(super) async fn refused(answer: Response<Incoming>, model: &Model) -> Failure {
    let status = answer.status();
    let retry_after = retry_after(status, answer.headers(), clock::now());
    let beginning = model.spec.api_key.mask_in(&beginning(answer.into_body()).await);
    let snippet: String = beginning.trim().chars().take(SNIPPET).collect();
    let colon = if snippet.is_empty() { "" } else { ": " };
    let message = format!("the model answered {status}{colon}{snippet}");
    Failure { kind: FailureKind::Status(status.as_u16()), message, retry_after }
}

/// The beginning of a failed answer, as far as it comes.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SNIPPET_BYTES {
        match next(&mut body).await {
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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

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

    proptest! {
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
