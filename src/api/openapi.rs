//! The OpenAPI 3.1 document: routes and types describe themselves; what all of them have in common
//! is added here, and the failures come from the enum that answers them.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use utoipa::{
    OpenApi as _,
    openapi::{
        self, ContentBuilder, Header, OpenApi, Ref, RefOr, Required, Schema,
        example::ExampleBuilder,
        path::{Operation, ParameterBuilder, ParameterIn, PathItem},
        schema::{ObjectBuilder, SchemaType, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    Access, Route, attempts, callers, docs,
    error::{ApiError, Failure, Kind},
    files, health, log_level, maintenance, metrics, models, monitor, nodes, oplog, overview, routes, series, stats,
    tasks, tenants,
    wire::id_asked,
};
use crate::caller::Scope;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "model-asynch",
        description = "Asynchronous middleware in front of model services: hand a task in, get its id at once, pick \
            the result up later. Every answer is the envelope `{\"code\", \"message\", \"data\"}`; `code` is 0 on \
            success only. 64-bit ids are strings on the way out, strings or numbers on the way in. Unknown fields \
            are ignored. Every answer carries `X-Request-Id`: the caller's, if it sent a sane one."
    ),
    tags(
        (name = "tasks", description = "Hand tasks in, pick results up"),
        (name = "models", description = "Register the model services that do the work"),
        (name = "statistics", description = "What the models did, day by day, and what they do now"),
        (name = "operation log", description = "Who changed what"),
        (name = "tenants", description = "What tenants may use up, and how much of theirs is kept"),
        (name = "maintenance", description = "Jobs that keep the service tidy"),
        (name = "monitor", description = "What operators were told of"),
        (name = "callers", description = "Who am I?"),
        (name = "nodes", description = "The processes that do the work"),
        (name = "files", description = "Results, where the service itself keeps them"),
        (name = "health", description = "For probes"),
        (name = "tools", description = "This document, metrics, the log level"),
    ),
    paths(
        tasks::create_task,
        tasks::get_task_result,
        tasks::get_task_batch,
        tasks::list_task,
        attempts::list_attempt,
        models::create_model,
        models::update_model,
        models::delete_model,
        models::delete_model_by_post,
        models::get_model,
        models::list_model,
        stats::list_model_stat,
        series::list_series,
        tenants::update_tenant,
        tenants::get_tenant,
        tenants::list_tenant,
        maintenance::list_job,
        maintenance::run_job,
        maintenance::list_run,
        overview::get_overview,
        overview::list_lane,
        oplog::list_op_log,
        monitor::list_alert,
        callers::get_caller,
        nodes::get_health,
        nodes::list_node,
        log_level::get_log_level,
        log_level::update_log_level,
        files::file,
        health::healthz,
        health::readyz,
        metrics::metrics,
        document,
        docs::docs,
    ),
    components(schemas(Failure))
)]
struct Described;

/// Failures of every route for which the caller must be known.
const COMMON: [Kind; 5] = [Kind::Validation, Kind::Unauthenticated, Kind::Forbidden, Kind::Internal, Kind::Unavailable];

/// Failures of every route with a body.
const OF_BODIES: [Kind; 2] = [Kind::TooLarge, Kind::UnsupportedMediaType];

/// What every request may say besides its own fields.
const TENANT_ID: &str = "The tenant to act for. Only an admin may name another than its own.";

/// The document, written once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serde_json::to_vec(&openapi()).unwrap_or_default().into());

/// The OpenAPI 3.1 document of every route.
pub fn openapi() -> OpenApi {
    let mut document = Described::openapi();
    let mut bodies = Vec::new();
    let routes = routes();
    let operations = document.paths.paths.iter_mut().flat_map(|(path, item)| operations(path, item));
    for (method, path, operation) in operations {
        name(operation);
        let access = access(&routes, method, path);
        if access != Access::Open {
            add_caller(operation, access.scope());
            bodies.extend(body_schema(operation));
        }
        fill_in_failures(operation);
    }
    let components = document.components.get_or_insert_default();
    for body in bodies {
        if let Some(RefOr::T(Schema::Object(body))) = components.schemas.get_mut(&body) {
            body.properties.insert("tenantId".to_owned(), tenant_id().into());
        }
    }
    for (name, scheme) in [("userInfo", user_info()), ("gatewaySecret", gateway_secret()), ("token", token())] {
        components.add_security_scheme(name, scheme);
    }
    document
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "tools", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object),
))]
pub(crate) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

