//! The laws of the house, as far as a search can see them (they are spelled out in `src/lib.rs`).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every file below `folder` with that ending, as (path from the top, text).
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![top.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {folder}");
    found.sort();
    found
}

/// The lines of code: without comments, and without the tests at the end of the file.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    code.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

/// Asserts that a word is only in files that `may` allow.
fn only_in(words: &[&str], may: impl Fn(&str) -> bool) {
    for (name, text) in files("src", ".rs") {
        for word in words {
            let line = code(&text).find(|line| line.contains(word));
            assert!(line.is_none() || may(&name), "{name} must not name {word}: {}", line.unwrap_or_default());
        }
    }
}

#[test]
fn the_domain_does_no_io_and_reads_no_clock() {
    for (name, text) in files("src", ".rs") {
        if ["src/task", "src/model", "src/alert", "src/stats.rs"].iter().any(|home| name.starts_with(home)) {
            for word in ["sqlx", "redis::", "axum", "reqwest", "tokio", "clock", "std::fs", "std::net"] {
                assert!(code(&text).all(|line| !line.contains(word)), "{name} must not name {word}");
            }
        }
    }
}

#[test]
fn each_outside_library_has_one_home() {
    only_in(&["sqlx::", "use sqlx"], |name| name.starts_with("src/store"));
    only_in(&["redis::{", "redis::aio", "redis::Script", "::redis::"], |name| {
        name.starts_with("src/permits") || name.starts_with("src/wake") || name.starts_with("src/watch")
    });
    only_in(&["axum::", "use axum"], |name| {
        name.starts_with("src/api") || name == "src/dashboard.rs" || name == "src/cli/demo/language_model.rs"
    });
    only_in(&["opentelemetry_proto::", "prost::"], |name| name.starts_with("src/trace"));
    only_in(&["object_store::", "use object_store"], |name| name == "src/storage/s3.rs");
    only_in(&["lettre::", "use lettre"], |name| {
        name == "src/monitor/mail.rs" || name == "src/config.rs" || name == "src/config/check/monitor.rs"
    });
    only_in(&["tokio::spawn"], |name| name == "src/app.rs");
    only_in(&["Utc::now", "Instant::now()", "Uuid::new_v4", "Uuid::now_v7", "fastrand"], |name| {
        name == "src/clock.rs" || name == "src/worker.rs"
    });
}

#[test]
fn only_the_lifecycle_makes_transitions() {
    only_in(&["Transition {", "Change::"], |name| name == "src/task/lifecycle.rs");
}

#[test]
fn arrows_point_down() {
    let layers: [&[&str]; 5] = [
        &["cli", "logging"],
        &["app"],
        &["api", "dashboard", "worker", "cleaner", "maintenance", "monitor", "vitals"],
        &[
            "catalog", "census", "oplog", "recorder", "store", "permits", "wake", "storage", "spool", "trips",
            "periodic", "watch", "turn", "tenants", "trace", "consul",
        ],
        &[
            "metrics",
            "series",
            "task",
            "model",
            "alert",
            "caller",
            "token",
            "jwt",
            "stats",
            "config",
            "secrets",
            "egress",
            "clock",
            "log_level",
            "faults",
            "breath",
            "job",
            "tenant",
        ],
    ];
    let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    for (name, text) in files("src", ".rs") {
        let module = name.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{name} is in no layer; add it to this test"));
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
                if let Some(other) = layer(used) {
                    assert!(other >= own, "{name} ({module}) must not use {used}, which is above it: {line}");
                }
            }
        }
    }
}

/// Where tests kill the process is in no build of the service: only the package's dependency on
/// itself, which counts for tests alone, turns it on.
#[test]
fn only_tests_have_kill_points() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("\ndefault = ["), "no feature is on by default");
    let (service, tests) = manifest.split_once("[dev-dependencies]").unwrap();
    assert_eq!(service.matches("kill-points").count(), 1, "named where it is defined, and nowhere else");
    assert_eq!(tests.matches("kill-points").count(), 1);
    only_in(&["\"kill-points\"", "MODEL_ASYNCH_KILL"], |name| name == "src/faults.rs");
}

#[test]
fn migrations_are_twins() {
    let names = |backend: &str| -> Vec<String> {
        let folder = format!("migrations/{backend}");
        files(&folder, ".sql").into_iter().map(|(name, _)| name.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names("postgres"), names("sqlite"));
}

#[test]
fn the_readme_has_every_key_with_its_default() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    let mut sections: Vec<String> = Vec::new();
    for line in fs::read_to_string(top.join("config.yml")).unwrap().lines().filter(|line| !line.contains("# ")) {
        let Some((key, value)) = line.split_once(':') else { continue };
        sections.truncate((key.len() - key.trim_start().len()) / 2);
        sections.push(key.trim().to_owned());
        if value.is_empty() {
            continue;
        }
        let default = value.trim().trim_matches('"');
        let cell = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let row = format!("| `{}` | {cell} |", sections.join("."));
        assert!(readme.contains(&row), "README.md lacks: {row}");
    }
}

#[test]
fn nothing_is_left_unfinished_and_no_file_is_a_house_of_its_own() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    for (name, text) in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        for mark in marks {
            assert!(!text.contains(mark), "{name} has {mark}");
        }
        assert!(text.lines().count() <= 900, "{name} is too long to be read at one sitting");
    }
}

/// The tests that a table below `tests` names in that column, each of which must exist.
fn named_in(table: &str, column: usize) -> usize {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(table)).unwrap();
    let sources: Vec<(String, String)> = files("src", ".rs").into_iter().chain(files("tests", ".rs")).collect();
    let mut named = 0;
    for cell in text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(column)) {
        for test in cell.split('`').skip(1).step_by(2) {
            let defined =
                [format!("fn {test}("), format!("backend_test!({test},"), format!("backend_test!(\n    {test},")];
            assert!(
                sources.iter().any(|(_, text)| defined.iter().any(|form| text.contains(form))),
                "tests/{table} names {test}, which does not exist"
            );
            named += 1;
        }
    }
    named
}

#[test]
fn every_test_that_the_contract_table_names_exists() {
    let named = named_in("CONTRACT.md", 2);
    assert!(named > 50, "the table names only {named} tests");
}

#[test]
fn every_fault_has_its_row_and_every_test_named_there_exists() {
    let named = named_in("FAULTS.md", 3);
    assert!(named > 50, "the table names only {named} tests");
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/FAULTS.md")).unwrap();
    for fault in 1..=45 {
        assert!(table.contains(&format!("\n| {fault}. ")), "tests/FAULTS.md lacks fault {fault}");
    }
}
