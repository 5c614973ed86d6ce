//! A caller of the HTTP interface.

use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

/// Calls one service, with the same headers each time.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    headers: HeaderMap,
    http: reqwest::Client,
}

/// An answer, taken apart. Whatever the route, it had a request id, and its body was the envelope.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole envelope.
    pub body: Value,
}

impl Client {
    /// A caller of the service at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Client {
        let base = base.into().trim_end_matches('/').to_owned();
        Client { base, headers: HeaderMap::new(), http: reqwest::Client::new() }
    }

    /// This caller with one more header.
    pub fn header(mut self, name: &'static str, value: &str) -> Client {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// This caller as a user of a tenant.
    pub fn user(self, tenant: i64, name: &str) -> Client {
        self.header("x-user-info", &serde_json::json!({"tenantId": tenant, "userName": name}).to_string())
    }

    /// This caller as an admin of a tenant.
    pub fn admin(self, tenant: i64, name: &str) -> Client {
        let info = serde_json::json!({"tenantId": tenant, "userName": name, "admin": true});
        self.header("x-user-info", &info.to_string())
    }

    /// GET; `path` with its query.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// DELETE; `path` with its query.
    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// POST of a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    /// PUT of a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(&body)).await
    }

    /// A request to be finished by the test, for bodies and headers that are wrong on purpose.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).headers(self.headers.clone())
    }
}

impl Answer {
    /// Sends a request and takes its answer apart.
    pub async fn of(request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} is no JSON: {text}"));
        let answer = Answer { status, headers, body };
        answer.assert_shape();
        answer
    }

    /// The data of a success; panics with the whole answer on a failure.
    #[track_caller]
    pub fn data(&self) -> &Value {
        assert_eq!((self.status, &self.body["code"]), (StatusCode::OK, &Value::from(0)), "{}", self.body);
        &self.body["data"]
    }

    /// Status, code and kind of a failure.
    #[track_caller]
    pub fn failure(&self) -> (u16, i64, &str) {
        assert!(!self.status.is_success(), "{}", self.body);
        let kind = self.body["error"]["kind"].as_str().unwrap();
        (self.status.as_u16(), self.body["code"].as_i64().unwrap(), kind)
    }

    /// The field at fault.
    pub fn field(&self) -> Option<&str> {
        self.body["error"]["field"].as_str()
    }

    /// What is told to people.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap()
    }

    /// `Retry-After`, in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.headers.get("retry-after").map(|seconds| seconds.to_str().unwrap().parse().unwrap())
    }

    /// What every answer of every route has in common.
    fn assert_shape(&self) {
        let id = self.headers.get("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {}", self.body));
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.body);
        assert!(self.body["message"].is_string(), "{}", self.body);
        if self.status.is_success() {
            assert_eq!(self.body["code"], 0, "{}", self.body);
        } else {
            assert!(self.body["code"].as_i64().unwrap() > 0, "{}", self.body);
            assert_eq!(self.body["data"], Value::Null, "{}", self.body);
            assert_eq!(self.body["error"]["requestId"], id.to_str().unwrap(), "{}", self.body);
        }
    }
}
