//! The configuration as used: typed and checked. As written (every key with its default and a doc
//! line) it is in [`raw`]; [`load`] reads file and environment, [`check`] turns the one into the
//! other, [`keys`] knows all names and which values are secret.

pub mod check;
pub mod keys;
pub mod load;
pub mod raw;

mod warnings;

use std::{fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use chrono_tz::Tz;
use lettre::message::Mailbox;
use url::Url;

use crate::{
    alert::rules::Rule,
    egress::Egress,
    job::{Job, schedule::Schedule},
    jwt::{KeySet, Rules},
    model::headers::Headers,
    secrets::Vault,
    tenant::Plans,
};

/// Everything the service can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// HTTP server.
    pub server: Server,
    /// What callers may use up.
    pub limits: Limits,
    /// Who may call.
    pub auth: Auth,
    /// Where tasks are kept.
    pub database: Database,
    /// Where permits are kept; `None` = in this process.
    pub redis: Option<Redis>,
    /// Seals what must not be read from a database dump.
    pub vault: Vault,
    /// Where models may be called.
    pub egress: Egress,
    /// Calling models.
    pub worker: Worker,
    /// Keeping the table tidy.
    pub cleaner: Cleaner,
    /// Jobs on a schedule.
    pub maintenance: Maintenance,
    /// What tenants may use up, and how much of theirs is kept.
    pub plans: Plans,
    /// Where results are stored.
    pub oss: Oss,
    /// Time zone in which days of the statistics begin.
    pub stat_zone: Tz,
    /// Telling operators.
    pub monitor: Monitor,
    /// Logging.
    pub log: Log,
    /// The page of metrics.
    pub metrics: MetricsPage,
    /// Traces.
    pub telemetry: Telemetry,
    /// How this node is found, and how it finds others; `None` = by nobody, and by their addresses.
    pub consul: Option<Consul>,
}

/// HTTP server.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// How callers reach it, for URLs of results; `None` = `http://` and the address.
    pub public_url: Option<Url>,
    /// Certificate and key for TLS; `None` = plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Longest request body in bytes.
    pub max_body_bytes: usize,
    /// How long running calls may go on after SIGTERM.
    pub shutdown_grace: Duration,
}

/// PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What callers may use up on this node.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests of one tenant; `None` = no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Connections at once.
    pub connections: usize,
    /// Longest head of a request in bytes.
    pub header_bytes: usize,
    /// How long it may take to arrive.
    pub header_time: Duration,
}

/// Who may call.
#[derive(Clone)]
pub enum Auth {
    /// Everyone is tenant 0 and admin; `X-User-Info` is believed.
    Anonymous,
    /// A gateway in front has authenticated and sends `X-User-Info`.
    Gateway {
        /// What `X-Gateway-Secret` must be, where set.
        secret: Option<String>,
    },
    /// Callers bring tokens that were made with the command line.
    Token,
    /// Callers bring tokens of an identity provider.
    Jwt {
        /// What they must say.
        rules: Box<Rules>,
        /// What they are verified with.
        keys: JwtKeys,
    },
}

/// What tokens of an identity provider are verified with.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// A secret, or what was in a file at the start.
    Fixed(KeySet),
    /// What the provider publishes here.
    Published(Url),
}

/// Where tasks are kept.
#[derive(Clone)]
pub enum Database {
    /// A Postgres server.
    Postgres {
        /// `postgres://user:password@host/db`.
        url: String,
        /// Most connections of this node, besides those that one part of it has to itself.
        max_connections: u32,
    },
    /// A file of this process.
    Sqlite {
        /// The file; its folder is made.
        path: PathBuf,
    },
}

/// Where permits are kept.
#[derive(Clone)]
pub struct Redis {
    /// `redis://host/db`.
    pub url: String,
    /// In front of every key and channel.
    pub key_prefix: String,
}

/// Calling models.
#[derive(Debug, Clone)]
pub struct Worker {
    /// False: this node only answers the API.
    pub enabled: bool,
    /// Calls at once on this node.
    pub concurrency: usize,
    /// Folder for results on their way to storage.
    pub tmp_dir: PathBuf,
    /// How long a node is believed to live without renewing its lease.
    pub lease: Duration,
    /// Attempts that may die with their worker before the task fails.
    pub max_lost_attempts: i32,
    /// Largest result in bytes.
    pub max_result_bytes: u64,
    /// Most bytes of results on this node before it claims no more; 0 = no such limit.
    pub spool_max_bytes: u64,
    /// With fewer bytes free on the disk of `tmp_dir` this node claims no more.
    pub spool_min_free_bytes: u64,
    /// A task queued longer than this fails; `None` = never.
    pub queue_timeout: Option<Duration>,
    /// How often an idle node looks for work that no wake-up told it of.
    pub poll_interval: Duration,
}

