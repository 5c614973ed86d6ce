//! A file service that takes multipart POSTs, as the Go version used.

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{
    Body, Client, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    multipart::{Form, Part},
    redirect,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::{Placed, StorageError, by, deadline, excerpt};
use crate::{
    clock,
    consul::Services,
    spool::{Parked, ReadError, file_type},
    task::CallerHeaders,
};

/// Name of the form's field.
const FIELD: &str = "file";

/// Who is calling, as a gateway in front of the file service would say it.
const USER_INFO: HeaderName = HeaderName::from_static("x-user-info");

/// Where services put the URL of what they stored, in the order they are asked; `/data` itself
/// where it is a string.
const USUAL_PLACES: [&str; 7] =
    ["/fileURL", "/fileUrl", "/url", "/data/fileURL", "/data/fileUrl", "/data/url", "/data"];

/// Bytes read from the parked file at once.
const PIECE: usize = 256 * 1024;

/// Most bytes read of an answer, which should hold one URL.
const MAX_ANSWER: usize = 64 * 1024;

/// Most characters of a URL.
const MAX_URL: usize = 4096;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub struct HttpStorage {
    client: Client,
    url: Url,
    services: Services,
    url_pointer: Option<Arc<str>>,
    timeout: Duration,
}

impl HttpStorage {
    pub(super) fn open(
        url: &Url,
        services: &Services,
        url_pointer: Option<&str>,
        timeout: Duration,
    ) -> Result<HttpStorage, String> {
        // A redirected POST would arrive without its file, and might carry the caller's
        // credentials to somewhere else.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| format!("oss: the HTTP client cannot be built: {error}"))?;
        let url_pointer = url_pointer.map(Into::into);
        Ok(HttpStorage { client, url: url.clone(), services: services.clone(), url_pointer, timeout })
    }

    pub(super) async fn put(&self, parked: &Parked, headers: &CallerHeaders) -> Result<Placed, StorageError> {
        let deadline = deadline(self.timeout);
        let url = by(deadline, self.post(parked, headers)).await?;
        Ok(Placed { url, key: String::new() })
    }

    /// Only whether somebody listens there: every request to the service itself would be an upload.
    pub(super) async fn ping(&self) -> Result<(), StorageError> {
        let url = self.instance().await?;
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        match timeout(PING_TIMEOUT, TcpStream::connect(format!("{host}:{port}"))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(StorageError::new(format!("the file service cannot be reached: {}", error.kind()))),
            Err(_) => Err(StorageError::new("the file service cannot be reached: no connection in time")),
        }
    }

    /// The service itself, or a healthy instance of the service that it is named by.
    async fn instance(&self) -> Result<Url, StorageError> {
        self.services.resolve(&self.url).await.map_err(|error| StorageError::new(error.to_string()))
    }

    async fn post(&self, parked: &Parked, headers: &CallerHeaders) -> Result<String, StorageError> {
        let name = format!("asynch_{}_{}.{}", clock::now().timestamp(), parked.key.id, parked.file_type);
        let request = self.client.post(self.instance().await?).headers(passed_on(headers)?);
        let request = match parked.in_memory() {
            Some(content) => in_one_piece(request, &name, &parked.file_type, content),
            None => {
                let content = Body::wrap_stream(parked.open().await?.into_stream(PIECE));
                let part = Part::stream_with_length(content, parked.size)
                    .file_name(name)
                    .mime_str(file_type::content_type(&parked.file_type))
                    .map_err(|error| describe(&error))?;
                request.multipart(Form::new().part(FIELD, part))
            }
        };
        let response = request.send().await.map_err(|error| describe(&error))?;
        let status = response.status();
        let answer = read_answer(response).await?;
        self.stored_url(status, &answer, headers)
    }

    fn stored_url(&self, status: StatusCode, answer: &[u8], headers: &CallerHeaders) -> Result<String, StorageError> {
        let refused = |why: &str| {
            let answer = excerpt(&masked(&String::from_utf8_lossy(answer), headers));
            StorageError::new(format!("the file service answered {} {why}: {answer}", status.as_u16()))
        };
        if !status.is_success() {
            return Err(refused("to the upload"));
        }
        let answer: Value = serde_json::from_slice(answer).map_err(|_| refused("without JSON"))?;
        if !says_success(&answer) {
            return Err(refused("with an error code"));
        }
        let url = match self.url_pointer.as_deref() {
            Some(pointer) => find_url(&answer, &[pointer]),
            None => find_url(&answer, &USUAL_PLACES),
        };
        url.ok_or_else(|| refused("without a URL"))
    }
}

/// The form with a small file, written by hand: as a stream of parts it takes longer to put together
/// than to send. The boundary is random, so that no content holds it.
fn in_one_piece(request: RequestBuilder, name: &str, file_type: &str, content: &[u8]) -> RequestBuilder {
    let boundary = clock::token();
    let content_type = file_type::content_type(file_type);
    let mut body = Vec::with_capacity(content.len() + 256 + name.len());
    body.extend_from_slice(
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{FIELD}\"; filename=\"{name}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        )
        .as_bytes(),
    );
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    request.header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}")).body(body)
}

/// The creating caller's headers, which the file service may want to judge it by.
fn passed_on(headers: &CallerHeaders) -> Result<HeaderMap, StorageError> {
    let mut map = HeaderMap::new();
    for (name, value) in [(AUTHORIZATION, &headers.authorization), (USER_INFO, &headers.user_info)] {
        if !value.is_empty() {
            let mut value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| StorageError::new(format!("the caller's {name} cannot be passed on")))?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
    }
    Ok(map)
}

