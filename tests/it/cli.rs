//! The binary as a person or a script meets it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
};

/// The binary in an empty folder, without any of our variables.
fn model_asynch(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-asynch"));
    command.current_dir(dir).args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_uppercase().starts_with("MODEL_ASYNCH") {
            command.env_remove(name);
        }
    }
    command
}

fn output(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    model_asynch(dir.path(), args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_lists_the_commands_with_examples() {
    let output = output(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for word in [
        "serve",
        "demo",
        "bench",
        "migrate",
        "check-config",
        "openapi",
        "alert",
        "healthcheck",
        "--config",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
}

#[test]
fn an_unknown_command_is_a_usage_error() {
    let output = output(&["serv"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'serve'"), "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_stops_the_start_with_one_line_that_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.yml"), "worker:\n  leaseSeconds: 1\n").unwrap();
    for command in ["serve", "migrate", "check-config"] {
        let output = model_asynch(dir.path(), &[command]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert_eq!(
            stderr(&output),
            "model-asynch: worker.leaseSeconds: 1 cannot be used; accepted: 2 to 3600\n",
            "{command}"
        );
    }
    assert!(!dir.path().join("data").exists(), "nothing was touched");
}

#[test]
fn an_unknown_variable_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let output = model_asynch(dir.path(), &[]).env("MODEL_ASYNCH__WORKER__CONCURENCY", "9").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("MODEL_ASYNCH__WORKER__CONCURRENCY"), "{}", stderr(&output));
}

#[test]
fn a_file_that_was_named_must_exist() {
    let output = output(&["check-config", "--config", "nowhere.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("model-asynch: nowhere.yml: cannot be read: "), "{}", stderr(&output));
}

#[test]
fn check_config_accepts_the_shipped_file() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config.yml");
    let output = output(&["check-config", "--config", shipped]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with(&format!("OK: {shipped}, environment and defaults\n")), "{}", stdout(&output));
}

#[test]
fn check_config_shows_what_is_in_force_and_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "geheim\n").unwrap();
    let output = model_asynch(dir.path(), &["check-config"])
        .env("MODEL_ASYNCH__AUTH__MODE", "gateway")
        .env("MODEL_ASYNCH__AUTH__GATEWAY_SECRET__FILE", "secret")
        .env("MODEL_ASYNCH__DATABASE__URL", "postgres://app:geheim@db/app")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("auth.mode: \"gateway\"  # default: \"anonymous\"\n"), "{shown}");
    assert!(shown.contains("postgres://app:****@db/app") && !shown.contains("geheim"), "{shown}");
    assert!(shown.contains("warning: redis.url is not set"), "{shown}");
}

#[test]
fn migrate_makes_the_embedded_database() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = model_asynch(dir.path(), &["migrate"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), "the schema of data/model-asynch.db is up to date\n");
    }
    assert!(dir.path().join("data/model-asynch.db").exists());
}

#[test]
fn an_unreachable_database_is_one_line_and_no_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let closed = closed_port();
    let output = model_asynch(dir.path(), &["migrate"])
        .env("MODEL_ASYNCH__DATABASE__URL", format!("postgres://app:geheim@127.0.0.1:{closed}/app"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.starts_with("model-asynch: database unavailable: ") && message.lines().count() == 1, "{message}");
    assert!(!message.contains("geheim"), "{message}");
}

#[test]
fn healthcheck_reports_what_the_service_answers() {
    for (answer, code) in [("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 0), (UNAVAILABLE, 1)] {
        let url = format!("http://{}/readyz", answers_once(answer));
        let output = output(&["healthcheck", "--url", &url]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        match code {
            0 => assert_eq!(stdout(&output), "ready\n"),
            _ => assert!(stderr(&output).contains("503 Service Unavailable redis is down"), "{}", stderr(&output)),
        }
    }
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 13\r\n\r\nredis is\ndown";

#[test]
fn healthcheck_asks_the_configured_address() {
    let dir = tempfile::tempdir().unwrap();
    let address = answers_once("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").replace("127.0.0.1", "0.0.0.0");
    let output = model_asynch(dir.path(), &["healthcheck"])
        .env("MODEL_ASYNCH__SERVER__ADDRESS", address)
        .env("MODEL_ASYNCH__AUTH__MODE", "gateway")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn healthcheck_fails_with_1_whatever_is_wrong() {
    let url = format!("http://127.0.0.1:{}/readyz", closed_port());
    assert_eq!(output(&["healthcheck", "--url", &url]).status.code(), Some(1));
    assert_eq!(output(&["healthcheck", "--config", "nowhere.yml"]).status.code(), Some(1));
}

#[test]
fn a_service_that_is_up_is_ready() {
    let service = Serving::start();
    let output = output(&["healthcheck", "--url", &format!("http://{}/readyz", service.address)]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "ready\n"), "{}", stderr(&output));
}

#[test]
fn openapi_prints_the_document() {
    let output = output(&["openapi"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["paths"]["/task/createTask"]["post"].is_object());
}

#[test]
fn serve_says_where_it_listens_and_stops_in_order_on_a_signal() {
    for signal in ["TERM", "INT"] {
        let mut service = Serving::start();
        assert!(service.address.starts_with("127.0.0.1:"), "{}", service.address);
        service.signal(signal);
        assert_eq!(service.process.wait().unwrap().code(), Some(0), "after SIG{signal}");
    }
}

/// A `serve` that is up, on a free port and in a folder of its own.
struct Serving {
    process: Child,
    address: String,
    _stdout: BufReader<ChildStdout>,
    _dir: tempfile::TempDir,
}

impl Serving {
    fn start() -> Serving {
        let dir = tempfile::tempdir().unwrap();
        let mut process = model_asynch(dir.path(), &["serve"])
            .env("MODEL_ASYNCH__SERVER__ADDRESS", "127.0.0.1:0")
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Not on a terminal, so every line is an event in JSON.
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended before it was up");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["message"].as_str().unwrap().starts_with("serving on http://") {
                break event["address"].as_str().unwrap().to_owned();
            }
        };
        Serving { process, address, _stdout: stdout, _dir: dir }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A port on which nothing listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that gives one answer to one request.
fn answers_once(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
    });
    address
}
