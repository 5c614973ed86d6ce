//! HTTP/1.1 as cheap as it gets, so that the client takes little of the machine that it measures:
//! one connection, one request at a time, bytes that were made beforehand.

use std::{io, sync::Arc};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

/// More headers than any answer of ours has.
const MOST_HEADERS: usize = 64;

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    host: Arc<str>,
    authority: Arc<str>,
    prefix: Arc<str>,
    /// Lines of the head that every request has.
    headers: Arc<str>,
}

/// A connection that is kept.
pub(super) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

impl Target {
    /// Takes an `http` URL and `Name: value` lines.
    ///
    /// # Errors
    /// A URL that cannot be used, or a header that is none.
    pub(super) fn new(url: &str, headers: &[String]) -> anyhow::Result<Target> {
        let parsed = Url::parse(url).with_context(|| format!("{url} is not a URL"))?;
        let (Some(host), "http") = (parsed.host_str(), parsed.scheme()) else {
            bail!("{url} cannot be measured: give a URL that begins with http:// and has a host");
        };
        let port = parsed.port_or_known_default().unwrap_or(80);
        let mut lines = String::new();
        for header in headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                bail!("{header:?} is no header; write 'Name: value'");
            }
            lines.push_str(header.trim());
            lines.push_str("\r\n");
        }
        Ok(Target {
            host: format!("{host}:{port}").into(),
            authority: format!("{host}:{port}").into(),
            prefix: parsed.path().trim_end_matches('/').into(),
            headers: lines.into(),
        })
    }

    /// The same with one more header.
    pub(super) fn with(&self, header: &str) -> Target {
        Target { headers: format!("{}{header}\r\n", self.headers).into(), ..self.clone() }
    }

    /// The bytes of a POST with a JSON body.
    pub(super) fn post(&self, path: &str, body: &str) -> Vec<u8> {
        let Target { authority, prefix, headers, .. } = self;
        let length = body.len();
        format!(
            "POST {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\n{headers}content-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// The bytes of a GET.
    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        let Target { authority, prefix, headers, .. } = self;
        format!("GET {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\n{headers}\r\n").into_bytes()
    }

    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(&*self.host).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Vec::with_capacity(4096) })
    }
}

impl Connection {
    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// A connection that breaks, or an answer without a length.
    pub(super) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        let (status, head, length) = loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the connection was closed before the answer was complete");
            }
            if let Some(parsed) = head_of(&self.answer)? {
                break parsed;
            }
        };
        while self.answer.len() < head + length {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the connection was closed before the answer was complete");
            }
        }
        Ok(Answer { status, body: &self.answer[head..head + length] })
    }
}

/// Status, length of the head and length of the body, once the head is complete.
fn head_of(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).context("the answer is not HTTP")? else {
        return Ok(None);
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    Ok(Some((response.code.unwrap_or_default(), head, length.context("the answer has no Content-Length")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(head_of(bytes).unwrap(), Some((200, bytes.len() - 3, 3)));
        assert_eq!(head_of(&bytes[..30]).unwrap(), None);
        assert!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(head_of(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_goes_below_the_path_of_the_service() {
        let target = Target::new("http://h:1/below/", &["A: b".to_owned()]).unwrap().with("C: d");
        let request = String::from_utf8(target.post("/p", "{}")).unwrap();
        assert!(request.starts_with("POST /below/p HTTP/1.1\r\nhost: h:1\r\nA: b\r\nC: d\r\n"), "{request}");
        assert!(request.ends_with("content-length: 2\r\n\r\n{}"), "{request}");
        assert!(Target::new("https://h", &[]).is_err() && Target::new("http://h", &["x".to_owned()]).is_err());
    }
}
