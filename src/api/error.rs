//! What a caller is told when a request fails, and how it looks on the wire.
//!
//! An [`ApiError`] becomes a response in two steps: as a response it only carries itself along, and
//! the outermost layer, which knows the request id, writes the envelope. So every failure, wherever
//! it arises, has the same shape.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, Type},
};

use super::exchange::RequestId;
use crate::{
    caller::{ForeignTenant, Scope},
    job::{Job, RunId},
    model::FieldError,
    store::StoreError,
};

/// Seconds after which a caller may try again while a dependency is out of reach: the time that a
/// restarted database or a failover typically takes.
const OUTAGE_RETRY_AFTER: u32 = 5;

/// Seconds after which a caller may try again at a full queue. A lane gives up places one by one as
/// its tasks finish, so a short wait is worth it.
const QUEUE_FULL_RETRY_AFTER: u32 = 2;

/// The kinds of failure that a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A field is missing, of the wrong type or out of range.
    Validation,
    /// The body is not JSON, or a query cannot be read.
    Malformed,
    /// The caller is unknown.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// No such thing, or one that belongs to another tenant.
    NotFound,
    /// The route has no such method.
    MethodNotAllowed,
    /// The state of things does not allow it.
    Conflict,
    /// The body is over the limit.
    TooLarge,
    /// The body is not sent as JSON.
    UnsupportedMediaType,
    /// The `Range` asked for lies outside the file.
    RangeNotSatisfiable,
    /// The lane has no place left.
    QueueFull,
    /// The caller calls too often.
    RateLimited,
    /// Our fault.
    Internal,
    /// A dependency is out of reach, or the service is stopping.
    Unavailable,
}

/// A failed request: what to tell the caller, and what to tell the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    kind: Kind,
    message: String,
    field: Option<String>,
    retry_after: Option<u32>,
    challenge: Option<Challenge>,
    cause: Option<String>,
}

/// What `WWW-Authenticate` says (RFC 6750 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Challenge {
    /// Come through the gateway.
    Gateway,
    /// Bring a token.
    Token,
    /// Bring another token.
    OtherToken,
    /// Bring a token with that scope.
    Scope(Scope),
}

/// A failed request: `code` is never 0, `data` is always null.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// GoFrame's number for the kind of failure.
    #[schema(example = 51)]
    code: u16,
    /// What is wrong and what to do.
    #[schema(example = "modelName is required: 1 to 128 characters")]
    message: String,
    /// Always null.
    #[schema(schema_with = nothing)]
    data: (),
    /// What a program can act on.
    error: Fault,
}

/// What a program can act on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fault {
    /// The kind of failure.
    #[schema(example = "validation")]
    kind: &'static str,
    /// The one field at fault, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "modelName")]
    field: Option<String>,
    /// The id under which the service's log tells more; also in `X-Request-Id`.
    #[schema(example = "5b1f0e6c0a5e4c1c8a52f1c2a4f0e9d3")]
    request_id: String,
}

impl Kind {
    /// Every kind, in the order of the contract's table.
    pub(crate) const ALL: [Kind; 14] = [
        Kind::Validation,
        Kind::Malformed,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::Conflict,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::RangeNotSatisfiable,
        Kind::QueueFull,
        Kind::RateLimited,
        Kind::Internal,
        Kind::Unavailable,
    ];

    /// The HTTP status.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Kind::Validation | Kind::Malformed => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Kind::QueueFull | Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The envelope's `code`, from GoFrame's table.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Kind::Internal => 50,
            Kind::Validation => 51,
            Kind::Conflict => 55,
            Kind::Unauthenticated => 61,
            Kind::Forbidden => 62,
            Kind::QueueFull | Kind::RateLimited | Kind::Unavailable => 63,
            Kind::NotFound => 65,
            Kind::Malformed
            | Kind::MethodNotAllowed
            | Kind::TooLarge
            | Kind::UnsupportedMediaType
            | Kind::RangeNotSatisfiable => 66,
        }
    }

    /// The word in `error.kind`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Validation => "validation",
            Kind::Malformed => "malformed",
            Kind::Unauthenticated => "unauthenticated",
            Kind::Forbidden => "forbidden",
            Kind::NotFound => "not_found",
            Kind::MethodNotAllowed => "method_not_allowed",
            Kind::Conflict => "conflict",
            Kind::TooLarge => "too_large",
            Kind::UnsupportedMediaType => "unsupported_media_type",
            Kind::RangeNotSatisfiable => "range_not_satisfiable",
            Kind::QueueFull => "queue_full",
            Kind::RateLimited => "rate_limited",
            Kind::Internal => "internal",
            Kind::Unavailable => "unavailable",
        }
    }

    /// True where the same request may succeed later: the answer says when to try again.
    pub(crate) const fn passes_with_time(self) -> bool {
        matches!(self, Kind::QueueFull | Kind::RateLimited | Kind::Unavailable)
    }

    /// When it is answered, for the OpenAPI document.
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Kind::Validation => "a field is missing, of the wrong type or out of range; the message names it",
            Kind::Malformed => "the body is not JSON, or a query cannot be read",
            Kind::Unauthenticated => "the caller is unknown",
            Kind::Forbidden => "the caller is known and may not do this",
            Kind::NotFound => "no such model, task, file or route, or one that belongs to another tenant",
            Kind::MethodNotAllowed => "the route has no such method; see Allow",
            Kind::Conflict => "the state of things does not allow it",
            Kind::TooLarge => "the body is over the configured limit",
            Kind::UnsupportedMediaType => "the body is not sent as JSON",
            Kind::RangeNotSatisfiable => "the Range asked for lies outside the file",
            Kind::QueueFull => "the queue of this tenant and model is full; see Retry-After",
            Kind::RateLimited => "too many requests; see Retry-After",
            Kind::Internal => "the service is at fault; quote the request id",
            Kind::Unavailable => "a dependency is out of reach; see Retry-After",
        }
    }
}

