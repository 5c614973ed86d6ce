//! The shape of every successful answer: `{"code": 0, "message": "OK", "data": …}`.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;

/// What a handler returns.
pub(crate) type Answer<T> = Result<Envelope<T>, ApiError>;

/// A successful answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Envelope<T> {
    /// Always 0; a failure has another number.
    #[schema(minimum = 0, maximum = 0, example = 0)]
    code: u16,
    /// Always `OK`.
    #[schema(example = "OK")]
    message: &'static str,
    /// What was asked for.
    data: T,
}

/// One page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageOf<T> {
    /// The rows of this page.
    list: Vec<T>,
    /// Rows on all pages.
    #[schema(example = 1)]
    total: i64,
}

/// `{}`: it is done, and there is nothing to say about it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {}

/// The answer with that data.
pub(crate) fn ok<T>(data: T) -> Answer<T> {
    Ok(Envelope { code: 0, message: "OK", data })
}

/// The answer with that page.
pub(crate) fn page<T>(list: Vec<T>, total: i64) -> Answer<PageOf<T>> {
    ok(PageOf { list, total })
}

impl<T: Serialize> IntoResponse for Envelope<T> {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        match serde_json::to_vec(&self) {
            Ok(body) => ([(header::CONTENT_TYPE, json)], body).into_response(),
            Err(error) => ApiError::internal(format!("cannot write the answer: {error}")).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn success_has_code_zero() {
        let response = ok(Done {}).unwrap().into_response();
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body, r#"{"code":0,"message":"OK","data":{}}"#);
    }
}
