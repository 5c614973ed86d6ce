//! The configuration as written: every key with its default and what it accepts. Nothing is checked
//! here; [`check`](super::check) turns it into what the service uses.
//!
//! Keys that end in `Seconds` or `Bytes` are whole numbers; other durations are texts with a unit
//! such as `500ms`, `5s` or `24h`. An empty text means "not set".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The whole file.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawConfig {
    /// HTTP server.
    pub server: RawServer,
    /// What callers may use up.
    pub limits: RawLimits,
    /// Who may call.
    pub auth: RawAuth,
    /// Where tasks are kept.
    pub database: RawDatabase,
    /// Where permits are kept and wake-ups travel.
    pub redis: RawRedis,
    /// What seals stored secrets.
    pub secrets: RawSecrets,
    /// Where models may be called.
    pub egress: RawEgress,
    /// Calling models.
    pub worker: RawWorker,
    /// Keeping the table tidy.
    pub cleaner: RawCleaner,
    /// Jobs on a schedule.
    pub maintenance: RawMaintenance,
    /// What tenants may use up.
    pub tenants: RawTenants,
    /// Where results are stored.
    pub oss: RawOss,
    /// Statistics.
    pub stat: RawStat,
    /// Telling operators.
    pub monitor: RawMonitor,
    /// Logging.
    pub log: RawLog,
    /// The page of metrics.
    pub metrics: RawMetrics,
    /// Traces.
    pub telemetry: RawTelemetry,
    /// How this node is found, and how it finds others.
    pub consul: RawConsul,
}

/// `server`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawServer {
    /// Where it listens: `host:port`; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub address: String,
    /// How callers reach it, an absolute http(s) URL; the URLs of results under `oss.kind: fs`
    /// begin with it. Default empty: `http://` and the address.
    pub public_url: String,
    /// PEM file with the certificate (and its chain) for TLS; a newer one is taken without a restart.
    /// Default empty: plain HTTP.
    pub tls_cert_file: String,
    /// PEM file with the certificate's private key.
    pub tls_key_file: String,
    /// Longest request body in bytes, 1024 to 1 GiB. Default 10485760 (10 MiB).
    pub max_body_bytes: i64,
    /// How long running calls may go on after SIGTERM, a duration of 0s to 1h. Default `25s`.
    pub shutdown_grace: String,
}

/// `limits`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawLimits {
    /// Requests of one tenant per second on this node, 0 to 1000000. Default 0: no limit.
    pub requests_per_second: i64,
    /// Connections at once on this node, 1 to 1000000; more are closed at once. Default 10000.
    pub connections: i64,
    /// Longest head of a request (its line and headers) in bytes, 8192 to 1 MiB. Default 65536.
    pub header_bytes: i64,
    /// How long a request's head may take to arrive, which is also how long a connection may idle, and
    /// a TLS handshake last: 1s to 1h. Default `30s`.
    pub header_timeout: String,
}

/// `auth`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawAuth {
    /// `anonymous` (everyone is admin; loopback only), `gateway` (`X-User-Info` says who), `token`
    /// (tokens made with `model-asynch token create`) or `jwt` (tokens of an identity provider).
    /// Default `anonymous`.
    pub mode: String,
    /// Lets mode `anonymous` listen beyond loopback. Default false.
    pub allow_insecure: bool,
    /// What the gateway must send as `X-Gateway-Secret`: visible ASCII. Default empty: not asked for.
    pub gateway_secret: String,
    /// Mode `jwt`.
    pub jwt: RawJwt,
}

/// `auth.jwt`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawJwt {
    /// Shared secret for HS256, at least 32 bytes. Of this and the next three exactly one is set.
    /// Default empty.
    pub secret: String,
    /// PEM file with the public key: RSA for RS256, P-256 for ES256. Default empty.
    pub public_key_file: String,
    /// JWKS file with public keys. Default empty.
    pub jwks_file: String,
    /// Where the provider publishes its JWKS, an absolute http(s) URL. Default empty.
    pub jwks_url: String,
    /// What `iss` must be. Default empty: not checked.
    pub issuer: String,
    /// What `aud` must be or contain. Default empty: not checked.
    pub audience: String,
    /// Claim with the tenant: its name, or a path as `a.b` or `/a/b`. Default `tenantId`.
    pub tenant_claim: String,
    /// Claim with the user. Default `sub`.
    pub user_claim: String,
    /// Claim that is `true` for admins. Default `admin`; empty: there is none.
    pub admin_claim: String,
    /// Claim with the scopes, a list or a text with spaces. Default `scope`; empty: every caller has
    /// all scopes of its tenant.
    pub scope_claim: String,
}

