//! The gate: exact while Redis lives, open while it does not, exact again when it is back.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use model_asynch::{
    config,
    permits::{Ask, Permit, Permits},
    task::{Lane, ModelId, TenantId},
};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::TestApp,
    backend::{Kind, TestDb, on},
    eventually::until,
    model::{FakeModel, Reply},
    redis::RedisServer,
};

/// Short enough to watch permits expire, long enough for a slow machine to renew them.
const TTL: Duration = Duration::from_secs(2);

const LANE: Lane = lane(7);
const LANE_KEY: &str = "test:sem:{1}:7";
const TOTAL_KEY: &str = "test:sem:{1}";

/// A gate with its run loop going.
struct Node {
    permits: Permits,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Node {
    fn start(server: &RedisServer) -> Node {
        let permits = open(server);
        let stop = CancellationToken::new();
        let run = tokio::spawn({
            let (permits, stop) = (permits.clone(), stop.clone());
            async move { permits.run(stop).await }
        });
        Node { permits, stop, run }
    }
}

impl Deref for Node {
    type Target = Permits;

    fn deref(&self) -> &Permits {
        &self.permits
    }
}

const fn lane(tenant: i64) -> Lane {
    Lane { model: ModelId(1), tenant: TenantId(tenant) }
}

fn open(server: &RedisServer) -> Permits {
    Permits::open_with_ttl(Some(&server.config()), TTL).unwrap()
}

async fn ask(permits: &Permits, limit: u32, want: u32) -> Vec<Permit> {
    permits.try_acquire(&[Ask { lane: LANE, limit, total: None, cap: None, want }]).await.remove(0)
}

async fn members(server: &RedisServer, key: &str) -> u32 {
    server.command(&["ZCARD", key]).await
}

/// Many tasks on every node take and drop permits as fast as they can.
async fn crowd(nodes: &[Permits], limit: u32) {
    let out = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for n in 0..24 {
        let (permits, out, most) = (nodes[n % nodes.len()].clone(), out.clone(), most.clone());
        crowd.spawn(async move {
            for round in 0..40 {
                let held = ask(&permits, limit, 1 + round % 3).await;
                most.fetch_max(out.fetch_add(held.len(), Ordering::SeqCst) + held.len(), Ordering::SeqCst);
                tokio::task::yield_now().await;
                out.fetch_sub(held.len(), Ordering::SeqCst);
                drop(held);
            }
        });
    }
    crowd.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), limit as usize, "the limit is reached and never passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_together_never_exceed_a_limit() {
    let Some(server) = RedisServer::start().await else { return };
    let nodes = [Node::start(&server), Node::start(&server)];
    crowd(&[nodes[0].permits.clone(), nodes[1].permits.clone()], 5).await;
    until("all permits are back", async || members(&server, LANE_KEY).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_process_never_exceeds_a_limit() {
    let permits = Permits::open(None).unwrap();
    crowd(std::slice::from_ref(&permits), 5).await;
    assert_eq!(ask(&permits, 5, 9).await.len(), 5, "all permits are back");
}

#[tokio::test]
async fn lanes_of_a_model_share_its_total_limit() {
    total_holds(&Permits::open(None).unwrap()).await;
    let Some(server) = RedisServer::start().await else { return };
    total_holds(&open(&server)).await;
}

async fn total_holds(permits: &Permits) {
    let ask = |tenant, limit, total| Ask { lane: lane(tenant), limit, total, cap: None, want: 5 };
    let asks = [ask(1, 4, Some(6)), ask(2, 4, Some(6)), ask(3, 4, Some(6))];
    let granted = permits.try_acquire(&asks).await;
    assert_eq!(granted.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 0], "in the order asked");
    drop(granted);
    let granted = permits.try_acquire(&[asks[2], asks[0]]).await;
    assert_eq!(granted.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
}

#[tokio::test]
async fn lanes_of_a_tenant_share_its_limit_over_all_models() {
    cap_holds(&Permits::open(None).unwrap()).await;
    let Some(server) = RedisServer::start().await else { return };
    let permits = open(&server);
    cap_holds(&permits).await;
    assert_eq!(members(&server, "test:sem:tenant:{7}").await, 0, "given back with the lanes' permits");
    assert!(server.command::<Vec<String>>(&["KEYS", "*tenant*8*"]).await.is_empty(), "nobody else pays");
}

async fn cap_holds(permits: &Permits) {
    let ask = |model, tenant, cap| {
        let lane = Lane { model: ModelId(model), tenant: TenantId(tenant) };
        Ask { lane, limit: 4, total: Some(5), cap, want: 4 }
    };
    let asks = [ask(1, 7, Some(6)), ask(2, 7, Some(6)), ask(3, 7, Some(6)), ask(3, 8, None)];
    let granted = permits.try_acquire(&asks).await;
    assert_eq!(granted.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 0, 4], "the other tenant is not held up");
    drop(granted);
    let granted = permits.try_acquire(&[asks[2], asks[0]]).await;
    assert_eq!(granted.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
    drop(granted);
    // What is dropped goes out with the next ask.
    drop(permits.try_acquire(&[Ask { limit: 0, ..asks[3] }]).await);
}

#[tokio::test]
async fn the_members_of_a_lane_count_for_its_model_only_where_that_is_limited() {
    let Some(server) = RedisServer::start().await else { return };
    let permits = open(&server);
    let _untold = ask(&permits, 3, 1).await;
    assert_eq!((members(&server, LANE_KEY).await, members(&server, TOTAL_KEY).await), (1, 0));
    let _told = permits.try_acquire(&[Ask { lane: LANE, limit: 3, total: Some(2), cap: None, want: 3 }]).await;
    assert_eq!((members(&server, LANE_KEY).await, members(&server, TOTAL_KEY).await), (3, 2));
}

#[tokio::test]
async fn a_dropped_permit_is_free_at_once_here_and_soon_elsewhere() {
    let Some(server) = RedisServer::start().await else { return };
    let (idle, node) = (open(&server), Node::start(&server));
    drop(ask(&idle, 2, 2).await);
    let held = ask(&idle, 2, 2).await;
    assert_eq!(held.len(), 2, "even where nothing runs");
    assert!(ask(&node, 2, 1).await.is_empty());
    drop(held);
    drop(ask(&idle, 0, 1).await);
    let held = ask(&node, 2, 2).await;
    assert_eq!(held.len(), 2);
    drop(held);
    until("the run loop gives back", async || members(&server, LANE_KEY).await == 0).await;
}

#[tokio::test]
async fn a_lowered_limit_lets_nobody_in_until_there_is_room_below_it() {
    lowered_limit_holds(&Permits::open(None).unwrap()).await;
    let Some(server) = RedisServer::start().await else { return };
    lowered_limit_holds(&open(&server)).await;
}

async fn lowered_limit_holds(permits: &Permits) {
    let mut held = ask(permits, 5, 5).await;
    assert!(ask(permits, 2, 1).await.is_empty());
    held.truncate(2);
    assert!(ask(permits, 2, 1).await.is_empty());
    held.truncate(1);
    assert_eq!(ask(permits, 2, 5).await.len(), 1);
}

#[tokio::test]
async fn the_permits_of_a_dead_node_expire() {
    let Some(server) = RedisServer::start().await else { return };
    // Its permits are neither renewed nor given back.
    let dead = ask(&open(&server), 2, 2).await;
    let node = Node::start(&server);
    assert!(ask(&node, 2, 1).await.is_empty());
    let life: i64 = server.command(&["PTTL", LANE_KEY]).await;
    assert!(life > 0, "a set that nobody renews vanishes by itself");
    until("the permits are free", async || ask(&node, 2, 2).await.len() == 2).await;
    drop(dead);
}

#[tokio::test]
async fn a_held_permit_outlives_its_life_because_it_is_renewed() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::start(&server);
    let _held = ask(&node, 1, 1).await;
    let expiry = async || -> u64 {
        let scored: Vec<(String, u64)> = server.command(&["ZRANGE", LANE_KEY, "0", "-1", "WITHSCORES"]).await;
        scored[0].1
    };
    let granted = expiry().await;
    let ttl = u64::try_from(TTL.as_millis()).unwrap();
    until("renewed past its life", async || expiry().await > granted + ttl).await;
    assert!(ask(&open(&server), 1, 1).await.is_empty());
}

#[tokio::test]
async fn a_gate_that_lost_its_memory_gets_it_back_from_the_holders() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, other) = (Node::start(&server), Node::start(&server));
    let all = Ask { lane: LANE, limit: 3, total: Some(3), cap: None, want: 2 };
    let _held = one.try_acquire(&[all]).await;
    let _last = other.try_acquire(&[all]).await;
    server.command::<()>(&["FLUSHALL"]).await;
    for key in [LANE_KEY, TOTAL_KEY] {
        until("every member is back", async || members(&server, key).await == 3).await;
    }
    for node in [&one, &other] {
        assert!(node.try_acquire(&[all]).await[0].is_empty());
    }
}

