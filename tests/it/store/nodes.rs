use std::time::Duration;

use model_asynch::{
    clock,
    config::Database,
    secrets::Vault,
    store::{Page, Store, StoreError},
    task::{NodeId, TenantId},
};

use crate::{
    backend_test,
    support::{
        backend::{Kind, TestDb},
        eventually::until,
        raw::Raw,
    },
};

const LONG: Duration = Duration::from_secs(60);

/// Longer than anything here takes, and short enough to wait for.
const SHORT: Duration = Duration::from_secs(1);

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

/// Buries under a watch that has been held for longer than it lasts, which is a moment here.
async fn bury(store: &Store) -> Result<Vec<NodeId>, StoreError> {
    let watcher = clock::node_id();
    until("the watch to be old enough", async || store.hold_watch(watcher, "one", SHORT, false).await.unwrap()).await;
    store.hold_watch(watcher, "one", SHORT, false).await?;
    store.bury_dead_nodes(watcher, SHORT).await
}

backend_test!(a_node_lives_while_its_lease_is_renewed, async |db: &TestDb| {
    let store = open(db).await;
    let node = clock::node_id();
    store.register_node(node, "one", LONG).await.unwrap();
    assert!(bury(&store).await.unwrap().is_empty());
    assert!(store.renew_node(node, LONG).await.unwrap());
    assert!(!store.renew_node(clock::node_id(), LONG).await.unwrap(), "nobody registered that one");
});

backend_test!(a_buried_node_can_never_renew, async |db: &TestDb| {
    let store = open(db).await;
    let (dead, live) = (clock::node_id(), clock::node_id());
    store.register_node(dead, "dead", Duration::ZERO).await.unwrap();
    store.register_node(live, "live", LONG).await.unwrap();
    assert_eq!(bury(&store).await.unwrap(), [dead]);
    assert!(!store.renew_node(dead, LONG).await.unwrap());
    assert!(store.renew_node(live, LONG).await.unwrap());
    assert!(bury(&store).await.unwrap().is_empty());
});

backend_test!(a_node_that_was_late_but_not_buried_lives_on, async |db: &TestDb| {
    let store = open(db).await;
    let node = clock::node_id();
    store.register_node(node, "late", Duration::ZERO).await.unwrap();
    assert!(store.renew_node(node, LONG).await.unwrap());
    assert!(bury(&store).await.unwrap().is_empty());
});

backend_test!(registering_again_extends_the_lease, async |db: &TestDb| {
    let store = open(db).await;
    let node = clock::node_id();
    store.register_node(node, "one", Duration::ZERO).await.unwrap();
    store.register_node(node, "one", LONG).await.unwrap();
    assert!(bury(&store).await.unwrap().is_empty());
});

backend_test!(a_node_that_leaves_in_order_is_not_buried, async |db: &TestDb| {
    let store = open(db).await;
    let node = clock::node_id();
    store.register_node(node, "one", Duration::ZERO).await.unwrap();
    store.remove_node(node).await.unwrap();
    store.remove_node(node).await.unwrap();
    assert!(bury(&store).await.unwrap().is_empty());
    assert!(!store.renew_node(node, LONG).await.unwrap());
});

backend_test!(a_dead_node_is_handed_to_exactly_one_of_those_who_bury, async |db: &TestDb| {
    let store = open(db).await;
    for _ in 0..20 {
        store.register_node(clock::node_id(), "dead", Duration::ZERO).await.unwrap();
    }
    let buried = futures::future::try_join_all((0..4).map(|_| bury(&store))).await.unwrap();
    assert_eq!(buried.iter().map(Vec::len).sum::<usize>(), 20);
});

backend_test!(only_a_watch_of_a_leases_length_buries, async |db: &TestDb| {
    let store = open(db).await;
    let (dead, watcher) = (clock::node_id(), clock::node_id());
    store.register_node(dead, "dead", Duration::ZERO).await.unwrap();
    assert!(store.bury_dead_nodes(watcher, LONG).await.unwrap().is_empty(), "without a watch");
    assert!(!store.hold_watch(watcher, "one", LONG, false).await.unwrap());
    assert_eq!(store.watchers().await.unwrap(), [watcher]);
    assert!(store.bury_dead_nodes(watcher, LONG).await.unwrap().is_empty(), "the watch is too young");
    let mut raw = Raw::connect(db).await;
    let (earlier, later) = match db.kind() {
        Kind::Postgres => ("now() - interval '61 s'", "now() + interval '30 s'"),
        Kind::Sqlite => ("(unixepoch() - 61) * 1000000", "(unixepoch() + 30) * 1000000"),
    };
    raw.execute(format!("UPDATE asynch_watch SET since = {earlier}")).await;
    assert!(store.hold_watch(watcher, "one", LONG, false).await.unwrap());
    raw.execute(format!("UPDATE asynch_watch SET held_until = {later}")).await;
    assert!(store.bury_dead_nodes(watcher, LONG).await.unwrap().is_empty(), "the statement was held up on its way");
    assert!(!store.hold_watch(watcher, "one", LONG, false).await.unwrap(), "a gap begins the watch anew");
    raw.execute(format!("UPDATE asynch_watch SET since = {earlier}")).await;
    assert!(!store.hold_watch(watcher, "one", LONG, true).await.unwrap(), "its holder says that there was one");
    raw.execute(format!("UPDATE asynch_watch SET since = {earlier}")).await;
    assert_eq!(store.bury_dead_nodes(watcher, LONG).await.unwrap(), [dead]);
    store.end_watch(watcher).await.unwrap();
    assert!(store.watchers().await.unwrap().is_empty());
});

#[tokio::test]
async fn a_lease_is_renewed_while_every_other_connection_is_busy() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let Database::Postgres { url, .. } = &db.config else { panic!("not Postgres") };
    let config = Database::Postgres { url: url.clone(), max_connections: 1 };
    let (store, _committers) = Store::open(&config, Vault::default()).await.unwrap();
    let node = clock::node_id();
    store.register_node(node, "one", LONG).await.unwrap();

    let mut raw = Raw::connect(&db).await;
    raw.execute("BEGIN").await;
    raw.execute("LOCK TABLE asynch_models").await;
    let stuck = store.list_models(TenantId(7), None, Page { offset: 0, limit: 1 });
    let renewal = async {
        while raw.texts("SELECT locktype FROM pg_locks WHERE NOT granted").await.is_empty() {}
        let renewed = store.renew_node(node, LONG).await;
        raw.execute("COMMIT").await;
        renewed
    };
    let (listed, renewed) = tokio::join!(stuck, renewal);
    assert!(renewed.unwrap());
    assert_eq!(listed.unwrap().total, 0);
}
