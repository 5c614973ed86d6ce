//! Traces: what happened to a task, when and where, as spans of one trace, sent to a collector by
//! OTLP over HTTP.
//!
//! # What is recorded
//!
//! ```text
//! POST /task/createTask               the caller's span is its parent, if it sent one
//! ├─ wait                             until it was claimed
//! ├─ process                          one attempt, on one node
//! │  ├─ call                          what the model gets as traceparent
//! │  ├─ park
//! │  ├─ upload                        one for each try
//! │  └─ finish                        writing what became of it
//! ├─ backoff                          the rest before a retry; then process and what is in it again
//! └─ pickup                           linked to the request that picked up many
//! ```
//!
//! The row carries the first span (see [`crate::task::trace`]), so that all of this is one trace,
//! whichever nodes it happens on and however often a process dies on the way.
//!
//! # Why spans are made by hand
//!
//! A span here is the protocol's own message, filled in at the few places where a step begins and
//! ends. Turning the spans of the log into traces instead would make one for every task whether or
//! not anybody records it, could not be told parents that were made on another node, and would tie
//! what operators read in logs to what they see in traces. The batch processor of the OpenTelemetry
//! SDK runs on a thread of its own, with a client of its own, and says neither how much it lost nor when
//! it began; ours is one of this process's parts, is joined like them, and counts.
//!
//! Without `telemetry.otlpEndpoint`, and for what is not sampled, a [`Span`] is a null pointer: no
//! clock is read and nothing allocated. With it, a span that is done goes into a bounded queue; what
//! does not fit is counted and forgotten, and no task ever waits for a collector.

mod export;
pub mod steps;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{self as otlp, span::Link, status::StatusCode},
};
use tokio::sync::mpsc;
use tracing::warn;

pub use self::export::Exporter;
use crate::{
    clock,
    config::Telemetry,
    task::{
        TaskId,
        trace::{TraceContext, mixed},
    },
};

/// Spans that wait to be sent, at about a kilobyte each; more are dropped.
const QUEUE: usize = 8192;

/// Most links of a span, as in OpenTelemetry's default limits.
const MAX_LINKS: usize = 128;

/// Most bytes of a text in a span.
const MAX_TEXT: usize = 1024;

/// What part a span plays between two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None.
    Internal,
    /// It answers a request.
    Server,
    /// It makes one.
    Client,
    /// It works on what somebody sent before.
    Consumer,
}

/// Where spans begin; cheap to clone, and to have where tracing is off.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    queue: mpsc::Sender<otlp::Span>,
    /// Traces whose mixed id is below are sampled; `None` = all.
    below: Option<u64>,
    counts: Counts,
    /// The queue was full, and has not been empty since; logged when that begins.
    full: AtomicBool,
}

/// What became of the spans of this process.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// A span under way: recorded when it is dropped. Nothing, where it is not recorded.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

struct Open {
    recorder: Arc<Recorder>,
    context: TraceContext,
    span: otlp::Span,
}

/// The tracer of this process, and the part that sends what it records.
///
/// # Errors
/// Where no HTTP client can be made on this machine.
pub fn start(telemetry: &Telemetry) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let Some(collector) = &telemetry.collector else {
        return Ok((Tracer::default(), None));
    };
    let (queue, recorded) = mpsc::channel(QUEUE);
    let recorder = Arc::new(Recorder {
        queue,
        below: threshold(telemetry.sample_ratio),
        counts: Counts::default(),
        full: AtomicBool::new(false),
    });
    let exporter = Exporter::new(collector, &telemetry.service_name, recorded, recorder.clone())?;
    Ok((Tracer(Some(recorder)), Some(exporter)))
}

/// `None` for all.
fn threshold(ratio: f64) -> Option<u64> {
    // 2^64 times the ratio, which is below 1 here.
    (ratio < 1.0).then_some((ratio.max(0.0) * 18_446_744_073_709_551_616.0) as u64)
}

impl Tracer {
    /// False where nothing is ever recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The context of a new span that answers a request: in the caller's trace and as it decided, or
    /// the first of a trace with that id. `None` where tracing is off.
    pub fn begin(&self, caller: Option<TraceContext>, trace: impl FnOnce() -> u128) -> Option<TraceContext> {
        let recorder = self.0.as_ref()?;
        let (trace, sampled) = match caller {
            Some(caller) => (caller.trace, caller.sampled),
            None => {
                let trace = trace();
                (trace, recorder.samples(trace))
            }
        };
        Some(TraceContext { trace, span: clock::span_id(), sampled })
    }

