//! The routes of tenants: what they may use up, and how much of theirs is kept.

use axum::extract::State;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::{Acting, Shown},
    envelope::{self, Answer, Envelope, PageOf},
    error::ApiError,
    request::Ask,
    wire::{Id, PageAsk, Time},
};
use crate::{
    task::TenantId,
    tenant::{InForce, Plans, TERMS, Tenant, Terms},
};

/// What to set for a tenant. What is absent stays as it is; null goes back to what the plan says, or to
/// what holds for all. 0 means that there is no limit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(example = json!({"tenantId": "7", "plan": "gold", "maxConcurrency": 20, "keepResults": null}))]
pub(crate) struct UpdateTenant {
    /// A plan of the configuration (`tenants.plans`); null: none.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, max_length = 64)]
    plan: Option<Option<String>>,
    /// Requests per second on each node.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000)]
    requests_per_second: Option<Option<i64>>,
    /// Calls running at once, over all models and nodes.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000)]
    max_concurrency: Option<Option<i64>>,
    /// Results kept for each model, the newest ones.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 2_147_483_647)]
    keep_results: Option<Option<i64>>,
    /// Days for which the operation log is kept.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 36_500)]
    op_log_days: Option<Option<i64>>,
}

/// Which tenants.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}}))]
pub(crate) struct ListTenant {
    /// Which page.
    page: Option<PageAsk>,
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tenant, example = json!({
    "tenantId": "7", "plan": "gold", "requestsPerSecond": null, "maxConcurrency": 20, "keepResults": null,
    "opLogDays": null,
    "inForce": {"requestsPerSecond": 50, "maxConcurrency": 20, "keepResults": 20000, "opLogDays": 90},
    "creator": "root", "createdAt": "2026-11-22T03:04:05.678Z", "updater": "root",
    "updatedAt": "2026-11-22T03:04:05.678Z"
}))]
pub(crate) struct TenantView {
    /// Its number.
    tenant_id: Id,
    /// Its plan.
    plan: Option<String>,
    /// Its own setting; null: as the plan says, or what holds for all.
    requests_per_second: Option<i32>,
    /// Its own setting.
    max_concurrency: Option<i32>,
    /// Its own setting.
    keep_results: Option<i32>,
    /// Its own setting.
    op_log_days: Option<i32>,
    /// What is in force.
    in_force: InForceView,
    /// User who set something for it first; null where nobody has.
    creator: Option<String>,
    /// When.
    created_at: Option<Time>,
    /// User who changed it last.
    updater: Option<String>,
    /// When.
    updated_at: Option<Time>,
}

/// What is in force for a tenant; 0 means that there is no limit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InForce)]
pub(crate) struct InForceView {
    /// Requests per second on each node.
    requests_per_second: i32,
    /// Calls running at once, over all models and nodes.
    max_concurrency: i32,
    /// Results kept for each model; of a tenant that nobody has set anything for, all.
    keep_results: i32,
    /// Days for which the operation log is kept.
    op_log_days: i32,
}

/// Set what a tenant may use up, and how much of its past is kept
///
/// What is absent stays as it is; null takes a setting back. The change is in force on this node at
/// once and on the others within seconds; the limit of running calls holds for the next claim
/// everywhere.
#[utoipa::path(post, path = "/tenant/updateTenant", tag = "tenants", request_body = UpdateTenant, responses(
    (status = 200, description = "The tenant as it is now", body = Envelope<TenantView>),
))]
pub(crate) async fn update_tenant(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ask): Ask<UpdateTenant>,
) -> Answer<TenantView> {
    let change = ask.check(&api.config.plans)?;
    let plans = &api.config.plans;
    let tenant =
        api.store.update_tenant(caller.tenant, &caller.user, plans, |plan, own| change.apply(plan, own)).await?;
    api.tenants.learn(&tenant);
    envelope::ok(TenantView::of(tenant, plans))
}

/// Look at what is set for a tenant, and what is in force
#[utoipa::path(get, path = "/tenant/getTenant", tag = "tenants", responses(
    (status = 200, description = "The tenant", body = Envelope<TenantView>),
))]
pub(crate) async fn get_tenant(State(api): State<ApiState>, Acting(caller): Acting) -> Answer<TenantView> {
    let plans = &api.config.plans;
    envelope::ok(match api.store.tenant(caller.tenant).await? {
        Some(tenant) => TenantView::of(tenant, plans),
        None => TenantView::unknown(caller.tenant, plans),
    })
}

/// List the tenants that something is set for
///
/// An admin who names no tenant sees all of them.
#[utoipa::path(post, path = "/tenant/listTenant", tag = "tenants", request_body = ListTenant, responses(
    (status = 200, description = "One page of tenants", body = Envelope<PageOf<TenantView>>),
))]
pub(crate) async fn list_tenant(
    State(api): State<ApiState>,
    Shown(tenant): Shown,
    Ask(ask): Ask<ListTenant>,
) -> Answer<PageOf<TenantView>> {
    let page = PageAsk::check(ask.page)?;
    let found = api.store.list_tenants(tenant, page).await?;
    let view = |tenant| TenantView::of(tenant, &api.config.plans);
    envelope::page(found.list.into_iter().map(view).collect(), found.total)
}

