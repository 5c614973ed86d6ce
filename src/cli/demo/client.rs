//! The calls of the service that the demo makes, as a caller would make them, and as a caller can
//! repeat them by hand.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// How long one call may take; the service answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A caller of the service.
pub(super) struct Client {
    http: reqwest::Client,
    service: String,
}

/// A call: all that the demo needs are POST with a JSON body.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) path: &'static str,
    pub(super) body: Value,
}

/// The envelope of every answer.
#[derive(Deserialize)]
struct Envelope {
    code: i64,
    message: String,
    data: Value,
}

/// Answer of createTask.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    pub(super) task_id: String,
}

/// Answer of listTask and of getTaskBatch.
#[derive(Deserialize)]
pub(super) struct List<T> {
    pub(super) list: Vec<T>,
}

/// A task as listTask shows it, as far as it is needed here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) task_id: String,
    pub(super) state: i64,
    pub(super) error_msg: String,
    pub(super) retry_count: u32,
    pub(super) file_type: String,
    pub(super) file_size: u64,
}

/// A result as getTaskBatch hands it out.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PickedUp {
    pub(super) task_id: String,
    pub(super) state: i64,
    pub(super) oss_file: String,
    pub(super) file_type: String,
    pub(super) file_size: u64,
}

impl Client {
    pub(super) fn new(service: &str) -> anyhow::Result<Client> {
        // A proxy is for the way out, and all of this stays on the machine.
        let http =
            reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().context("cannot call the service")?;
        Ok(Client { http, service: service.to_owned() })
    }

    /// Makes a call and returns its `data`.
    pub(super) async fn send<T: DeserializeOwned>(&self, call: &Call) -> anyhow::Result<T> {
        let failed = || format!("cannot call {}", call.path);
        let answer = self.http.post(format!("{}{}", self.service, call.path)).json(&call.body).send().await;
        let envelope: Envelope = answer.with_context(failed)?.json().await.with_context(failed)?;
        if envelope.code != 0 {
            bail!("{} was refused: {}", call.path, envelope.message);
        }
        serde_json::from_value(envelope.data).with_context(|| format!("{} answered something else", call.path))
    }

    /// Fetches a result.
    pub(super) async fn fetch(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let failed = || format!("cannot fetch {url}");
        let answer = self.http.get(url).send().await.and_then(reqwest::Response::error_for_status);
        Ok(answer.with_context(failed)?.bytes().await.with_context(failed)?.into())
    }
}

impl Call {
    pub(super) fn new(path: &'static str, body: Value) -> Call {
        Call { path, body }
    }

    /// The command that makes this call from a shell.
    pub(super) fn curl(&self, service: &str) -> String {
        let body = self.body.to_string().replace('\'', r"'\''");
        format!("curl -s {service}{} -H 'Content-Type: application/json' -d '{body}'", self.path)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_reaches_curl_through_the_shell_as_it_is() {
        let call = Call::new("/p", json!({ "text": "it's \"so\" $HOME" }));
        let echo =
            call.curl("http://h").replace("curl -s http://h/p -H 'Content-Type: application/json' -d", "printf %s");
        let shell = std::process::Command::new("sh").args(["-c", &echo]).output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&shell.stdout).unwrap(), call.body);
    }
}
