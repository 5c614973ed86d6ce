//! What a rule can be about besides the length of queues.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::{close, hears, posting_to, queue, receiver, start, types, watching};
use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::{Kind, TestDb, on},
        proxy::{Proxy, behind_a_cable},
        raw::Raw,
        redis::RedisServer,
    },
};

fn texts<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

backend_test!(a_task_that_waits_for_too_long_is_told, async |db: &TestDb| {
    let receiver = receiver().await;
    let rules = json!([{ "name": "slow", "target": "all", "oldestAboveSeconds": 1 }]);
    let app = start(db, &[watching(&rules), posting_to(&receiver)]).await;
    let ann = app.api.as_tenant(7, "ann");
    let model = queue(&ann, "tts", 1).await;
    let told = hears(&receiver, 1).await;
    assert_eq!((&told[0].1["target"], &told[0].1["tenantId"]), (&json!("all"), &Value::Null));
    assert_eq!(told[0].1["causes"][0]["condition"], "oldest");
    assert!(told[0].1["causes"][0]["seconds"].as_i64().unwrap() >= 1, "{told:?}");
    close(&ann, &model).await;
    assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
    app.stop().await;
});

/// Minutes of the series, as nodes write them.
async fn happened(db: &TestDb, model: &str, minutes_ago: i64, succeeded: i64, failed: i64) {
    let at = Utc::now() - TimeDelta::minutes(minutes_ago);
    let at = match db.kind() {
        Kind::Postgres => format!("'{}'", at.to_rfc3339()),
        Kind::Sqlite => at.timestamp_micros().to_string(),
    };
    let node = uuid::Uuid::new_v4();
    let statement = format!(
        "INSERT INTO asynch_series (span_seconds, began_at, tenant_id, model_name, node, created, succeeded, failed, \
         retried, lost, calls, result_bytes, wait_times, run_times, total_times) \
         VALUES (60, {at}, 7, '{model}', '{node}', 0, {succeeded}, 0, {failed}, 0, 0, 0, '', '', '')"
    );
    Raw::connect(db).await.execute(statement).await;
}

backend_test!(a_failure_rate_is_told_when_enough_calls_failed_lately, async |db: &TestDb| {
    let receiver = receiver().await;
    let rules = json!([
        { "name": "fails", "failureRateAbove": 0.2, "failureWindow": "5m", "failureMinCalls": 10 }
    ]);
    let app = start(db, &[watching(&rules), posting_to(&receiver)]).await;
    happened(db, "few", 1, 4, 5).await;
    happened(db, "long ago", 6, 0, 100).await;
    happened(db, "fine", 1, 80, 20).await;
    happened(db, "bad", 1, 50, 10).await;
    happened(db, "bad", 2, 20, 10).await;
    let told = hears(&receiver, 1).await;
    assert_eq!((&told[0].1["tenantId"], &told[0].1["modelName"]), (&json!("7"), &json!("bad")));
    let cause = &told[0].1["causes"][0];
    assert_eq!((&cause["calls"], &cause["windowSeconds"]), (&json!(90), &json!(300)));
    assert!((cause["rate"].as_f64().unwrap() - 20.0 / 90.0).abs() < 1e-9, "{cause}");
    happened(db, "bad", 1, 100, 0).await;
    let told = hears(&receiver, 2).await;
    assert_eq!(types(&told), ["alert.began", "alert.ended"]);
    app.stop().await;
});

backend_test!(a_storage_that_does_not_answer_is_told, async |db: &TestDb| {
    let receiver = receiver().await;
    let rules = json!([{ "name": "down", "dependencyDown": ["storage", "redis", "database"] }]);
    let app = start(db, &[watching(&rules), posting_to(&receiver)]).await;
    let folder = db.dir().join("oss");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let told = hears(&receiver, 1).await;
    assert_eq!((&told[0].1["target"], &told[0].1["name"]), (&json!("dependency"), &json!("storage")));
    assert_eq!(told[0].1["message"], "the object storage: does not answer");
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
    app.stop().await;
});

