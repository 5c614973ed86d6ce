//! From the configuration as written to the configuration as used: every value is parsed and held
//! against what is accepted, and an error names key, value and what is accepted.

mod consul;
mod egress;
mod jwt;
mod maintenance;
mod monitor;
mod oss;
mod server;
mod telemetry;

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chrono_tz::Tz;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use url::Url;

use super::{
    Auth, Cleaner, Config, ConfigError, Database, Log, LogFormat, MetricsPage, Oss, OssKind, Redis, Worker,
    keys::{missing, nearest, refuse},
    raw::{RawAuth, RawCleaner, RawConfig, RawDatabase, RawLog, RawMetrics, RawRedis, RawSecrets, RawWorker},
};
use crate::secrets::Vault;

const AUTH_MODES: &str = "anonymous, gateway, token, jwt";
const DATABASE_URLS: &str = "postgres://user:password@host/database or sqlite://path";
const REDIS_URLS: &str = "redis://host:port/db, or rediss:// with TLS";
const HTTP_URL: &str = "an absolute http:// or https:// URL without query";
const LEVELS: &str = "off, error, warn, info, debug or trace, also by part: info,sqlx=debug";

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: i64 = 10 * 365 * 86_400;

/// Checks every key.
///
/// # Errors
/// The first one whose value cannot be used.
pub fn check(raw: &RawConfig) -> Result<Config, ConfigError> {
    let server = server::server(&raw.server)?;
    let auth = auth(&raw.auth, server.address)?;
    let worker = worker(&raw.worker)?;
    let vault = vault(&raw.secrets)?;
    let consul = consul::check(&raw.consul)?;
    let oss = oss::check(&raw.oss, &vault, consul.is_some())?;
    folders_apart(&worker, &oss)?;
    let database = database(&raw.database)?;
    let egress = egress::check(&raw.egress, &database)?;
    Ok(Config {
        server,
        limits: server::limits(&raw.limits)?,
        auth,
        monitor: monitor::check(&raw.monitor, &egress)?,
        egress,
        database,
        redis: redis(&raw.redis)?,
        vault,
        worker,
        cleaner: cleaner(&raw.cleaner)?,
        maintenance: maintenance::check(&raw.maintenance)?,
        plans: maintenance::plans(raw)?,
        oss,
        stat_zone: zone("stat.timezone", &raw.stat.timezone)?,
        log: log(&raw.log)?,
        metrics: metrics(&raw.metrics)?,
        telemetry: telemetry::check(&raw.telemetry)?,
        consul,
    })
}

fn auth(raw: &RawAuth, address: SocketAddr) -> Result<Auth, ConfigError> {
    match raw.mode.as_str() {
        "anonymous" if address.ip().is_loopback() || raw.allow_insecure => Ok(Auth::Anonymous),
        "anonymous" => Err(ConfigError {
            key: "auth.mode".into(),
            message: format!(
                "\"anonymous\" makes everyone who reaches {address} an admin; set auth.mode to gateway, token or jwt, \
                 server.address to 127.0.0.1, or auth.allowInsecure to true where the network is closed"
            ),
        }),
        "gateway" => Ok(Auth::Gateway { secret: optional("auth.gatewaySecret", &raw.gateway_secret, header_text)? }),
        "token" => Ok(Auth::Token),
        "jwt" => jwt::check(&raw.jwt),
        other => Err(refuse("auth.mode", other, AUTH_MODES)),
    }
}

/// What can be sent in a header and arrives as it was sent.
fn header_text(key: &str, text: &str) -> Result<String, ConfigError> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(refuse(key, text, "letters, digits and ASCII signs, without spaces"))
}

fn database(raw: &RawDatabase) -> Result<Database, ConfigError> {
    let max_connections = integer("database.maxConnections", raw.max_connections, 1..=1000)?;
    let refused = || refuse("database.url", raw.url.as_str(), DATABASE_URLS);
    if let Some(path) = raw.url.strip_prefix("sqlite://") {
        let is_file = !path.is_empty() && !path.ends_with(['/', ':']) && !path.contains(['?', '#']);
        return if is_file { Ok(Database::Sqlite { path: PathBuf::from(path) }) } else { Err(refused()) };
    }
    let url = Url::parse(&raw.url).map_err(|_| refused())?;
    match url.scheme() {
        "postgres" | "postgresql" => Ok(Database::Postgres { url: raw.url.clone(), max_connections }),
        _ => Err(refused()),
    }
}