    /// The context that a stored task goes on in.
    pub fn of_task(&self, id: TaskId, traceparent: &str) -> TraceContext {
        TraceContext::parse(traceparent).unwrap_or_else(|| {
            let own = TraceContext::of_its_own(id, true);
            // Where tracing is off here, it may be on in the model.
            TraceContext { sampled: self.0.as_ref().is_none_or(|recorder| recorder.samples(own.trace)), ..own }
        })
    }

    /// Begins a span under that context, whose parent is that span (0 = none) of the same trace.
    pub fn span(&self, name: &'static str, kind: Kind, context: TraceContext, parent: u64) -> Span {
        let Some(recorder) = self.0.as_ref().filter(|_| context.sampled) else { return Span::default() };
        let kind = match kind {
            Kind::Internal => otlp::span::SpanKind::Internal,
            Kind::Server => otlp::span::SpanKind::Server,
            Kind::Client => otlp::span::SpanKind::Client,
            Kind::Consumer => otlp::span::SpanKind::Consumer,
        };
        let span = otlp::Span {
            trace_id: context.trace.to_be_bytes().to_vec(),
            span_id: context.span.to_be_bytes().to_vec(),
            parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
            flags: u32::from(context.sampled),
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: nanos(clock::now()),
            ..otlp::Span::default()
        };
        Span(Some(Box::new(Open { recorder: recorder.clone(), context, span })))
    }

    /// Begins a span with an id of its own below `parent`.
    pub fn child(&self, name: &'static str, kind: Kind, parent: TraceContext) -> Span {
        if self.0.is_none() || !parent.sampled {
            return Span::default();
        }
        self.span(name, kind, TraceContext { span: clock::span_id(), ..parent }, parent.span)
    }

    /// Spans that a collector has taken, and spans that were lost on the way, since the start.
    pub fn counts(&self) -> (u64, u64) {
        let count = |of: fn(&Counts) -> &AtomicU64| {
            self.0.as_ref().map_or(0, |recorder| of(&recorder.counts).load(Ordering::Relaxed))
        };
        (count(|counts| &counts.sent), count(|counts| &counts.dropped))
    }
}

impl Recorder {
    fn samples(&self, trace: u128) -> bool {
        // The low half is what the ids of our own traces have their randomness in.
        self.below.is_none_or(|below| mixed(trace as u64) < below)
    }

    fn record(&self, span: otlp::Span) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            if !self.full.swap(true, Ordering::Relaxed) {
                warn!("more spans are recorded than the collector takes, some are dropped");
            }
        }
    }
}

impl Span {
    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Attribute>) {
        if let Some(open) = &mut self.0 {
            let value = AnyValue { value: Some(value.into().0) };
            open.span.attributes.push(KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() });
        }
    }

    /// Sets an attribute that costs something to make.
    pub fn set_with<V: Into<Attribute>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if self.0.is_some() {
            self.set(key, value());
        }
    }

    /// It failed; `kind` is for queries and `message` for people, without anything that a caller or
    /// model sent.
    pub fn fail(&mut self, kind: &str, message: &str) {
        self.set("error.type", kind);
        if let Some(open) = &mut self.0 {
            open.span.status = Some(otlp::Status { message: cut(message), code: StatusCode::Error.into() });
        }
    }

    /// It began at another moment than when it was made.
    pub fn began(&mut self, at: DateTime<Utc>) {
        if let Some(open) = &mut self.0 {
            open.span.start_time_unix_nano = nanos(at);
        }
    }

    /// It began when that one did.
    pub fn began_with(&mut self, other: &Span) {
        if let (Some(open), Some(other)) = (&mut self.0, &other.0) {
            open.span.start_time_unix_nano = other.span.start_time_unix_nano;
        }
    }

    /// It ends now, and not when it is dropped.
    pub fn end(&mut self) {
        if self.0.is_some() {
            self.ends(clock::now());
        }
    }

    /// It ends then, and not when it is dropped.
    pub fn ends(&mut self, at: DateTime<Utc>) {
        if let Some(open) = &mut self.0 {
            open.span.end_time_unix_nano = nanos(at);
        }
    }

    /// It has to do with a span of another trace. Counted, where there are too many.
    pub fn link(&mut self, other: TraceContext) {
        let Some(open) = &mut self.0 else { return };
        if open.span.links.len() == MAX_LINKS {
            open.span.dropped_links_count += 1;
            return;
        }
        open.span.links.push(Link {
            trace_id: other.trace.to_be_bytes().to_vec(),
            span_id: other.span.to_be_bytes().to_vec(),
            flags: u32::from(other.sampled),
            ..Link::default()
        });
    }

    /// Its own context; `None` where it is not recorded.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|open| open.context)
    }

    /// It turned out not to be worth recording.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { recorder, mut span, .. } = *open;
        if span.end_time_unix_nano == 0 {
            span.end_time_unix_nano = nanos(clock::now());
        }
        // Two nodes may have told the two times.
        span.end_time_unix_nano = span.end_time_unix_nano.max(span.start_time_unix_nano);
        recorder.record(span);
    }
}

