//! Sending recorded spans to the collector: OTLP over HTTP, as protobuf, in batches.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::{Attribute, Recorder};
use crate::{clock, config::Collector};

/// Most spans in one request.
const BATCH: usize = 512;

/// How long a span waits for others to go with it.
const LINGER: Duration = Duration::from_secs(1);

/// How long the collector may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Rest between two tries of a batch: the first, doubled each time, and the longest.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How long a batch is tried; the next one may be luckier.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How long the last spans may take when the service stops, besides a request under way.
const FLUSH: Duration = Duration::from_secs(5);

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// See the module.
pub struct Exporter {
    http: Client,
    url: Url,
    resource: Resource,
    recorded: Receiver<Span>,
    recorder: Arc<Recorder>,
    /// The last request failed, which is logged when it begins.
    failing: bool,
}

/// Why a batch was not taken.
struct Refusal {
    error: String,
    /// It may be taken later.
    passing: bool,
}

impl Exporter {
    pub(super) fn new(
        collector: &Collector,
        service_name: &str,
        recorded: Receiver<Span>,
        recorder: Arc<Recorder>,
    ) -> anyhow::Result<Exporter> {
        let mut headers = HeaderMap::new();
        for (name, text) in collector.headers.pairs() {
            let mut value = HeaderValue::from_str(text)?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .default_headers(headers)
            .user_agent(concat!("model-asynch/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let attributes = [
            ("service.name", service_name),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &clock::token()),
        ];
        let attributes = attributes.map(|(key, text)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(Attribute::from(text).0) }),
            ..KeyValue::default()
        });
        let resource = Resource { attributes: attributes.into(), ..Resource::default() };
        Ok(Exporter { http, url: collector.url.clone(), resource, recorded, recorder, failing: false })
    }

    /// Sends until `stop`, and then what is left, as far as that goes quickly.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while !stop.is_cancelled() {
            tokio::select! {
                () = gather(&mut self.recorded, &mut batch) => self.deliver(&mut batch, &stop).await,
                () = stop.cancelled() => {}
            }
        }
        if timeout(FLUSH, self.flush(&mut batch)).await.is_err() {
            self.lose(batch.len());
        }
        self.lose(self.recorded.len());
    }

    /// Tries until the batch is taken, or hopeless, or was tried for long enough.
    async fn deliver(&mut self, batch: &mut Vec<Span>, stop: &CancellationToken) {
        let (spans, body) = (batch.len(), self.encoded(batch));
        let began = clock::tick();
        let mut rest = REST.0;
        while let Err(refusal) = self.send(spans, body.clone()).await {
            self.failed(&refusal.error);
            if !refusal.passing || began.elapsed() + rest > GIVE_UP {
                return self.lose(spans);
            }
            tokio::select! {
                () = sleep(clock::jittered(rest)) => rest = (rest * 2).min(REST.1),
                () = stop.cancelled() => return self.lose(spans),
            }
        }
    }

    /// Sends each batch that is left once, until one fails.
    async fn flush(&mut self, batch: &mut Vec<Span>) {
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.recorded.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            let (spans, body) = (batch.len(), self.encoded(batch));
            if let Err(refusal) = self.send(spans, body).await {
                self.failed(&refusal.error);
                return self.lose(spans);
            }
        }
    }

    /// The request for a batch, which is empty afterwards.
    fn encoded(&self, batch: &mut Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = ScopeSpans { scope: Some(scope), spans: batch.split_off(0), ..ScopeSpans::default() };
        let resource_spans = vec![ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
    }

    async fn send(&mut self, spans: usize, body: Bytes) -> Result<(), Refusal> {
        let answer = self.http.post(self.url.clone()).body(body).send().await.map_err(|error| Refusal {
            // Without the URL, which may carry a key.
            error: root_cause(&error),
            passing: true,
        })?;
        let status = answer.status();
        if !status.is_success() {
            let passing = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            return Err(Refusal { error: format!("the collector answered {status}"), passing });
        }
        let refused = usize::try_from(refused_spans(answer).await).unwrap_or_default().min(spans);
        self.recorder.counts.sent.fetch_add((spans - refused) as u64, Ordering::Relaxed);
        match refused {
            0 => self.worked(),
            refused => {
                self.failed(&format!("the collector refused {refused} of {spans} spans"));
                self.lose(refused);
            }
        }
        Ok(())
    }

    fn worked(&mut self) {
        if self.recorded.is_empty() {
            self.recorder.full.store(false, Ordering::Relaxed);
        }
        if std::mem::take(&mut self.failing) {
            let dropped = self.recorder.counts.dropped.load(Ordering::Relaxed);
            info!(dropped, "spans reach the collector again");
        }
    }

    fn failed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(error, "spans do not reach the collector; tasks are not affected, trying again");
        }
    }

    fn lose(&self, spans: usize) {
        self.recorder.counts.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// Waits for a span, and a little for others to go with it. What it gathered by the time it is
/// dropped stays in the batch.
async fn gather(recorded: &mut Receiver<Span>, batch: &mut Vec<Span>) {
    if recorded.recv_many(batch, BATCH).await == 0 {
        // Every tracer is gone: nothing will come.
        return std::future::pending().await;
    }
    let began = clock::tick();
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout(LINGER.saturating_sub(began.elapsed()), recorded.recv_many(batch, room)).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// How many spans of a request the collector did not take, by its own word.
async fn refused_spans(mut answer: reqwest::Response) -> i64 {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        if body.len() + chunk.len() > MAX_ANSWER {
            return 0;
        }
        body.extend_from_slice(&chunk);
    }
    let answer = ExportTraceServiceResponse::decode(body.as_slice()).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| partial.rejected_spans)
}

fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.last().map_or_else(|| "no answer".to_owned(), ToString::to_string)
}
