//! Alerts by mail, over SMTP.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use super::text::Letter;
use crate::config::{Email, MailTls};

/// Longest wait for the server at each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that one mail may take.
const MAIL_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends mails.
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    email: Email,
}

impl Mailer {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// Where the TLS set-up of the machine or the file of authorities is unusable.
    pub(super) fn new(email: &Email) -> Result<Mailer, String> {
        let tls = match email.tls {
            MailTls::None => Tls::None,
            MailTls::StartTls => Tls::Required(tls(email)?),
            MailTls::Tls => Tls::Wrapper(tls(email)?),
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host);
        let mut builder = builder.port(email.port).tls(tls).timeout(Some(STEP_TIMEOUT));
        if let Some((user, password)) = &email.login {
            builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Mailer { transport: builder.build(), email: email.clone() })
    }

    /// Sends a letter to all recipients at once and says what the server said. `id` is the same for
    /// every try.
    ///
    /// # Errors
    /// Why it was not sent, without the password.
    pub(super) async fn send(&self, letter: &Letter, id: &str) -> Result<String, String> {
        let message = self.message(letter, id)?;
        let sent = tokio::time::timeout(MAIL_TIMEOUT, self.transport.send(message)).await;
        let sent = sent.map_err(|_| format!("the mail server took longer than {} s", MAIL_TIMEOUT.as_secs()))?;
        let response = sent.map_err(|error| error.to_string())?;
        Ok(response.first_line().unwrap_or_default().to_owned())
    }

    /// The server and the recipients, for people.
    pub(super) fn described(&self) -> String {
        let Email { host, port, tls, to, .. } = &self.email;
        let to: Vec<String> = to.iter().map(|mailbox| mailbox.email.to_string()).collect();
        let tls = match tls {
            MailTls::None => "in clear",
            MailTls::StartTls => "with STARTTLS",
            MailTls::Tls => "with TLS",
        };
        format!("{} through {host}:{port} {tls}", to.join(", "))
    }

    fn message(&self, letter: &Letter, id: &str) -> Result<Message, String> {
        let unwritable = |error: &dyn std::fmt::Display| format!("the mail cannot be written: {error}");
        let mut builder = Message::builder()
            .from(self.email.from.clone())
            .message_id(Some(format!("<{id}@{}>", self.email.from.email.domain())))
            .subject(letter.subject.clone());
        for to in &self.email.to {
            builder = builder.to(to.clone());
        }
        // So that nobody's "out of office" answers it (RFC 3834).
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        builder = builder.raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
        let body = MultiPart::alternative_plain_html(letter.text.clone(), letter.html.clone());
        builder.multipart(body).map_err(|error| unwritable(&error))
    }
}

fn tls(email: &Email) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(email.host.clone());
    for certificate in email.authorities.iter().flat_map(|pem| Certificate::from_pem(pem)) {
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| error.to_string())
}
