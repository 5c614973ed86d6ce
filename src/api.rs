//! The HTTP interface: a table of routes and the layers around them.
//!
//! A request passes, from the outside in: `exchange` (request id, panics, envelope of failures, log
//! line), `reception` (who is calling, how often, with which scope; what was sent, for which
//! tenant; a row in the operation log for changing calls), and its handler. Handlers extract, check, call one verb of the store, wake and
//! answer. There are no more layers than these two: each one clones and boxes all that lies behind it,
//! for every request.

mod attempts;
mod audit;
mod auth;
mod callers;
mod docs;
mod envelope;
mod error;
mod exchange;
mod files;
mod health;
mod log_level;
mod maintenance;
mod metrics;
mod model_fields;
mod models;
mod monitor;
mod nodes;
mod openapi;
mod oplog;
mod overview;
mod rate;
mod reception;
mod request;
mod series;
mod server;
mod stats;
mod tasks;
mod tenants;
mod traced;
mod wire;

use std::{ops::Deref, sync::Arc};

use axum::{
    Router,
    handler::Handler,
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter, on},
};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

pub(crate) use self::error::ApiError;
pub use self::{
    auth::Gate,
    openapi::openapi,
    server::{Tls, serve},
};
use self::{rate::Rate, reception::Desk};
use crate::{
    caller::Scope, catalog::Catalog, census::CensusTaker, config::Config, consul::Services, egress::Egress,
    maintenance::Bell, metrics::Metrics, oplog::OpLogger, permits::Permits, storage::Storage, store::Store,
    tenants::Tenants, trace::Tracer, wake::Wake, worker::Pulse,
};

/// What handlers need. One pointer, because every request clones it several times.
#[derive(Clone)]
pub struct ApiState(Arc<Parts>);

/// The parts of the service that handlers use.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Who is calling.
    pub gate: Gate,
    /// The durable memory.
    pub store: Store,
    /// Models by name.
    pub catalog: Catalog,
    /// What is queued and what runs.
    pub census: CensusTaker,
    /// Tells workers about new tasks.
    pub wake: Wake,
    /// Fresh URLs of results; sign of life.
    pub storage: Storage,
    /// Where models may be called.
    pub egress: Egress,
    /// Sign of life.
    pub permits: Permits,
    /// The operation log.
    pub oplog: OpLogger,
    /// What tenants may use up.
    pub tenants: Tenants,
    /// Has this node look at once whether a job was asked for.
    pub bell: Bell,
    /// Whether this node's worker is deaf; `None` where it has none.
    pub pulse: Option<Pulse>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where models are that are named by a service.
    pub services: Services,
    /// What is recorded of requests about tasks.
    pub tracer: Tracer,
    /// When this process started.
    pub started_at: DateTime<Utc>,
    /// Set when the service begins to stop: not ready any more.
    pub stopping: CancellationToken,
}

impl From<Parts> for ApiState {
    fn from(parts: Parts) -> ApiState {
        ApiState(Arc::new(parts))
    }
}

impl Deref for ApiState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// One row of the table of routes.
struct Route {
    method: MethodFilter,
    path: &'static str,
    access: Access,
    handler: MethodRouter<ApiState>,
}

/// What stands in front of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Nothing: anyone may call it, or the handler itself sees to who.
    Open,
    /// The caller must be known, whatever its scopes.
    Caller,
    /// The caller must be known and have that scope.
    Known(Scope),
    /// The same, and the call leaves a row in the operation log.
    Logged(Scope),
}

