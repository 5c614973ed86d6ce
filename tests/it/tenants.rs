//! What tenants may use up: by settings of their own, by plan, and by what holds for all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::{Kind, TestDb, on},
        eventually::{eventually, until},
        model::{FakeModel, Reply},
    },
};

const PLANS: [(&str, &str); 2] =
    [("tenants.plans.gold.requestsPerSecond", "1"), ("tenants.plans.gold.maxConcurrency", "3")];

async fn set(api: &Api, settings: Value) -> Value {
    api.post("/tenant/updateTenant", &settings).await.data()
}

/// Statuses of so many requests in a row.
async fn asked(api: &Api, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(api.post("/model/listModel", &json!({})).await.status);
    }
    statuses
}

backend_test!(settings_come_from_the_tenant_its_plan_or_what_holds_for_all, async |db: &TestDb| {
    let app = TestApp::with(db, &[PLANS[0], PLANS[1], ("limits.requestsPerSecond", "1000")]).await;
    let ann = app.api.as_tenant(7, "ann");
    let seen = ann.get("/tenant/getTenant").await.data();
    let for_all = json!({ "requestsPerSecond": 1000, "maxConcurrency": 0, "keepResults": 0, "opLogDays": 90 });
    assert_eq!((&seen["inForce"], &seen["createdAt"]), (&for_all, &Value::Null), "nothing goes by count");

    let set_now = set(&app.api, json!({ "tenantId": "7", "plan": "gold", "keepResults": 5 })).await;
    assert_eq!(set_now, app.api.get("/tenant/getTenant?tenantId=7").await.data());
    assert_eq!(
        set_now["inForce"],
        json!({ "requestsPerSecond": 1, "maxConcurrency": 3, "keepResults": 5, "opLogDays": 90 })
    );
    let changed =
        set(&app.api, json!({ "tenantId": 7, "maxConcurrency": 9, "keepResults": null, "requestsPerSecond": 50 }))
            .await;
    assert_eq!((&changed["plan"], &changed["keepResults"]), (&json!("gold"), &Value::Null), "what is absent stays");
    assert_eq!(
        changed["inForce"],
        json!({ "requestsPerSecond": 50, "maxConcurrency": 9, "keepResults": 20000, "opLogDays": 90 })
    );

    set(&app.api, json!({ "tenantId": 8, "plan": null })).await;
    let all = app.api.post("/tenant/listTenant", &json!({})).await.data();
    assert_eq!(
        (&all["total"], &all["list"][0]["tenantId"], &all["list"][1]["tenantId"]),
        (&json!(2), &json!("7"), &json!("8"))
    );
    let own = ann.post("/tenant/listTenant", &json!({})).await.data();
    assert_eq!((&own["total"], &own["list"][0]["tenantId"]), (&json!(1), &json!("7")));

    ann.post("/tenant/updateTenant", &json!({ "plan": null })).await.refused(403, 62, "forbidden");
    let refused = app.api.post("/tenant/updateTenant", &json!({ "plan": "silver" })).await;
    refused.refused(400, 51, "validation");
    assert!(refused.body["message"].as_str().unwrap().contains("gold"), "{}", refused.body);
    app.api.post("/tenant/updateTenant", &json!({ "opLogDays": 0.5 })).await.refused(400, 51, "validation");
    let logged = eventually("the operation log", async || {
        let rows = app
            .api
            .post("/opLog/listOpLog", &json!({ "tenantId": 7, "opType": "updateTenant", "success": 1 }))
            .await
            .data();
        if rows["total"] == 2 { Ok(rows["list"][0].clone()) } else { Err(rows.to_string()) }
    })
    .await;
    assert_eq!(logged["requestPayload"]["maxConcurrency"], 9);
    app.stop().await;
});

