//! A collector of traces that is not ours: oteltap, which takes OTLP over HTTP and prints each span.

use std::process::Command;

use serde_json::Value;

use super::{app::free_address, backend::server, eventually::eventually, process::Process};

/// A collector that listens, and what it was sent.
pub struct Collector {
    process: Process,
    pub url: String,
}

/// A span as the collector got it.
#[derive(Debug, Clone)]
pub struct Span(Value);

impl Collector {
    /// Starts one; `None`, and loud, where it is not installed.
    pub async fn start() -> Option<Collector> {
        let program = server("TEST_OTELTAP")?;
        let address = free_address();
        let port = address.rsplit(':').next().unwrap();
        let mut process = Process::start(Command::new(program).args(["--port", port]).env("PYTHONUNBUFFERED", "1"));
        process.listens(&address).await;
        Some(Collector { process, url: format!("http://{address}") })
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let said = self.process.said();
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).map(Span).collect()
    }

    /// Those of a trace, once it has so many of that name.
    pub async fn trace(&self, trace: &str, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name} in trace {trace}"), async || {
            let spans: Vec<Span> = self.spans().into_iter().filter(|span| span.trace() == trace).collect();
            let found = spans.iter().filter(|span| span.name() == name).count();
            if found >= count {
                Ok(spans)
            } else {
                Err(format!("{:?}", spans.iter().map(Span::name).collect::<Vec<_>>()))
            }
        })
        .await
    }
}

impl Span {
    pub fn trace(&self) -> &str {
        self.text("traceId")
    }

    pub fn id(&self) -> &str {
        self.text("spanId")
    }

    /// Empty for the first of a trace.
    pub fn parent(&self) -> &str {
        self.text("parentSpanId")
    }

    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// True where its status says that it failed.
    pub fn failed(&self) -> bool {
        self.0["status"]["code"] == 2
    }

    /// An attribute, whatever its type; empty where it has none of that name.
    pub fn attribute(&self, key: &str) -> String {
        let attributes = self.0["attributes"].as_array().unwrap();
        let value = attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"]);
        match value.and_then(|value| value.as_object()).and_then(|value| value.values().next()) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }

    /// The traces and spans that it is linked to.
    pub fn links(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let links = self.0["links"].as_array().unwrap();
        links.iter().map(|link| (text(&link["traceId"]), text(&link["spanId"]))).collect()
    }

    /// When it began and ended, in nanoseconds.
    pub fn times(&self) -> (u64, u64) {
        (self.text("startTimeUnixNano").parse().unwrap(), self.text("endTimeUnixNano").parse().unwrap())
    }

    /// Everything that was said of it.
    pub fn all(&self) -> String {
        self.0.to_string()
    }

    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap()
    }
}
