//! The names of all keys, which of their values may be shown, and which key a typo meant.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use url::Url;

use super::{ConfigError, raw::RawConfig};
use crate::tenant::TERMS;

/// What stands for a secret.
const MASK: &str = "****";

/// Values that are never shown.
const SECRET: [&str; 11] = [
    "auth.gatewaySecret",
    "auth.jwt.secret",
    "metrics.token",
    "secrets.key",
    "secrets.previousKeys",
    "oss.accessKey",
    "oss.secretKey",
    "telemetry.otlpHeaders",
    "consul.token",
    "monitor.email.password",
    "monitor.webhook.secret",
];

/// Values that are shown without the password they may carry.
const URLS: [&str; 10] = [
    "auth.jwt.jwksUrl",
    "database.url",
    "redis.url",
    "server.publicUrl",
    "oss.url",
    "oss.endpoint",
    "oss.publicUrl",
    "telemetry.otlpEndpoint",
    "consul.address",
    "monitor.webhook.url",
];

/// The section whose sections are named by whoever writes the file.
const PLANS: &str = "tenants.plans";

/// Most characters of a value that are shown.
const MAX_SHOWN: usize = 120;

/// How alike a name must be (0 to 1) to be what a typo meant.
const ALIKE: f64 = 0.6;

/// A key that exists.
#[derive(Debug, Clone)]
pub struct Key {
    /// Section and name: `worker.leaseSeconds`.
    pub path: String,
    /// What holds where nobody says otherwise.
    pub default: Value,
}

/// Every key, by section, each section in alphabetical order.
pub fn all() -> Vec<Key> {
    settings(&RawConfig::default()).into_iter().map(|(path, default)| Key { path, default }).collect()
}

/// The keys of plans of those names.
pub(super) fn of_plans(names: BTreeSet<String>) -> impl Iterator<Item = Key> {
    let key = |name: &str, term: &str| Key { path: format!("{PLANS}.{name}.{term}"), default: Value::from(0) };
    names.into_iter().flat_map(move |name| TERMS.map(|term| key(&name, term.name)))
}

/// The names of the plans that a file has.
pub(super) fn plans_in(tree: &Map<String, Value>) -> BTreeSet<String> {
    let plans = PLANS.split('.').try_fold(None::<&Map<String, Value>>, |section, name| {
        Some(Some(section.unwrap_or(tree).get(name)?.as_object()?))
    });
    plans.flatten().into_iter().flat_map(|plans| plans.keys().cloned()).collect()
}

/// The name of the plan that a path leads into.
pub(super) fn plan_of(path: &str) -> Option<&str> {
    let (name, _) = path.strip_prefix(PLANS)?.strip_prefix('.')?.split_once('.')?;
    Some(name).filter(|name| !name.is_empty())
}

/// True for sections that may be empty, since what is in them is named by whoever writes the file.
pub(super) fn may_be_empty(section: &str) -> bool {
    PLANS.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Every key with its value.
pub fn settings(raw: &RawConfig) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    // Numbers, texts and switches in structs always become an object.
    if let Ok(Value::Object(sections)) = serde_json::to_value(raw) {
        flatten(&mut found, "", sections);
    }
    found
}

fn flatten(found: &mut Vec<(String, Value)>, section: &str, keys: Map<String, Value>) {
    for (name, value) in keys {
        let path = within(section, &name);
        match value {
            Value::Object(keys) => flatten(found, &path, keys),
            value => found.push((path, value)),
        }
    }
}

