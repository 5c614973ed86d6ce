//! The routes of models.

use std::{fmt::Display, time::Duration};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    audit::Notes,
    auth::Acting,
    envelope::{self, Answer, Done, Envelope, PageOf},
    error::ApiError,
    model_fields::{CreateModel, UpdateModel},
    request::Ask,
    wire::{Id, PageAsk, Time, filter, id_asked},
};
use crate::{
    consul::NoInstance,
    model::{MAX_NAME, Model, ModelPatch, ModelSpec},
    store::models::ModelChanged,
    task::ModelId,
};

/// How long a model's host name may take to resolve when it is saved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Names a model.
#[derive(Debug, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[schema(example = json!({"id": "3"}))]
pub(crate) struct ModelById {
    /// The model's id.
    #[schema(schema_with = id_asked)]
    #[param(schema_with = id_asked, required)]
    id: Id,
}

/// Filters of listModel; all given must hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "modelName": "tts"}))]
pub(crate) struct ListModel {
    /// Which page.
    page: Option<PageAsk>,
    /// Part of the name.
    #[schema(max_length = 128)]
    model_name: Option<String>,
}

/// The id of a new model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CreatedModel {
    /// The model's id.
    id: Id,
}

/// A model as registered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model, example = json!({
    "id": "3", "tenantId": "7", "creator": "ann", "updater": "ann",
    "createdAt": "2026-11-22T03:04:05.678Z", "updatedAt": "2026-11-22T03:04:05.678Z",
    "modelName": "tts", "baseUrl": "http://tts.internal:9000", "route": "/v1/speak", "httpMethod": "POST",
    "apiKey": "Authorization:****", "enabled": 1, "maxConcurrency": 10, "totalConcurrency": 0,
    "queueLimit": 1000, "timeoutSeconds": 60, "retryTimes": 2, "retryQueueMaxSeconds": 0,
    "autoCleanSeconds": 86400, "remark": "", "shared": false
}))]
pub(crate) struct ModelView {
    /// Its id.
    id: Id,
    /// The tenant that registered it.
    tenant_id: Id,
    /// User who registered it.
    creator: String,
    /// User who changed it last.
    updater: String,
    /// When it was registered.
    created_at: Time,
    /// When it was changed last.
    updated_at: Time,
    /// Unique per tenant among models not deleted.
    model_name: String,
    /// Absolute http(s) URL, or `consul://service/path`.
    base_url: String,
    /// Joined to baseUrl with exactly one slash.
    route: String,
    /// `GET` or `POST`.
    http_method: &'static str,
    /// Names of the headers for the model; the values are never shown.
    api_key: String,
    /// 1, or 0: takes no new tasks.
    #[schema(minimum = 0, maximum = 1)]
    enabled: u8,
    /// Calls running at once per tenant, over all nodes.
    max_concurrency: i32,
    /// Calls running at once over all tenants; 0 = no such limit.
    total_concurrency: i32,
    /// Tasks queued or running per tenant; 0 = no limit.
    queue_limit: i32,
    /// Limit of one call.
    timeout_seconds: i32,
    /// Further tries after the first one failed.
    retry_times: i32,
    /// A retry goes to the head of the queue once the task is that old; 0 = always.
    retry_queue_max_seconds: i32,
    /// How long a picked-up or finally failed task is kept.
    auto_clean_seconds: i32,
    /// Free text.
    remark: String,
    /// Every tenant may call it.
    shared: bool,
}

/// Register a model
#[utoipa::path(post, path = "/model/createModel", tag = "models", request_body = CreateModel, responses(
    (status = 200, description = "It is registered", body = Envelope<CreatedModel>),
    (status = 409, description = "Another model of the tenant has that name"),
))]
pub(crate) async fn create_model(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    notes: Notes,
    Ask(fields): Ask<ModelPatch>,
) -> Answer<CreatedModel> {
    let spec = ModelSpec::create(&fields, caller.tenant)?;
    callable(&api, &spec.call_url()?).await?;
    notes.model(&spec.model_name);
    let id = stored(&api.store.create_model(caller.tenant, &caller.user, &spec).await?)?;
    api.catalog.forget();
    envelope::ok(CreatedModel { id: id.into() })
}

/// Change a model
///
/// What is absent stays as it is. A change takes effect for the next claim on every node within 2 s.
#[utoipa::path(put, path = "/model/updateModel", tag = "models", request_body = UpdateModel, responses(
    (status = 200, description = "It is changed", body = Envelope<Done>),
    (status = 404, description = "No such model"),
    (status = 409, description = "Another model of the tenant has that name"),
))]
pub(crate) async fn update_model(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    notes: Notes,
    Ask(ModelById { id }): Ask<ModelById>,
    Ask(fields): Ask<ModelPatch>,
) -> Answer<Done> {
    // The host stands in this field alone; one that cannot be read is refused below.
    if let Some(url) = fields.base_url.as_deref().and_then(|url| Url::parse(url).ok()) {
        callable(&api, &url).await?;
    }
    let change = |model: &Model| {
        notes.model(&model.spec.model_name);
        model.spec.patched(&fields, caller.tenant)
    };
    stored(&api.store.update_model(caller.tenant, ModelId(id.0), &caller.user, change).await??)?;
    api.catalog.forget();
    envelope::ok(Done {})
}

/// Delete a model
///
/// Its queued tasks fail with a message that says so; its name can be used again.
#[utoipa::path(delete, path = "/model/deleteModel", tag = "models", params(ModelById), responses(
    (status = 200, description = "It is deleted", body = Envelope<Done>),
    (status = 404, description = "No such model"),
))]
pub(crate) async fn delete_model(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    notes: Notes,
    Ask(ModelById { id }): Ask<ModelById>,
) -> Answer<Done> {
    let model = api.store.model(caller.tenant, ModelId(id.0)).await?.ok_or_else(ApiError::no_such_model)?;
    notes.model(&model.spec.model_name);
    stored(&api.store.delete_model(caller.tenant, model.id, &caller.user).await?)?;
    api.catalog.forget();
    envelope::ok(Done {})
}

