//! `model-asynch demo`, as somebody who tries it out runs it.

use std::{path::Path, process::Command};

use crate::support::{backend::server, eventually::eventually, process::Process};

/// The demo with an empty environment and a folder for temporary files of its own. There is no
/// Python on its PATH.
fn demo(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-asynch"));
    Process::start(command.arg("demo").args(args).env_clear().env("PATH", "").env("TMPDIR", dir).current_dir(dir))
}

/// The URLs of results in what the demo said.
fn result_urls(said: &str) -> Vec<&str> {
    said.split_whitespace().filter(|word| word.starts_with("http://") && word.contains("/file/")).collect()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test]
async fn the_demo_shows_a_success_a_retry_and_a_failure_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    // A configuration is for the service: the demo must not even read it.
    std::fs::write(dir.path().join("config.yml"), "redis: { url: nonsense }").unwrap();
    let mut demo = demo(dir.path(), &[]);
    assert_eq!(demo.exit_code().await, Some(0));
    let said = demo.said();
    for words in [
        "left out",
        "4 tasks, each as expected: 3 succeeded",
        "retry      the model answered 503 Service Unavailable: the model is warming up",
        "failed     the model answered 422 Unprocessable Entity: text is missing",
        "succeeded  json",
        "\"language\":\"fra\"",
        "/task/createTask -H 'Content-Type: application/json' -d '{",
        "/task/getTaskBatch",
    ] {
        assert!(said.contains(words), "no {words:?} in it");
    }
    assert_eq!(result_urls(&said).len(), 3);
    assert!(!said.contains('\x1b'), "colours are for terminals");
    std::fs::remove_file(dir.path().join("config.yml")).unwrap();
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn with_piper_the_demo_speaks() {
    let Some(python) = server("TEST_PIPER_PYTHON") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path(), &["--python", &python]);
    // Loading the voice takes its time on a busy machine, and so does speaking.
    demo.says("as their states change").await;
    assert_eq!(demo.exit_code().await, Some(0));
    let said = demo.said();
    assert!(said.contains("7 tasks, each as expected: 6 succeeded"));
    assert_eq!(result_urls(&said).iter().filter(|url| url.ends_with(".wav")).count(), 3);
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn a_python_without_piper_is_an_error_where_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path(), &["--python", "/nowhere/python3"]);
    assert_eq!(demo.exit_code().await, Some(1));
    assert!(demo.said().contains("Piper is not installed: pip install"));
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn a_demo_that_stays_answers_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path(), &["--stay"]);
    let said = demo.says("/opLog/listOpLog").await;
    let result = reqwest::get(result_urls(&said)[0]).await.unwrap();
    assert_eq!(result.status(), 200);
    assert!(result.text().await.unwrap().contains("\"language\""));
    let hint = said.split_whitespace().find(|word| word.ends_with("/docs")).unwrap();
    assert_eq!(reqwest::get(hint).await.unwrap().status(), 200);
    demo.signal("INT");
    assert_eq!(demo.exit_code().await, Some(0));
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path(), &[]);
    eventually("the folder of the demo", async || if is_empty(dir.path()) { Err("none yet") } else { Ok(()) }).await;
    demo.signal("TERM");
    assert_eq!(demo.exit_code().await, Some(1));
    assert!(demo.said().contains("interrupted by SIGTERM"));
    assert!(is_empty(dir.path()));
}