impl ApiError {
    fn new(kind: Kind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into(), field: None, retry_after: None, challenge: None, cause: None }
    }

    /// A field breaks its rule; `complaint` follows the field's name: `must be …`, `is required`.
    pub(crate) fn validation(field: impl Into<String>, complaint: &str) -> ApiError {
        let field = field.into();
        let message = format!("{field} {complaint}");
        ApiError { field: Some(field), ..ApiError::new(Kind::Validation, message) }
    }

    /// Body or query cannot be read at all.
    pub(crate) fn malformed(message: impl Into<String>) -> ApiError {
        ApiError::new(Kind::Malformed, message)
    }

    /// Nobody that a gateway told us of.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> ApiError {
        ApiError { challenge: Some(Challenge::Gateway), ..ApiError::new(Kind::Unauthenticated, message) }
    }

    /// No token came along.
    pub(crate) fn no_token(message: impl Into<String>) -> ApiError {
        ApiError { challenge: Some(Challenge::Token), ..ApiError::new(Kind::Unauthenticated, message) }
    }

    /// The token that came along is not good.
    pub(crate) fn bad_token(message: impl Into<String>) -> ApiError {
        ApiError { challenge: Some(Challenge::OtherToken), ..ApiError::new(Kind::Unauthenticated, message) }
    }

    /// The caller may not use this route.
    pub(crate) fn lacks_scope(scope: Scope) -> ApiError {
        let message = format!("this call needs the scope {}, which the token does not have", scope.word());
        ApiError { challenge: Some(Challenge::Scope(scope)), ..ApiError::new(Kind::Forbidden, message) }
    }

    /// Nothing is served under that path.
    pub(crate) fn no_such_route() -> ApiError {
        ApiError::new(Kind::NotFound, "no such route; /openapi.json lists them")
    }

    /// The route exists, with other methods.
    pub(crate) fn no_such_method() -> ApiError {
        ApiError::new(
            Kind::MethodNotAllowed,
            "this route does not take that method; the Allow header lists those it does",
        )
    }

    /// The tenant has no model of that id.
    pub(crate) fn no_such_model() -> ApiError {
        ApiError::new(Kind::NotFound, "no such model; listModel shows those there are")
    }

    /// Neither the tenant nor tenant 0 has a model of that name.
    pub(crate) fn no_model_named(name: &str) -> ApiError {
        ApiError::new(Kind::NotFound, format!("no model is called {name}; register it with createModel"))
    }

    /// The tenant has no task of that id.
    pub(crate) fn no_such_task() -> ApiError {
        ApiError::new(Kind::NotFound, "no such task; it may have been purged after its time")
    }

    /// No file has that name.
    pub(crate) fn no_such_file() -> ApiError {
        ApiError::new(
            Kind::NotFound,
            "no such file; it may have been deleted with its task, or its URL has run out: ask for the task again",
        )
    }

    /// The file is shorter than the range asked for.
    pub(crate) fn range_outside_file() -> ApiError {
        ApiError::new(Kind::RangeNotSatisfiable, "the Range header asks for bytes that the file does not have")
    }

    /// Another model of the tenant has that name.
    pub(crate) fn name_taken() -> ApiError {
        let taken =
            ApiError::new(Kind::Conflict, "another model has that modelName; choose another or update that one");
        ApiError { field: Some("modelName".to_owned()), ..taken }
    }

    /// There is no job of that name.
    pub(crate) fn no_such_job() -> ApiError {
        let names = Job::ALL.map(Job::name).join(", ");
        let message = format!("no such job; the jobs are {names}");
        ApiError { field: Some("job".to_owned()), ..ApiError::new(Kind::NotFound, message) }
    }

    /// A run of the job waits or is under way.
    pub(crate) fn job_has_open_run(job: Job, run: RunId) -> ApiError {
        let message =
            format!("run {} of {} waits or is under way; see listRun, and ask again after it", run.0, job.name());
        ApiError::new(Kind::Conflict, message)
    }

    /// The model takes no tasks.
    pub(crate) fn model_disabled(name: &str) -> ApiError {
        ApiError::new(
            Kind::Conflict,
            format!("model {name} is disabled and takes no new tasks; enable it with updateModel"),
        )
    }

    /// This process does not log, so there is no level to change.
    pub(crate) fn not_logging(message: impl Into<String>) -> ApiError {
        ApiError::new(Kind::Conflict, message)
    }

    /// The body is over `limit` bytes.
    pub(crate) fn body_too_large(limit: usize) -> ApiError {
        ApiError::new(Kind::TooLarge, format!("the body is over {limit} bytes; pass large input by inputRef"))
    }

    /// The body is something else than JSON.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> ApiError {
        ApiError::new(Kind::UnsupportedMediaType, message)
    }

    /// The lane holds `limit` tasks already.
    pub(crate) fn queue_full(limit: i32) -> ApiError {
        let message = format!("the queue is full with {limit} tasks; try again later, or raise the model's queueLimit");
        ApiError { retry_after: Some(QUEUE_FULL_RETRY_AFTER), ..ApiError::new(Kind::QueueFull, message) }
    }

    /// The tenant has asked too often; the next request may come in `seconds`.
    pub(crate) fn rate_limited(seconds: u32) -> ApiError {
        let message = "too many requests of this tenant; slow down, or ask the operator about limits.requestsPerSecond";
        ApiError { retry_after: Some(seconds.max(1)), ..ApiError::new(Kind::RateLimited, message) }
    }

    /// Something the service needs is away.
    pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError { retry_after: Some(OUTAGE_RETRY_AFTER), ..ApiError::new(Kind::Unavailable, message) }
    }

    /// Our fault; `cause` goes to the log only.
    pub(crate) fn internal(cause: impl Into<String>) -> ApiError {
        ApiError { cause: Some(cause.into()), ..ApiError::new(Kind::Internal, "internal error") }
    }

    /// What kind of failure it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What to log and not to tell.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// What to tell, under that request id.
    pub(crate) fn message(&self, id: &RequestId) -> String {
        match self.kind {
            Kind::Internal => format!("{}, quote request id {id} when you report it", self.message),
            _ => self.message.clone(),
        }
    }

    /// The envelope, as JSON text.
    pub(crate) fn body(&self, id: &RequestId) -> Bytes {
        let failure = Failure {
            code: self.kind.code(),
            message: self.message(id),
            data: (),
            error: Fault { kind: self.kind.name(), field: self.field.clone(), request_id: id.to_string() },
        };
        // Texts and numbers only: there is nothing in it that cannot be written.
        serde_json::to_vec(&failure).unwrap_or_default().into()
    }

    /// The envelope as it appears for this kind, for the OpenAPI document.
    pub(crate) fn example(kind: Kind) -> serde_json::Value {
        let mut error = ApiError::new(kind, kind.description());
        if kind == Kind::Validation {
            error = ApiError::validation("modelName", "is required: 1 to 128 characters");
        }
        serde_json::from_slice(&error.body(&RequestId::example())).unwrap_or_default()
    }

    /// Writes the envelope of a failure that `response` carries along; any other passes through.
    pub(crate) fn rendered(mut response: Response, id: &RequestId) -> Response {
        let Some(error) = response.extensions().get::<ApiError>() else {
            return response;
        };
        let body = error.body(id);
        let (retry_after, challenge) = (error.retry_after, error.challenge);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge.words()));
        }
        *response.body_mut() = Body::from(body);
        response
    }
}

