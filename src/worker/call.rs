//! Contract §5, step 2 and 3: call the model, and stream its answer into the spool.

mod answer;
mod client;
mod request;

use std::time::{Duration, Instant};

use hyper::{Response, body::Body as _, body::Incoming, header::CONTENT_TYPE};

pub(super) use self::client::ModelClient;
use self::{
    answer::{next, refused},
    client::{broken, unanswered},
    request::unsendable,
};
use crate::{
    clock,
    consul::services,
    faults::{self, Point},
    model::Model,
    spool::{Parked, Spool},
    task::{Failure, FailureKind, Running, trace::TraceContext},
    trace::{Kind, Span, steps},
};

/// How a call ended, and how long it took.
pub(super) struct Called {
    /// The result on disk, or what went wrong.
    pub(super) outcome: Result<Parked, Failure>,
    /// From connect to the last byte.
    pub(super) took: Duration,
}

/// One call of a model.
pub(super) struct Call<'a> {
    /// What it is made with.
    pub(super) client: &'a ModelClient,
    /// Where its answer goes.
    pub(super) spool: &'a Spool,
    /// What it is made for.
    pub(super) task: &'a Running,
    /// Who is called.
    pub(super) model: &'a Model,
    /// Most bytes of an answer.
    pub(super) max_bytes: u64,
}

/// How a call is told of in traces.
struct Traced {
    span: Span,
    /// What the model is told, whether or not we record anything.
    context: TraceContext,
    began: Instant,
}

impl Call<'_> {
    /// Calls the model once and parks its answer. The payload is the task's, which nobody needs while
    /// the model works.
    pub(super) async fn make(&self, payload: Option<String>) -> Called {
        let began = clock::tick();
        let limit = self.model.spec.timeout();
        let (span, context) = self.client.tracer.call(self.task, self.model);
        let mut traced = Traced { span, context, began };
        let ended = tokio::time::timeout(limit, self.attempt(payload, &mut traced)).await;
        let outcome = ended.unwrap_or_else(|_| {
            let message = format!("the model did not answer within {} s", limit.as_secs());
            Err(failure(FailureKind::Timeout, message))
        });
        if let Err(failure) = &outcome
            && failure.kind != FailureKind::Spool
        {
            steps::failed(&mut traced.span, failure);
        }
        let outcome = outcome.map_err(|failure| {
            let message = self.model.spec.api_key.mask_in(&failure.message);
            Failure { message, ..failure }
        });
        Called { outcome, took: began.elapsed() }
    }

    async fn attempt(&self, payload: Option<String>, traced: &mut Traced) -> Result<Parked, Failure> {
        let answer = self.send(payload, traced).await?;
        // Boxed, as what follows is larger than the wait for the model, which thousands do at once.
        Box::pin(self.take(answer, traced)).await
    }

    /// Asks the model, and waits for the head of its answer.
    async fn send(&self, payload: Option<String>, traced: &mut Traced) -> Result<Response<Incoming>, Failure> {
        let mut url = self.model.spec.call_url().map_err(|error| unsendable(error.to_string()))?;
        if services::names_a_service(&url) {
            let instance = Box::pin(self.client.services.resolve(&url)).await;
            url = instance.map_err(|error| failure(FailureKind::Connection, error.to_string()))?;
        }
        steps::goes_to(&mut traced.span, &url);
        self.client.egress.check_literal(&url).map_err(|denied| unsendable(denied.to_string()))?;
        let request = request::request(self.task, payload, self.model, url, traced.context)?;
        self.client.send(request).await.map_err(|error| unanswered(&error))
    }

    /// Parks what the model answers.
    async fn take(&self, answer: Response<Incoming>, traced: &mut Traced) -> Result<Parked, Failure> {
        traced.span.set("http.response.status_code", i64::from(answer.status().as_u16()));
        if !answer.status().is_success() {
            return Err(refused(answer, self.model).await);
        }
        let max_bytes = self.max_bytes;
        let too_large = || failure(FailureKind::TooLarge, format!("the result is larger than {max_bytes} bytes"));
        if answer.body().size_hint().exact().is_some_and(|length| length > max_bytes) {
            return Err(too_large());
        }
        let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut draft = self.spool.draft(self.task.key, self.task.attempt);
        let mut body = answer.into_body();
        while let Some(chunk) = next(&mut body).await {
            draft.write(chunk.map_err(|error| broken(&error))?).await.map_err(|error| unparked(&error))?;
            if draft.size() > max_bytes {
                return Err(too_large());
            }
        }
        if draft.size() == 0 {
            return Err(failure(FailureKind::EmptyBody, "the model answered without a body"));
        }
        traced.span.set_with("http.response.body.size", || i64::try_from(draft.size()).unwrap_or(i64::MAX));
        traced.span.end();
        let mut parking = self.client.tracer.step("park", Kind::Internal, self.task);
        faults::pass(Point::AfterCall);
        draft.finish(content_type.as_deref(), traced.began.elapsed()).await.map_err(|error| {
            parking.fail("spool", "the result could not be parked");
            unparked(&error)
        })
    }
}

fn unparked(error: &std::io::Error) -> Failure {
    failure(FailureKind::Spool, format!("the result could not be parked on this node: {}", error.kind()))
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        task::{sample, trace::Step},
        trace::Tracer,
    };

    #[test]
    fn the_model_gets_a_new_span_in_the_callers_trace() {
        let told = |traceparent: &str| {
            let tracer = Tracer::default();
            let task = Running { traceparent: traceparent.to_owned(), ..sample::running() };
            tracer.of_task(task.key.id, &task.traceparent).step(task.key.id, task.attempt, Step::Call).to_string()
        };
        let child = told("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(child.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && child.ends_with("-01"));
        assert!(!child.contains("00f067aa0ba902b7"));
        assert!(told("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").ends_with("-00"));
    }
}