#[tokio::test]
async fn lost_scripts_are_loaded_again() {
    let Some(server) = RedisServer::start().await else { return };
    let permits = open(&server);
    let _held = ask(&permits, 2, 1).await;
    server.command::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(ask(&permits, 2, 2).await.len(), 1);
}

#[tokio::test]
async fn a_dead_redis_lets_everyone_in_and_counts_them_when_it_is_back() {
    let Some(mut server) = RedisServer::start().await else { return };
    let (one, other) = (Node::start(&server), Node::start(&server));
    let _before = ask(&one, 3, 1).await;
    server.kill();
    let during = ask(&one, 3, 2).await;
    let elsewhere = ask(&other, 3, 9).await;
    assert_eq!((during.len(), elsewhere.len()), (2, 3), "all that is wanted and makes sense");
    drop(ask(&one, 3, 3).await);
    assert!(one.ping().await.is_err());

    server.restart().await;
    for node in [&one, &other] {
        until("the gate is closed again", async || ask(node, 3, 1).await.is_empty()).await;
        node.ping().await.unwrap();
    }
    until("exactly the living are counted", async || members(&server, LANE_KEY).await == 6).await;
    drop(elsewhere);
    until("what was granted without it comes back", async || members(&server, LANE_KEY).await == 3).await;
    assert!(ask(&other, 3, 1).await.is_empty());
}