backend_test!(a_tenants_rate_holds_for_the_next_request_and_for_nobody_else, async |db: &TestDb| {
    let app = TestApp::with(db, &[PLANS[0]]).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    assert_eq!(asked(&ann, 5).await, [200; 5]);
    set(&app.api, json!({ "tenantId": 7, "plan": "gold" })).await;
    assert!(asked(&ann, 5).await.contains(&429));
    assert_eq!(asked(&bob, 5).await, [200; 5]);
    set(&app.api, json!({ "tenantId": 7, "requestsPerSecond": 0 })).await;
    assert_eq!(asked(&ann, 5).await, [200; 5], "0: no limit, whatever the plan says");
    app.stop().await;
    let app = TestApp::with(db, &[PLANS[0]]).await;
    set(&app.api, json!({ "tenantId": 7, "requestsPerSecond": null })).await;
    app.stop().await;
    let app = TestApp::with(db, &[PLANS[0]]).await;
    assert!(asked(&app.api.as_tenant(7, "ann"), 5).await.contains(&429), "it is known from the start");
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_hears_of_a_changed_rate() {
    on(Kind::Postgres, async |db: &TestDb| {
        let (first, second) = (TestApp::start(db).await, TestApp::start(db).await);
        set(&first.api, json!({ "tenantId": 7, "requestsPerSecond": 1 })).await;
        let ann = second.api.as_tenant(7, "ann");
        until("the other node to refuse", async || asked(&ann, 3).await.contains(&429)).await;
        first.stop().await;
        second.stop().await;
    })
    .await;
}

/// Two tenants with two models each; the first may have three calls running. Both get their work done,
/// by as many nodes as are named.
async fn cap_holds(nodes: &[&Api]) {
    let slow = Reply::After(Duration::from_millis(20), Box::new(Reply::Body("text/plain", "ok".into())));
    let (capped, free) = (FakeModel::always(Reply::Gated(Box::new(slow))).await, FakeModel::always(Reply::Hang).await);
    let (ann, bob) = (nodes[0].as_tenant(7, "ann"), nodes[0].as_tenant(8, "bob"));
    set(nodes[0], json!({ "tenantId": 7, "plan": "gold" })).await;
    for name in ["one", "two"] {
        ann.create_model(name, &capped.url, &json!({ "maxConcurrency": 4 })).await;
        bob.create_model(name, &free.url, &json!({ "maxConcurrency": 4 })).await;
    }
    let mut tasks = Vec::new();
    for n in 0..30 {
        tasks.push(ann.create_task(["one", "two"][n % 2], &Value::Null).await);
        if n < 8 {
            bob.create_task(["one", "two"][n % 2], &Value::Null).await;
        }
    }
    until("the tenant to be at its limit, and the other at its models'", async || {
        capped.running() == 3 && free.running() == 8
    })
    .await;
    capped.release(30);
    for id in &tasks {
        ann.until(id, &[2]).await;
    }
    assert_eq!(capped.peak(), 3);
}

backend_test!(a_tenants_limit_over_all_models_is_exact_and_holds_nobody_else_up, async |db: &TestDb| {
    let app = TestApp::with(db, &[PLANS[1], ("server.shutdownGrace", "0s")]).await;
    cap_holds(&[&app.api]).await;
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_limit_holds_over_two_nodes_with_redis_and_without() {
    for redis in [None, Some("redis://127.0.0.1:1"), Some("")] {
        on(Kind::Postgres, async |db: &TestDb| {
            let mut settings = vec![PLANS[1], ("server.shutdownGrace", "0s")];
            settings.extend(redis.map(|url| ("redis.url", url)));
            let nodes = [TestApp::with(db, &settings).await, TestApp::with(db, &settings).await];
            cap_holds(&[&nodes[0].api, &nodes[1].api]).await;
            for node in nodes {
                node.stop().await;
            }
        })
        .await;
    }
}

backend_test!(what_a_plan_says_after_a_restart_is_what_claims_keep, async |db: &TestDb| {
    let gold = |cap| [("tenants.plans.gold.maxConcurrency", cap), ("server.shutdownGrace", "0s")];
    let app = TestApp::with(db, &gold("1")).await;
    set(&app.api, json!({ "tenantId": 7, "plan": "gold" })).await;
    app.stop().await;
    let app = TestApp::with(db, &gold("2")).await;
    let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("m", &model.url, &json!({})).await;
    for _ in 0..3 {
        ann.create_task("m", &Value::Null).await;
    }
    until("two calls", async || model.running() == 2).await;
    set(&app.api, json!({ "tenantId": 7, "maxConcurrency": 0 })).await;
    until("all three", async || model.running() == 3).await;
    app.stop().await;
});
