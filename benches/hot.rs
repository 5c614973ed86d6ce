//! The pure pieces that every task passes through, one by one: `cargo bench --bench hot`. What they
//! add up to is measured by `model-asynch bench`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use model_asynch::{
    caller::Caller,
    clock,
    config::{Collector, Telemetry},
    metrics::Metrics,
    model::{Model, ModelPatch, ModelSpec, headers::Headers},
    spool::file_type,
    store::tasks::LaneVerdict,
    task::{
        Attempt, CallerHeaders, Lane, ModelId, Running, TaskKey, TenantId,
        lifecycle::{self, Phase, StoredFile},
        submission::Submission,
        trace::TraceContext,
    },
    trace,
    wake::WakeUp,
    worker::lanes::Lanes,
};
use serde_json::value::RawValue;

const HEADERS: &str = "Authorization:Bearer abcdefghijklmnop,X-Region=eu,X-List:\"a,b,c\"";

fn model() -> Model {
    let now = clock::now();
    let patch = ModelPatch {
        model_name: Some("tts".to_owned()),
        base_url: Some("http://127.0.0.1:5000".to_owned()),
        route: Some("/synthesize".to_owned()),
        api_key: Some(HEADERS.to_owned()),
        ..ModelPatch::default()
    };
    Model {
        id: ModelId(3),
        tenant: TenantId(7),
        creator: "ann".to_owned(),
        updater: "ann".to_owned(),
        created_at: now,
        updated_at: now,
        spec: ModelSpec::create(&patch, TenantId(7)).unwrap(),
    }
}

fn running() -> Running {
    let now = clock::now();
    let tenant = TenantId(7);
    Running {
        key: TaskKey { tenant, id: clock::task_id() },
        lane: Lane { model: ModelId(3), tenant },
        attempt: Attempt(1),
        node: clock::node_id(),
        retry_count: 0,
        lost_attempts: 0,
        phase: Phase::Model,
        creator: "ann".to_owned(),
        model_name: "tts".to_owned(),
        input_ref: String::new(),
        request_payload: None,
        caller_headers: CallerHeaders::default(),
        traceparent: String::new(),
        created_at: now,
        enqueue_at: now,
        started_at: None,
    }
}

fn submission(criterion: &mut Criterion) {
    let (model, caller) = (model(), Caller::anonymous());
    for (name, length) in [("150 B", 150), ("100 kB", 100_000)] {
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(length));
        criterion.bench_function(&format!("payload of {name} into a task"), |bencher| {
            bencher.iter(|| {
                let payload: Box<RawValue> = serde_json::from_str(black_box(&payload)).unwrap();
                let submission = Submission {
                    biz_name: "bench",
                    input_ref: "",
                    request_payload: Some(payload),
                    caller_headers: CallerHeaders::default(),
                    trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                };
                submission.check(clock::task_id(), &caller, &model).unwrap()
            });
        });
    }
}

/// The spans of one attempt; where they are recorded, nobody takes them out of the queue.
fn spans(criterion: &mut Criterion) {
    let (model, task) = (model(), running());
    let collector = Collector { url: "http://127.0.0.1:9".parse().unwrap(), headers: Headers::default() };
    for (name, collector) in [("not recorded", None), ("recorded", Some(collector))] {
        let telemetry = Telemetry { collector, service_name: "bench".to_owned(), sample_ratio: 1.0 };
        let (tracer, _exporter) = trace::start(&telemetry).unwrap();
        criterion.bench_function(&format!("the spans of an attempt, {name}"), |bencher| {
            bencher.iter(|| {
                tracer.waited(&task);
                let process = tracer.process(&task);
                let (call, context) = tracer.call(&task, &model);
                let steps = ["park", "upload", "finish"].map(|step| tracer.step(step, trace::Kind::Internal, &task));
                (process, call, context.to_string(), steps)
            });
        });
    }
}

fn lifecycle(criterion: &mut Criterion) {
    let task = running();
    criterion.bench_function("a task that succeeded, as a row", |bencher| {
        bencher.iter(|| {
            let stored = StoredFile {
                oss_file: "http://127.0.0.1/file/0/x.wav".to_owned(),
                oss_key: "0/x.wav".to_owned(),
                file_type: "wav".to_owned(),
                file_size: 48_044,
            };
            let transition = lifecycle::succeeded(black_box(&task), stored, None);
            black_box(transition.row());
        });
    });
}

/// What the dispatcher does around one claim, beside so many lanes that have work.
fn lanes(criterion: &mut Criterion) {
    let models = HashMap::from([(ModelId(3), Arc::new(model()))]);
    for many in [100, 10_000] {
        let mut lanes = Lanes::default();
        for tenant in 0..many {
            lanes.wake(WakeUp { lane: Lane { model: ModelId(3), tenant: TenantId(tenant) }, rewind: false });
        }
        let now = clock::now();
        criterion.bench_function(&format!("64 of {many} lanes asked, and their verdicts"), |bencher| {
            bencher.iter(|| {
                let asked = lanes.take(64);
                let asks = lanes.asks(&asked, 256, &models, |_| None);
                for &lane in &asked {
                    lanes.verdict(lane, LaneVerdict::More, Some(now));
                }
                black_box(asks)
            });
        });
    }
}

fn file_types(criterion: &mut Criterion) {
    let json = br#"{"language":"fra","script":"Latin","confidence":1.0,"reliable":true}"#;
    let wav = [b"RIFF\x24\xbb\0\0WAVEfmt ".as_slice(), &[0; 496]].concat();
    for (name, head, content_type) in
        [("JSON", json.as_slice(), Some("application/json")), ("WAV", wav.as_slice(), Some("audio/wav"))]
    {
        criterion.bench_function(&format!("file type of {name}"), |bencher| {
            bencher.iter(|| file_type::detect(black_box(head), content_type));
        });
    }
}

fn headers(criterion: &mut Criterion) {
    criterion.bench_function("headers of a model", |bencher| {
        bencher.iter(|| Headers::parse(black_box(HEADERS)).unwrap());
    });
}

/// What counting costs a task: each must stay far below a microsecond.
fn metrics(criterion: &mut Criterion) {
    let (metrics, task) = (Metrics::new(50).unwrap(), running());
    let took = Duration::from_millis(70);
    criterion.bench_function("a task created, counted", |bencher| {
        bencher.iter(|| metrics.created(black_box(task.key.tenant), &task.model_name));
    });
    criterion.bench_function("a task claimed, counted", |bencher| {
        bencher.iter(|| metrics.claimed(took, black_box(std::slice::from_ref(&task))));
    });
    criterion.bench_function("a call, counted", |bencher| {
        bencher.iter(|| metrics.called(black_box(&task), took, Ok(48_044)));
    });
    let failed = lifecycle::failed(&task, "no".to_owned(), None);
    criterion.bench_function("an end, counted", |bencher| {
        bencher.iter(|| metrics.moved(&task.model_name, black_box(&failed)));
    });
    criterion.bench_function("a request, counted", |bencher| {
        bencher.iter(|| metrics.answered(black_box("POST"), "/task/createTask", "200", took));
    });
}

criterion_group!(hot, submission, spans, lifecycle, lanes, file_types, headers, metrics);
criterion_main!(hot);