/// A change that was checked: for each setting what to do with it.
struct Change {
    plan: Option<Option<String>>,
    numbers: [Option<Option<i32>>; 4],
}

impl UpdateTenant {
    fn check(self, plans: &Plans) -> Result<Change, ApiError> {
        if let Some(Some(plan)) = &self.plan
            && !plans.named.contains_key(plan)
        {
            return Err(unknown_plan(plans));
        }
        let written = [self.requests_per_second, self.max_concurrency, self.keep_results, self.op_log_days];
        let mut numbers = [None; 4];
        for ((number, written), term) in numbers.iter_mut().zip(written).zip(TERMS) {
            *number = match written {
                None => None,
                Some(None) => Some(None),
                Some(Some(written)) => {
                    let fits = i32::try_from(written).ok().filter(|fits| (0..=term.most).contains(fits));
                    let complaint = format!("must be between 0 and {}, or null", term.most);
                    Some(Some(fits.ok_or_else(|| ApiError::validation(term.name, &complaint))?))
                }
            };
        }
        Ok(Change { plan: self.plan, numbers })
    }
}

impl Change {
    fn apply(self, plan: &mut Option<String>, own: &mut Terms) {
        if let Some(new) = self.plan {
            *plan = new;
        }
        for (number, new) in own.numbers().into_iter().zip(self.numbers) {
            if let Some(new) = new {
                *number = new;
            }
        }
    }
}

impl TenantView {
    fn of(tenant: Tenant, plans: &Plans) -> TenantView {
        TenantView {
            tenant_id: tenant.id.into(),
            in_force: plans.in_force(tenant.plan.as_deref(), &tenant.own).into(),
            plan: tenant.plan,
            requests_per_second: tenant.own.requests_per_second,
            max_concurrency: tenant.own.max_concurrency,
            keep_results: tenant.own.keep_results,
            op_log_days: tenant.own.op_log_days,
            creator: Some(tenant.creator),
            created_at: Some(Time(tenant.created_at)),
            updater: Some(tenant.updater),
            updated_at: Some(Time(tenant.updated_at)),
        }
    }

    /// One that nobody has set anything for: no result of it goes by count.
    fn unknown(id: TenantId, plans: &Plans) -> TenantView {
        TenantView {
            tenant_id: id.into(),
            in_force: InForce { keep_results: 0, ..plans.default }.into(),
            plan: None,
            requests_per_second: None,
            max_concurrency: None,
            keep_results: None,
            op_log_days: None,
            creator: None,
            created_at: None,
            updater: None,
            updated_at: None,
        }
    }
}

impl From<InForce> for InForceView {
    fn from(force: InForce) -> InForceView {
        InForceView {
            requests_per_second: force.requests_per_second,
            max_concurrency: force.max_concurrency,
            keep_results: force.keep_results,
            op_log_days: force.op_log_days,
        }
    }
}

fn unknown_plan(plans: &Plans) -> ApiError {
    let names: Vec<&str> = plans.named.keys().map(String::as_str).collect();
    let accepted = if names.is_empty() { "null; the configuration has no plans".to_owned() } else { names.join(", ") };
    ApiError::validation("plan", &format!("must be a plan of the configuration: {accepted}"))
}

/// Tells null from nothing.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn changed(json: &str, mut own: Terms) -> Result<(Option<String>, Terms), ApiError> {
        let plans = Plans { named: BTreeMap::from([("gold".to_owned(), Terms::default())]), ..Plans::default() };
        let mut plan = Some("old".to_owned());
        serde_json::from_str::<UpdateTenant>(json).unwrap().check(&plans)?.apply(&mut plan, &mut own);
        Ok((plan, own))
    }

    #[test]
    fn what_is_absent_stays_and_null_takes_a_setting_back() {
        let own = Terms { max_concurrency: Some(3), keep_results: Some(4), ..Terms::default() };
        assert_eq!(changed("{}", own), Ok((Some("old".into()), own)));
        let back = Terms { max_concurrency: None, op_log_days: Some(0), ..own };
        assert_eq!(changed(r#"{"plan":null,"maxConcurrency":null,"opLogDays":0}"#, own), Ok((None, back)));
        assert_eq!(changed(r#"{"plan":"gold"}"#, own), Ok((Some("gold".into()), own)));
    }

    #[test]
    fn what_is_no_plan_and_out_of_range_is_refused_by_name() {
        for (json, field) in [
            (r#"{"plan":"silver"}"#, "plan"),
            (r#"{"keepResults":-1}"#, "keepResults"),
            (r#"{"opLogDays":36501}"#, "opLogDays"),
            (r#"{"maxConcurrency":99999999999}"#, "maxConcurrency"),
        ] {
            let error = changed(json, Terms::default()).unwrap_err();
            assert!(format!("{error:?}").contains(field), "{json}: {error:?}");
        }
    }
}
