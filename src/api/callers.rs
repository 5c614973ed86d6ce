//! The route of callers: who am I, and what may I do?

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Acting,
    envelope::{self, Answer, Envelope},
    wire::Id,
};
use crate::config::Auth;

/// Who is calling.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Caller, example = json!({
    "tenantId": "7", "userName": "ann", "admin": false, "scopes": ["task:write", "task:read"], "authMode": "token",
    "version": "0.1.0"
}))]
pub(crate) struct CallerView {
    /// The tenant it acts for.
    tenant_id: Id,
    /// Its name.
    user_name: String,
    /// It may name any tenant.
    admin: bool,
    /// What it may do: `task:write`, `task:read`, `model:write`, `stat:read`, `admin`.
    scopes: Vec<&'static str>,
    /// How callers are known: `anonymous`, `gateway`, `token` or `jwt`.
    #[schema(pattern = "^(anonymous|gateway|token|jwt)$")]
    auth_mode: &'static str,
    /// Version of the program.
    version: &'static str,
}

/// See who you are
#[utoipa::path(get, path = "/caller/getCaller", tag = "callers", responses(
    (status = 200, description = "You, as this service knows you", body = Envelope<CallerView>),
))]
pub(crate) async fn get_caller(State(api): State<ApiState>, Acting(caller): Acting) -> Answer<CallerView> {
    envelope::ok(CallerView {
        tenant_id: caller.tenant.into(),
        admin: caller.is_admin(),
        scopes: caller.scopes.words().collect(),
        user_name: caller.user,
        auth_mode: match api.config.auth {
            Auth::Anonymous => "anonymous",
            Auth::Gateway { .. } => "gateway",
            Auth::Token => "token",
            Auth::Jwt { .. } => "jwt",
        },
        version: env!("CARGO_PKG_VERSION"),
    })
}
