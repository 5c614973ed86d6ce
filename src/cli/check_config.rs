//! `check-config`: say whether the service would start with this configuration, and with what.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;

use crate::config::{check, keys, load, raw::RawConfig};

pub(super) fn run(file: Option<&Path>) -> anyhow::Result<()> {
    let raw = super::read_from(file)?;
    let config = check::check(&raw)?;
    let source = load::found(file).map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    let mut text = settings(&raw).context("cannot show the settings")?;
    for rule in &config.monitor.rules {
        writeln!(text, "rule {rule}")?;
    }
    for warning in config.warnings() {
        writeln!(text, "warning: {warning}")?;
    }
    super::print(&format!("{text}OK: {source}, environment and defaults\n"))
}

/// A line for each key: `worker.concurrency: 64  # default: 256`.
fn settings(raw: &RawConfig) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let known = keys::all();
    for (path, value) in keys::settings(raw) {
        write!(text, "{path}: {}", keys::shown(&path, &value))?;
        match known.iter().find(|key| key.path == path) {
            Some(key) if key.default != value => writeln!(text, "  # default: {}", key.default)?,
            // Plans are named by whoever writes them, and have no defaults.
            Some(_) | None => writeln!(text)?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_show_what_differs_and_no_secrets() {
        let mut raw = RawConfig::default();
        raw.worker.concurrency = 64;
        raw.oss.secret_key = "geheim".into();
        raw.database.url = "postgres://app:geheim@db/app".into();
        let text = settings(&raw).unwrap();
        assert!(text.contains("worker.concurrency: 64  # default: 256\n"), "{text}");
        assert!(text.contains("worker.leaseSeconds: 30\n"), "{text}");
        assert!(text.contains("oss.secretKey: ****  # default: \"\"\n"), "{text}");
        assert!(!text.contains("geheim"), "{text}");
    }
}