/// Keeping the table tidy.
#[derive(Debug, Clone)]
pub struct Cleaner {
    /// False: another node does it.
    pub enabled: bool,
    /// Time between rounds.
    pub interval: Duration,
    /// How long a result waits to be picked up before it is purged.
    pub unclaimed: Duration,
}

/// Jobs on a schedule.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// False: another node runs them.
    pub enabled: bool,
    /// When the job `retention` runs; `None` = when it is asked for.
    pub retention: Option<Schedule>,
    /// Days for which runs are listed; 0 = for ever.
    pub run_days: i32,
}

/// Where results are stored, and how hard to try.
#[derive(Debug, Clone)]
pub struct Oss {
    /// The kind of storage.
    pub kind: OssKind,
    /// How long a failing upload is repeated before the task fails.
    pub retry_for: Duration,
    /// Longest single try of one upload.
    pub timeout: Duration,
    /// Delete the object when its task is purged.
    pub delete_on_purge: bool,
}

/// The kinds of storage.
#[derive(Debug, Clone)]
pub enum OssKind {
    /// Files on this machine (or a share), served by the service itself.
    Fs {
        /// The folder.
        path: PathBuf,
        /// How long a signed URL works at least; `None` = URLs are not signed and never run out.
        url_ttl: Option<Duration>,
        /// Small results that come together share a file.
        packs: bool,
    },
    /// Any S3-compatible store.
    S3(S3),
    /// A file service that takes multipart POSTs.
    Http {
        /// Where to POST.
        url: Url,
        /// JSON pointer to the file's URL in the answer; `None` = the usual places.
        url_pointer: Option<String>,
    },
}

/// An S3-compatible store.
#[derive(Clone)]
pub struct S3 {
    /// `https://host[:port]`; `None` = AWS.
    pub endpoint: Option<Url>,
    /// Region name.
    pub region: String,
    /// Bucket name.
    pub bucket: String,
    /// Access key id.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// `bucket.host` instead of `host/bucket` (Aliyun OSS wants it).
    pub virtual_hosted: bool,
    /// Base of public URLs; `None` = presigned URLs, made anew at every look.
    pub public_url: Option<Url>,
    /// How long a presigned URL works.
    pub presign_for: Duration,
}

/// Telling operators what they should know.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// Time between two looks at the rules.
    pub interval: Duration,
    /// What they want to be told of.
    pub rules: Vec<Rule>,
    /// How often an alert that lasts is told again; `None` = once is enough.
    pub remind_every: Option<Duration>,
    /// Language of mails.
    pub language: Language,
    /// Alerts by mail.
    pub email: Option<Email>,
    /// Alerts for programs.
    pub webhook: Option<Webhook>,
}

/// Languages that mails are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
}

/// How mails are sent.
#[derive(Clone)]
pub struct Email {
    /// The SMTP server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is kept secret.
    pub tls: MailTls,
    /// PEM with authorities to trust besides the system's.
    pub authorities: Option<Vec<u8>>,
    /// User and password.
    pub login: Option<(String, String)>,
    /// The sender.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
}

/// How a connection to a mail server is kept secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// It is not.
    None,
    /// It begins in clear and must change to TLS before anything is said.
    StartTls,
    /// TLS from the first byte on.
    Tls,
}

/// Where alerts are posted.
#[derive(Clone)]
pub struct Webhook {
    /// An absolute http(s) URL.
    pub url: Url,
    /// What they are signed with.
    pub secret: Vec<u8>,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// Line format.
    pub format: LogFormat,
    /// `info`, or directives such as `info,sqlx=warn`.
    pub level: String,
}

/// The page of metrics.
#[derive(Clone)]
pub struct MetricsPage {
    /// What opens it; `None`: an admin does.
    pub token: Option<String>,
    /// Lanes that it shows by name.
    pub top_lanes: usize,
}

/// Line formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Traces.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Where they are sent; `None` = nothing is traced.
    pub collector: Option<Collector>,
    /// What this service is called there.
    pub service_name: String,
    /// Share of the traces that begin here and are recorded, 0 to 1.
    pub sample_ratio: f64,
}

