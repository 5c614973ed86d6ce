//! The few calls of the service that set a measurement up; what is measured goes through `wire`.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::wire::Target;
use crate::task::ModelId;

/// A caller of the service.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) target: Target,
}

/// What a model is registered with, besides the defaults.
pub(super) struct NewModel<'a> {
    pub(super) name: &'a str,
    pub(super) base_url: &'a str,
    pub(super) route: &'a str,
    pub(super) max_concurrency: i64,
    pub(super) total_concurrency: i64,
}

impl Api {
    /// Makes a call and returns its `data`.
    pub(super) async fn call(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(path, &self.target.post(path, &body.to_string())).await
    }

    async fn send(&self, path: &str, request: &[u8]) -> anyhow::Result<Value> {
        let mut connection = self.target.connect().await.context("cannot reach the service")?;
        let answer = connection.ask(request).await.with_context(|| format!("cannot call {path}"))?;
        let mut envelope: Value =
            serde_json::from_slice(answer.body).with_context(|| format!("{path} answered something else"))?;
        if envelope["code"] != 0 {
            bail!("{path} was refused: {}", envelope["message"]);
        }
        Ok(envelope["data"].take())
    }

    /// Registers a model that everyone may call, without a limit of its queue.
    pub(super) async fn create_model(&self, model: &NewModel<'_>) -> anyhow::Result<ModelId> {
        let body = json!({
            "modelName": model.name, "baseUrl": model.base_url, "route": model.route, "shared": true,
            "maxConcurrency": model.max_concurrency, "totalConcurrency": model.total_concurrency,
            "queueLimit": 0, "timeoutSeconds": 3600,
        });
        let created = self.call("/model/createModel", &body).await?;
        let id = created["id"].as_str().and_then(|id| id.parse().ok()).context("createModel answered without an id")?;
        Ok(ModelId(id))
    }

    /// Deletes a model; its queued tasks fail.
    pub(super) async fn delete_model(&self, model: ModelId) -> anyhow::Result<()> {
        self.call("/model/deleteModel", &json!({ "id": model.0.to_string() })).await.map(drop)
    }

    /// Calls of a model so far that ended well and ill, all tenants together.
    pub(super) async fn ended(&self, model_name: &str, tenants: u64) -> anyhow::Result<(u64, u64)> {
        let (mut well, mut ill, mut page) = (0, 0, 1);
        loop {
            let body = json!({ "modelName": model_name, "page": { "pageNum": page, "pageSize": 100 } });
            let listed = self.call("/stat/listModelStat", &body).await?;
            let rows = listed["list"].as_array().map(Vec::as_slice).unwrap_or_default();
            for row in rows {
                well += row["successCount"].as_u64().unwrap_or_default();
                ill += row["failureCount"].as_u64().unwrap_or_default();
            }
            page += 1;
            if rows.len() < 100 || page > tenants / 50 + 2 {
                return Ok((well, ill));
            }
        }
    }
}

/// The id in an answer of createTask, found without reading it as JSON.
pub(super) fn task_id(answer: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"taskId\":\"";
    let at = answer.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    std::str::from_utf8(answer.get(at..at + 36)?).ok().map(str::to_owned)
}

/// The body of createTask.
pub(super) fn new_task(model_name: &str, payload: &str) -> String {
    format!(r#"{{"modelName":"{model_name}","bizName":"bench","requestPayload":{payload}}}"#)
}

/// A small task's payload: about 150 bytes, as a text to speak is.
pub(super) const PAYLOAD: &str = "{\"text\":\"The harbour master counts the boats every evening before the lamps are \
    lit, and the keeper writes it down in the old green book.\"}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_new_task_is_found() {
        let id = "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d";
        let answer = format!(r#"{{"code":0,"message":"OK","data":{{"taskId":"{id}"}}}}"#);
        assert_eq!(task_id(answer.as_bytes()).as_deref(), Some(id));
        assert_eq!(task_id(&answer.as_bytes()[..50]), None);
    }

    #[test]
    fn a_new_task_is_json() {
        let body: Value = serde_json::from_str(&new_task("m", PAYLOAD)).unwrap();
        assert!(body["requestPayload"]["text"].is_string());
    }
}