/// Every route, by who calls it, with what it takes to call it.
fn routes() -> Vec<Route> {
    use Access::{Caller, Known, Logged, Open};
    use Scope::{Admin, ModelWrite, StatRead, TaskRead, TaskWrite};
    const GET: MethodFilter = MethodFilter::GET;
    const POST: MethodFilter = MethodFilter::POST;
    const PUT: MethodFilter = MethodFilter::PUT;
    const DELETE: MethodFilter = MethodFilter::DELETE;
    vec![
        // Business services: hand tasks in, pick results up.
        route(POST, "/task/createTask", Logged(TaskWrite), tasks::create_task),
        route(GET, "/task/getTaskResult", Known(TaskRead), tasks::get_task_result),
        route(POST, "/task/getTaskBatch", Known(TaskRead), tasks::get_task_batch),
        route(POST, "/task/listTask", Known(TaskRead), tasks::list_task),
        route(POST, "/task/listAttempt", Known(TaskRead), attempts::list_attempt),
        // Whoever looks after a tenant: its models, and what became of its calls.
        route(POST, "/model/createModel", Logged(ModelWrite), models::create_model),
        route(PUT, "/model/updateModel", Logged(ModelWrite), models::update_model),
        route(DELETE, "/model/deleteModel", Logged(ModelWrite), models::delete_model),
        route(POST, "/model/deleteModel", Logged(ModelWrite), models::delete_model_by_post),
        route(GET, "/model/getModel", Known(ModelWrite), models::get_model),
        route(POST, "/model/listModel", Known(ModelWrite), models::list_model),
        route(POST, "/stat/listModelStat", Known(StatRead), stats::list_model_stat),
        route(POST, "/stat/listSeries", Known(StatRead), series::list_series),
        // Whoever runs the service: what tenants may use up, and the jobs that keep it tidy.
        route(POST, "/tenant/updateTenant", Logged(Admin), tenants::update_tenant),
        route(GET, "/tenant/getTenant", Known(StatRead), tenants::get_tenant),
        route(POST, "/tenant/listTenant", Known(StatRead), tenants::list_tenant),
        route(POST, "/maintenance/listJob", Known(Admin), maintenance::list_job),
        route(POST, "/maintenance/runJob", Logged(Admin), maintenance::run_job),
        route(POST, "/maintenance/listRun", Known(Admin), maintenance::list_run),
        route(POST, "/stat/getOverview", Known(StatRead), overview::get_overview),
        route(POST, "/stat/listLane", Known(StatRead), overview::list_lane),
        route(POST, "/opLog/listOpLog", Known(StatRead), oplog::list_op_log),
        route(POST, "/monitor/listAlert", Known(StatRead), monitor::list_alert),
        route(GET, "/caller/getCaller", Caller, callers::get_caller),
        // Whoever looks after the service.
        route(GET, "/node/getHealth", Known(StatRead), nodes::get_health),
        route(POST, "/node/listNode", Known(Admin), nodes::list_node),
        route(GET, "/node/getLogLevel", Known(Admin), log_level::get_log_level),
        route(PUT, "/node/updateLogLevel", Logged(Admin), log_level::update_log_level),
        // Whoever was given the URL of a result.
        route(GET, "/file/{*key}", Open, files::file),
        // Probes and tools.
        route(GET, "/healthz", Open, health::healthz),
        route(GET, "/readyz", Open, health::readyz),
        route(GET, "/metrics", Open, metrics::metrics),
        route(GET, "/openapi.json", Open, openapi::document),
        route(GET, "/docs", Open, docs::docs),
    ]
}

/// Every route, with what stands in front of it, and the page at `/`.
pub fn router(state: ApiState) -> Router {
    let rate = Arc::new(Rate::new(state.tenants.clone()));
    let table =
        routes().into_iter().fold(Router::new(), |table, route| table.route(route.path, route.received(&state, &rate)));
    let table = table.merge(crate::dashboard::routes(&state.config.oss.kind));
    finished(table, state.metrics.clone()).with_state(state)
}

/// What goes around all routes, and around the lack of one.
fn finished<S: Clone + Send + Sync + 'static>(table: Router<S>, metrics: Metrics) -> Router<S> {
    table
        .fallback(|| async { ApiError::no_such_route() })
        .method_not_allowed_fallback(|| async { ApiError::no_such_method() })
        .layer(from_fn_with_state(exchange::Company::new(metrics), exchange::accompany))
}