/// The value of an attribute.
pub struct Attribute(any_value::Value);

impl From<&str> for Attribute {
    fn from(text: &str) -> Attribute {
        Attribute(any_value::Value::StringValue(cut(text)))
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Attribute {
        Attribute::from(text.as_str())
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Attribute {
        Attribute(any_value::Value::IntValue(number))
    }
}

impl From<bool> for Attribute {
    fn from(flag: bool) -> Attribute {
        Attribute(any_value::Value::BoolValue(flag))
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// Nanoseconds since 1970; 0 for what was before.
fn nanos(at: DateTime<Utc>) -> u64 {
    at.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// A tracer of that ratio, and what it records.
    pub(crate) fn tracer(ratio: f64, room: usize) -> (Tracer, mpsc::Receiver<otlp::Span>) {
        let (queue, recorded) = mpsc::channel(room);
        let recorder =
            Recorder { queue, below: threshold(ratio), counts: Counts::default(), full: AtomicBool::new(false) };
        (Tracer(Some(Arc::new(recorder))), recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::{sample::tracer, *};
    use crate::clock;

    fn root(tracer: &Tracer) -> TraceContext {
        tracer.begin(None, || clock::task_id().0.as_u128()).unwrap()
    }

    #[test]
    fn where_tracing_is_off_nothing_is_made() {
        let off = Tracer::default();
        assert!(off.begin(None, || unreachable!("no id is made")).is_none());
        let task = clock::task_id();
        let span = off.span("call", Kind::Client, off.of_task(task, ""), 0);
        assert!(span.context().is_none());
        assert_eq!(size_of::<Span>(), size_of::<usize>());
    }

    #[test]
    fn a_caller_decides_about_its_trace_and_the_ratio_about_all_others() {
        let (none, _recorded) = tracer(0.0, 1);
        let sampled = TraceContext { trace: 7, span: 8, sampled: true };
        assert!(none.begin(Some(sampled), || 0).unwrap().sampled);
        assert!(!root(&none).sampled);
        let (all, _recorded) = tracer(1.0, 1);
        assert!(!all.begin(Some(TraceContext { sampled: false, ..sampled }), || 0).unwrap().sampled);
        assert!(root(&all).sampled);
        let (half, _recorded) = tracer(0.5, 1);
        let kept = (0..1000).filter(|_| root(&half).sampled).count();
        assert!((300..700).contains(&kept), "{kept}");
        let task = clock::task_id();
        assert_eq!(half.of_task(task, "").sampled, half.begin(None, || task.0.as_u128()).unwrap().sampled);
    }

    #[test]
    fn spans_that_do_not_fit_are_counted_and_nobody_waits() {
        let (tracer, mut recorded) = tracer(1.0, 1);
        for _ in 0..3 {
            drop(tracer.child("wait", Kind::Internal, root(&tracer)));
        }
        assert_eq!(tracer.counts(), (0, 2));
        let span = recorded.try_recv().unwrap();
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    }

    #[test]
    fn a_span_says_what_it_was_told_within_bounds() {
        let (tracer, mut recorded) = tracer(1.0, 1);
        let context = root(&tracer);
        let mut span = tracer.child("call", Kind::Client, context);
        span.set("model_asynch.attempt", 2);
        span.fail("timeout", &"ä".repeat(MAX_TEXT));
        for _ in 0..=MAX_LINKS {
            span.link(context);
        }
        drop(span);
        let span = recorded.try_recv().unwrap();
        assert_eq!(span.parent_span_id, context.span.to_be_bytes());
        assert_eq!((span.links.len(), span.dropped_links_count), (MAX_LINKS, 1));
        assert_eq!(span.status.unwrap().message.len(), MAX_TEXT);
        assert_eq!(span.attributes.len(), 2);
    }
}