/// Who takes traces, by OTLP over HTTP.
#[derive(Debug, Clone)]
pub struct Collector {
    /// Where they are posted.
    pub url: Url,
    /// What goes with them; a key, as a rule.
    pub headers: Headers,
}

/// How this node is found, and how it finds others.
#[derive(Clone)]
pub struct Consul {
    /// The agent.
    pub address: Url,
    /// What it wants to be shown.
    pub token: Option<String>,
    /// What this node is registered as.
    pub service_name: String,
    /// Where it is reached; `None` = where it listens.
    pub service_address: Option<ServiceAddress>,
}

/// Where a node is reached by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// `None` = the port that it listens on.
    pub port: Option<u16>,
}

/// A key whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct ConfigError {
    /// The key, such as `worker.leaseSeconds`, or where it came from if there is no key.
    pub key: String,
    /// The value (never of a secret), what is wrong, what is accepted.
    pub message: String,
}

impl Maintenance {
    /// When that job runs; `None` = when it is asked for.
    pub fn schedule(&self, job: Job) -> Option<&Schedule> {
        match job {
            Job::Retention => self.retention.as_ref(),
        }
    }
}

impl Config {
    /// What people know this process by: its machine and its port, or the address it listens on.
    pub fn node_name(&self) -> String {
        let address = self.server.address;
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match machine.trim() {
            "" => address.to_string(),
            machine => format!("{machine}:{}", address.port()),
        }
    }
}

// What carries a secret shows itself without: a configuration may end up in a log or a panic.

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("Anonymous"),
            Auth::Gateway { secret } => write!(f, "Gateway(secret: {})", secret.is_some()),
            Auth::Token => f.write_str("Token"),
            Auth::Jwt { rules, keys } => f.debug_struct("Jwt").field("rules", rules).field("keys", keys).finish(),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Postgres { url, .. } => f.write_str(&keys::shown("database.url", &url.as_str().into())),
            Database::Sqlite { path } => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&keys::shown("redis.url", &self.url.as_str().into()))
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_ref().map(Url::as_str);
        f.debug_struct("S3").field("bucket", &self.bucket).field("endpoint", &endpoint).finish_non_exhaustive()
    }
}

impl fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPage").field("token", &self.token.is_some()).field("top_lanes", &self.top_lanes).finish()
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_str();
        f.debug_struct("Consul").field("address", &address).field("service", &self.service_name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        let mut shown = f.debug_struct("Email");
        shown.field("host", &self.host).field("port", &self.port).field("tls", &self.tls).field("user", &user);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&keys::shown("monitor.webhook.url", &self.url.as_str().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_shows_no_secrets() {
        let mut raw = raw::RawConfig::default();
        raw.auth.mode = "gateway".into();
        raw.auth.gateway_secret = "geheim".into();
        raw.metrics.token = "geheim".into();
        raw.secrets.key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into();
        raw.database.url = "postgres://app:geheim@db/app".into();
        raw.redis.url = "redis://:geheim@redis".into();
        raw.oss.kind = "s3".into();
        raw.oss.bucket = "models".into();
        raw.oss.access_key = "geheim".into();
        raw.oss.secret_key = "geheim".into();
        raw.telemetry.otlp_endpoint = "http://collector:4318".into();
        raw.consul.address = "http://127.0.0.1:8500".into();
        raw.consul.token = "geheim".into();
        raw.telemetry.otlp_headers = "Authorization:Bearer geheim".into();
        raw.monitor.email.host = "mail.example".into();
        raw.monitor.email.from = "a@example.com".into();
        raw.monitor.email.to = "b@example.com".into();
        raw.monitor.email.user = "a".into();
        raw.monitor.email.password = "geheim".into();
        raw.monitor.webhook.url = "https://me:geheim@hook.example".into();
        raw.monitor.webhook.secret = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into();
        let shown = format!("{:?}", check::check(&raw).unwrap());
        assert!(shown.contains("models") && shown.contains("postgres://app:****@db/app"), "{shown}");
        assert!(!shown.contains("geheim") && !shown.contains("BwcH"), "{shown}");
        raw.auth.mode = "jwt".into();
        raw.auth.jwt.secret = "geheim".repeat(8);
        raw.secrets.previous_keys = raw.secrets.key.clone();
        let shown = format!("{:?}", check::check(&raw).unwrap());
        assert!(shown.contains("HS256") && !shown.contains("geheim") && !shown.contains("BwcH"), "{shown}");
    }
}