fn route<H, T>(method: MethodFilter, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, ApiState>,
    T: 'static,
{
    Route { method, path, access, handler: on(method, handler) }
}

impl Access {
    /// What a caller must have been given, if anything.
    fn scope(self) -> Option<Scope> {
        match self {
            Access::Open | Access::Caller => None,
            Access::Known(scope) | Access::Logged(scope) => Some(scope),
        }
    }
}

impl Route {
    /// The method as it stands in a request.
    fn method_name(&self) -> &'static str {
        let names = [
            (MethodFilter::GET, "GET"),
            (MethodFilter::POST, "POST"),
            (MethodFilter::PUT, "PUT"),
            (MethodFilter::DELETE, "DELETE"),
        ];
        names.into_iter().find(|(method, _)| *method == self.method).map_or("?", |(_, name)| name)
    }

    /// The handler behind its reception, if it has one.
    fn received(self, state: &ApiState, rate: &Arc<Rate>) -> MethodRouter<ApiState> {
        let log = match self.access {
            Access::Open => return self.handler,
            Access::Caller | Access::Known(_) => None,
            Access::Logged(_) => Some(state.oplog.clone()),
        };
        let desk = Arc::new(Desk::new(state, self.access.scope(), Some(Arc::clone(rate)), log));
        self.handler.route_layer(from_fn_with_state(desk, reception::receive))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::post;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::{
        auth::{Acting, Shown},
        request::{Ask, Limits},
        *,
    };
    use crate::task::TenantId;

    const LIMIT: usize = 1000;
    const ANN: &str = r#"{"tenantId":7,"userName":"ann"}"#;
    const ROOT: &str = r#"{"tenantId":0,"userName":"root","admin":true}"#;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Echo {
        model_name: Option<String>,
    }

    async fn echo(Acting(caller): Acting, Shown(shown): Shown, Ask(ask): Ask<Echo>) -> axum::Json<Value> {
        axum::Json(json!({
            "tenant": caller.tenant.0, "shown": shown.map(|TenantId(tenant)| tenant), "modelName": ask.model_name
        }))
    }

    /// The layers of a route for callers around an echo, and a handler that panics.
    fn sample() -> Router {
        let desk = Desk {
            gate: Gate::gateway(),
            hops_are_reported: true,
            rate: None,
            scope: Some(Scope::TaskRead),
            limits: Limits::of_bytes(LIMIT),
            log: None,
        };
        let table = Router::new()
            .route("/echo", post(echo).get(echo))
            .route_layer(from_fn_with_state(Arc::new(desk), reception::receive))
            .route("/panic", post(|| async { panic!("secret plans") as () }));
        finished(table, Metrics::new(0).unwrap())
    }

    /// Serves the sample to one client.
    async fn served<T>(client: impl AsyncFnOnce(String, reqwest::Client) -> T) -> T {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::select! {
            ended = async { axum::serve(listener, sample()).await } => panic!("the server ended: {ended:?}"),
            outcome = client(base, reqwest::Client::new()) => outcome,
        }
    }

    /// Status and body of one request.
    async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json");
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body: Value = response.json().await.unwrap();
        if status >= 400 {
            assert_eq!(body["error"]["requestId"], id);
            assert_eq!(body["data"], Value::Null);
        }
        (status, body)
    }

    async fn refusal(request: reqwest::RequestBuilder) -> (u16, String, Option<String>) {
        let (status, body) = answer(request).await;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (status, text(&body["error"]["kind"]).unwrap_or_default(), text(&body["error"]["field"]))
    }

    fn refused(status: u16, kind: &str, field: Option<&str>) -> (u16, String, Option<String>) {
        (status, kind.to_owned(), field.map(str::to_owned))
    }

    #[tokio::test]
    async fn what_no_handler_answers_is_an_envelope_too() {
        served(async |base, client| {
            let nowhere = refusal(client.get(format!("{base}/nowhere"))).await;
            assert_eq!(nowhere, refused(404, "not_found", None));
            let response = client.delete(format!("{base}/echo")).send().await.unwrap();
            let allow = response.headers()["allow"].to_str().unwrap().to_owned();
            assert!(allow.contains("POST") && allow.contains("GET"), "{allow}");
            let wrong = refusal(client.delete(format!("{base}/echo"))).await;
            assert_eq!(wrong, refused(405, "method_not_allowed", None));
            let head = client.head(format!("{base}/nowhere")).send().await.unwrap();
            assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (404, ""));
            let (status, body) = answer(client.post(format!("{base}/panic"))).await;
            assert_eq!((status, &body["code"]), (500, &json!(50)));
            assert!(!body.to_string().contains("secret plans"));
        })
        .await;
    }

    #[tokio::test]
    async fn the_request_id_of_the_caller_comes_back() {
        served(async |base, client| {
            let response = client.get(format!("{base}/nowhere")).header("X-Request-Id", "a:b-1").send().await.unwrap();
            assert_eq!(response.headers()["x-request-id"], "a:b-1");
        })
        .await;
    }

    #[tokio::test]
    async fn the_caller_is_known_before_its_body_is_read() {
        served(async |base, client| {
            let huge = "x".repeat(LIMIT * 2);
            assert_eq!(refusal(client.post(format!("{base}/echo")).body(huge.clone())).await.0, 401);
            let known = client.post(format!("{base}/echo")).header("X-User-Info", ANN).body(huge);
            assert_eq!(refusal(known).await, refused(413, "too_large", None));
        })
        .await;
    }

    #[tokio::test]
    async fn a_tenant_is_named_in_query_or_body_and_only_by_an_admin() {
        served(async |base, client| {
            let ask = |info: &str, query: &str, body: &str| {
                client.post(format!("{base}/echo{query}")).header("X-User-Info", info).body(body.to_owned())
            };
            for (query, body) in
                [("?tenantId=8", ""), ("", r#"{"tenantId":"8"}"#), ("?tenantId=0", r#"{"tenantId":8}"#)]
            {
                let (status, seen) = answer(ask(ROOT, query, body)).await;
                assert_eq!((status, &seen["tenant"], &seen["shown"]), (200, &json!(8), &json!(8)), "{query} {body}");
                let foreign = refusal(ask(ANN, query, body)).await;
                assert_eq!(foreign, refused(403, "forbidden", Some("tenantId")));
            }
            let (_, seen) = answer(ask(ANN, "", "")).await;
            assert_eq!((&seen["tenant"], &seen["shown"]), (&json!(7), &json!(7)));
            let (_, seen) = answer(ask(ROOT, "", "")).await;
            assert_eq!((&seen["tenant"], &seen["shown"]), (&json!(0), &Value::Null), "everybody's");
            let (_, seen) = answer(ask(ANN, "", r#"{"tenantId":"7"}"#)).await;
            assert_eq!(seen["tenant"], 7);
            let unreadable = refusal(ask(ANN, "", r#"{"tenantId":"x"}"#)).await;
            assert_eq!(unreadable, refused(400, "validation", Some("tenantId")));
        })
        .await;
    }

    #[tokio::test]
    async fn a_get_reads_its_query() {
        served(async |base, client| {
            let ask = |query: &str| client.get(format!("{base}/echo?{query}")).header("X-User-Info", ANN);
            assert_eq!(answer(ask("modelName=a+b%26c")).await.1["modelName"], "a b&c");
            for query in ["modelName=%ff", "modelName=%zz", "modelName=a&modelName=b"] {
                assert_eq!(refusal(ask(query)).await, refused(400, "malformed", None), "{query}");
            }
        })
        .await;
    }
}