backend_test!(a_redis_that_is_away_is_told, async |db: &TestDb| {
    let Some(redis) = RedisServer::start().await else { return };
    let cable = Proxy::to(redis.address()).await;
    let receiver = receiver().await;
    let rules = json!([{ "name": "down", "dependencyDown": "redis" }]);
    let behind = vec![("redis.url", format!("redis://{}/0", cable.address))];
    let app = start(db, &[watching(&rules), posting_to(&receiver), behind]).await;
    cable.cut();
    let told = hears(&receiver, 1).await;
    assert_eq!(told[0].1["name"], "redis");
    cable.mend();
    assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_told_from_memory_once_and_once_when_it_is_back() {
    on(Kind::Postgres, async |db: &TestDb| {
        let (cable, url) = behind_a_cable(db).await;
        let receiver = receiver().await;
        let rules = json!([{ "name": "down", "dependencyDown": "database", "severity": "critical" }]);
        let behind = vec![("database.url", url)];
        let (apart, beside) = (watching(&rules), posting_to(&receiver));
        let nodes = [
            start(db, &[apart.clone(), beside.clone(), behind.clone()]).await,
            start(db, &[apart, beside, behind]).await,
        ];
        // Both have asked for the turn, and one of them has it.
        queue(&nodes[0].api, "tts", 1).await;
        crate::support::eventually::until("a turn", async || {
            !Raw::connect(db).await.texts("SELECT duty FROM asynch_turn WHERE duty = 'monitor'").await.is_empty()
        })
        .await;
        cable.cut();
        let told = hears(&receiver, 1).await;
        assert_eq!((&told[0].1["name"], &told[0].1["severity"]), (&json!("database"), &json!("critical")));
        cable.mend();
        let told = hears(&receiver, 2).await;
        assert_eq!(types(&told), ["alert.began", "alert.ended"]);
        assert_eq!(told[1].1["message"], "the database: does not answer");
        let listed = super::listed(&nodes[0].api, &json!({ "open": false }), 1).await;
        assert_eq!(listed[0]["name"], "database");
        for node in nodes {
            node.stop().await;
        }
        assert_eq!(receiver.calls().len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_is_told_until_another_takes_its_place() {
    on(Kind::Postgres, async |db: &TestDb| {
        let receiver = receiver().await;
        let rules = json!([{ "name": "lost", "nodeLost": true }]);
        let lease = vec![("worker.leaseSeconds", "2".to_owned())];
        let app = start(db, &[watching(&rules), posting_to(&receiver), lease.clone()]).await;
        let mut node = Node::start(db, &texts(&lease)).await;
        let leaver = Node::start(db, &texts(&lease)).await;
        leaver.signal("TERM");
        node.kill();
        let told = hears(&receiver, 1).await;
        assert_eq!((told[0].0.as_str(), &told[0].1["target"]), ("alert.began", &json!("node")));
        let port = node.api.url.rsplit(':').next().unwrap().to_owned();
        assert!(told[0].1["name"].as_str().unwrap().ends_with(&format!(":{port}")), "{told:?}");
        // A node that is back at once is told too: so the moment for which that holds has to be over.
        let mut raw = Raw::connect(db).await;
        raw.execute("UPDATE asynch_lost_node SET lost_at = lost_at - interval '10 minutes'").await;
        let _successor = Node::start(db, &texts(&lease)).await;
        assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
        app.stop().await;
        assert_eq!(receiver.calls().len(), 2, "one that left in order is not lost");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_service_that_was_killed_is_told_at_its_next_start() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let mut node = Node::start(db, &[]).await;
        node.kill();
        let receiver = receiver().await;
        let rules = json!([{ "name": "lost", "nodeLost": true }]);
        let mut settings = watching(&rules);
        settings.retain(|(key, _)| *key != "worker.enabled");
        let app: TestApp = start(db, &[settings, posting_to(&receiver)]).await;
        let told = hears(&receiver, 1).await;
        assert_eq!((told[0].0.as_str(), &told[0].1["target"]), ("alert.began", &json!("node")));
        app.stop().await;
    })
    .await;
}
