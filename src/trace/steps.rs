//! The spans of a task's steps, with what OpenTelemetry's conventions for messaging and HTTP want
//! said of them.

use chrono::{DateTime, Utc};
use url::Url;

use super::{Attribute, Kind, Span, Tracer};
use crate::{
    clock,
    model::{HttpMethod, Model},
    task::{
        Abandoned, Attempt, Failure, FailureKind, Running, TaskKey, Waiting,
        lifecycle::{State, Transition},
        trace::{Step, TraceContext},
    },
};

/// What this service calls itself where a name of a messaging system is asked for.
const SYSTEM: &str = "model-asynch";

impl Tracer {
    /// The time that a task waited until it was claimed, just now.
    pub fn waited(&self, task: &Running) {
        if !self.is_on() {
            return;
        }
        // A retry at the head keeps the place of its creation, and has a backoff instead.
        let since = if task.attempt == Attempt(1) { task.created_at } else { task.enqueue_at };
        if task.attempt == Attempt(1) || since > task.created_at {
            let mut span = self.child("wait", Kind::Internal, self.of_task(task.key.id, &task.traceparent));
            describe_attempt(&mut span, task.key, &task.model_name, task.attempt);
            span.began(since);
        }
    }

    /// An attempt that was just claimed.
    pub fn process(&self, task: &Running) -> Span {
        self.attempt(task.key, &task.traceparent, &task.model_name, task.attempt)
    }

    /// An attempt that another process began, when it was claimed.
    pub fn adopted(&self, task: &Running) -> Span {
        let mut span = self.process(task);
        span.set("model_asynch.adopted", true);
        if let Some(started_at) = task.started_at {
            span.began(started_at);
        }
        span
    }

    /// An attempt that was lost with its worker, which cannot tell of it any more.
    pub fn lost(&self, task: &Abandoned) {
        let mut span = self.attempt(task.key, &task.traceparent, &task.model_name, task.attempt);
        span.fail("lost", "the attempt was lost with its worker");
        if let Some(started_at) = task.started_at {
            span.began(started_at);
        }
    }

    fn attempt(&self, key: TaskKey, traceparent: &str, model_name: &str, attempt: Attempt) -> Span {
        if !self.is_on() {
            return Span::default();
        }
        let created = self.of_task(key.id, traceparent);
        let own = created.step(key.id, attempt, Step::Process);
        let mut span = self.span("process", Kind::Consumer, own, created.span);
        describe_attempt(&mut span, key, model_name, attempt);
        message(&mut span, "process", "process", model_name, key);
        span
    }

    /// One call of the model, and what the model is told of it.
    pub fn call(&self, task: &Running, model: &Model) -> (Span, TraceContext) {
        let created = self.of_task(task.key.id, &task.traceparent);
        let own = created.step(task.key.id, task.attempt, Step::Call);
        let parent = created.step(task.key.id, task.attempt, Step::Process).span;
        let mut span = self.span("call", Kind::Client, own, parent);
        if span.context().is_some() {
            describe_attempt(&mut span, task.key, &task.model_name, task.attempt);
            span.set("http.request.method", method(model.spec.http_method));
            if task.retry_count > 0 {
                span.set("http.request.resend_count", i64::from(task.retry_count));
            }
        }
        (span, own)
    }

    /// Another step of an attempt.
    pub fn step(&self, name: &'static str, kind: Kind, task: &Running) -> Span {
        if !self.is_on() {
            return Span::default();
        }
        let created = self.of_task(task.key.id, &task.traceparent);
        let mut span = self.child(name, kind, created.step(task.key.id, task.attempt, Step::Process));
        describe_attempt(&mut span, task.key, &task.model_name, task.attempt);
        span
    }

    /// Writing what became of an attempt; nothing for a change that does not end it.
    pub fn finish(&self, task: &Running, transition: &Transition) -> Span {
        if !self.is_on() {
            return Span::default();
        }
        let outcome = match transition.to() {
            State::Running => return Span::default(),
            State::Queued => "queued",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::PickedUp => "picked_up",
            State::Cancelled => "cancelled",
        };
        let mut span = self.step("finish", Kind::Client, task);
        span.set("model_asynch.outcome", outcome);
        span
    }