fn redis(raw: &RawRedis) -> Result<Option<Redis>, ConfigError> {
    let url = optional("redis.url", &raw.url, |key, text| {
        let url = Url::parse(text).map_err(|_| refuse(key, text, REDIS_URLS))?;
        let known = ["redis", "rediss"].contains(&url.scheme()) && url.host().is_some();
        if known { Ok(text.to_owned()) } else { Err(refuse(key, text, REDIS_URLS)) }
    })?;
    Ok(url.map(|url| Redis { url, key_prefix: raw.key_prefix.clone() }))
}

fn vault(raw: &RawSecrets) -> Result<Vault, ConfigError> {
    let previous = raw.previous_keys.split([',', ' ', '\n']).map(str::trim).filter(|key| !key.is_empty());
    let previous: Vec<_> = previous.map(|key| sealing_key("secrets.previousKeys", key)).collect::<Result<_, _>>()?;
    let vault = match raw.key.is_empty() {
        true => Vault::default(),
        false => Vault::new(&sealing_key("secrets.key", &raw.key)?),
    };
    Ok(vault.with_previous(&previous))
}

fn sealing_key(key: &str, text: &str) -> Result<[u8; 32], ConfigError> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, lenient).decode(text.trim()).ok();
    let accepted = "base64 of exactly 32 bytes; `openssl rand -base64 32` makes one";
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| refuse(key, text, accepted))
}

fn worker(raw: &RawWorker) -> Result<Worker, ConfigError> {
    Ok(Worker {
        enabled: raw.enabled,
        concurrency: integer("worker.concurrency", raw.concurrency, 1..=100_000)?,
        tmp_dir: folder("worker.tmpDir", &raw.tmp_dir)?,
        lease: seconds("worker.leaseSeconds", raw.lease_seconds, 2..=3600)?,
        max_lost_attempts: integer("worker.maxLostAttempts", raw.max_lost_attempts, 1..=1000)?,
        max_result_bytes: integer("worker.maxResultBytes", raw.max_result_bytes, 1..=1 << 40)?,
        spool_max_bytes: integer("worker.spoolMaxBytes", raw.spool_max_bytes, 0..=1 << 50)?,
        spool_min_free_bytes: integer("worker.spoolMinFreeBytes", raw.spool_min_free_bytes, 0..=1 << 50)?,
        queue_timeout: queue_timeout(&raw.queue_timeout)?,
        poll_interval: duration("worker.pollInterval", &raw.poll_interval, Duration::from_millis(10)..=HOUR)?,
    })
}

fn queue_timeout(text: &str) -> Result<Option<Duration>, ConfigError> {
    let key = "worker.queueTimeout";
    let accepted = "off, or a duration of 1s or more, such as 30m";
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(None),
        // Ten years keep every later sum of times in range.
        Ok(timeout) if (SECOND..=Duration::from_secs(TEN_YEARS.unsigned_abs())).contains(&timeout) => Ok(Some(timeout)),
        Ok(_) | Err(_) => Err(refuse(key, text, accepted)),
    }
}

fn cleaner(raw: &RawCleaner) -> Result<Cleaner, ConfigError> {
    Ok(Cleaner {
        enabled: raw.enabled,
        interval: duration("cleaner.interval", &raw.interval, Duration::from_millis(50)..=HOUR)?,
        unclaimed: seconds("cleaner.unclaimedSeconds", raw.unclaimed_seconds, 1..=TEN_YEARS)?,
    })
}

/// The spool deletes what it does not know, so no result may lie in its folder.
fn folders_apart(worker: &Worker, oss: &Oss) -> Result<(), ConfigError> {
    let OssKind::Fs { path, .. } = &oss.kind else { return Ok(()) };
    let tidy = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    let (results, spool) = (tidy(path), tidy(&worker.tmp_dir));
    if results.starts_with(&spool) || spool.starts_with(&results) {
        let accepted = "a folder outside of oss.path and not around it";
        return Err(refuse("worker.tmpDir", worker.tmp_dir.to_string_lossy(), accepted));
    }
    Ok(())
}

fn zone(key: &str, name: &str) -> Result<Tz, ConfigError> {
    name.parse().map_err(|_| {
        let accepted = match nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())) {
            Some(near) => format!("an IANA time zone; did you mean {near}?"),
            None => "an IANA time zone, such as UTC or Asia/Shanghai".to_owned(),
        };
        refuse(key, name, &accepted)
    })
}

