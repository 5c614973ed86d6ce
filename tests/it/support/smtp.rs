//! A real mail server: aiosmtpd in a Python of its own, which keeps what it takes. `TEST_SMTP_PYTHON` is
//! a Python that has it.

use std::{path::PathBuf, process::Command};

use serde::Deserialize;

use super::{app::free_address, backend::server, eventually::eventually, process::Process};

const PROGRAM: &str = r#"
import asyncio, email, email.policy, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult

mode, certificate, key, user, password, kept, port = sys.argv[1:]
context = None
if mode != "none":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

class Keeper:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: mail.get_body((kind,)).get_content().replace("\r\n", "\n")
        with open(kept, "a") as file:
            file.write(json.dumps({
                "sender": envelope.mail_from, "recipients": envelope.rcpt_tos, "subject": mail["subject"],
                "from": mail["from"], "to": mail["to"], "id": mail["message-id"], "automatic": mail["auto-submitted"],
                "text": part("plain"), "html": part("html"),
                "user": session.auth_data.login.decode() if session.auth_data else "",
                "secret": mode == "tls" or session.ssl is not None,
            }) + "\n")
        return "250 it is taken"

def known(server, session, envelope, mechanism, data):
    is_good = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=is_good, handled=False, auth_data=data)

def answer():
    return SMTP(
        Keeper(), hostname="keeper.test", tls_context=context if mode == "starttls" else None,
        require_starttls=mode == "starttls", auth_required=user != "", auth_require_tls=mode == "starttls",
        authenticator=known if user else None)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(answer, "127.0.0.1", int(port), ssl=context if mode == "tls" else None)
    await server.serve_forever()

asyncio.run(main())
"#;

/// A mail as it was taken.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    pub sender: String,
    pub recipients: Vec<String>,
    pub subject: String,
    pub from: String,
    pub to: String,
    pub id: String,
    pub automatic: String,
    pub text: String,
    pub html: String,
    /// Who logged in.
    pub user: String,
    /// It came over TLS.
    pub secret: bool,
}

/// How the server wants to be spoken to.
pub struct Manners<'a> {
    /// `none`, `starttls` or `tls`.
    pub tls: &'a str,
    /// User and password it asks for; empty: none.
    pub login: (&'a str, &'a str),
}

/// See the module.
pub struct MailServer {
    /// Where it listens, and will after a restart.
    pub address: String,
    /// The file with its certificate.
    pub certificate: PathBuf,
    python: String,
    arguments: Vec<String>,
    process: Option<Process>,
    dir: tempfile::TempDir,
}

impl MailServer {
    /// One that takes everything in clear. `None`, and loud, where there is no such Python.
    pub async fn start() -> Option<MailServer> {
        MailServer::with(&Manners { tls: "none", login: ("", "") }).await
    }

    /// One with manners.
    pub async fn with(manners: &Manners<'_>) -> Option<MailServer> {
        let python = server("TEST_SMTP_PYTHON")?;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("certificate.pem"), signed.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), signed.signing_key.serialize_pem()).unwrap();
        let address = free_address();
        let port = address.rsplit(':').next().unwrap().to_owned();
        let (user, password) = manners.login;
        let arguments = [manners.tls, &path("certificate.pem"), &path("key.pem"), user, password, &path("kept"), &port]
            .map(str::to_owned);
        let certificate = dir.path().join("certificate.pem");
        let mut server = MailServer { address, certificate, python, arguments: arguments.to_vec(), process: None, dir };
        server.up().await;
        Some(server)
    }

    /// Starts it again.
    pub async fn up(&mut self) {
        let mut process = Process::start(Command::new(&self.python).args(["-c", PROGRAM]).args(&self.arguments));
        process.listens(&self.address).await;
        self.process = Some(process);
    }

    /// Ends it; what it took stays.
    pub fn down(&mut self) {
        self.process = None;
    }

    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// The settings of a service that sends its mails there.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("monitor.email.host", "127.0.0.1".to_owned()),
            ("monitor.email.port", self.port().to_owned()),
            ("monitor.email.tls", "none".to_owned()),
            ("monitor.email.from", "Models <models@example.com>".to_owned()),
            ("monitor.email.to", "ann@example.com, Bo <bo@example.com>".to_owned()),
        ]
    }

    /// What it has taken so far.
    pub fn mails(&self) -> Vec<Mail> {
        let kept = std::fs::read_to_string(self.dir.path().join("kept")).unwrap_or_default();
        kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until it has taken so many, and returns them.
    pub async fn takes(&self, count: usize) -> Vec<Mail> {
        eventually(&format!("{count} mails"), async || {
            let mails = self.mails();
            let subjects: Vec<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
            if mails.len() >= count { Ok(mails.clone()) } else { Err(format!("{subjects:?}")) }
        })
        .await
    }
}