impl Challenge {
    const fn words(self) -> &'static str {
        match self {
            Challenge::Gateway => "X-User-Info realm=\"model-asynch\"",
            Challenge::Token => "Bearer realm=\"model-asynch\"",
            Challenge::OtherToken => "Bearer realm=\"model-asynch\", error=\"invalid_token\"",
            Challenge::Scope(scope) => scope_challenge(scope),
        }
    }
}

const fn scope_challenge(scope: Scope) -> &'static str {
    macro_rules! lacking {
        ($scope:literal) => {
            concat!("Bearer realm=\"model-asynch\", error=\"insufficient_scope\", scope=\"", $scope, "\"")
        };
    }
    match scope {
        Scope::TaskWrite => lacking!("task:write"),
        Scope::TaskRead => lacking!("task:read"),
        Scope::ModelWrite => lacking!("model:write"),
        Scope::StatRead => lacking!("stat:read"),
        Scope::Admin => lacking!("admin"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> ApiError {
        let kind = if error.forbidden { Kind::Forbidden } else { Kind::Validation };
        ApiError { kind, ..ApiError::validation(error.field, &error.message) }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::Unavailable(_) => {
                let away = ApiError::unavailable("the database is out of reach; try again later");
                ApiError { cause: Some(error.to_string()), ..away }
            }
            StoreError::Broken(_) => ApiError::internal(error.to_string()),
        }
    }
}

