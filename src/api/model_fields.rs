//! What can be configured of a model, as the OpenAPI document tells it. The rules themselves are
//! [`ModelSpec`](crate::model::ModelSpec)'s; a test holds the two together.

use std::borrow::Cow;

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, SchemaType, Type},
    },
};

use super::wire::id_asked;
use crate::model::{MAX_NAME, MAX_REMARK, MAX_URL, headers};

/// The body of createModel.
pub(crate) enum CreateModel {}

/// The body of updateModel.
pub(crate) enum UpdateModel {}

/// One field of a model.
struct Field {
    name: &'static str,
    rule: Rule,
    /// What createModel takes where the field is absent; `None` = it is required.
    default: Option<Value>,
    text: &'static str,
}

enum Rule {
    /// A text of at least and at most so many characters.
    Text(usize, usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number from and to.
    Number(i32, i32),
    /// True or false.
    Flag,
}

fn fields() -> [Field; 15] {
    use Rule::{Flag, Number, Text, Word};
    let field = |name, rule, default, text| Field { name, rule, default, text };
    [
        field("modelName", Text(1, MAX_NAME), None, "Unique per tenant among models not deleted."),
        field(
            "baseUrl",
            Text(1, MAX_URL),
            None,
            "Absolute http(s) URL. Where the service has `consul.address`, also `consul://service/path` \
             (`consul+https://` with TLS): a healthy instance of that service, each in its turn.",
        ),
        field("route", Text(0, MAX_URL), Some(json!("")), "Joined to `baseUrl` with exactly one slash."),
        field(
            "httpMethod",
            Word(&["GET", "POST"]),
            Some(json!("POST")),
            "GET sends the payload's top-level fields as the query string.",
        ),
        field(
            "apiKey",
            Text(0, headers::MAX_LENGTH),
            Some(json!("")),
            "Headers for the model: `Key:Value,Key2:Value2`. A value in double quotes keeps its commas. Never shown in \
             clear: answers say `Key:****`, and an update that sends `****` back keeps the stored value.",
        ),
        field("enabled", Number(0, 1), Some(json!(1)), "0: takes no new tasks, and its queued tasks wait."),
        field(
            "maxConcurrency",
            Number(1, 1_000_000),
            Some(json!(10)),
            "Calls running at once per tenant, over all nodes.",
        ),
        field(
            "totalConcurrency",
            Number(0, 1_000_000),
            Some(json!(0)),
            "Calls running at once for a shared model over all tenants; 0 = no such limit.",
        ),
        field(
            "queueLimit",
            Number(0, i32::MAX),
            Some(json!(1000)),
            "Tasks queued or running per tenant; at the limit createTask answers 429. 0 = no limit.",
        ),
        field("timeoutSeconds", Number(1, 86_400), Some(json!(60)), "One call, from connect to the last byte."),
        field("retryTimes", Number(0, 100), Some(json!(0)), "Further tries after the first one failed."),
        field(
            "retryQueueMaxSeconds",
            Number(0, i32::MAX),
            Some(json!(0)),
            "Where a retry goes in the queue: 0 = to the head; N > 0 = to the tail, but to the head once the task is N \
             seconds old.",
        ),
        field(
            "autoCleanSeconds",
            Number(0, i32::MAX),
            Some(json!(86_400)),
            "How long a picked-up or finally failed task is kept.",
        ),
        field("remark", Text(0, MAX_REMARK), Some(json!("")), "Free text."),
        field("shared", Flag, Some(json!(false)), "Every tenant may call it. Only for models of tenant 0."),
    ]
}

impl Field {
    /// A field that may be absent may be null as well, which means the same.
    fn schema(&self, may_be_absent: bool) -> ObjectBuilder {
        let null = may_be_absent.then_some(Type::Null);
        let or_null = |kind| SchemaType::from_iter(std::iter::once(kind).chain(null));
        let schema = ObjectBuilder::new().description(Some(self.text));
        match self.rule {
            Rule::Text(least, most) => {
                let least = Some(least).filter(|least| *least > 0);
                schema.schema_type(or_null(Type::String)).min_length(least).max_length(Some(most))
            }
            Rule::Word(words) => {
                let words = words.iter().map(|word| json!(word)).chain(may_be_absent.then_some(Value::Null));
                schema.schema_type(or_null(Type::String)).enum_values(Some(words))
            }
            Rule::Number(least, most) => {
                schema.schema_type(or_null(Type::Integer)).minimum(Some(least)).maximum(Some(most))
            }
            Rule::Flag => schema.schema_type(or_null(Type::Boolean)),
        }
    }
}

impl PartialSchema for CreateModel {
    fn schema() -> RefOr<Schema> {
        let example = json!({
            "modelName": "tts", "baseUrl": "http://tts.internal:9000", "route": "/v1/speak",
            "apiKey": "Authorization:Bearer s3cret", "maxConcurrency": 4, "retryTimes": 2
        });
        let body = ObjectBuilder::new().description(Some("A model to register.")).examples([example]);
        let body = fields().into_iter().fold(body, |body, field| {
            let schema = field.schema(field.default.is_some());
            let body = body.property(field.name, schema.default(field.default.clone()));
            if field.default.is_none() { body.required(field.name) } else { body }
        });
        body.into()
    }
}

impl PartialSchema for UpdateModel {
    fn schema() -> RefOr<Schema> {
        let body = ObjectBuilder::new()
            .description(Some("What to change of a model; what is absent stays as it is."))
            .examples([json!({"id": "3", "maxConcurrency": 8, "enabled": 1})])
            .property("id", id_asked())
            .required("id");
        fields().into_iter().fold(body, |body, field| body.property(field.name, field.schema(true))).into()
    }
}

impl ToSchema for CreateModel {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("CreateModel")
    }
}

impl ToSchema for UpdateModel {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("UpdateModel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ModelPatch, ModelSpec},
        task::TenantId,
    };

    fn spec(fields: Value) -> Result<ModelSpec, String> {
        let patch: ModelPatch = serde_json::from_value(fields).map_err(|error| error.to_string())?;
        ModelSpec::create(&patch, TenantId(0)).map_err(|error| error.to_string())
    }

    fn with(name: &str, value: &Value) -> Value {
        let mut body = json!({"modelName": "tts", "baseUrl": "http://m"});
        body[name] = value.clone();
        body
    }

    #[test]
    fn the_defaults_told_are_the_defaults_taken() {
        let plain = spec(with("remark", &json!(""))).unwrap();
        for field in fields() {
            if let Some(default) = &field.default {
                assert_eq!(spec(with(field.name, default)).as_ref(), Ok(&plain), "{}", field.name);
            }
        }
    }

    #[test]
    fn the_bounds_told_are_the_bounds_kept() {
        for field in fields() {
            let taken = |value: Value| spec(with(field.name, &value)).is_ok();
            match field.rule {
                Rule::Number(least, most) => {
                    assert!(taken(json!(least)) && taken(json!(most)), "{}", field.name);
                    let outside = [i64::from(least) - 1, i64::from(most) + 1];
                    assert!(outside.into_iter().all(|number| !taken(json!(number))), "{}", field.name);
                }
                Rule::Text(least, most) => {
                    assert!(!taken(json!("x".repeat(most + 1))), "{}", field.name);
                    assert!(least == 0 || !taken(json!("")), "{}", field.name);
                }
                Rule::Word(words) => {
                    assert!(words.iter().all(|word| taken(json!(word))) && !taken(json!("PUT")), "{}", field.name);
                }
                Rule::Flag => assert!(taken(json!(true)) && !taken(json!(1)), "{}", field.name),
            }
        }
    }
}