    /// A task that failed without a run, because it waited too long or its model is gone.
    pub fn dropped(&self, task: &Waiting) {
        if self.is_on() {
            let mut span = self.child("finish", Kind::Client, self.of_task(task.key.id, &task.traceparent));
            describe_attempt(&mut span, task.key, &task.model_name, task.attempt);
            span.set("model_asynch.outcome", "failed");
            span.fail("dropped", "failed without a run");
        }
    }

    /// The rest before the next try, which begins now.
    pub fn backoff(&self, task: &Running, rest: std::time::Duration) {
        if !self.is_on() {
            return;
        }
        let mut span = self.child("backoff", Kind::Internal, self.of_task(task.key.id, &task.traceparent));
        if span.context().is_some() {
            describe_attempt(&mut span, task.key, &task.model_name, task.attempt);
            let now = clock::now();
            span.began(now);
            span.ends(after(now, rest));
        }
    }

    /// The pickup of a result by the request of that span, each linked to the other.
    pub fn picked_up(&self, key: TaskKey, traceparent: &str, request: &mut Span) {
        if !self.is_on() {
            return;
        }
        let created = self.of_task(key.id, traceparent);
        if created.span != 0 {
            request.link(created);
        }
        let mut span = self.child("pickup", Kind::Consumer, created);
        if span.context().is_some() {
            span.set("model_asynch.task_id", key.id.to_string());
            span.set("model_asynch.tenant_id", key.tenant.0);
            span.began_with(request);
            if let Some(request) = request.context() {
                span.link(request);
            }
        }
    }
}

fn after(at: DateTime<Utc>, rest: std::time::Duration) -> DateTime<Utc> {
    chrono::TimeDelta::from_std(rest).ok().and_then(|rest| at.checked_add_signed(rest)).unwrap_or(at)
}

/// Whose step it is.
pub fn describe(span: &mut Span, key: TaskKey, model_name: &str) {
    span.set_with("model_asynch.task_id", || key.id.to_string());
    span.set("model_asynch.tenant_id", key.tenant.0);
    span.set("model_asynch.model", model_name);
}

fn describe_attempt(span: &mut Span, key: TaskKey, model_name: &str, attempt: Attempt) {
    describe(span, key, model_name);
    span.set("model_asynch.attempt", i64::from(attempt.0));
}

/// Where a call goes. Neither user nor query: either may be a key.
pub fn goes_to(span: &mut Span, url: &Url) {
    if span.context().is_some() {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        span.set("url.full", format!("{}://{host}{port}{}", url.scheme(), url.path()));
        span.set("server.address", host);
        span.set("server.port", i64::from(url.port_or_known_default().unwrap_or_default()));
    }
}

/// A task as a message for its model.
pub fn message(span: &mut Span, kind: &'static str, operation: &'static str, model_name: &str, key: TaskKey) {
    if span.context().is_some() {
        span.set("messaging.system", SYSTEM);
        span.set("messaging.operation.type", kind);
        span.set("messaging.operation.name", operation);
        span.set("messaging.destination.name", model_name);
        span.set("messaging.message.id", key.id.to_string());
    }
}

/// A call or attempt ended in a failure; what the model said stays out.
pub fn failed(span: &mut Span, failure: &Failure) {
    let (kind, message) = match failure.kind {
        FailureKind::Status(status) => {
            return span.fail(&status.to_string(), &format!("the model answered {status}"));
        }
        FailureKind::EmptyBody => ("empty_body", "the model answered without a body"),
        FailureKind::Timeout => ("timeout", "the model did not answer in time"),
        FailureKind::Connection => ("connection", "the connection to the model could not be made or broke"),
        FailureKind::TooLarge => ("too_large", "the result is too large"),
        FailureKind::Unsendable => ("unsendable", "the task cannot be sent to this model"),
        FailureKind::Spool => ("spool", "the result could not be parked"),
    };
    span.fail(kind, message);
}

fn method(method: HttpMethod) -> Attribute {
    match method {
        HttpMethod::Get => "GET",
        HttpMethod::Post => "POST",
    }
    .into()
}