/// `database`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawDatabase {
    /// `postgres://user:password@host/database`, or `sqlite://path` (`sqlite:///path` where it is
    /// absolute). Default `sqlite://data/model-asynch.db`.
    pub url: String,
    /// Most connections to Postgres of this node, 1 to 1000, besides two for its lease and one each for
    /// new tasks, claims and outcomes. Default 16.
    pub max_connections: i64,
}

/// `redis`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawRedis {
    /// `redis://[:password@]host[:port][/db]`, or `rediss://` with TLS. Default empty: permits are
    /// kept in this process.
    pub url: String,
    /// In front of every key and channel, so that services can share a server. Default
    /// `model-asynch:`.
    pub key_prefix: String,
}

/// `secrets`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawSecrets {
    /// Seals the models' API keys in the database: base64 of 32 random bytes, the same on every
    /// node. Default empty: they are stored in clear.
    pub key: String,
    /// Keys that stored secrets may still be sealed under, in base64, divided by commas. Default
    /// empty.
    pub previous_keys: String,
}

/// `egress`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawEgress {
    /// Where models may be called besides what `otherwise` says: addresses (`10.0.0.0/8`,
    /// `10.1.2.3`) and hosts (`gpu-1`, `*.models.example.com`), divided by commas. Default empty.
    pub allow: String,
    /// Where they may not be called, written in the same way; goes before `allow`. Metadata services
    /// of clouds need not be listed: they are never called. Default empty.
    pub deny: String,
    /// What holds for all other addresses: `all`, `public` (no private networks and not this
    /// machine), `none`, or `auto`: all with SQLite, public with Postgres. Default `auto`.
    pub otherwise: String,
}

/// `worker`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawWorker {
    /// False: this node calls no models. Default true.
    pub enabled: bool,
    /// Calls at once on this node, 1 to 100000. Default 256.
    pub concurrency: i64,
    /// Folder for results on their way to storage; a node of its own needs one of its own. Default
    /// `data/tmp`.
    pub tmp_dir: String,
    /// How long a node that is not heard of is believed to live, 2 to 3600 seconds. Default 30.
    pub lease_seconds: i64,
    /// Attempts that may die with their worker before the task fails, 1 to 1000. Default 3.
    pub max_lost_attempts: i64,
    /// Largest result in bytes, 1 to 1 TiB. Default 2147483648 (2 GiB).
    pub max_result_bytes: i64,
    /// Most bytes of results in `tmpDir` before this node claims no more tasks, 0 to 1 PiB. Default
    /// 0: as much as the disk holds.
    pub spool_max_bytes: i64,
    /// Bytes that stay free on the disk of `tmpDir`: with less this node claims no more tasks. 0 to
    /// 1 PiB. Default 268435456 (256 MiB).
    pub spool_min_free_bytes: i64,
    /// A task queued longer than this fails: a duration, or `off`. Default `off`.
    pub queue_timeout: String,
    /// How often an idle node looks for work that no wake-up told it of, 10ms to 1h. Default `1s`.
    pub poll_interval: String,
}

/// `cleaner`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawCleaner {
    /// False: this node does not clean; another one must. Default true.
    pub enabled: bool,
    /// Time between rounds, 50ms to 1h. Default `1s`.
    pub interval: String,
    /// Results that nobody picked up are purged after this many seconds, 1 to 10 years. Default
    /// 604800 (7 days).
    pub unclaimed_seconds: i64,
}

/// `maintenance`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawMaintenance {
    /// False: this node runs no jobs; another one must. Default true.
    pub enabled: bool,
    /// The job `retention`.
    pub retention: RawRetention,
}