/// The path of a key or section in a section; the file itself is the empty one.
pub(super) fn within(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The value as it may be shown to anyone who reads logs.
pub fn shown(path: &str, value: &Value) -> String {
    if SECRET.contains(&path) {
        return if value == "" { "\"\"".to_owned() } else { MASK.to_owned() };
    }
    let value = match value {
        Value::String(text) if URLS.contains(&path) => Value::from(without_password(text)),
        other => other.clone(),
    };
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A value that cannot be used.
pub(super) fn refuse(path: &str, value: impl Into<Value>, accepted: &str) -> ConfigError {
    let shown = shown(path, &value.into());
    ConfigError { key: path.to_owned(), message: format!("{shown} cannot be used; accepted: {accepted}") }
}

/// A value that is missing.
pub(super) fn missing(path: &str, accepted: &str) -> ConfigError {
    ConfigError { key: path.to_owned(), message: format!("is required; accepted: {accepted}") }
}

/// The name that `wrong` was meant to be, if one is near enough.
pub(super) fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| {
        // The right name in the wrong section is as good as a hit.
        let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
        if name.contains('.') && leaf(name) == leaf(wrong) {
            return 1.0;
        }
        strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &wrong.to_lowercase())
    };
    names
        .into_iter()
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

/// The URL with its password, and whatever else in it may be one, masked.
fn without_password(text: &str) -> String {
    if text.is_empty() || text.starts_with("sqlite:") {
        return text.to_owned();
    }
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    let unreadable = || if scheme.is_empty() { MASK.to_owned() } else { format!("{scheme}://{MASK}") };
    let Ok(mut url) = Url::parse(text) else { return unreadable() };
    // A password with `/`, `?` or `#` in it ends up behind the host, with the `@` that followed it.
    let behind_the_host = [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()];
    if url.cannot_be_a_base() || behind_the_host.iter().any(|part| part.contains('@')) {
        return unreadable();
    }
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return unreadable();
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let harmless = ["host", "port", "dbname", "user"].contains(&&*name) || name.starts_with("ssl");
                (name.into_owned(), if harmless { value.into_owned() } else { MASK.to_owned() })
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_a_section_or_in_a_section_of_one() {
        let keys = all();
        assert!(keys.len() > 40);
        assert!(keys.iter().all(|key| [2, 3].contains(&key.path.split('.').count())), "{keys:?}");
        assert!(keys.iter().any(|key| key.path == "auth.jwt.jwksUrl"), "{keys:?}");
    }

    #[test]
    fn secrets_are_masked_and_empty_ones_shown_empty() {
        assert_eq!(shown("secrets.key", &"abc".into()), "****");
        assert_eq!(shown("auth.jwt.secret", &"abc".into()), "****");
        assert_eq!(shown("oss.secretKey", &7.into()), "****");
        assert_eq!(shown("oss.accessKey", &"".into()), "\"\"");
        assert_eq!(shown("oss.bucket", &"b".into()), "\"b\"");
        assert!(shown("oss.bucket", &"b".repeat(1000).into()).len() < 130);
    }

    #[test]
    fn no_url_shows_its_password_however_it_is_written() {
        for url in [
            "postgres://app:s3cret@host/db",
            "postgres://host/db?user=app&password=s3cret",
            "postgres://app:1/s3cret@host/db",
            "postgres://app:1#s3cret@host/db",
            "postgres://app:1?s3cret@host/db",
            "postgres://app:s3cret@ho st/db",
            "app:s3cret@host/db",
            "redis://:s3cret@host:6379/0",
        ] {
            let shown = shown("database.url", &url.into());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert_eq!(shown("redis.url", &"redis://host:6379/1".into()), "\"redis://host:6379/1\"");
        assert_eq!(shown("database.url", &"sqlite://data/a.db".into()), "\"sqlite://data/a.db\"");
    }

    #[test]
    fn a_typo_finds_the_key_it_meant() {
        let keys = all();
        let names = || keys.iter().map(|key| key.path.as_str());
        assert_eq!(nearest("worker.leaseSecond", names()), Some("worker.leaseSeconds"));
        assert_eq!(nearest("worker.leaseseconds", names()), Some("worker.leaseSeconds"));
        assert_eq!(nearest("server.leaseSeconds", names()), Some("worker.leaseSeconds"));
        assert_eq!(nearest("qqqqqq.zzz", names()), None);
    }
}
