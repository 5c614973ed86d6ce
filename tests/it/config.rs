//! The shipped `config.yml` says what the code says.

use std::{collections::BTreeSet, path::Path};

use model_asynch::config::{keys, load, raw::RawConfig};
use serde_json::{Map, Value};

fn shipped() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yml")
}

#[test]
fn the_shipped_file_is_exactly_the_defaults() {
    let raw = load::read(Some(&shipped()), std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(keys::settings(&raw), keys::settings(&RawConfig::default()));
}

#[test]
fn the_shipped_file_has_every_key_and_no_other() {
    let file = ::config::File::from(shipped()).format(::config::FileFormat::Yaml);
    let tree = ::config::Config::builder().add_source(file).build().unwrap();
    let sections: Map<String, Value> = tree.try_deserialize().unwrap();
    let mut written = BTreeSet::new();
    leaves(&mut written, "", &sections);
    let known: BTreeSet<String> = keys::all().into_iter().map(|key| key.path).collect();
    assert_eq!(written, known);
}

fn leaves(found: &mut BTreeSet<String>, section: &str, keys: &Map<String, Value>) {
    for (name, value) in keys {
        match value {
            Value::Object(keys) => leaves(found, &format!("{section}{name}."), keys),
            _ => drop(found.insert(format!("{section}{name}"))),
        }
    }
}

#[test]
fn every_key_of_the_shipped_file_has_a_comment() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = pair[1].starts_with("  ") && !pair[1].trim_start().starts_with('#');
        assert!(!is_key || pair[0].trim_start().starts_with('#'), "no comment above {}", pair[1]);
    }
}

#[test]
fn the_shipped_file_is_accepted_without_a_warning() {
    let config = load::load(Some(&shipped()), std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn the_nodes_of_the_compose_file_start_with_what_it_sets() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("gateway_secret"), "secret\n").unwrap();
    std::fs::write(secrets.path().join("key"), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").unwrap();
    std::fs::write(secrets.path().join("database_url"), "postgres://app:pw@postgres/app").unwrap();

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = std::fs::read_to_string(root.join("Dockerfile")).unwrap();
    let compose = std::fs::read_to_string(root.join("compose.yml")).unwrap();
    let in_image = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    let in_compose = compose.lines().filter_map(|line| line.trim().split_once(": "));
    let env: Vec<(String, String)> = in_image
        .chain(in_compose)
        .filter(|(name, _)| name.starts_with("MODEL_ASYNCH__"))
        .map(|(name, value)| {
            let value = value.replace("/run/secrets", secrets.path().to_str().unwrap());
            (name.to_owned(), value.replace("${PUBLIC_URL:-http://localhost:8081}", "http://localhost:8081"))
        })
        .collect();
    assert!(env.len() > 5, "{env:?}");

    let config = load::load(Some(&shipped()), env.into_iter()).unwrap_or_else(|error| panic!("{error}"));
    let warnings = config.warnings();
    // Both nodes mount the same volume there.
    assert!(warnings.len() == 1 && warnings[0].contains("need the same oss.path"), "{warnings:?}");
}