fn log(raw: &RawLog) -> Result<Log, ConfigError> {
    let format = match raw.format.as_str() {
        "auto" => LogFormat::Auto,
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => return Err(refuse("log.format", other, "auto, text, json")),
    };
    if !is_filter(&raw.level) {
        return Err(refuse("log.level", raw.level.as_str(), LEVELS));
    }
    Ok(Log { format, level: raw.level.clone() })
}

fn metrics(raw: &RawMetrics) -> Result<MetricsPage, ConfigError> {
    Ok(MetricsPage {
        token: optional("metrics.token", &raw.token, header_text)?,
        top_lanes: integer("metrics.topLanes", raw.top_lanes, 0..=1000)?,
    })
}

/// The filter's own parser takes a misspelt level for the name of a part, and would then log
/// nothing else.
pub(crate) fn is_filter(directives: &str) -> bool {
    let is_level = |text: &str| !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok();
    let is_directive = |text: &str| is_level(text.rsplit_once('=').map_or(text, |(_, level)| level));
    directives.split(',').all(is_directive) && EnvFilter::try_new(directives).is_ok()
}

fn integer<T: TryFrom<i64>>(key: &str, value: i64, accepted: RangeInclusive<i64>) -> Result<T, ConfigError> {
    let in_range = Some(value).filter(|value| accepted.contains(value)).and_then(|value| T::try_from(value).ok());
    in_range.ok_or_else(|| refuse(key, value, &format!("{} to {}", accepted.start(), accepted.end())))
}

fn seconds(key: &str, value: i64, accepted: RangeInclusive<i64>) -> Result<Duration, ConfigError> {
    integer(key, value, accepted).map(Duration::from_secs)
}

fn duration(key: &str, text: &str, accepted: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
    humantime::parse_duration(text).ok().filter(|duration| accepted.contains(duration)).ok_or_else(|| {
        let (least, most) = (accepted.start(), accepted.end());
        let range = format!("{} to {}", humantime::format_duration(*least), humantime::format_duration(*most));
        refuse(key, text, &format!("a duration with a unit, such as 500ms, 5s or 15m, from {range}"))
    })
}

fn http_url(key: &str, text: &str) -> Result<Url, ConfigError> {
    let usable = |url: &Url| {
        ["http", "https"].contains(&url.scheme()) && url.has_host() && url.query().is_none() && url.fragment().is_none()
    };
    Url::parse(text).ok().filter(usable).ok_or_else(|| refuse(key, text, HTTP_URL))
}

fn folder(key: &str, text: &str) -> Result<PathBuf, ConfigError> {
    required(key, text, "the path of a folder").map(PathBuf::from)
}

fn required<'a>(key: &str, text: &'a str, accepted: &str) -> Result<&'a str, ConfigError> {
    if text.trim().is_empty() { Err(missing(key, accepted)) } else { Ok(text) }
}

