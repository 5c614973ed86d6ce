use super::*;
use crate::support::model::{FakeModel, Reply};

/// Makes rows look older by so many days.
async fn age(db: &TestDb, table: &str, tenant: Option<i64>, days: u32) {
    let older = match db.kind() {
        Kind::Postgres => format!("created_at - interval '{days} days'"),
        Kind::Sqlite => format!("created_at - {days} * 86400 * 1000000"),
    };
    let of = tenant.map(|tenant| format!(" WHERE tenant_id = {tenant}")).unwrap_or_default();
    Raw::connect(db).await.execute(format!("UPDATE {table} SET created_at = {older}{of}")).await;
}

async fn op_logs(api: &Api) -> i64 {
    api.post("/opLog/listOpLog", &json!({})).await.data()["total"].as_i64().unwrap()
}

fn objects(db: &TestDb) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        entries.map(Result::unwrap).map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&db.dir().join("oss"))
}

backend_test!(the_operation_log_is_kept_for_as_long_as_a_tenant_wants, async |db: &TestDb| {
    let app = TestApp::with(db, &[("tenants.plans.archive.opLogDays", "200"), YEARLY[0], YEARLY[2]]).await;
    for (tenant, settings) in [(8, json!({ "plan": "archive" })), (9, json!({ "opLogDays": 0 }))] {
        let mut settings = settings;
        settings["tenantId"] = json!(tenant);
        app.api.post("/tenant/updateTenant", &settings).await.data();
    }
    let tenants = [7, 8, 9].map(|tenant| app.api.as_tenant(tenant, "ann"));
    for api in &tenants {
        api.create_model("m", "http://127.0.0.1:1", &json!({})).await;
    }
    for (api, rows) in tenants.iter().zip([1, 2, 2]) {
        until("the rows", async || op_logs(api).await == rows).await;
    }
    age(db, "asynch_op_log", None, 89).await;
    assert_eq!(run_now(&app.api).await["result"]["opLog"], 0);
    age(db, "asynch_op_log", None, 2).await;
    assert_eq!(run_now(&app.api).await["result"]["opLog"], 1, "tenant 7 has what holds for all");
    age(db, "asynch_op_log", Some(8), 110).await;
    age(db, "asynch_op_log", Some(9), 9000).await;
    assert_eq!(run_now(&app.api).await["result"]["opLog"], 2);
    assert_eq!((op_logs(&tenants[1]).await, op_logs(&tenants[2]).await), (0, 2));
    app.stop().await;
});

backend_test!(runs_are_listed_for_as_long_as_is_configured, async |db: &TestDb| {
    let app = TestApp::with(db, &[("maintenance.retention.runDays", "10"), YEARLY[0], YEARLY[2]]).await;
    run_now(&app.api).await;
    run_now(&app.api).await;
    age(db, "asynch_job_run", None, 11).await;
    let run = run_now(&app.api).await;
    assert_eq!((&run["result"]["runs"], runs(&app.api).await.len()), (&json!(2), 1));
    app.stop().await;
});

backend_test!(the_newest_results_of_each_model_are_kept_and_nothing_of_unknown_tenants_goes, async |db: &TestDb| {
    let settings = [("oss.deleteOnPurge", "true"), ("tenants.plans.small.keepResults", "2"), YEARLY[0]];
    let app = TestApp::with(db, &settings).await;
    let model = FakeModel::echo().await;
    let stuck = FakeModel::always(Reply::Hang).await;
    let (known, unknown) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    app.api.post("/tenant/updateTenant", &json!({ "tenantId": 7, "plan": "small" })).await.data();
    let mut tasks: Vec<Vec<String>> = Vec::new();
    for (api, name) in [(&known, "one"), (&known, "two"), (&unknown, "one")] {
        api.create_model(name, &model.url, &json!({})).await;
        let mut made = Vec::new();
        for _ in 0..5 {
            let id = api.create_task(name, &json!({})).await;
            api.until(&id, &[2]).await;
            made.push(id);
        }
        tasks.push(made);
    }
    known.post("/task/getTaskBatch", &json!({ "taskIds": tasks[0] })).await.data();
    // One runs, two wait: more than are kept, and none of them a result.
    known.create_model("stuck", &stuck.url, &json!({ "maxConcurrency": 1 })).await;
    for _ in 0..3 {
        known.create_task("stuck", &json!({})).await;
    }
    until("the call", async || stuck.running() == 1).await;
    assert_eq!(objects(db), 15);

    let run = run_now(&app.api).await;
    assert_eq!((&run["state"], &run["result"]["results"]), (&json!("succeeded"), &json!(6)), "{run}");
    for (api, made, kept) in [(&known, &tasks[0], 2), (&known, &tasks[1], 2), (&unknown, &tasks[2], 5)] {
        let missing = api.post("/task/getTaskBatch", &json!({ "taskIds": made })).await.data()["missing"].clone();
        assert_eq!(missing, json!(made[..5 - kept]), "the oldest go");
    }
    assert_eq!(objects(db), 9);
    let left = known.post("/task/listTask", &json!({ "modelName": "stuck" })).await.data()["total"].clone();
    assert_eq!(left, 3);
    assert_eq!(run_now(&app.api).await["result"]["results"], 0);

    app.api.post("/tenant/updateTenant", &json!({ "tenantId": 7, "keepResults": 1 })).await.data();
    assert_eq!(run_now(&app.api).await["result"]["results"], 2, "its own word goes before its plan's");
    app.stop().await;
});

backend_test!(a_step_that_fails_counts_as_minus_one_and_the_others_go_on, async |db: &TestDb| {
    let app = TestApp::with(db, &[("maintenance.retention.runDays", "10"), YEARLY[0], YEARLY[2]]).await;
    run_now(&app.api).await;
    age(db, "asynch_job_run", None, 11).await;
    Raw::connect(db).await.execute("ALTER TABLE asynch_op_log RENAME TO hidden").await;
    let run = run_now(&app.api).await;
    assert_eq!((&run["state"], &run["result"]), (&json!("failed"), &json!({ "opLog": -1, "runs": 1, "results": 0 })));
    let message = run["errorMsg"].as_str().unwrap();
    assert!(message.starts_with("opLog: ") && !message.contains("hidden") && !message.contains("table"), "{message}");
    app.stop().await;
});