fn operations<'a>(
    path: &'a str,
    item: &'a mut PathItem,
) -> impl Iterator<Item = (&'static str, &'a str, &'a mut Operation)> {
    let methods =
        [("GET", &mut item.get), ("PUT", &mut item.put), ("POST", &mut item.post), ("DELETE", &mut item.delete)];
    methods.into_iter().filter_map(move |(method, operation)| Some((method, path, operation.as_mut()?)))
}

/// What the table of routes asks for there.
fn access(routes: &[Route], method: &str, path: &str) -> Access {
    let route = routes.iter().find(|route| route.method_name() == method && route.path == path);
    route.map_or(Access::Open, |route| route.access)
}

/// Names operations as the contract does: `createTask`.
fn name(operation: &mut Operation) {
    let Some(snake) = &operation.operation_id else { return };
    let mut words = snake.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    operation.operation_id = Some(camel);
}

/// What comes with a caller: how it is known, for whom it acts, and how it may be refused.
fn add_caller(operation: &mut Operation, scope: Option<Scope>) {
    let tenant = ParameterBuilder::new()
        .name("tenantId")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(TENANT_ID))
        .schema(Some(id_asked()));
    operation.parameters.get_or_insert_default().push(RefOr::T(tenant.build()));
    let needs = match scope {
        Some(scope) => format!("Needs the scope `{}`, where callers have scopes.", scope.word()),
        None => "Any known caller may ask.".to_owned(),
    };
    operation.description = Some(match operation.description.take() {
        Some(text) if !text.is_empty() => format!("{text}\n\n{needs}"),
        _ => needs,
    });
    // One for each mode: `token` and `jwt`, `gateway` with and without secret, `anonymous`.
    let none = Vec::<String>::new;
    operation.security = Some(vec![
        SecurityRequirement::new("token", scope.map(Scope::word)),
        SecurityRequirement::new("userInfo", none()).add("gatewaySecret", none()),
        SecurityRequirement::new("userInfo", none()),
        SecurityRequirement::default(),
    ]);
    let of_body = operation.request_body.as_ref().map(|_| OF_BODIES).into_iter().flatten();
    for kind in COMMON.into_iter().chain(of_body) {
        let response = openapi::Response::new(String::new());
        operation.responses.responses.entry(kind.status().as_u16().to_string()).or_insert(RefOr::T(response));
    }
}

/// The name of the schema of the body.
fn body_schema(operation: &Operation) -> Option<String> {
    let RefOr::T(body) = operation.request_body.as_ref()? else { return None };
    let RefOr::T(content) = body.content.values().next()? else { return None };
    let Some(RefOr::Ref(schema)) = &content.schema else { return None };
    schema.ref_location.rsplit('/').next().map(str::to_owned)
}

/// Gives every response with a failing status the envelope of failures, with an example of each
/// kind that has this status.
fn fill_in_failures(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.status().as_str() == status).collect();
        let RefOr::T(response) = response else { continue };
        if kinds.is_empty() {
            continue;
        }
        if response.description.is_empty() {
            let descriptions: Vec<&str> = kinds.iter().map(|kind| kind.description()).collect();
            response.description = descriptions.join("; or ");
        }
        let examples = kinds.iter().map(|kind| {
            (kind.name(), ExampleBuilder::new().summary(kind.description()).value(Some(ApiError::example(*kind))))
        });
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Failure")))
            .examples_from_iter(examples.collect::<BTreeMap<_, _>>());
        response.content.insert("application/json".to_owned(), RefOr::T(content.build()));
        if kinds.iter().any(|kind| kind.passes_with_time()) {
            response.headers.insert("Retry-After".to_owned(), RefOr::T(retry_after()));
        }
    }
}

