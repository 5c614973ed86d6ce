//! The real service, in this process or as a process of its own, on a database of the test's own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use model_asynch::{
    app::App,
    config::{Database, load},
    faults::{self, Point},
};
use serde_json::{Value, json};

use super::{
    backend::TestDb,
    eventually::{eventually, within},
};

/// A service and a client for it.
pub struct TestApp {
    app: Option<App>,
    pub api: Api,
}

/// A service in a process of its own, to be killed.
pub struct Node {
    child: Child,
    pub api: Api,
    pub log: PathBuf,
}

/// A caller of the service.
#[derive(Clone)]
pub struct Api {
    pub url: String,
    client: reqwest::Client,
    headers: Vec<(String, String)>,
}

/// An answer of the service.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

/// The settings of a test service as environment variables: a database and folders of the test's
/// own, Redis where the database is Postgres, and quick clean-up; `settings` are dotted keys.
pub fn environment(db: &TestDb, address: &str, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let folder = |name: &str| db.dir().join(name).to_string_lossy().into_owned();
    let mut all = vec![
        ("server.address".to_owned(), address.to_owned()),
        ("server.shutdownGrace".to_owned(), "5s".to_owned()),
        ("worker.tmpDir".to_owned(), folder("tmp")),
        ("worker.pollInterval".to_owned(), "200ms".to_owned()),
        ("oss.path".to_owned(), folder("oss")),
        ("cleaner.interval".to_owned(), "100ms".to_owned()),
    ];
    match &db.config {
        Database::Sqlite { path } => {
            all.push(("database.url".to_owned(), format!("sqlite://{}", path.display())));
        }
        Database::Postgres { url, .. } => {
            all.push(("database.url".to_owned(), url.clone()));
            // The tests' models are on this machine.
            all.push(("egress.allow".to_owned(), "127.0.0.0/8, localhost".to_owned()));
            if let Some(redis) = super::backend::server("TEST_REDIS_URL") {
                all.push(("redis.url".to_owned(), redis));
                all.push(("redis.keyPrefix".to_owned(), format!("{}:", url.rsplit('/').next().unwrap())));
            }
        }
    }
    all.retain(|(key, _)| !settings.iter().any(|(other, _)| other == key));
    all.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    all.into_iter().map(|(key, value)| (format!("MODEL_ASYNCH__{}", key.replace('.', "__")), value)).collect()
}

impl TestApp {
    pub async fn start(db: &TestDb) -> TestApp {
        TestApp::with(db, &[]).await
    }

    /// With some keys set otherwise.
    pub async fn with(db: &TestDb, settings: &[(&str, &str)]) -> TestApp {
        let config = load::load(None, environment(db, "127.0.0.1:0", settings).into_iter()).unwrap();
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        let app = Box::pin(App::start(config)).await.unwrap();
        let api = Api::new(&format!("{scheme}://{}", app.address()));
        TestApp { app: Some(app), api }
    }

    pub async fn stop(mut self) {
        self.app.take().unwrap().stop().await;
    }
}

impl Node {
    /// Starts the binary and waits until it answers.
    pub async fn start(db: &TestDb, settings: &[(&str, &str)]) -> Node {
        Node::with(db, settings, &[]).await
    }

    /// The same, for one that dies as by `kill -9` when it passes that point for the first time.
    pub async fn doomed(db: &TestDb, settings: &[(&str, &str)], point: Point) -> Node {
        Node::doomed_at(db, settings, point, 1).await
    }

    /// The same at a later pass.
    pub async fn doomed_at(db: &TestDb, settings: &[(&str, &str)], point: Point, pass: usize) -> Node {
        Node::with(db, settings, &[(faults::VARIABLE, &format!("{}:{pass}", point.name()))]).await
    }

    /// With some variables of the environment besides.
    pub async fn with(db: &TestDb, settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Node {
        let address = free_address();
        let log = db.dir().join(format!("node-{}.log", address.replace(':', "-")));
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_model-asynch"))
            .arg("serve")
            .current_dir(db.dir())
            .env_clear()
            .envs(environment(db, &address, settings))
            .envs(variables.iter().copied())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let node = Node { child, api: Api::new(&format!("http://{address}")), log };
        let ready = format!("{}/readyz", node.api.url);
        eventually("the node to become ready", async || match reqwest::get(&ready).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            _ => Err(std::fs::read_to_string(&node.log).unwrap_or_default()),
        })
        .await;
        node
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name, such as `TERM` or `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until it was killed.
    pub async fn dies(&mut self) {
        assert_eq!(self.exit_code().await, None, "a signal ended it");
    }

    /// Waits for its end and returns the exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        within(Duration::from_secs(60), "the node to end", async || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status.code()),
            None => Err("it runs"),
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the end of {}:", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Api {
    pub fn new(url: &str) -> Api {
        Api { url: url.to_owned(), client: reqwest::Client::new(), headers: Vec::new() }
    }

    /// The same service, called as another tenant.
    pub fn as_tenant(&self, tenant: i64, user: &str) -> Api {
        self.with_header("x-user-info", &json!({ "tenantId": tenant.to_string(), "userName": user }).to_string())
    }

    pub fn with_header(&self, name: &str, value: &str) -> Api {
        let mut api = self.clone();
        api.headers.retain(|(existing, _)| existing != name);
        api.headers.push((name.to_owned(), value.to_owned()));
        api
    }

    /// A request with nothing but this caller's headers.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(reqwest::Method::PUT, path).json(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(reqwest::Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(reqwest::Method::DELETE, path)).await
    }

    /// Registers a model at `url` with further fields; returns its id.
    pub async fn create_model(&self, name: &str, url: &str, fields: &Value) -> String {
        let mut body = json!({ "modelName": name, "baseUrl": url });
        body.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
        self.post("/model/createModel", &body).await.data()["id"].as_str().unwrap().to_owned()
    }

    /// Creates a task; returns its id.
    pub async fn create_task(&self, model: &str, payload: &Value) -> String {
        let body = json!({ "modelName": model, "requestPayload": payload });
        self.post("/task/createTask", &body).await.data()["taskId"].as_str().unwrap().to_owned()
    }

    /// The task as getTaskResult shows it.
    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/task/getTaskResult?taskId={id}")).await.data()
    }

    /// Waits until the task is in one of these states and returns it.
    pub async fn until(&self, id: &str, states: &[i64]) -> Value {
        let mut last = Value::Null;
        eventually(&format!("task {id} to reach {states:?}"), async || {
            last = self.task(id).await;
            states.contains(&last["state"].as_i64().unwrap()).then(|| last.clone()).ok_or_else(|| last.to_string())
        })
        .await
    }

    /// Fetches a result.
    pub async fn fetch(&self, url: &str) -> Vec<u8> {
        let answer = self.client.get(url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{url}");
        answer.bytes().await.unwrap().to_vec()
    }
}

impl Answer {
    /// The data of a success.
    pub fn data(self) -> Value {
        assert_eq!((self.status, &self.body["code"]), (200, &json!(0)), "{}", self.body);
        self.body["data"].clone()
    }

    /// Asserts a failure of the contract's table.
    pub fn refused(&self, status: u16, code: i64, kind: &str) -> &Answer {
        assert_eq!(
            (self.status, &self.body["code"], &self.body["error"]["kind"]),
            (status, &json!(code), &json!(kind)),
            "{}",
            self.body
        );
        assert_eq!(self.body["data"], Value::Null);
        assert!(!self.body["message"].as_str().unwrap().is_empty());
        assert!(self.headers.contains_key("x-request-id"));
        self
    }
}

/// An address that nobody listens on at the moment.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