/// Delete a model, for clients that cannot send DELETE
#[utoipa::path(post, path = "/model/deleteModel", tag = "models", request_body = ModelById, responses(
    (status = 200, description = "It is deleted", body = Envelope<Done>),
    (status = 404, description = "No such model"),
))]
pub(crate) async fn delete_model_by_post(
    state: State<ApiState>,
    acting: Acting,
    notes: Notes,
    ask: Ask<ModelById>,
) -> Answer<Done> {
    delete_model(state, acting, notes, ask).await
}

/// Look at a model
#[utoipa::path(get, path = "/model/getModel", tag = "models", params(ModelById), responses(
    (status = 200, description = "The model", body = Envelope<ModelView>),
    (status = 404, description = "No such model"),
))]
pub(crate) async fn get_model(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ModelById { id }): Ask<ModelById>,
) -> Answer<ModelView> {
    let model = api.store.model(caller.tenant, ModelId(id.0)).await?;
    envelope::ok(model.ok_or_else(ApiError::no_such_model)?.into())
}

/// List models, newest first
#[utoipa::path(post, path = "/model/listModel", tag = "models", request_body = ListModel, responses(
    (status = 200, description = "One page of models", body = Envelope<PageOf<ModelView>>),
))]
pub(crate) async fn list_model(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ask): Ask<ListModel>,
) -> Answer<PageOf<ModelView>> {
    let page = PageAsk::check(ask.page)?;
    let name = filter("modelName", ask.model_name, MAX_NAME)?;
    let found = api.store.list_models(caller.tenant, name.as_deref(), page).await?;
    envelope::page(found.list.into_iter().map(ModelView::from).collect(), found.total)
}

/// Refuses a URL that would not be called as things are. A name server or Consul that takes long is no
/// reason to refuse, nor is a service without an instance: what counts is checked when the connection is
/// made.
async fn callable(api: &ApiState, url: &Url) -> Result<(), ApiError> {
    let unusable = |why: &dyn Display| ApiError::validation("baseUrl", &format!("cannot be used: {why}"));
    let checked = async {
        let urls = match api.services.all(url).await {
            Ok(urls) => urls,
            Err(error @ NoInstance::NoConsul) => return Err(unusable(&error)),
            Err(NoInstance::NoneHealthy(_) | NoInstance::Unknown(_) | NoInstance::Unusable(_)) => Vec::new(),
        };
        for url in &urls {
            api.egress.check_url(url).await.map_err(|denied| unusable(&denied))?;
        }
        Ok(())
    };
    tokio::time::timeout(RESOLVE_TIMEOUT, checked).await.unwrap_or(Ok(()))
}

fn stored(outcome: &ModelChanged) -> Result<ModelId, ApiError> {
    match outcome {
        ModelChanged::Done(id) => Ok(*id),
        ModelChanged::NameTaken => Err(ApiError::name_taken()),
        ModelChanged::NotFound => Err(ApiError::no_such_model()),
    }
}

impl From<Model> for ModelView {
    fn from(model: Model) -> ModelView {
        let spec = model.spec;
        ModelView {
            id: model.id.into(),
            tenant_id: model.tenant.into(),
            creator: model.creator,
            updater: model.updater,
            created_at: Time(model.created_at),
            updated_at: Time(model.updated_at),
            model_name: spec.model_name,
            base_url: spec.base_url,
            route: spec.route,
            http_method: spec.http_method.word(),
            api_key: spec.api_key.masked(),
            enabled: u8::from(spec.enabled),
            max_concurrency: spec.max_concurrency,
            total_concurrency: spec.total_concurrency,
            queue_limit: spec.queue_limit,
            timeout_seconds: spec.timeout_seconds,
            retry_times: spec.retry_times,
            retry_queue_max_seconds: spec.retry_queue_max_seconds,
            auto_clean_seconds: spec.auto_clean_seconds,
            remark: spec.remark,
            shared: spec.shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde_json::json;

    use super::*;
    use crate::task::TenantId;

    #[test]
    fn a_model_is_shown_with_its_ids_as_strings_and_its_key_masked() {
        let patch = ModelPatch {
            model_name: Some("tts".into()),
            base_url: Some("http://m".into()),
            api_key: Some("Authorization:Bearer secret".into()),
            ..ModelPatch::default()
        };
        let model = Model {
            id: ModelId(9_007_199_254_740_993),
            tenant: TenantId(7),
            creator: "ann".into(),
            updater: "bob".into(),
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
            spec: ModelSpec::create(&patch, TenantId(7)).unwrap(),
        };
        assert_eq!(
            serde_json::to_value(ModelView::from(model)).unwrap(),
            json!({
                "id": "9007199254740993", "tenantId": "7", "creator": "ann", "updater": "bob",
                "createdAt": "1970-01-01T00:00:00.000Z", "updatedAt": "1970-01-01T00:00:00.000Z",
                "modelName": "tts", "baseUrl": "http://m", "route": "", "httpMethod": "POST",
                "apiKey": "Authorization:****", "enabled": 1, "maxConcurrency": 10, "totalConcurrency": 0,
                "queueLimit": 1000, "timeoutSeconds": 60, "retryTimes": 0, "retryQueueMaxSeconds": 0,
                "autoCleanSeconds": 86400, "remark": "", "shared": false
            })
        );
    }
}
