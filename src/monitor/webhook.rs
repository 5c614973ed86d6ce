//! Alerts for programs: signed POSTs by the convention of Standard Webhooks
//! (<https://www.standardwebhooks.com>).
//!
//! `webhook-id` is the same for every try of one message, `webhook-timestamp` is the second of the
//! try, and `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over
//! `{id}.{timestamp}.{body}`, with the bytes behind `whsec_` as the key.

use std::{error::Error as _, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, header::CONTENT_TYPE, redirect};
use url::Url;

use crate::{clock, config::Webhook, egress::Egress};

/// Longest time that one try may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends webhooks.
pub(super) struct Hook {
    client: Client,
    url: Url,
    key: hmac::Key,
    egress: Egress,
}

impl Hook {
    /// No redirects (a signature is for one receiver) and no proxy, which would dial instead of us.
    ///
    /// # Errors
    /// Where the TLS set-up of the machine is unusable.
    pub(super) fn new(webhook: &Webhook, egress: &Egress) -> Result<Hook, String> {
        let client = Client::builder()
            .dns_resolver(Arc::new(egress.clone()))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("model-asynch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &webhook.secret);
        Ok(Hook { client, url: webhook.url.clone(), key, egress: egress.clone() })
    }

    /// Posts a message and says what was answered. `id` is the same for every try.
    ///
    /// # Errors
    /// Why it did not arrive, or which status refused it.
    pub(super) async fn send(&self, body: String, id: &str) -> Result<String, String> {
        self.egress.check_literal(&self.url).map_err(|denied| denied.to_string())?;
        let timestamp = clock::now().timestamp().to_string();
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", &timestamp)
            .header("webhook-signature", signature(&self.key, id, &timestamp, &body))
            .body(body);
        let answer = request.send().await.map_err(|error| in_words(&error))?;
        let status = answer.status();
        if status.is_success() { Ok(status.to_string()) } else { Err(format!("the receiver answered {status}")) }
    }

    /// The receiver, for people: without what may be secret in its URL.
    pub(super) fn described(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

fn signature(key: &hmac::Key, id: &str, timestamp: &str, body: &str) -> String {
    let signed = hmac::sign(key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signed))
}

/// The innermost cause says most; the URL stays out of it.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match error.source() {
        Some(_) => format!("the receiver cannot be reached: {cause}"),
        None => "the receiver cannot be reached".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the convention's own documentation.
    #[test]
    fn the_signature_is_that_of_the_convention() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
