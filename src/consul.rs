//! Consul: this node is found through it, and finds models and the file service through it.
//!
//! [`registration`] keeps this node in the agent's list of services, with a check that the agent
//! makes itself. [`services`] turns `consul://service/path` into the URL of an instance that passes its
//! checks. Neither keeps anything from working: without the agent this node is not found, and goes
//! on with the instances that it knows.

pub mod registration;
pub mod services;

use std::{error::Error, time::Duration};

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use url::Url;

pub use self::{
    registration::Registration,
    services::{NoInstance, Services},
};
use crate::config;

/// How long the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Most bytes of an answer: some thousand instances.
const MAX_ANSWER: usize = 4 << 20;

/// Where the agent wants its token.
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// The agent's HTTP API.
struct Agent {
    http: Client,
    address: Url,
}

/// Why the agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    #[error("the Consul agent cannot be reached: {0}")]
    Away(String),
    #[error("the Consul agent answered {0}")]
    Refused(StatusCode),
    #[error("the Consul agent's answer cannot be read: {0}")]
    Unreadable(String),
}

impl Agent {
    fn new(config: &config::Consul) -> Result<Agent, String> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            let mut token = HeaderValue::from_str(token).map_err(|_| "consul.token cannot be sent".to_owned())?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        let http = Client::builder()
            // The agent is a neighbour; a proxy would ask its own.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .default_headers(headers)
            .build()
            .map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Agent { http, address: config.address.clone() })
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        self.http.request(method, url)
    }

    /// A successful answer, or `None` for 404.
    async fn answer(&self, request: RequestBuilder) -> Result<Option<Response>, Trouble> {
        let answer = request.send().await.map_err(|error| Trouble::Away(root_cause(&error)))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => Err(Trouble::Refused(status)),
        }
    }
}

async fn body(mut answer: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Trouble::Away(root_cause(&error)))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Trouble::Unreadable(format!("it is longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Error::source(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    causes.last().map_or_else(|| "no answer".to_owned(), ToString::to_string)
}