#[tokio::test]
async fn a_redis_that_is_down_at_the_start_stops_nobody() {
    let Some(mut server) = RedisServer::start().await else { return };
    server.kill();
    let node = Node::start(&server);
    let held = ask(&node, 2, 2).await;
    assert_eq!(held.len(), 2);
    server.restart().await;
    until("the gate is closed", async || ask(&node, 2, 1).await.is_empty()).await;
}

#[tokio::test]
async fn a_redis_that_stops_answering_costs_one_ask_a_second_and_the_next_ones_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::start(&server);
    let _held = ask(&node, 4, 1).await;
    server.freeze();
    assert_eq!(ask(&node, 4, 2).await.len(), 2);
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&node, 4, 2).await.len(), 2);
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    server.thaw();
    until("nobody is counted who is not there", async || ask(&node, 4, 4).await.len() == 3).await;
}

#[tokio::test]
async fn an_ask_that_is_given_up_leaves_nothing_behind() {
    let Some(server) = RedisServer::start().await else { return };
    let permits = open(&server);
    drop(ask(&permits, 4, 1).await);
    server.freeze();
    let given_up = tokio::time::timeout(Duration::from_millis(50), ask(&permits, 4, 4)).await;
    assert!(given_up.is_err());
    server.thaw();
    assert_eq!(ask(&permits, 4, 4).await.len(), 4);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_counts_as_gone() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::start(&server);
    let _before = ask(&node, 2, 1).await;
    // As after a failover that left this one behind.
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let during = ask(&node, 2, 2).await;
    assert_eq!(during.len(), 2);
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    until("the gate is closed again", async || ask(&node, 2, 1).await.is_empty()).await;
    until("exactly the living are counted", async || members(&server, LANE_KEY).await == 3).await;
}

#[tokio::test]
async fn the_run_loop_ends_when_every_permit_is_back() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::start(&server);
    let held = ask(&node, 3, 3).await;
    node.stop.cancel();
    tokio::task::yield_now().await;
    assert!(!node.run.is_finished());
    drop(held);
    node.run.await.unwrap();
    assert_eq!(members(&server, LANE_KEY).await, 0);
}

#[tokio::test]
async fn thousands_of_permits_are_renewed_and_given_back_in_batches() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::start(&server);
    let held = ask(&node, 5000, 3000).await;
    assert_eq!(held.len(), 3000);
    server.command::<()>(&["FLUSHALL"]).await;
    until("all are renewed", async || members(&server, LANE_KEY).await == 3000).await;
    drop(held);
    until("all are back", async || members(&server, LANE_KEY).await == 0).await;
}

/// Scripts run so far: asks and renewals.
async fn scripts(server: &RedisServer) -> u64 {
    let stats: String = server.command(&["INFO", "commandstats"]).await;
    let calls = stats.split_once("cmdstat_evalsha:calls=").map_or("0", |(_, rest)| rest);
    calls.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_are_asked_for_before_a_task_is_there_and_go_back_when_it_is_refused() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(server) = RedisServer::start().await else { return };
        let app = TestApp::with(db, &[("redis.url", &server.url())]).await;
        let later = || Reply::Status(503, vec![("retry-after", "600".into())], "later".into());
        let model = FakeModel::start(move |_, _| later()).await;
        app.api.create_model("m", &model.url, &json!({ "queueLimit": 1, "retryTimes": 3 })).await;
        let task = app.api.create_task("m", &json!({})).await;
        until("it rests", async || app.api.task(&task).await["retryCount"] == 1).await;
        let nothing_held = async || server.command::<Vec<String>>(&["KEYS", "*sem:*"]).await.is_empty();
        until("its permits are back", nothing_held).await;
        let before = scripts(&server).await;
        until("permits were asked for", async || {
            app.api.post("/task/createTask", &json!({ "modelName": "m" })).await.refused(429, 63, "queue_full");
            scripts(&server).await > before
        })
        .await;
        until("and are back", nothing_held).await;
        assert_eq!(model.calls().len(), 1);
        app.stop().await;
    })
    .await;
}

#[test]
fn an_unreadable_url_is_refused_without_its_password() {
    let config = config::Redis { url: "http://user:secret@host".into(), key_prefix: String::new() };
    let error = Permits::open(Some(&config)).err().unwrap();
    assert!(!error.contains("secret"), "{error}");
}
