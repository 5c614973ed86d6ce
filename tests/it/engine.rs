//! The engine under load and trouble: what the steps of a task's life, each tested on its own, do
//! to each other.

use std::time::Duration;

use model_asynch::{clock, config::Database, secrets::Vault, store::Store};
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::{Kind, TestDb},
        eventually::eventually,
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

const LONG: Duration = Duration::from_secs(60);

fn after(millis: u64) -> Reply {
    Reply::After(Duration::from_millis(millis), Box::new(Reply::Body("text/plain", "ok".into())))
}

/// Creates tasks side by side.
async fn create_tasks(api: &Api, model: &str, count: usize) -> Vec<String> {
    futures::future::join_all((0..count).map(|_| api.create_task(model, &Value::Null))).await
}

backend_test!(a_busy_worker_claims_many_tasks_at_once, async |db: &TestDb| {
    const TASKS: usize = 1500;
    let app = TestApp::with(db, &[("worker.concurrency", "64")]).await;
    let model = FakeModel::always(after(20)).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 64, "queueLimit": 0 })).await;
    let tasks = create_tasks(&app.api, "m", TASKS).await;
    for task in &tasks {
        app.api.until(task, &[2]).await;
    }
    let claims = Raw::connect(db).await.texts("SELECT DISTINCT CAST(started_at AS TEXT) FROM asynch_task").await;
    assert!(claims.len() < TASKS / 4, "{} claims for {TASKS} tasks", claims.len());
    app.stop().await;
});

backend_test!(tenants_of_a_shared_model_take_turns_at_its_total_limit, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.pollInterval", "1h")]).await;
    let model = FakeModel::always(after(20)).await;
    let fields = json!({ "maxConcurrency": 1, "totalConcurrency": 1, "shared": true });
    app.api.create_model("m", &model.url, &fields).await;
    let (many, few) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    let crowd = create_tasks(&many, "m", 60).await;
    let one = few.create_task("m", &Value::Null).await;
    few.until(&one, &[2]).await;
    let mut left = 0;
    for task in &crowd {
        left += usize::from(many.task(task).await["state"] != 2);
    }
    assert!(left > 30, "one task of another tenant had to wait until {left} of 60 were left");
    app.stop().await;
});

/// Passes connections on to `target`. Those that are open when it falls silent stay open and are
/// never served again, as after a failover or a router that forgot them; later ones are served.
async fn proxy(target: String, silent: tokio_util::sync::CancellationToken) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let (target, silent) = (target.clone(), silent.clone());
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                let born_silent = silent.is_cancelled();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = silent.cancelled(), if !born_silent => std::future::pending().await,
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_lease_is_renewed_again_after_its_connection_went_silent() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let Database::Postgres { url, max_connections } = &db.config else { unreachable!() };
    let mut url = url::Url::parse(url).unwrap();
    let silent = tokio_util::sync::CancellationToken::new();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let address = proxy(target, silent.clone()).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(address.port())).unwrap();
    let config = Database::Postgres { url: url.into(), max_connections: *max_connections };
    let (store, _committers) = Store::open(&config, Vault::default()).await.unwrap();
    let node = clock::node_id();
    store.register_node(node, "one", LONG).await.unwrap();
    assert!(store.renew_node(node, LONG).await.unwrap());
    silent.cancel();
    eventually("a renewal on a new connection", async || {
        match tokio::time::timeout(Duration::from_secs(1), store.renew_node(node, LONG)).await {
            Ok(renewed) => renewed.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    })
    .await;
}

backend_test!(a_retry_is_not_charged_for_the_time_before_it_came_back, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.queueTimeout", "1s")]).await;
    let model = FakeModel::start(|_, before| match before {
        0 => Reply::After(Duration::from_millis(1500), Box::new(Reply::Status(500, Vec::new(), String::new()))),
        _ => Reply::Body("text/plain", "ok".into()),
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 1 })).await;
    let task = app.api.create_task("m", &Value::Null).await;
    let task = app.api.until(&task, &[2, 3]).await;
    assert_eq!(task["state"], 2, "{task}");
    app.stop().await;
});

backend_test!(lost_tasks_are_rescued_while_another_duty_of_the_cleaner_fails, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.leaseSeconds", "5")]).await;
    let model = FakeModel::echo().await;
    let id = app.api.create_model("m", &model.url, &json!({})).await;
    let ids = create_tasks(&app.api, "m", 4).await;
    for task in &ids {
        app.api.until(task, &[2]).await;
    }
    app.api.put("/model/updateModel", &json!({ "id": id, "enabled": 0 })).await.data();
    let mut raw = Raw::connect(db).await;
    raw.execute("DROP TABLE asynch_lane_in").await;
    for task in &ids {
        // One after the other: the failing duty backs off further each time.
        raw.execute(format!(
            "UPDATE asynch_task SET state = 1, finished_at = NULL, deadline_at = created_at, \
             owner = '0192aaaa-0000-7000-8000-000000000001' WHERE task_id = '{task}'"
        ))
        .await;
        app.api.until(task, &[0]).await;
    }
    app.stop().await;
});