/// An empty text means "not set".
fn optional<T>(
    key: &str,
    text: &str,
    parse: impl FnOnce(&str, &str) -> Result<T, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    if text.is_empty() { Ok(None) } else { parse(key, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut RawConfig)) -> Result<Config, ConfigError> {
        let mut raw = RawConfig::default();
        change(&mut raw);
        check(&raw)
    }

    /// The change is refused with a message about that key that says all of `parts`.
    fn refused(key: &str, parts: &[&str], change: impl FnOnce(&mut RawConfig)) {
        let error = with(change).map(|_| ()).unwrap_err();
        assert_eq!(error.key, key, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} does not say {part}");
        }
    }

    fn s3(raw: &mut RawConfig) {
        raw.oss.kind = "s3".into();
        raw.oss.bucket = "models".into();
        raw.oss.access_key = "id".into();
        raw.oss.secret_key = "geheim".into();
    }

    #[test]
    fn the_defaults_are_an_embedded_service_on_loopback() {
        let config = check(&RawConfig::default()).unwrap();
        assert!(config.server.address.ip().is_loopback());
        assert!(matches!(config.auth, Auth::Anonymous));
        assert!(matches!(config.database, Database::Sqlite { .. }));
        assert!(config.redis.is_none() && config.worker.queue_timeout.is_none());
        assert!(matches!(config.oss.kind, OssKind::Fs { .. }));
        assert_eq!(config.worker.lease, Duration::from_secs(30));
        assert_eq!(config.oss.timeout, Duration::from_secs(900));
    }

    #[test]
    fn the_address_may_be_a_name_and_needs_a_port() {
        let address = |text: &str| with(|raw| raw.server.address = text.into());
        assert_eq!(address("localhost:8080").unwrap().server.address.to_string(), "127.0.0.1:8080");
        assert_eq!(address("[::1]:0").unwrap().server.address.to_string(), "[::1]:0");
        for wrong in ["127.0.0.1", ":8080", "8080", "", "127.0.0.1:99999"] {
            refused("server.address", &[&format!("{wrong:?}"), "host:port"], |raw| raw.server.address = wrong.into());
        }
    }

    #[test]
    fn anonymous_beyond_loopback_is_refused_unless_allowed() {
        refused("auth.mode", &["0.0.0.0:8080", "gateway", "auth.allowInsecure"], |raw| {
            raw.server.address = "0.0.0.0:8080".into();
        });
        let allowed = with(|raw| {
            raw.server.address = "0.0.0.0:8080".into();
            raw.auth.allow_insecure = true;
        });
        assert!(allowed.is_ok());
    }

    #[test]
    fn every_mode_of_the_contract_can_be_chosen_and_no_other() {
        let mode = |mode: &str| {
            with(|raw| {
                raw.auth.mode = mode.into();
                raw.auth.jwt.secret = "x".repeat(32);
            })
        };
        assert!(matches!(mode("token").unwrap().auth, Auth::Token));
        assert!(matches!(mode("jwt").unwrap().auth, Auth::Jwt { .. }));
        refused("auth.mode", &["\"none\"", AUTH_MODES], |raw| raw.auth.mode = "none".into());
    }

    #[test]
    fn the_gateway_secret_must_fit_a_header_and_is_never_shown() {
        let gateway = |secret: &str| {
            with(|raw| {
                raw.auth.mode = "gateway".into();
                raw.auth.gateway_secret = secret.into();
            })
        };
        assert!(matches!(gateway("").unwrap().auth, Auth::Gateway { secret: None }));
        assert!(matches!(gateway("a+b/c=").unwrap().auth, Auth::Gateway { secret: Some(_) }));
        let error = gateway("gehe im").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("auth.gatewaySecret: ****") && !error.contains("gehe"), "{error}");
    }

    #[test]
    fn databases_are_postgres_or_a_file() {
        let database = |url: &str| with(|raw| raw.database.url = url.into()).unwrap().database;
        assert!(matches!(database("sqlite://a/b.db"), Database::Sqlite { path } if path == Path::new("a/b.db")));
        assert!(matches!(database("sqlite:///a/b.db"), Database::Sqlite { path } if path == Path::new("/a/b.db")));
        assert!(matches!(database("postgresql://app@host/db"), Database::Postgres { max_connections: 16, .. }));
        for wrong in ["", "mysql://host/db", "sqlite://", "sqlite://:memory:", "sqlite://a.db?mode=ro", "data/a.db"] {
            refused("database.url", &["postgres://", "sqlite://"], |raw| raw.database.url = wrong.into());
        }
        let error = with(|raw| raw.database.url = "mysql://app:s3cret@host/db".into()).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn redis_is_a_url_with_a_host() {
        let redis = with(|raw| raw.redis.url = "rediss://:pw@host:6379/1".into()).unwrap().redis.unwrap();
        assert_eq!((redis.url.as_str(), redis.key_prefix.as_str()), ("rediss://:pw@host:6379/1", "model-asynch:"));
        for wrong in ["host:6379", "http://host", "redis://"] {
            refused("redis.url", &["redis://host:port/db", "rediss://"], |raw| raw.redis.url = wrong.into());
        }
    }

    #[test]
    fn the_key_is_32_bytes_in_base64_and_never_shown() {
        let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        for key in [key, key.trim_end_matches('=')] {
            let vault = with(|raw| raw.secrets.key = key.into()).unwrap().vault;
            assert_ne!(vault.seal("text").unwrap(), "text");
        }
        for wrong in ["BwcH", "geheim geheim", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"] {
            refused("secrets.key", &["****", "exactly 32 bytes"], |raw| raw.secrets.key = wrong.into());
            refused("secrets.previousKeys", &["****", "exactly 32 bytes"], |raw| {
                raw.secrets.previous_keys = format!("{key},{wrong}");
            });
        }
        let sealed = with(|raw| raw.secrets.key = key.into()).unwrap().vault.seal("text").unwrap();
        let other = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";
        let vault = with(|raw| {
            raw.secrets.key = other.into();
            raw.secrets.previous_keys = format!("{other}, {key}");
        });
        assert_eq!(vault.unwrap().vault.open(&sealed).unwrap(), "text");
    }

    #[test]
    fn numbers_stay_in_their_ranges() {
        for wrong in [-1, 0, 1, 3601] {
            refused("worker.leaseSeconds", &["2 to 3600"], |raw| raw.worker.lease_seconds = wrong);
        }
        refused("worker.concurrency", &["0 ", "1 to 100000"], |raw| raw.worker.concurrency = 0);
        refused("worker.maxLostAttempts", &["1 to 1000"], |raw| raw.worker.max_lost_attempts = 0);
        refused("worker.maxResultBytes", &["1 to "], |raw| raw.worker.max_result_bytes = 0);
        refused("worker.spoolMaxBytes", &["0 to "], |raw| raw.worker.spool_max_bytes = -1);
        refused("worker.spoolMinFreeBytes", &["0 to "], |raw| raw.worker.spool_min_free_bytes = -1);
        refused("server.maxBodyBytes", &["1024 to "], |raw| raw.server.max_body_bytes = 5);
        refused("database.maxConnections", &["1 to 1000"], |raw| raw.database.max_connections = 0);
        refused("cleaner.unclaimedSeconds", &["1 to "], |raw| raw.cleaner.unclaimed_seconds = -5);
        refused("oss.retryForSeconds", &["0 to "], |raw| raw.oss.retry_for_seconds = -5);
        for wrong in [-1, 604_801] {
            refused("oss.urlTtlSeconds", &["0 to 604800"], |raw| {
                s3(raw);
                raw.oss.url_ttl_seconds = wrong;
            });
            refused("oss.urlTtlSeconds", &["0 to 604800"], |raw| raw.oss.url_ttl_seconds = wrong);
        }
    }

    #[test]
    fn durations_have_a_unit() {
        let grace = with(|raw| raw.server.shutdown_grace = "1m 30s".into()).unwrap().server.shutdown_grace;
        assert_eq!(grace, Duration::from_secs(90));
        for wrong in ["", "25", "fast", "-1s", "2h"] {
            let parts = [&format!("{wrong:?}"), "5s", "0s to 1h"];
            refused("server.shutdownGrace", &parts, |raw| raw.server.shutdown_grace = wrong.into());
        }
        refused("worker.pollInterval", &["10ms to 1h"], |raw| raw.worker.poll_interval = "1ms".into());
        refused("cleaner.interval", &["50ms to 1h"], |raw| raw.cleaner.interval = "0s".into());
        refused("oss.timeout", &["1s to 1day"], |raw| raw.oss.timeout = "2days".into());
    }

    #[test]
    fn the_queue_timeout_can_be_off() {
        let timeout = |text: &str| with(|raw| raw.worker.queue_timeout = text.into()).unwrap().worker.queue_timeout;
        assert_eq!((timeout("off"), timeout("Off"), timeout("0s")), (None, None, None));
        assert_eq!(timeout("30m"), Some(Duration::from_secs(1800)));
        for wrong in ["", "never", "10ms", "1000000years"] {
            refused("worker.queueTimeout", &["off, or a duration"], |raw| raw.worker.queue_timeout = wrong.into());
        }
    }

    #[test]
    fn each_kind_of_storage_asks_for_its_keys() {
        refused("oss.kind", &["\"ftp\"", "fs, s3, http"], |raw| raw.oss.kind = "ftp".into());
        refused("oss.path", &["is required", "a folder"], |raw| raw.oss.path = String::new());
        refused("oss.url", &["is required", "http"], |raw| raw.oss.kind = "http".into());
        for key in ["bucket", "accessKey", "secretKey"] {
            refused(&format!("oss.{key}"), &["is required"], |raw| {
                s3(raw);
                match key {
                    "bucket" => raw.oss.bucket.clear(),
                    "accessKey" => raw.oss.access_key.clear(),
                    _ => raw.oss.secret_key.clear(),
                }
            });
        }
        let OssKind::S3(s3) = with(s3).unwrap().oss.kind else { panic!("not s3") };
        assert_eq!((s3.region.as_str(), s3.presign_for), ("us-east-1", HOUR));
        assert!(s3.endpoint.is_none() && s3.public_url.is_none() && !s3.virtual_hosted);
    }

    #[test]
    fn urls_that_run_out_need_a_key_to_be_signed_with() {
        let ttl = |key: &str, seconds: i64| {
            let config = with(|raw| {
                raw.secrets.key = key.into();
                raw.oss.url_ttl_seconds = seconds;
            });
            let OssKind::Fs { url_ttl, .. } = config.unwrap().oss.kind else { panic!("not fs") };
            url_ttl
        };
        let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        assert_eq!((ttl("", 0), ttl(key, 0), ttl(key, 60)), (None, None, Some(Duration::from_secs(60))));
        refused("secrets.key", &["is required", "oss.urlTtlSeconds"], |raw| raw.oss.url_ttl_seconds = 60);
        refused("secrets.key", &["is required", "oss.urlTtlSeconds"], |raw| {
            raw.secrets.previous_keys = key.into();
            raw.oss.url_ttl_seconds = 60;
        });
        let presigned = with(|raw| {
            s3(raw);
            raw.oss.url_ttl_seconds = 60;
        });
        let OssKind::S3(s3) = presigned.unwrap().oss.kind else { panic!("not s3") };
        assert_eq!(s3.presign_for, Duration::from_secs(60), "whose keys the store has given");
    }

    #[test]
    fn a_file_service_may_name_where_its_url_is() {
        let http = |pointer: &str| {
            with(|raw| {
                raw.oss.kind = "http".into();
                raw.oss.url = "https://files.example/upload".into();
                raw.oss.url_pointer = pointer.into();
            })
        };
        assert!(matches!(http("/a/b").unwrap().oss.kind, OssKind::Http { url_pointer: Some(_), .. }));
        assert!(matches!(http("").unwrap().oss.kind, OssKind::Http { url_pointer: None, .. }));
        let error = http("a.b").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("oss.urlPointer: \"a.b\"") && error.contains("/data/link"), "{error}");
    }

    #[test]
    fn public_urls_are_absolute() {
        let url = with(|raw| raw.server.public_url = "https://a.example/models".into()).unwrap().server.public_url;
        assert_eq!(url.unwrap().as_str(), "https://a.example/models");
        for wrong in ["a.example", "/models", "ftp://a.example", "http://a.example/?x=1"] {
            refused("server.publicUrl", &["absolute http"], |raw| raw.server.public_url = wrong.into());
        }
        refused("oss.endpoint", &["absolute http"], |raw| {
            s3(raw);
            raw.oss.endpoint = "oss-cn-beijing.aliyuncs.example".into();
        });
    }

    #[test]
    fn results_and_temp_files_are_kept_apart() {
        for (results, spool) in [("data/x", "data/x"), ("data/x/oss", "./data/x"), ("data", "data/tmp")] {
            refused("worker.tmpDir", &["oss.path"], |raw| {
                raw.oss.path = results.into();
                raw.worker.tmp_dir = spool.into();
            });
        }
    }

    #[test]
    fn time_zones_are_known_by_name() {
        let zone = with(|raw| raw.stat.timezone = "Asia/Shanghai".into()).unwrap().stat_zone;
        assert_eq!(zone, Tz::Asia__Shanghai);
        refused("stat.timezone", &["did you mean Asia/Shanghai?"], |raw| raw.stat.timezone = "Asia/Shanghia".into());
        refused("stat.timezone", &["+08:00", "IANA"], |raw| raw.stat.timezone = "+08:00".into());
    }

    #[test]
    fn a_misspelt_log_level_is_refused() {
        for right in ["info", "WARN", "info,sqlx=debug", "model_asynch::worker=trace,warn", "off"] {
            assert!(with(|raw| raw.log.level = right.into()).is_ok(), "{right}");
        }
        for wrong in ["", "inof", "info,sqlx", "info,sqlx=loud", "info,"] {
            refused("log.level", &["info, debug"], |raw| raw.log.level = wrong.into());
        }
        refused("log.format", &["\"xml\"", "auto, text, json"], |raw| raw.log.format = "xml".into());
    }
}
