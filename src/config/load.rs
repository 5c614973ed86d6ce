//! Reading the configuration: the defaults, over them a file, over that the environment.
//!
//! `MODEL_ASYNCH__WORKER__LEASE_SECONDS` is `worker.leaseSeconds`, in any case and with or without
//! the single underscores; with `__FILE` behind it the value is read from the file it names.
//! Variables that begin with `MODEL_ASYNCH_` and one underscore are not ours: Kubernetes makes such
//! for a service of that name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    Config, ConfigError, check,
    keys::{self, Key},
    raw::RawConfig,
};

/// What is read where nobody names a file.
const DEFAULT_FILE: &str = "config.yml";

/// What our variables begin with.
const PREFIX: &str = "MODEL_ASYNCH__";

/// Largest file that `…__FILE` reads, in bytes.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// Reads and checks everything.
///
/// # Errors
/// The first key that is unknown or has a value that cannot be used.
pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    check::check(&read(file, env)?)
}

/// Reads file and environment; the values are of the right type, and not checked any further.
///
/// # Errors
/// A file that cannot be read, an unknown key, or a value of the wrong type.
pub fn read(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<RawConfig, ConfigError> {
    let mut known = keys::all();
    let env: Vec<(String, String)> = env.filter(|(name, _)| is_ours(name)).collect();
    let mut plans: BTreeSet<String> =
        env.iter().filter_map(|(name, _)| keys::plan_of(&plain(&name[PREFIX.len()..])).map(str::to_owned)).collect();
    let mut layers = config::Config::builder();
    if let Some(path) = found(file) {
        let text = fs::read_to_string(&path).map_err(|error| ConfigError {
            key: path.display().to_string(),
            message: format!("cannot be read: {error}; name an existing YAML file"),
        })?;
        let layer = config::File::from_str(&text, config::FileFormat::Yaml);
        // Parsed on its own, so that an error is known to be of this file.
        let layer = config::Config::builder().add_source(layer).build().map_err(|error| ConfigError {
            key: path.display().to_string(),
            message: format!("is not a YAML file of sections and keys: {}", one_line(&error)),
        })?;
        if let Ok(tree) = layer.clone().try_deserialize() {
            plans.extend(keys::plans_in(&tree));
        }
        layers = layers.add_source(layer);
    }
    known.extend(keys::of_plans(plans));
    let unusable = |error: config::ConfigError| ConfigError { key: "environment".into(), message: one_line(&error) };
    for (path, value) in overrides(&known, env)? {
        layers = layers.set_override(path, value).map_err(unusable)?;
    }
    let tree: Map<String, Value> = layers.build().and_then(config::Config::try_deserialize).map_err(unusable)?;
    typed(&known, &Value::Object(only_known(&known, "", tree)?))
}

/// The file that is read: the one named, else `config.yml` where there is one.
pub fn found(file: Option<&Path>) -> Option<PathBuf> {
    match file {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
    }
}

/// The variable that sets a key: `MODEL_ASYNCH__WORKER__LEASE_SECONDS`.
pub fn variable(path: &str) -> String {
    let mut name = PREFIX.to_owned();
    for letter in path.chars() {
        match letter {
            '.' => name.push_str("__"),
            capital if capital.is_ascii_uppercase() => name.extend(['_', capital]),
            other => name.push(other.to_ascii_uppercase()),
        }
    }
    name
}

/// What the environment says, by key.
fn overrides(known: &[Key], env: Vec<(String, String)>) -> Result<BTreeMap<String, config::Value>, ConfigError> {
    let mut found: BTreeMap<String, config::Value> = BTreeMap::new();
    for (name, value) in env {
        let (key, from_file) = key_of(known, &name)?;
        let value = if from_file { content_of(&name, &value)? } else { value };
        if found.insert(key.path.clone(), of_the_type(&key.default, value)).is_some() {
            let message = format!("{} is set by two variables; keep one", key.path);
            return Err(ConfigError { key: name, message });
        }
    }
    Ok(found)
}

fn is_ours(variable: &str) -> bool {
    variable.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The key a variable means, and whether its value is the name of a file.
fn key_of<'a>(known: &'a [Key], name: &str) -> Result<(&'a Key, bool), ConfigError> {
    let wanted = plain(&name[PREFIX.len()..]);
    let key = |wanted: &str| known.iter().find(|key| plain(&key.path.replace('.', "__")) == wanted);
    if let Some(key) = key(&wanted) {
        return Ok((key, false));
    }
    if let Some(key) = wanted.strip_suffix(".file").and_then(key) {
        return Ok((key, true));
    }
    let near = keys::nearest(wanted.trim_end_matches(".file"), known.iter().map(|key| key.path.as_str()));
    let message = match near {
        Some(path) => format!("unknown variable; did you mean {} ({path})?", variable(path)),
        None => "unknown variable; variables are named like MODEL_ASYNCH__WORKER__LEASE_SECONDS".to_owned(),
    };
    Err(ConfigError { key: name.to_owned(), message })
}

/// `WORKER__LEASE_SECONDS` as `worker.leaseseconds`.
fn plain(name: &str) -> String {
    name.replace("__", ".").replace('_', "").to_ascii_lowercase()
}

/// What the file named by a `…__FILE` variable holds, without the newline at its end.
fn content_of(name: &str, path: &str) -> Result<String, ConfigError> {
    let failed = |problem: String| ConfigError { key: name.to_owned(), message: format!("{path:?} {problem}") };
    let size = fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?.len();
    if size > MAX_SECRET_FILE {
        return Err(failed(format!("is larger than {MAX_SECRET_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// A variable's text as number or switch where the key is one; what cannot be stays text and is
/// refused with the file's mistakes.
fn of_the_type(default: &Value, text: String) -> config::Value {
    match default {
        Value::Number(share) if share.is_f64() => text.trim().parse::<f64>().map_or_else(|_| text.into(), Into::into),
        Value::Number(_) => text.trim().parse::<i64>().map_or_else(|_| text.into(), Into::into),
        Value::Bool(_) => text.trim().to_lowercase().parse::<bool>().map_or_else(|_| text.into(), Into::into),
        // A list is written as JSON there.
        Value::Array(_) => serde_json::from_str(&text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

/// A section without keys that have no value, which mean the default.
fn only_known(known: &[Key], section: &str, tree: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let mut kept = Map::new();
    for (name, value) in tree {
        let path = keys::within(section, &name);
        let is_key = known.iter().any(|key| key.path == path);
        let inside: Vec<&str> = known.iter().filter_map(|key| key.path.strip_prefix(&format!("{path}."))).collect();
        let value = match value {
            _ if !is_key && inside.is_empty() && !keys::may_be_empty(&path) => return Err(unknown(known, &path)),
            Value::Null => continue,
            value if is_key => value,
            Value::Object(keys) => Value::Object(only_known(known, &path, keys)?),
            _ => {
                let message = format!("is a section, not a value; its keys are {}", inside.join(", "));
                return Err(ConfigError { key: path, message });
            }
        };
        kept.insert(name, value);
    }
    Ok(kept)
}

fn unknown(known: &[Key], path: &str) -> ConfigError {
    let paths = || known.iter().map(|key| key.path.as_str());
    let section_of = |path: &str| path.split('.').next().unwrap_or_default().to_owned();
    let mut sections: Vec<String> = paths().map(section_of).collect();
    sections.dedup();
    let near = match path.contains('.') {
        true => keys::nearest(path, paths()),
        false => keys::nearest(path, sections.iter().map(String::as_str)).or_else(|| keys::nearest(path, paths())),
    };
    let message = match near {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => {
            let siblings: Vec<&str> = paths().filter(|key| section_of(key) == section_of(path)).collect();
            let accepted = if siblings.is_empty() { sections.join(", ") } else { siblings.join(", ") };
            format!("unknown key; accepted: {accepted}")
        }
    };
    ConfigError { key: path.to_owned(), message }
}

fn typed(known: &[Key], tree: &Value) -> Result<RawConfig, ConfigError> {
    let parsed: Result<RawConfig, _> = serde_path_to_error::deserialize(tree);
    parsed.map_err(|error| {
        // A list is one key, whichever of its entries is wrong.
        let path = error.path().to_string().split('[').next().unwrap_or_default().to_owned();
        let value = tree.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default();
        let accepted = match known.iter().find(|key| key.path == path).map(|key| &key.default) {
            Some(Value::Number(_)) => "a whole number",
            Some(Value::Bool(_)) => "true or false",
            Some(Value::Array(_)) => "a list of sections; in the environment a JSON array of objects",
            _ if value.is_number() || value.is_boolean() => "a text; put this in quotes",
            _ => "a text",
        };
        keys::refuse(&path, value, accepted)
    })
}

/// An error of the parser, which may span lines, as one.
fn one_line(error: &config::ConfigError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with that text, and variables.
    fn from(yaml: &str, env: &[(&str, &str)]) -> Result<RawConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.yml");
        fs::write(&path, yaml).unwrap();
        read(Some(&path), env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn refused(yaml: &str, env: &[(&str, &str)]) -> String {
        from(yaml, env).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_overrides_defaults_and_the_environment_the_file() {
        let yaml = "worker:\n  concurrency: 7\n  leaseSeconds: 8\n";
        let raw = from(yaml, &[("MODEL_ASYNCH__WORKER__LEASE_SECONDS", "9")]).unwrap();
        assert_eq!((raw.worker.concurrency, raw.worker.lease_seconds, raw.worker.max_lost_attempts), (7, 9, 3));
    }

    #[test]
    fn variables_are_read_in_every_spelling() {
        for name in [
            "MODEL_ASYNCH__WORKER__LEASE_SECONDS",
            "MODEL_ASYNCH__WORKER__LEASESECONDS",
            "model_asynch__worker__leaseSeconds",
            "Model_Asynch__WORKER__LEASE_Seconds",
        ] {
            assert_eq!(from("", &[(name, "9")]).unwrap().worker.lease_seconds, 9, "{name}");
        }
    }

    #[test]
    fn a_variable_for_every_key_is_understood() {
        for key in keys::all() {
            let name = variable(&key.path);
            assert_eq!(key_of(&keys::all(), &name).unwrap().0.path, key.path, "{name}");
        }
        assert_eq!(variable("oss.urlTtlSeconds"), "MODEL_ASYNCH__OSS__URL_TTL_SECONDS");
        assert_eq!(variable("auth.jwt.jwksUrl"), "MODEL_ASYNCH__AUTH__JWT__JWKS_URL");
    }

    #[test]
    fn texts_from_the_environment_stay_texts() {
        let env =
            [("MODEL_ASYNCH__OSS__ACCESS_KEY", "0123"), ("MODEL_ASYNCH__AUTH__ALLOW_INSECURE", "True"), ("PATH", "/")];
        let raw = from("", &env).unwrap();
        assert_eq!((raw.oss.access_key.as_str(), raw.auth.allow_insecure), ("0123", true));
    }

    #[test]
    fn other_peoples_variables_are_left_alone() {
        assert!(from("", &[("MODEL_ASYNCH_SERVICE_HOST", "10.0.0.1"), ("MODEL_ASYNCHß", "x")]).is_ok());
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_one_it_meant() {
        let message = refused("", &[("MODEL_ASYNCH__WORKER__LEASE_SECOND", "geheim")]);
        assert_eq!(
            message,
            "MODEL_ASYNCH__WORKER__LEASE_SECOND: unknown variable; \
             did you mean MODEL_ASYNCH__WORKER__LEASE_SECONDS (worker.leaseSeconds)?"
        );
        assert!(refused("", &[("MODEL_ASYNCH__XYZ", "1")]).contains("are named like"));
    }

    #[test]
    fn a_key_set_by_two_variables_is_refused() {
        let env = [("MODEL_ASYNCH__WORKER__LEASE_SECONDS", "9"), ("MODEL_ASYNCH__WORKER__LEASESECONDS", "10")];
        assert!(refused("", &env).contains("worker.leaseSeconds is set by two variables"));
    }

    #[test]
    fn a_value_comes_from_the_file_that_a_variable_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "top secret\n").unwrap();
        let file = path.to_str().unwrap();
        let raw = from("", &[("MODEL_ASYNCH__AUTH__GATEWAY_SECRET__FILE", file)]).unwrap();
        assert_eq!(raw.auth.gateway_secret, "top secret");
        fs::write(&path, "12\r\n").unwrap();
        let raw = from("", &[("MODEL_ASYNCH__WORKER__LEASESECONDS__FILE", file)]).unwrap();
        assert_eq!(raw.worker.lease_seconds, 12);
    }

    #[test]
    fn a_value_file_that_cannot_be_read_is_named() {
        let message = refused("", &[("MODEL_ASYNCH__SECRETS__KEY__FILE", "/nowhere/key")]);
        assert!(
            message.starts_with("MODEL_ASYNCH__SECRETS__KEY__FILE: \"/nowhere/key\" cannot be read: "),
            "{message}"
        );
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let error = read(Some(Path::new("/nowhere/config.yml")), std::iter::empty()).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/config.yml: cannot be read: "), "{error}");
    }

    #[test]
    fn empty_files_sections_and_keys_mean_the_defaults() {
        let defaults = keys::settings(&RawConfig::default());
        for yaml in ["", "# nothing\n", "worker:\n", "worker:\n  # concurrency: 7\nredis:\n  url:\n"] {
            assert_eq!(keys::settings(&from(yaml, &[]).unwrap()), defaults, "{yaml:?}");
        }
    }

    #[test]
    fn unknown_keys_are_named_with_the_ones_they_meant() {
        let message = refused("worker:\n  leaseSecond: 9\n", &[]);
        assert_eq!(message, "worker.leaseSecond: unknown key; did you mean worker.leaseSeconds?");
        assert_eq!(
            refused("auth:\n  jwt:\n    isuer: x\n", &[]),
            "auth.jwt.isuer: unknown key; did you mean auth.jwt.issuer?"
        );
        assert_eq!(refused("wroker:\n  concurrency: 9\n", &[]), "wroker: unknown key; did you mean worker?");
        assert_eq!(refused("leaseSeconds: 9\n", &[]), "leaseSeconds: unknown key; did you mean worker.leaseSeconds?");
        assert_eq!(
            refused("redis:\n  zzzzzz: 9\n", &[]),
            "redis.zzzzzz: unknown key; accepted: redis.url, redis.keyPrefix"
        );
    }

    #[test]
    fn plans_are_named_in_the_file_and_in_the_environment() {
        let yaml = "tenants:\n  plans:\n    gold:\n      keepResults: 7\n      maxConcurrency: 3\n    new:\n";
        let env = [
            ("MODEL_ASYNCH__TENANTS__PLANS__GOLD__KEEP_RESULTS", "8"),
            ("MODEL_ASYNCH__TENANTS__PLANS__FREE__REQUESTS_PER_SECOND", "1"),
        ];
        let plans = from(yaml, &env).unwrap().tenants.plans;
        assert_eq!((plans["gold"].keep_results, plans["gold"].max_concurrency), (Some(8), Some(3)));
        assert_eq!((plans["free"].requests_per_second, plans.len()), (Some(1), 2));
        assert!(from("tenants:\n  plans: {}\n", &[]).unwrap().tenants.plans.is_empty());
        for (yaml, message) in [
            (
                "tenants:\n  plans:\n    gold:\n      keepResult: 7\n",
                "tenants.plans.gold.keepResult: unknown key; did you mean tenants.plans.gold.keepResults?",
            ),
            (
                "tenants:\n  plans:\n    gold:\n      keepResults: many\n",
                "tenants.plans.gold.keepResults: \"many\" cannot be used; accepted: a whole number",
            ),
            (
                "tenants:\n  plans:\n    gold: 7\n",
                "tenants.plans.gold: is a section, not a value; its keys are requestsPerSecond, maxConcurrency, \
                 keepResults, opLogDays",
            ),
        ] {
            assert_eq!(refused(yaml, &[]), message);
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_their_key() {
        for (yaml, message) in [
            ("worker:\n  leaseSeconds: 30s\n", "worker.leaseSeconds: \"30s\" cannot be used; accepted: a whole number"),
            ("worker:\n  leaseSeconds: 2.5\n", "worker.leaseSeconds: 2.5 cannot be used; accepted: a whole number"),
            ("worker:\n  enabled: maybe\n", "worker.enabled: \"maybe\" cannot be used; accepted: true or false"),
            ("cleaner:\n  interval: 5\n", "cleaner.interval: 5 cannot be used; accepted: a text; put this in quotes"),
            ("oss:\n  secretKey: 12345\n", "oss.secretKey: **** cannot be used; accepted: a text; put this in quotes"),
            ("oss:\n  bucket: [a]\n", "oss.bucket: [\"a\"] cannot be used; accepted: a text"),
            (
                "auth:\n  jwt: abc\n",
                "auth.jwt: is a section, not a value; its keys are secret, publicKeyFile, \
              jwksFile, jwksUrl, issuer, audience, tenantClaim, userClaim, adminClaim, scopeClaim",
            ),
            ("secrets: abc\n", "secrets: is a section, not a value; its keys are key, previousKeys"),
        ] {
            assert_eq!(refused(yaml, &[]), message);
        }
        let message = refused("", &[("MODEL_ASYNCH__WORKER__CONCURRENCY", "many")]);
        assert_eq!(message, "worker.concurrency: \"many\" cannot be used; accepted: a whole number");
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_the_place() {
        for yaml in ["worker: [", "- a\n- b\n", "worker:\n  a: 1\n  a: 2\n", "a: 1\n---\nb: 2\n"] {
            let message = refused(yaml, &[]);
            assert!(message.contains("some.yml: is not a YAML file of sections and keys: "), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    /// Files of known and unknown keys with values of every kind.
    fn yaml() -> impl Strategy<Value = String> {
        let keys: Vec<String> = keys::all().into_iter().map(|key| key.path).collect();
        let key = prop_oneof![prop::sample::select(keys), "[a-zA-Z.]{1,12}"];
        let value = prop_oneof![
            any::<String>(),
            "[\\[{\"'&*!|>a-z0-9:, -]{0,16}",
            "-?[0-9]{1,20}(\\.[0-9])?",
            "(true|no|null|~)"
        ];
        let line = (key, value).prop_map(|(path, value)| {
            let mut text = String::new();
            let parts: Vec<&str> = path.split('.').collect();
            for (depth, part) in parts.iter().enumerate() {
                let end = if depth + 1 == parts.len() { format!(" {value}") } else { String::new() };
                text.push_str(&format!("{}{part}:{end}\n", "  ".repeat(depth)));
            }
            text
        });
        prop_oneof![any::<String>(), prop::collection::vec(line, 1..3).prop_map(|lines| lines.concat())]
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd_to_be_read_or_refused_by_name(yaml in yaml()) {
            if let Err(error) = from(&yaml, &[]).and_then(|raw| check::check(&raw)) {
                prop_assert!(!error.key.is_empty() && !error.message.is_empty(), "{error}");
            }
        }

        #[test]
        fn whatever_a_variable_says_the_refusal_names_a_key_and_no_secret(
            key in prop::sample::select(keys::all()),
            value in prop_oneof![
                any::<String>(),
                "[0-9]{1,20}",
                "[a-z]{2,8}://[a-z0-9:@/?#=.]{0,20}",
                "[A-Za-z0-9+/=, .*-]{8,60}",
            ],
        ) {
            if let Err(error) = from("", &[(&variable(&key.path), &value)]).and_then(|raw| check::check(&raw)) {
                prop_assert!(keys::all().iter().any(|known| known.path == error.key), "{error}");
                let secret = keys::shown(&key.path, &"x".into()) == "****" && value.len() >= 8;
                prop_assert!(!(secret && error.message.contains(&value)), "{error}");
            }
        }

        #[test]
        fn no_variable_is_too_odd_to_be_read_or_refused(name: String, value: String) {
            if let Err(error) = from("", &[(&format!("{PREFIX}{name}"), &value)]) {
                prop_assert!(!error.key.is_empty(), "{error}");
            }
        }
    }
}