/// `maintenance.retention`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawRetention {
    /// When it runs, a cron expression (`minute hour day month weekday`, or `@daily` and the like), or
    /// `off`: only when it is asked for. Default `0 3 * * *`.
    pub schedule: String,
    /// Where the schedule is read: a name of the IANA time zone database. Default `UTC`.
    pub timezone: String,
    /// Days for which the operation log is kept, 0 to 36500; 0: for ever. Default 90.
    pub op_log_days: i64,
    /// Days for which the runs of jobs are listed, 0 to 36500; 0: for ever. Default 90.
    pub run_days: i64,
    /// Results kept for each model of a tenant that has settings, 0 to 2147483647; the oldest go first.
    /// 0: all, until their time is over. Default 20000.
    pub keep_results: i64,
}

/// `tenants`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawTenants {
    /// Plans that tenants can be put on, by name. Default: none.
    pub plans: BTreeMap<String, RawPlan>,
}

/// `tenants.plans.<name>`: what is absent is as for tenants without a plan; 0: no limit.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawPlan {
    /// Requests per second on each node, 0 to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<i64>,
    /// Calls running at once over all models and nodes, 0 to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<i64>,
    /// Results kept for each model, 0 to 2147483647.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_results: Option<i64>,
    /// Days for which the operation log is kept, 0 to 36500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op_log_days: Option<i64>,
}

/// `oss`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawOss {
    /// `fs` (a folder, served by the service itself), `s3` (any S3-compatible store) or `http` (a
    /// file service). Default `fs`.
    pub kind: String,
    /// Kind `fs`: the folder; several nodes share it. Default `data/oss`.
    pub path: String,
    /// Kind `fs`: small results that come together share a file. False: every result is a file of its
    /// own, for those who read the folder by other means. Default true.
    pub packs: bool,
    /// Kind `http`: where files are posted, an absolute http(s) URL, or `consul://service/path` (with
    /// TLS `consul+https://`). Required there.
    pub url: String,
    /// Kind `http`: JSON pointer to the file's URL in the answer, such as `/data/link`. Default
    /// empty: the usual places.
    pub url_pointer: String,
    /// How long a failing upload is repeated, 0 to 31536000 seconds. Default 86400 (24 h).
    pub retry_for_seconds: i64,
    /// Longest single try of one upload, 1s to 24h. Default `15m`.
    pub timeout: String,
    /// Delete the object when its task is purged. Default false.
    pub delete_on_purge: bool,
    /// Kind `s3`: an absolute http(s) URL. Default empty: AWS.
    pub endpoint: String,
    /// Kind `s3`: the region. Default `us-east-1`.
    pub region: String,
    /// Kind `s3`: the bucket. Required there.
    pub bucket: String,
    /// Kind `s3`: the access key id. Required there.
    pub access_key: String,
    /// Kind `s3`: the secret key. Required there.
    pub secret_key: String,
    /// Kind `s3`: `bucket.host/key` instead of `host/bucket/key`; Aliyun OSS wants it. Default false.
    pub virtual_hosted: bool,
    /// Kind `s3`: base of the public URLs of objects, an absolute http(s) URL. Default empty: URLs
    /// are presigned.
    pub public_url: String,
    /// How long the URL of a result works, 0 to 604800 seconds. Kind `fs`: 0 means for ever, and more
    /// needs `secrets.key`. Kind `s3`: 0 means 3600. Default 0.
    pub url_ttl_seconds: i64,
}

/// `stat`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawStat {
    /// Where days begin: a name of the IANA time zone database, such as `Asia/Shanghai`. Default
    /// `UTC`.
    pub timezone: String,
}

/// `monitor`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawMonitor {
    /// Time between two looks at the rules, which one node takes at a time: 100ms to 1h. Default `30s`.
    pub interval: String,
    /// A list of rules; what each of them may say is in `check/monitor.rs`. Default empty: nothing is
    /// looked at.
    pub rules: Vec<Map<String, Value>>,
    /// How often an alert that lasts is told again: 1s to 30days, or `off`. Default `4h`.
    pub remind_every: String,
    /// Language of mails: `en` or `zh`. Default `en`.
    pub language: String,
    /// Alerts by mail.
    pub email: RawEmail,
    /// Alerts for programs.
    pub webhook: RawWebhook,
}

