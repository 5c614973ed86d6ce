//! The page at `/` as files: what is served, and what may stand in them.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
};

const FOLDER: &str = "src/dashboard/assets";

/// Every script, style and page of ours, as (path, text).
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true if entry.ends_with("vendor") => {}
                true => folders.push(entry),
                false => found.push((entry.to_string_lossy().into_owned(), fs::read_to_string(&entry).unwrap())),
            }
        }
    }
    found
}

/// The keys of a language's texts.
fn texts(language: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(format!("i18n/{language}.js"));
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": '"));
    lines.map(|(key, _)| key.trim_matches('\'').to_owned()).collect()
}

/// What a script hands to `t('…')`, where that is a plain word.
fn used(script: &str) -> impl Iterator<Item = &str> {
    let calls = script.match_indices("t('").filter(|(at, _)| !script[..*at].ends_with(|c: char| c.is_alphanumeric()));
    calls.filter_map(|(at, call)| script[at + call.len()..].split('\'').next())
}

#[test]
fn every_text_is_in_both_languages_and_every_one_asked_for_exists() {
    let english = texts("en");
    assert!(english.len() > 250, "only {} texts were found", english.len());
    assert_eq!(english, texts("zh"));
    for (name, script) in sources().iter().filter(|(name, _)| name.ends_with(".js")) {
        for key in used(script) {
            assert!(english.contains(key), "{name} asks for {key}, which no language has");
        }
    }
}

#[test]
fn every_text_has_the_same_blanks_in_both_languages() {
    let blanks = |language: &str| -> Vec<(String, BTreeSet<String>)> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(format!("i18n/{language}.js"));
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": '"));
        let names =
            |text: &str| text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect();
        lines.map(|(key, text)| (key.to_owned(), names(text))).collect()
    };
    let optional = |text: &(String, BTreeSet<String>)| !text.0.starts_with("'overview.share'");
    let kept = |language| blanks(language).into_iter().filter(optional).collect::<Vec<_>>();
    assert_eq!(kept("en"), kept("zh"));
}

#[test]
fn the_page_makes_no_markup_of_data_and_names_no_other_host() {
    for (name, text) in sources() {
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
        for (at, _) in
            text.match_indices("//").filter(|(at, _)| text[..*at].ends_with("https:") || text[..*at].ends_with("http:"))
        {
            let host = &text[at + 2..];
            let known = host.starts_with("127.0.0.1") || host.starts_with("www.w3.org/2000/svg");
            assert!(known, "{name} names {}", &host[..host.len().min(40)]);
        }
        assert!(text.lines().count() <= 400, "{name} is too long to be read at one sitting");
    }
}

backend_test!(the_page_is_served_to_everyone_and_protects_itself, async |db: &TestDb| {
    let app = TestApp::with(db, &[("auth.mode", "token")]).await;
    let page = app.api.get("/").await;
    assert_eq!((page.status, page.headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    let Value::String(html) = page.body else { panic!("{}", page.body) };
    let linked: Vec<&str> = html.split('"').filter(|part| part.starts_with("assets/")).collect();
    assert!(linked.len() >= 6, "{linked:?}");
    for path in linked {
        let file = app.api.get(&format!("/{path}")).await;
        assert_eq!(file.status, 200, "{path}");
        let tag = file.headers["etag"].to_str().unwrap();
        let again = app.api.with_header("if-none-match", tag).get(&format!("/{path}")).await;
        assert_eq!((again.status, again.body), (304, Value::String(String::new())), "{path}");
    }
    app.api.get("/assets/nothing.js").await.refused(404, 65, "not_found");
    app.stop().await;
});