fn retry_after() -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)));
    header.description = Some("Seconds after which to try again.".to_owned());
    header
}

fn tenant_id() -> Schema {
    let kinds = [Type::String, Type::Integer, Type::Null];
    id_asked().schema_type(SchemaType::from_iter(kinds)).description(Some(TENANT_ID)).into()
}

fn user_info() -> SecurityScheme {
    let description = "Who is calling, as the gateway says: a JSON object, plain, percent-encoded or base64, with \
        `tenantId` and `userName` (or `userId`), optionally `admin: true`. Mode `anonymous` does without.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-User-Info", description)))
}

fn gateway_secret() -> SecurityScheme {
    let description = "How the gateway proves that it is the gateway, where `auth.gatewaySecret` is set.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-Gateway-Secret", description)))
}

fn token() -> SecurityScheme {
    let description = "Modes `token` (made with `model-asynch token create`) and `jwt` (of an identity provider). The \
        scopes are `task:write`, `task:read`, `model:write`, `stat:read`, and `admin`, which has them all and may \
        name any tenant.";
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::to_value(openapi()).unwrap()
    }

    fn documented(document: &Value) -> BTreeSet<(String, String)> {
        let paths = document["paths"].as_object().unwrap();
        let operations = |(path, item): (&String, &Value)| {
            let methods: Vec<_> = item.as_object().unwrap().keys().map(|m| (m.to_uppercase(), path.clone())).collect();
            methods
        };
        paths.iter().flat_map(operations).collect()
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let served: BTreeSet<_> =
            routes().iter().map(|route| (route.method_name().to_owned(), route.path.replace("{*", "{"))).collect();
        assert_eq!(documented(&document()), served);
        assert_eq!(served.len(), routes().len(), "no route is there twice");
    }

    #[test]
    fn it_is_a_document_of_version_3_1_with_this_crates_version() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(target)) = fields.get("$ref") {
                        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    fields.values().for_each(|field| walk(field, document));
                }
                Value::Array(entries) => entries.iter().for_each(|entry| walk(entry, document)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }

    #[test]
    fn every_failure_is_described_by_the_envelope_with_an_example() {
        let document = document();
        for (method, path) in documented(&document) {
            let responses = document["paths"][&path][method.to_lowercase()]["responses"].as_object().unwrap();
            for (status, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
                let content = &response["content"]["application/json"];
                assert_eq!(content["schema"]["$ref"], "#/components/schemas/Failure", "{path} {status}");
                assert!(!content["examples"].as_object().unwrap().is_empty(), "{path} {status}");
                assert_ne!(response["description"], "", "{path} {status}");
            }
        }
    }

    #[test]
    fn every_route_for_callers_takes_a_tenant_and_may_refuse_it() {
        let document = document();
        for route in routes().iter().filter(|route| route.access != crate::api::Access::Open) {
            let operation = &document["paths"][route.path][route.method_name().to_lowercase()];
            let names = operation["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]);
            assert!(names.into_iter().any(|name| name == "tenantId"), "{}", route.path);
            assert!(operation["responses"]["403"].is_object(), "{}", route.path);
            let scopes: Vec<&str> = route.access.scope().iter().map(|scope| scope.word()).collect();
            assert_eq!(operation["security"][0]["token"], serde_json::json!(scopes), "{}", route.path);
            let description = operation["description"].as_str().unwrap();
            assert!(scopes.iter().all(|scope| description.contains(scope)), "{}", route.path);
            if let Some(body) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() {
                let schema = document.pointer(body.trim_start_matches('#')).unwrap();
                assert!(schema["properties"]["tenantId"].is_object(), "{body}");
                assert!(schema["example"].is_object() || schema["examples"].is_array(), "{body}");
            }
        }
    }

    #[test]
    fn operations_are_called_as_in_the_contract() {
        let document = document();
        assert_eq!(document["paths"]["/task/createTask"]["post"]["operationId"], "createTask");
        assert_eq!(document["paths"]["/model/deleteModel"]["post"]["operationId"], "deleteModelByPost");
    }
}
