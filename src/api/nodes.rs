//! The routes that show how the service itself is.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Acting,
    envelope::{self, Answer, Envelope, PageOf},
    health::{self, Checks, Dependency, Sign},
    request::Ask,
    wire::Time,
};
use crate::store::nodes::Node;

/// How the node that answers is, and what it depends on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "version": "0.1.0", "startedAt": "2026-11-22T03:04:05.678Z", "ready": true, "dependencies": [
        {"name": "database", "up": true, "latencyMs": 1, "error": null},
        {"name": "redis", "up": true, "latencyMs": 1, "error": null},
        {"name": "storage", "up": true, "latencyMs": 2, "error": null},
        {"name": "worker", "up": true, "latencyMs": null, "error": null}
    ]
}))]
pub(crate) struct NodeHealth {
    /// Version of the program.
    version: &'static str,
    /// When it was started; for admins only.
    #[schema(required = true)]
    started_at: Option<Time>,
    /// What `/readyz` says.
    ready: bool,
    /// What it depends on, and its own worker.
    dependencies: Vec<DependencyHealth>,
}

/// One dependency.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DependencyHealth {
    /// `database`, `redis` (where there is one), `storage`, or `worker` (where there is one).
    #[schema(pattern = "^(database|redis|storage|worker)$")]
    name: &'static str,
    /// It answers; the worker renews its lease and looks for work.
    up: bool,
    /// How long it took to answer, in milliseconds; for admins only.
    #[schema(required = true)]
    latency_ms: Option<u64>,
    /// What is wrong with it; for admins only.
    #[schema(required = true)]
    error: Option<String>,
}

/// All of them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({}))]
pub(crate) struct ListNode {}

/// A process that works or cleans.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Node, example = json!({
    "node": "5b1f0e6c-8f65-4a7e-9a51-0f6f7f0f1c2d", "name": "gpu-3:8080", "startedAt": "2026-11-22T03:04:05.678Z",
    "leaseUntil": "2026-11-22T03:14:05.678Z", "alive": true, "running": 4, "cleans": true
}))]
pub(crate) struct NodeView {
    /// Its incarnation: another one after every start and every lost lease.
    node: String,
    /// Machine and port.
    name: String,
    /// When this incarnation began.
    started_at: Time,
    /// When its lease ends unless it is renewed.
    lease_until: Time,
    /// The lease has not ended.
    alive: bool,
    /// Tasks it holds.
    running: i64,
    /// It is one of those that may declare others dead.
    cleans: bool,
}

/// See how the node that answers is
///
/// Asks database, Redis and storage for a sign of life, as `/readyz` does.
#[utoipa::path(get, path = "/node/getHealth", tag = "nodes", responses(
    (status = 200, description = "How it is, also where it is not ready", body = Envelope<NodeHealth>),
))]
pub(crate) async fn get_health(State(api): State<ApiState>, Acting(caller): Acting) -> Answer<NodeHealth> {
    let checks = health::checks(&api).await;
    let details = caller.is_admin();
    let has_redis = api.config.redis.is_some();
    let mut dependencies: Vec<DependencyHealth> = checks
        .dependencies
        .iter()
        .filter(|(dependency, _)| *dependency != Dependency::Redis || has_redis)
        .map(|(dependency, sign)| DependencyHealth::of(*dependency, *sign, details))
        .collect();
    if api.pulse.is_some() {
        dependencies.push(DependencyHealth::of_worker(&checks, details));
    }
    envelope::ok(NodeHealth {
        version: env!("CARGO_PKG_VERSION"),
        started_at: details.then_some(Time(api.started_at)),
        ready: checks.are_fine(),
        dependencies,
    })
}

/// List the processes that work or clean, the oldest first
///
/// Those that only answer requests hold no lease and are not in it.
#[utoipa::path(post, path = "/node/listNode", tag = "nodes", request_body = ListNode, responses(
    (status = 200, description = "All of them, 1000 at most", body = Envelope<PageOf<NodeView>>),
))]
pub(crate) async fn list_node(
    State(api): State<ApiState>,
    Ask(ListNode {}): Ask<ListNode>,
) -> Answer<PageOf<NodeView>> {
    // An embedded database has one process, which needs no watch to clean.
    let cleans = api.store.is_embedded() && api.config.cleaner.enabled;
    let nodes = api.store.list_nodes().await?;
    let list: Vec<NodeView> = nodes.into_iter().map(|node| NodeView::of(node, cleans)).collect();
    let total = list.len() as i64;
    envelope::page(list, total)
}

impl DependencyHealth {
    fn of(dependency: Dependency, sign: Sign, details: bool) -> DependencyHealth {
        DependencyHealth {
            name: dependency.word(),
            up: sign.lack.is_none(),
            latency_ms: details.then(|| u64::try_from(sign.after.as_millis()).unwrap_or(u64::MAX)),
            error: sign.lack.filter(|_| details).map(str::to_owned),
        }
    }

    fn of_worker(checks: &Checks, details: bool) -> DependencyHealth {
        let error = checks.deaf.clone();
        DependencyHealth { name: "worker", up: error.is_none(), latency_ms: None, error: error.filter(|_| details) }
    }
}

impl NodeView {
    fn of(node: Node, cleans_anyway: bool) -> NodeView {
        NodeView {
            node: node.id.to_string(),
            name: node.name,
            started_at: Time(node.started_at),
            lease_until: Time(node.lease_until),
            alive: node.alive,
            running: node.running,
            cleans: node.cleans || cleans_anyway,
        }
    }
}
