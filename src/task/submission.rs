//! The request of createTask, checked into a [`NewTask`].

use serde_json::value::RawValue;

use super::{CallerHeaders, Lane, TaskId, TaskKey, trace::TraceContext};
use crate::{
    caller::Caller,
    model::{FieldError, HttpMethod, Model, text},
};

/// Most characters in `bizName`.
pub const MAX_BIZ_NAME: usize = 128;
/// Most characters in `inputRef`.
pub const MAX_INPUT_REF: usize = 4096;

/// A task that may be put in the queue.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Tenant and fresh id.
    pub key: TaskKey,
    /// The queue it goes to.
    pub lane: Lane,
    /// User who creates it.
    pub creator: String,
    /// Name of the model.
    pub model_name: String,
    /// The caller's module.
    pub biz_name: String,
    /// Reference to the input, empty if none.
    pub input_ref: String,
    /// JSON text as it came; `None` for none and for `null`.
    pub request_payload: Option<String>,
    /// What storage `http` passes on.
    pub caller_headers: CallerHeaders,
    /// W3C trace context of the span that creates it, empty if nobody traces that.
    pub traceparent: String,
}

/// What the caller sent, read but not judged.
#[derive(Debug, Default)]
pub struct Submission<'a> {
    /// The caller's module.
    pub biz_name: &'a str,
    /// Reference to the input.
    pub input_ref: &'a str,
    /// Any JSON.
    pub request_payload: Option<Box<RawValue>>,
    /// What storage `http` passes on.
    pub caller_headers: CallerHeaders,
    /// The span that creates the task.
    pub trace: Option<TraceContext>,
}

impl Submission<'_> {
    /// Checks the fields and makes the task, under that fresh id.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(self, id: TaskId, caller: &Caller, model: &Model) -> Result<NewTask, FieldError> {
        let payload = self.request_payload.filter(|json| json.get() != "null");
        let is_object = |json: &RawValue| json.get().starts_with('{');
        if model.spec.http_method == HttpMethod::Get && payload.as_deref().is_some_and(|json| !is_object(json)) {
            let message = "must be an object, because this model is called with GET";
            return Err(FieldError::new("requestPayload", message));
        }
        Ok(NewTask {
            key: TaskKey { tenant: caller.tenant, id },
            lane: Lane { model: model.id, tenant: caller.tenant },
            creator: caller.user.clone(),
            model_name: model.spec.model_name.clone(),
            biz_name: text("bizName", self.biz_name, 0, MAX_BIZ_NAME)?,
            input_ref: text("inputRef", self.input_ref, 0, MAX_INPUT_REF)?,
            // The text changes hands, however long it is.
            request_payload: payload.map(|json| Box::<str>::from(json).into_string()),
            caller_headers: self.caller_headers,
            traceparent: self.trace.map(|context| context.to_string()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::{
        caller::Scopes,
        model::{ModelPatch, ModelSpec},
        task::{ModelId, TenantId},
    };

    const ID: TaskId = TaskId(uuid::Uuid::nil());

    fn model(method: &str) -> Model {
        let patch = ModelPatch {
            model_name: Some("tts".into()),
            base_url: Some("http://m".into()),
            http_method: Some(method.into()),
            ..ModelPatch::default()
        };
        Model {
            id: ModelId(3),
            tenant: TenantId(0),
            creator: String::new(),
            updater: String::new(),
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
            spec: ModelSpec::create(&patch, TenantId(0)).unwrap(),
        }
    }

    fn caller() -> Caller {
        Caller { tenant: TenantId(7), user: "ann".into(), scopes: Scopes::TENANT }
    }

    fn payload(json: &str) -> Box<RawValue> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_lane_is_the_callers_even_on_a_shared_model() {
        let task = Submission::default().check(ID, &caller(), &model("POST")).unwrap();
        assert_eq!(task.lane, Lane { model: ModelId(3), tenant: TenantId(7) });
        assert_eq!(task.key.tenant, TenantId(7));
    }

    #[test]
    fn the_payload_is_kept_to_the_letter_and_null_is_none() {
        let json = payload(r#"{"b": 1.0,  "a": 1e2}"#);
        let check = |json: &RawValue| {
            let submission = Submission { request_payload: Some(json.to_owned()), ..Submission::default() };
            submission.check(ID, &caller(), &model("POST")).unwrap().request_payload
        };
        assert_eq!(check(&json).as_deref(), Some(r#"{"b": 1.0,  "a": 1e2}"#));
        assert_eq!(check(&payload("null")), None);
    }

    #[test]
    fn a_model_called_with_get_takes_objects_only() {
        let json = payload("[1]");
        let submission = Submission { request_payload: Some(json), ..Submission::default() };
        assert_eq!(submission.check(ID, &caller(), &model("GET")).unwrap_err().field, "requestPayload");
    }

    #[test]
    fn long_texts_are_refused_by_name() {
        let long = "x".repeat(MAX_INPUT_REF + 1);
        let submission = Submission { input_ref: &long, ..Submission::default() };
        assert_eq!(submission.check(ID, &caller(), &model("POST")).unwrap_err().field, "inputRef");
        let submission = Submission { biz_name: "a\0", ..Submission::default() };
        assert_eq!(submission.check(ID, &caller(), &model("POST")).unwrap_err().field, "bizName");
    }
}