/// `monitor.email`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawEmail {
    /// The SMTP server. Default empty: no mails.
    pub host: String,
    /// Its port, 0 to 65535. Default 0: 25 without TLS, 587 with STARTTLS, 465 with TLS.
    pub port: i64,
    /// `starttls`, `tls` (from the first byte on) or `none`. Default `starttls`.
    pub tls: String,
    /// PEM file with certificates of authorities to trust besides the system's. Default empty.
    pub ca_file: String,
    /// Who logs in. Default empty: nobody.
    pub user: String,
    /// The password. Default empty.
    pub password: String,
    /// The sender: `alerts@example.com` or `Alerts <alerts@example.com>`. Required with a host.
    pub from: String,
    /// The recipients, divided by commas. Required with a host.
    pub to: String,
}

/// `monitor.webhook`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawWebhook {
    /// Where alerts are posted, an absolute http(s) URL; the rules of egress hold. Default empty.
    pub url: String,
    /// What they are signed with: `whsec_` and 24 to 64 bytes in base64. Required with a URL.
    pub secret: String,
}

/// `log`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawLog {
    /// `text`, `json`, or `auto`: text on a terminal and JSON otherwise. Default `auto`.
    pub format: String,
    /// `error`, `warn`, `info`, `debug` or `trace`, also by part: `info,sqlx=debug`. Default `info`.
    pub level: String,
}

/// `metrics`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawMetrics {
    /// What Prometheus must send as `Authorization: Bearer` to read `/metrics`: visible ASCII. Default
    /// empty: whoever is an admin by `auth.mode` may read it.
    pub token: String,
    /// Lanes (a tenant's queue for a model) that `/metrics` shows by name, the longest first; the rest is
    /// one. 0 to 1000. Default 50.
    pub top_lanes: i64,
}

/// `telemetry`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawTelemetry {
    /// Where traces are sent by OTLP over HTTP (protobuf): the base URL of a collector, such as
    /// `http://jaeger:4318`, or its URL that ends in `/v1/traces`. Default empty: nothing is traced.
    pub otlp_endpoint: String,
    /// Headers that the collector wants: `Key:Value,Key2:Value2`. Default empty.
    pub otlp_headers: String,
    /// What this service is called there. Default `model-asynch`.
    pub service_name: String,
    /// Share of the traces that are recorded, 0.0 to 1.0; a caller that sends a `traceparent` decides
    /// for itself. Default 1.0.
    pub sample_ratio: f64,
}

/// `consul`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawConsul {
    /// The Consul agent: `http://127.0.0.1:8500`, as a rule on this machine. Default empty: there is
    /// none.
    pub address: String,
    /// Token for it. Default empty.
    pub token: String,
    /// What this node is registered as, 1 to 64 letters, digits and hyphens. Default `model-asynch`.
    pub service_name: String,
    /// Where callers, and the agent's check, reach this node: a host, or `host:port`. Default empty:
    /// `server.address`, or the agent's own host where that is every address of this machine.
    pub service_address: String,
}

impl Default for RawServer {
    fn default() -> RawServer {
        RawServer {
            address: "127.0.0.1:8080".into(),
            public_url: String::new(),
            tls_cert_file: String::new(),
            tls_key_file: String::new(),
            max_body_bytes: 10 << 20,
            shutdown_grace: "25s".into(),
        }
    }
}

impl Default for RawLimits {
    fn default() -> RawLimits {
        RawLimits { requests_per_second: 0, connections: 10_000, header_bytes: 65_536, header_timeout: "30s".into() }
    }
}

impl Default for RawAuth {
    fn default() -> RawAuth {
        RawAuth {
            mode: "anonymous".into(),
            allow_insecure: false,
            gateway_secret: String::new(),
            jwt: RawJwt::default(),
        }
    }
}

