//! What operators are given in `deploy/`: Prometheus takes it, and it names nothing that does not exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    backend_test,
    metrics::{busy, text},
    support::{
        app::{Node, free_address},
        backend::{Kind, TestDb, on, server},
        eventually::{eventually, until},
        process::Process,
    },
};

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(deployed(file)).unwrap()
}

/// Every query of the dashboard.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/model-asynch.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let queries: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 40, "the dashboard has only {} queries", queries.len());
    queries
}

/// The metrics of ours and of the process that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words.filter(|word| word.starts_with("model_asynch_") || word.starts_with("process_")).collect()
}

fn promtool(arguments: &[&str]) {
    let Some(promtool) = server("TEST_PROMTOOL") else { return };
    let output = Command::new(promtool).args(arguments).current_dir(deployed("prometheus")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_takes_the_rules_and_the_configuration() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn each_alert_begins_and_ends_when_it_should() {
    promtool(&["test", "rules", "alerts_test.yml"]);
    let tested = read("prometheus/alerts_test.yml");
    for alert in read("prometheus/alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tested.contains(&format!("alertname: {alert}")), "{alert} has no test");
    }
}

backend_test!(every_metric_that_dashboard_and_alerts_name_exists, async |db: &TestDb| {
    let (app, _model) = busy(db, &[("server.shutdownGrace", "0s")]).await;
    let page = eventually("all of the page", async || {
        let page = text(&app.api).await;
        let whole = page.contains("model_asynch_dependency_up") && page.contains("model_asynch_lane_limit");
        if whole { Ok(page) } else { Err(page) }
    })
    .await;
    let exist = named(&page);
    let (alerts, queries) = (read("prometheus/alerts.yml"), dashboard_queries().join(" "));
    for name in named(&alerts).into_iter().chain(named(&queries)) {
        assert!(exist.contains(name), "there is no {name}");
    }
    let readme = fs::read_to_string(deployed("../README.md")).unwrap();
    let shown = named(&queries);
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for family in families.filter(|family| family.starts_with("model_asynch_")) {
        let in_dashboard = shown.iter().any(|name| name.starts_with(family));
        assert!(in_dashboard || family.contains("lanes") || family.contains("census"), "{family} is on no panel");
        let documented = format!("`{}`", family.trim_start_matches("model_asynch_"));
        assert!(readme.contains(&documented), "README.md lacks {family}");
    }
    app.stop().await;
});

/// A Prometheus with the configuration that is handed out, but for whom it scrapes and how often.
struct Prometheus {
    url: String,
    client: reqwest::Client,
    _process: Process,
}

impl Prometheus {
    async fn start(program: &str, db: &TestDb, node: &Node) -> Prometheus {
        let config = read("prometheus/prometheus.yml")
            .replace("15s", "200ms")
            .replace("localhost:8080", node.api.url.trim_start_matches("http://"))
            .replace("alerts.yml", deployed("prometheus/alerts.yml").to_str().unwrap())
            .replace("    # authorization:", "    authorization:")
            .replace("    #   credentials_file: /etc/prometheus/model-asynch-token", "      credentials: s3cret");
        let path = db.dir().join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let address = free_address();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", db.dir().join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut process = Process::start(&mut command);
        process.listens(&address).await;
        let (url, client) = (format!("http://{address}"), reqwest::Client::new());
        until("Prometheus to be ready", async || {
            client.get(format!("{url}/-/ready")).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Prometheus { url, client, _process: process }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let request = self.client.get(format!("{}{path}", self.url)).query(query);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        answer["data"].clone()
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        self.get("/api/v1/query", &[("query", query)]).await["result"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_a_node_and_answers_every_query() {
    let Some(program) = server("TEST_PROMETHEUS") else { return };
    on(Kind::Sqlite, async |db: &TestDb| {
        let settings = [("metrics.token", "s3cret"), ("server.shutdownGrace", "0s")];
        let node = Node::start(db, &settings).await;
        let _model = crate::metrics::work(&node.api).await;
        let prometheus = Prometheus::start(&program, db, &node).await;
        eventually("a good scrape", async || {
            let up = prometheus.query(r#"up{job="model-asynch"}"#).await;
            if up.first().is_some_and(|up| up["value"][1] == "1") { Ok(()) } else { Err(format!("{up:?}")) }
        })
        .await;
        // Rates need something to go on.
        for query in dashboard_queries() {
            let query = ["instance", "job", "tenant", "model"]
                .into_iter()
                .fold(query, |query, variable| query.replace(&format!("${variable}"), ".*"))
                .replace("$__rate_interval", "1m");
            assert!(!query.contains('$'), "{query}");
            eventually(&format!("an answer to {query}"), async || {
                node.api.create_task("good", &json!({})).await;
                if prometheus.query(&query).await.is_empty() { Err("nothing") } else { Ok(()) }
            })
            .await;
        }
        let rules = prometheus.get("/api/v1/rules", &[]).await;
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        assert!(rules.len() > 10);
        for rule in rules {
            assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
        }
    })
    .await;
}