async fn read_answer(mut response: Response) -> Result<Vec<u8>, StorageError> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        let room = MAX_ANSWER.saturating_sub(answer.len()).min(chunk.len());
        answer.extend_from_slice(&chunk[..room]);
        if room < chunk.len() {
            break;
        }
    }
    Ok(answer)
}

/// An envelope's `code` says success with 0 or, in services that repeat the HTTP status, with 2xx.
fn says_success(answer: &Value) -> bool {
    match answer.get("code") {
        None | Some(Value::Null) => true,
        Some(Value::Number(code)) => code.as_i64().is_some_and(is_success_code),
        Some(Value::String(code)) => code.parse().is_ok_and(is_success_code),
        Some(_) => false,
    }
}

fn is_success_code(code: i64) -> bool {
    code == 0 || (200..300).contains(&code)
}

/// The first of the places that holds a text. It is taken as it is, relative URLs too: how callers
/// get to the file service is between the two of them.
fn find_url(answer: &Value, places: &[&str]) -> Option<String> {
    places
        .iter()
        .filter_map(|place| answer.pointer(place)?.as_str())
        .map(str::trim)
        .find(|url| !url.is_empty() && url.len() <= MAX_URL && !url.contains(char::is_control))
        .map(str::to_owned)
}

/// A failed request in words, without its URL, which may hold a key.
fn describe(error: &reqwest::Error) -> StorageError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<ReadError>() {
            Some(ReadError::Gone(why)) => return ReadError::Gone(why).into(),
            Some(error @ ReadError::Disk(_)) => return StorageError::new(error.to_string()),
            None => cause = error.source(),
        }
    }
    let what = if error.is_connect() {
        "the file service cannot be reached"
    } else if error.is_timeout() {
        "the file service did not answer in time"
    } else {
        "the connection to the file service broke"
    };
    StorageError::new(what)
}

/// The answer without what was passed on, which it may echo: as it was, inside a JSON string, or
/// without the scheme.
fn masked(answer: &str, headers: &CallerHeaders) -> String {
    let CallerHeaders { authorization, user_info } = headers;
    let token = authorization.split_whitespace().last().unwrap_or_default();
    let escaped = Value::from(user_info.as_str()).to_string();
    [authorization, token, user_info, escaped.trim_matches('"')]
        .into_iter()
        .filter(|secret| !secret.is_empty())
        .fold(answer.to_owned(), |answer, secret| answer.replace(secret, "****"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: CallerHeaders = CallerHeaders { authorization: String::new(), user_info: String::new() };

    fn storage(url_pointer: Option<&str>) -> HttpStorage {
        let url = Url::parse("http://files.example/upload").unwrap();
        HttpStorage::open(&url, &Services::default(), url_pointer, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn the_url_is_found_in_all_the_usual_places() {
        for answer in [
            r#"{"fileURL":"u"}"#,
            r#"{"fileUrl":" u "}"#,
            r#"{"url":"u","code":0}"#,
            r#"{"code":0,"data":{"fileURL":"u"}}"#,
            r#"{"code":"0","data":{"fileUrl":"u"}}"#,
            r#"{"code":200,"data":{"url":"u"}}"#,
            r#"{"code":null,"data":"u"}"#,
            r#"{"url":"","data":{"url":7,"fileUrl":"u"}}"#,
        ] {
            let url = storage(None).stored_url(StatusCode::CREATED, answer.as_bytes(), &NOBODY);
            assert_eq!(url.as_deref(), Ok("u"), "{answer}");
        }
    }

    #[test]
    fn a_pointer_replaces_the_usual_places() {
        let answer = br#"{"url":"x","result":[{"link":"/files/1"}]}"#;
        let url = storage(Some("/result/0/link")).stored_url(StatusCode::OK, answer, &NOBODY);
        assert_eq!(url.as_deref(), Ok("/files/1"));
        assert!(storage(Some("/result/1/link")).stored_url(StatusCode::OK, answer, &NOBODY).is_err());
    }

    #[test]
    fn anything_else_is_a_failed_upload_with_status_and_answer() {
        let cases: &[(u16, &str, &str)] = &[
            (500, "boom", "answered 500 to the upload: boom"),
            (302, "", "answered 302 to the upload: "),
            (200, "", "answered 200 without JSON: "),
            (200, "OK", "answered 200 without JSON: OK"),
            (200, r#"{"code":61,"url":"u"}"#, "answered 200 with an error code: {\"code\":61"),
            (200, r#"{"code":false,"url":"u"}"#, "with an error code"),
            (200, r#"{"code":0,"data":{}}"#, "without a URL"),
            (200, r#"{"url":"a\nb"}"#, "without a URL"),
            (200, "[]", "without a URL"),
        ];
        for (status, answer, expected) in cases {
            let status = StatusCode::from_u16(*status).unwrap();
            let error = storage(None).stored_url(status, answer.as_bytes(), &NOBODY).unwrap_err();
            assert!(error.message.contains(expected), "{} lacks {expected}", error.message);
            assert!(!error.file_gone);
        }
    }

    #[test]
    fn what_was_passed_on_is_not_repeated_in_a_message() {
        let headers = CallerHeaders { authorization: "Bearer abc".into(), user_info: r#"{"tenantId":"7"}"#.into() };
        let answer = r#"no Bearer abc, no abc, no {"tenantId":"7"}, no "{\"tenantId\":\"7\"}""#;
        assert_eq!(masked(answer, &headers), r#"no ****, no ****, no ****, no "****""#);
        assert_eq!(masked("plain", &NOBODY), "plain");
    }
}