impl From<ForeignTenant> for ApiError {
    fn from(ForeignTenant: ForeignTenant) -> ApiError {
        let message = "tenantId is not your own, and only an admin may act for another tenant";
        ApiError { field: Some("tenantId".to_owned()), ..ApiError::new(Kind::Forbidden, message) }
    }
}

/// The type of `null`, for the OpenAPI document.
fn nothing() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn rendered(error: ApiError) -> (Response<()>, Value) {
        let response = ApiError::rendered(error.into_response(), &RequestId::example());
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (Response::from_parts(parts, ()), serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn status_code_and_name_are_those_of_the_contract() {
        let table: Vec<(u16, u16, &str)> =
            Kind::ALL.iter().map(|kind| (kind.status().as_u16(), kind.code(), kind.name())).collect();
        assert_eq!(
            table,
            [
                (400, 51, "validation"),
                (400, 66, "malformed"),
                (401, 61, "unauthenticated"),
                (403, 62, "forbidden"),
                (404, 65, "not_found"),
                (405, 66, "method_not_allowed"),
                (409, 55, "conflict"),
                (413, 66, "too_large"),
                (415, 66, "unsupported_media_type"),
                (416, 66, "range_not_satisfiable"),
                (429, 63, "queue_full"),
                (429, 63, "rate_limited"),
                (500, 50, "internal"),
                (503, 63, "unavailable"),
            ]
        );
    }

    #[tokio::test]
    async fn a_failure_is_an_envelope_that_names_field_and_request() {
        let (response, body) = rendered(ApiError::validation("modelName", "is required")).await;
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(
            body,
            json!({
                "code": 51,
                "message": "modelName is required",
                "data": null,
                "error": {"kind": "validation", "field": "modelName", "requestId": RequestId::example().to_string()},
            })
        );
    }

    #[tokio::test]
    async fn the_field_is_left_out_where_none_is_at_fault() {
        let (_, body) = rendered(ApiError::no_such_route()).await;
        assert_eq!(body["error"].get("field"), None);
    }

    #[tokio::test]
    async fn what_passes_with_time_says_when_to_try_again() {
        for error in [ApiError::queue_full(10), ApiError::unavailable("away")] {
            let (response, _) = rendered(error).await;
            let seconds: u32 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!(seconds >= 1);
        }
        let (response, _) = rendered(ApiError::no_such_task()).await;
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[tokio::test]
    async fn who_is_not_let_in_is_told_what_to_bring() {
        for (error, challenge) in [
            (ApiError::unauthenticated("x"), "X-User-Info realm=\"model-asynch\""),
            (ApiError::no_token("x"), "Bearer realm=\"model-asynch\""),
            (ApiError::bad_token("x"), "Bearer realm=\"model-asynch\", error=\"invalid_token\""),
        ] {
            assert_eq!(rendered(error).await.0.headers()["www-authenticate"], challenge);
        }
        for scope in Scope::ALL {
            let (response, body) = rendered(ApiError::lacks_scope(scope)).await;
            let challenge = response.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.ends_with(&format!("error=\"insufficient_scope\", scope=\"{}\"", scope.word())));
            assert!(body["message"].as_str().unwrap().contains(scope.word()), "{body}");
        }
    }

    #[tokio::test]
    async fn the_cause_of_an_internal_error_is_never_told() {
        let (_, body) = rendered(StoreError::Broken("no such table: secrets".into()).into()).await;
        let text = body.to_string();
        assert!(!text.contains("secrets") && text.contains(&format!("request id {}", RequestId::example())), "{text}");
        let (response, body) = rendered(StoreError::Unavailable("10.0.0.7 refused".into()).into()).await;
        assert_eq!(response.status(), 503);
        assert!(!body.to_string().contains("10.0.0.7"));
    }

    #[test]
    fn a_fine_value_that_this_caller_may_not_set_is_forbidden() {
        let error = FieldError { field: "shared", message: "is not yours to set".into(), forbidden: true };
        let error = ApiError::from(error);
        assert_eq!((error.kind, error.field.as_deref()), (Kind::Forbidden, Some("shared")));
    }
}
