//! Consul agents: one in this process, which speaks the documented endpoints that the service and the
//! tests use, and a real one where `tests/run.sh` could get it.

use std::{
    collections::{BTreeMap, HashMap},
    process::Command,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde_json::{Value, json};

use super::{app::free_address, eventually::eventually, process::Process};

/// An agent, whichever it is.
pub struct Agent {
    pub kind: &'static str,
    pub url: String,
    client: reqwest::Client,
    _process: Option<Process>,
}

/// What the agent in this process knows, by the services' ids.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<BTreeMap<String, Registered>>>);

struct Registered {
    service: Value,
    /// By a TTL check.
    passing: bool,
}

impl Agent {
    /// Every agent there is: always the one in this process, and a real one, loudly left out where it
    /// cannot be had.
    pub async fn all() -> Vec<Agent> {
        let mut agents = vec![Agent::in_process("127.0.0.1:0").await];
        match std::env::var("TEST_CONSUL").ok().filter(|program| !program.is_empty()) {
            Some(program) => agents.push(Agent::real(&program).await),
            None => eprintln!("SKIPPED: TEST_CONSUL names no Consul agent, only the one in this process is asked"),
        }
        agents
    }

    /// The one in this process, at that address.
    pub async fn in_process(address: &str) -> Agent {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/v1/agent/service/register", put(register))
            .route("/v1/agent/service/deregister/{id}", put(deregister))
            .route("/v1/agent/service/{id}", get(one))
            .route("/v1/agent/check/{verdict}/{check}", put(judge))
            .route("/v1/health/service/{name}", get(health))
            .with_state(Registry::default());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Agent { kind: "in-process", url, client: reqwest::Client::new(), _process: None }
    }

    async fn real(program: &str) -> Agent {
        let address = free_address();
        let port = |address: &str| address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let free = || port(&free_address());
        let settings = json!({
            "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "log_level": "WARN", "disable_update_check": true,
            "ports": {
                "http": port(&address), "dns": free(), "server": free(), "serf_lan": free(), "serf_wan": free(),
                "grpc": -1,
            },
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let mut command = Command::new(program);
        command.args(["agent", "-dev", "-node=test", "-config-file"]).arg(&file);
        let mut process = Process::start(&mut command);
        process.listens(&address).await;
        let url = format!("http://{address}");
        let agent = Agent { kind: "real", url, client: reqwest::Client::new(), _process: Some(process) };
        eventually("a leader", async || {
            let leader = agent.client.get(format!("{}/v1/status/leader", agent.url)).send().await.unwrap();
            let leader = leader.text().await.unwrap();
            if leader.contains(':') { Ok(()) } else { Err(leader) }
        })
        .await;
        agent
    }

    /// Registers an instance of a service that listens at `url`, with its verdict.
    pub async fn instance(&self, service: &str, id: &str, url: &str, passing: bool) {
        let url = url::Url::parse(url).unwrap();
        let service = json!({
            "ID": id, "Name": service, "Address": url.host_str().unwrap(), "Port": url.port().unwrap(),
            "Check": { "TTL": "10m" },
        });
        self.put("agent/service/register", &service).await;
        self.verdict(id, passing).await;
    }

    /// What becomes of an instance's check.
    pub async fn verdict(&self, id: &str, passing: bool) {
        let verdict = if passing { "pass" } else { "fail" };
        self.put(&format!("agent/check/{verdict}/service:{id}"), &Value::Null).await;
    }

    /// Forgets a service, as an agent does that lost its data.
    pub async fn forget(&self, id: &str) {
        self.put(&format!("agent/service/deregister/{id}"), &Value::Null).await;
    }

    /// The instances of a service, with what is said of them; those alone that pass, where asked for.
    pub async fn instances(&self, service: &str, passing: bool) -> Vec<Value> {
        let passing = if passing { "?passing" } else { "" };
        let url = format!("{}/v1/health/service/{service}{passing}", self.url);
        let found: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        found.as_array().unwrap().iter().map(|entry| entry["Service"].clone()).collect()
    }

    async fn put(&self, path: &str, body: &Value) {
        let answer = self.client.put(format!("{}/v1/{path}", self.url)).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    }
}

async fn register(State(registry): State<Registry>, Json(service): Json<Value>) -> StatusCode {
    let id = service["ID"].as_str().unwrap().to_owned();
    registry.0.lock().unwrap().insert(id, Registered { service, passing: false });
    StatusCode::OK
}

async fn deregister(State(registry): State<Registry>, Path(id): Path<String>) -> StatusCode {
    match registry.0.lock().unwrap().remove(&id) {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    }
}

async fn one(State(registry): State<Registry>, Path(id): Path<String>) -> Response {
    match registry.0.lock().unwrap().get(&id) {
        Some(found) => Json(found.service.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, format!("unknown service ID: {id}")).into_response(),
    }
}

async fn judge(State(registry): State<Registry>, Path((verdict, check)): Path<(String, String)>) -> StatusCode {
    let id = check.strip_prefix("service:").unwrap();
    registry.0.lock().unwrap().get_mut(id).unwrap().passing = verdict == "pass";
    StatusCode::OK
}

/// An agent makes HTTP checks every so often; this one when it is asked.
async fn health(
    State(registry): State<Registry>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> impl IntoResponse {
    let known: Vec<(Value, bool)> = {
        let registry = registry.0.lock().unwrap();
        let of_name = registry.values().filter(|known| known.service["Name"] == json!(name));
        of_name.map(|known| (known.service.clone(), known.passing)).collect()
    };
    let mut entries = Vec::new();
    for (service, by_ttl) in known {
        let passing = match service["Check"]["HTTP"].as_str() {
            Some(url) => reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success()),
            None => by_ttl,
        };
        if passing || !query.contains_key("passing") {
            entries.push(json!({ "Node": { "Node": "test", "Address": "127.0.0.1" }, "Service": service }));
        }
    }
    let index = HeaderMap::from_iter([("x-consul-index".parse().unwrap(), "1".parse().unwrap())]);
    (index, Json(entries))
}