impl Default for RawJwt {
    fn default() -> RawJwt {
        RawJwt {
            secret: String::new(),
            public_key_file: String::new(),
            jwks_file: String::new(),
            jwks_url: String::new(),
            issuer: String::new(),
            audience: String::new(),
            tenant_claim: "tenantId".into(),
            user_claim: "sub".into(),
            admin_claim: "admin".into(),
            scope_claim: "scope".into(),
        }
    }
}

impl Default for RawDatabase {
    fn default() -> RawDatabase {
        RawDatabase { url: "sqlite://data/model-asynch.db".into(), max_connections: 16 }
    }
}

impl Default for RawRedis {
    fn default() -> RawRedis {
        RawRedis { url: String::new(), key_prefix: "model-asynch:".into() }
    }
}

impl Default for RawEgress {
    fn default() -> RawEgress {
        RawEgress { allow: String::new(), deny: String::new(), otherwise: "auto".into() }
    }
}

impl Default for RawWorker {
    fn default() -> RawWorker {
        RawWorker {
            enabled: true,
            concurrency: 256,
            tmp_dir: "data/tmp".into(),
            lease_seconds: 30,
            max_lost_attempts: 3,
            max_result_bytes: 2 << 30,
            spool_max_bytes: 0,
            spool_min_free_bytes: 256 << 20,
            queue_timeout: "off".into(),
            poll_interval: "1s".into(),
        }
    }
}

impl Default for RawCleaner {
    fn default() -> RawCleaner {
        RawCleaner { enabled: true, interval: "1s".into(), unclaimed_seconds: 604_800 }
    }
}

impl Default for RawMaintenance {
    fn default() -> RawMaintenance {
        RawMaintenance { enabled: true, retention: RawRetention::default() }
    }
}

impl Default for RawRetention {
    fn default() -> RawRetention {
        RawRetention {
            schedule: "0 3 * * *".into(),
            timezone: "UTC".into(),
            op_log_days: 90,
            run_days: 90,
            keep_results: 20_000,
        }
    }
}

impl Default for RawOss {
    fn default() -> RawOss {
        RawOss {
            kind: "fs".into(),
            path: "data/oss".into(),
            packs: true,
            url: String::new(),
            url_pointer: String::new(),
            retry_for_seconds: 86_400,
            timeout: "15m".into(),
            delete_on_purge: false,
            endpoint: String::new(),
            region: "us-east-1".into(),
            bucket: String::new(),
            access_key: String::new(),
            secret_key: String::new(),
            virtual_hosted: false,
            public_url: String::new(),
            url_ttl_seconds: 0,
        }
    }
}

impl Default for RawStat {
    fn default() -> RawStat {
        RawStat { timezone: "UTC".into() }
    }
}

impl Default for RawMonitor {
    fn default() -> RawMonitor {
        RawMonitor {
            interval: "30s".into(),
            rules: Vec::new(),
            remind_every: "4h".into(),
            language: "en".into(),
            email: RawEmail::default(),
            webhook: RawWebhook::default(),
        }
    }
}

impl Default for RawEmail {
    fn default() -> RawEmail {
        RawEmail {
            host: String::new(),
            port: 0,
            tls: "starttls".into(),
            ca_file: String::new(),
            user: String::new(),
            password: String::new(),
            from: String::new(),
            to: String::new(),
        }
    }
}

impl Default for RawLog {
    fn default() -> RawLog {
        RawLog { format: "auto".into(), level: "info".into() }
    }
}

impl Default for RawMetrics {
    fn default() -> RawMetrics {
        RawMetrics { token: String::new(), top_lanes: 50 }
    }
}

impl Default for RawTelemetry {
    fn default() -> RawTelemetry {
        RawTelemetry {
            otlp_endpoint: String::new(),
            otlp_headers: String::new(),
            service_name: "model-asynch".into(),
            sample_ratio: 1.0,
        }
    }
}

impl Default for RawConsul {
    fn default() -> RawConsul {
        RawConsul {
            address: String::new(),
            token: String::new(),
            service_name: "model-asynch".into(),
            service_address: String::new(),
        }
    }
}
