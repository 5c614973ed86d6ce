//! The route of alerts.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::{Acting, Shown},
    envelope::{self, Answer, Envelope, PageOf},
    request::Ask,
    wire::{Id, PageAsk, Time},
};
use crate::{
    alert::{Cause, News},
    monitor::in_english,
    store::alerts::{ListedAlert, Undelivered},
};

/// Which alerts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "open": true}))]
pub(crate) struct ListAlert {
    /// Which page.
    page: Option<PageAsk>,
    /// `true`: those that last; `false`: those that are over; both where it is left out.
    open: Option<bool>,
}

/// What operators were told of.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Alert, example = json!({
    "id": "12", "rule": "tts is slow", "severity": "warning", "target": "lane", "tenantId": "7", "modelName": "tts",
    "name": null, "open": true, "message": "tts of tenant 7: 1,204 tasks are waiting (more than 1,000)",
    "causes": [{"condition": "pending", "tasks": 1204, "above": 1000}], "since": "2026-11-22T03:04:05.678Z",
    "beganAt": "2026-11-22T03:06:05.701Z", "toldAt": "2026-11-22T03:06:05.701Z", "endedAt": null,
    "undelivered": [{
        "channel": "email", "news": "began", "since": "2026-11-22T03:06:05.703Z", "tries": 2,
        "error": "Connection error: Connection refused (os error 111)"
    }]
}))]
pub(crate) struct AlertView {
    /// Number of the alert.
    id: Id,
    /// Name of the rule.
    rule: String,
    /// `critical`, `warning` or `info`.
    #[schema(pattern = "^(critical|warning|info)$")]
    severity: &'static str,
    /// What it is about: `lane`, `model`, `tenant`, `all`, `node` or `dependency`.
    #[schema(pattern = "^(lane|model|tenant|all|node|dependency)$")]
    target: String,
    /// Tenant of the lane, or the tenant.
    #[schema(required = true)]
    tenant_id: Option<String>,
    /// Model of the lane, or the model.
    #[schema(required = true)]
    model_name: Option<String>,
    /// Name of the node; or `database`, `redis`, `storage`.
    #[schema(required = true)]
    name: Option<String>,
    /// It lasts.
    open: bool,
    /// What was wrong when it was told of last, in a sentence.
    message: String,
    /// The same for programs, one for each condition of the rule.
    causes: Vec<Cause>,
    /// Since when the rule was broken.
    since: Time,
    /// When it had been for long enough.
    began_at: Time,
    /// When it was told of last.
    #[schema(required = true)]
    told_at: Option<Time>,
    /// When it ended.
    #[schema(required = true)]
    ended_at: Option<Time>,
    /// What could not be told yet. Only operators see why.
    undelivered: Vec<UndeliveredView>,
}

/// Something that is still to be told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Undelivered)]
pub(crate) struct UndeliveredView {
    /// `email` or `webhook`.
    channel: String,
    /// `began`, `reminded` or `ended`.
    news: String,
    /// Since when.
    since: Time,
    /// How often that was tried.
    tries: i32,
    /// Why the last try failed; empty where none did, and for those who are no admins.
    error: String,
}

/// List alerts, newest first
///
/// An admin who names no tenant sees all of them; everybody else sees the alerts about its own
/// tenant's queues.
#[utoipa::path(post, path = "/monitor/listAlert", tag = "monitor", request_body = ListAlert, responses(
    (status = 200, description = "One page of alerts", body = Envelope<PageOf<AlertView>>),
))]
pub(crate) async fn list_alert(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Shown(tenant): Shown,
    Ask(ask): Ask<ListAlert>,
) -> Answer<PageOf<AlertView>> {
    let page = PageAsk::check(ask.page)?;
    let found = api.store.list_alerts(tenant, ask.open, page).await?;
    let list = found.list.into_iter().map(|listed| AlertView::of(listed, caller.is_admin()));
    envelope::page(list.collect(), found.total)
}

impl AlertView {
    fn of(listed: ListedAlert, with_errors: bool) -> AlertView {
        let ListedAlert { alert, undelivered } = listed;
        let message = in_english(&alert.notice(News::Began, alert.since));
        let subject = alert.subject.view();
        let undelivered = undelivered.into_iter().map(|Undelivered { channel, news, created_at, tries, error }| {
            let error = if with_errors { error } else { String::new() };
            UndeliveredView { channel, news, since: Time(created_at), tries, error }
        });
        AlertView {
            id: Id(alert.id.0),
            rule: alert.rule,
            severity: alert.severity.word(),
            target: subject.target,
            tenant_id: subject.tenant_id,
            model_name: subject.model_name,
            name: subject.name,
            open: alert.ended_at.is_none(),
            message,
            causes: alert.causes,
            since: Time(alert.since),
            began_at: Time(alert.began_at.unwrap_or(alert.since)),
            told_at: alert.told_at.map(Time),
            ended_at: alert.ended_at.map(Time),
            undelivered: undelivered.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, to_value};

    use super::*;
    use crate::clock;

    /// The two are derived by two libraries, from one set of attributes.
    #[test]
    fn causes_are_described_as_they_are_written() {
        let document = to_value(crate::api::openapi()).unwrap();
        let described = document["components"]["schemas"]["AlertCause"]["oneOf"].as_array().unwrap();
        let causes = [
            Cause::Pending { tasks: 1, above: 0 },
            Cause::Oldest { seconds: 1, above_seconds: 0 },
            Cause::FailureRate { rate: 0.5, above: 0.1, calls: 20, window_seconds: 600 },
            Cause::NodeLost { nodes: 1, at: clock::now() },
            Cause::DependencyDown,
        ];
        assert_eq!(described.len(), causes.len());
        for (cause, described) in causes.into_iter().zip(described) {
            let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
            let written = to_value(cause).unwrap();
            assert_eq!(names(&written), names(&described["properties"]));
            assert_eq!(described["properties"]["condition"]["enum"][0], written["condition"]);
        }
    }
}
