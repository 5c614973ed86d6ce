//! Jobs: when they run, on how many nodes, and what becomes of them when a node stops or dies; and
//! what the job `retention` deletes.

mod retention;

use model_asynch::{clock, faults::Point, job::Job, secrets::Vault, store::Store};
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, Node, TestApp},
        backend::{Kind, TestDb, on},
        eventually::{eventually, until},
        raw::Raw,
    },
};

const LEASE: (&str, &str) = ("worker.leaseSeconds", "2");

/// A schedule whose times do not come by while tests run.
const YEARLY: [(&str, &str); 3] = [("maintenance.retention.schedule", "0 0 1 1 *"), LEASE, ("worker.enabled", "false")];

async fn runs(api: &Api) -> Vec<Value> {
    api.post("/maintenance/listRun", &json!({ "job": "retention" })).await.data()["list"].as_array().unwrap().clone()
}

/// Cause and state of each run, the latest first.
async fn story(api: &Api) -> Vec<(String, String)> {
    let word = |run: &Value, field: &str| run[field].as_str().unwrap().to_owned();
    runs(api).await.iter().map(|run| (word(run, "cause"), word(run, "state"))).collect()
}

fn told(story: &[(&str, &str)]) -> Vec<(String, String)> {
    story.iter().map(|(cause, state)| ((*cause).to_owned(), (*state).to_owned())).collect()
}

/// Asks for a run, and waits for its end.
async fn run_now(api: &Api) -> Value {
    let id = api.post("/maintenance/runJob", &json!({ "job": "retention" })).await.data()["runId"].clone();
    eventually("the run to end", async || {
        let run = runs(api).await.into_iter().find(|run| run["runId"] == id).unwrap();
        if run["finishedAt"].is_null() { Err(run.to_string()) } else { Ok(run) }
    })
    .await
}

async fn until_told(api: &Api, expected: &[(&str, &str)]) {
    let expected = told(expected);
    eventually("the runs", async || {
        let story = story(api).await;
        if story == expected { Ok(()) } else { Err(format!("{story:?}")) }
    })
    .await;
}

/// As if no node had been up for three years.
async fn let_years_pass(db: &TestDb) {
    let mut raw = Raw::connect(db).await;
    until("the job to be known", async || !raw.texts("SELECT job FROM asynch_job").await.is_empty()).await;
    raw.execute(match db.kind() {
        Kind::Postgres => "UPDATE asynch_job SET done_until = now() - interval '1100 days'",
        Kind::Sqlite => "UPDATE asynch_job SET done_until = done_until - 1100 * 86400 * 1000000",
    })
    .await;
}

backend_test!(a_job_that_is_asked_for_runs_at_once_and_says_what_it_did, async |db: &TestDb| {
    let app = TestApp::with(db, &YEARLY[..1]).await;
    let job = app.api.post("/maintenance/listJob", &json!({})).await.data()["list"][0].clone();
    assert_eq!(
        (&job["job"], &job["schedule"], &job["timezone"]),
        (&json!("retention"), &json!("0 0 1 1 *"), &json!("UTC"))
    );
    assert!(job["nextAt"].as_str().unwrap().ends_with("-01-01T00:00:00.000Z") && job["last"].is_null(), "{job}");

    let run = run_now(&app.api).await;
    assert_eq!(
        (&run["state"], &run["cause"], &run["creator"]),
        (&json!("succeeded"), &json!("request"), &json!("anonymous"))
    );
    assert_eq!(run["result"], json!({ "opLog": 0, "runs": 0, "results": 0 }));
    assert!(run["seconds"].as_f64().unwrap() >= 0.0 && run["node"].as_str().unwrap().contains(':'), "{run}");
    let job = app.api.post("/maintenance/listJob", &json!({})).await.data()["list"][0].clone();
    assert_eq!((&job["last"], &job["open"]), (&run, &Value::Null));

    let refused = app.api.post("/maintenance/runJob", &json!({ "job": "nothing" })).await;
    refused.refused(404, 65, "not_found");
    app.api.post("/maintenance/listRun", &json!({ "job": "nothing" })).await.refused(404, 65, "not_found");
    let ann = app.api.as_tenant(7, "ann");
    ann.post("/maintenance/runJob", &json!({ "job": "retention" })).await.refused(403, 62, "forbidden");
    let logged = eventually("the operation log", async || {
        let rows = app.api.post("/opLog/listOpLog", &json!({ "opType": "runJob", "success": 1 })).await.data();
        if rows["total"] == 1 { Ok(rows["list"][0].clone()) } else { Err(rows.to_string()) }
    })
    .await;
    assert_eq!(logged["responsePayload"]["data"]["runId"], run["runId"]);
    app.stop().await;
});

backend_test!(times_that_were_missed_count_as_one, async |db: &TestDb| {
    let app = TestApp::with(db, &YEARLY).await;
    let_years_pass(db).await;
    until_told(&app.api, &[("schedule", "succeeded")]).await;
    app.stop().await;

    let_years_pass(db).await;
    let app = TestApp::with(db, &YEARLY).await;
    until_told(&app.api, &[("schedule", "succeeded"), ("schedule", "succeeded")]).await;
    // A job that is asked for runs after a look at the schedule.
    run_now(&app.api).await;
    assert_eq!(story(&app.api).await.len(), 3);
    app.stop().await;
});

backend_test!(what_was_missed_under_another_schedule_or_none_does_not_count, async |db: &TestDb| {
    let app = TestApp::with(db, &YEARLY).await;
    let_years_pass(db).await;
    until_told(&app.api, &[("schedule", "succeeded")]).await;
    app.stop().await;
    for schedule in ["off", "0 0 2 1 *"] {
        let_years_pass(db).await;
        let app = TestApp::with(db, &[("maintenance.retention.schedule", schedule), LEASE]).await;
        run_now(&app.api).await;
        app.stop().await;
    }
    let app = TestApp::with(db, &[("maintenance.enabled", "false")]).await;
    assert_eq!(
        story(&app.api).await,
        told(&[("request", "succeeded"), ("request", "succeeded"), ("schedule", "succeeded")])
    );
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_one_runs_a_job_that_is_due() {
    on(Kind::Postgres, async |db: &TestDb| {
        let first = TestApp::with(db, &YEARLY).await;
        run_now(&first.api).await;
        let_years_pass(db).await;
        let second = TestApp::with(db, &YEARLY).await;
        eventually("the due run", async || match story(&second.api).await.len() {
            2 => Ok(()),
            other => Err(format!("{other} runs")),
        })
        .await;
        until("it to end", async || story(&second.api).await[0].1 == "succeeded").await;
        run_now(&second.api).await;
        run_now(&first.api).await;
        let scheduled = story(&first.api).await.into_iter().filter(|(cause, _)| cause == "schedule").count();
        assert_eq!(scheduled, 1);
        first.stop().await;
        second.stop().await;
    })
    .await;
}

backend_test!(a_job_never_overlaps_itself, async |db: &TestDb| {
    let app = TestApp::with(db, &YEARLY).await;
    // Another node is at it.
    let elsewhere = Store::administer(&db.config, Vault::default()).await.unwrap();
    let (runner, now) = (clock::node_id(), elsewhere.now().await.unwrap());
    assert!(elsewhere.take_turn(&Job::Retention.duty(), runner, std::time::Duration::from_secs(600)).await.unwrap());
    elsewhere.request_run(Job::Retention, "other", now).await.unwrap();
    let run = elsewhere.start_run(Job::Retention, runner, "other", now).await.unwrap().unwrap();

    let refused = app.api.post("/maintenance/runJob", &json!({ "job": "retention" })).await;
    refused.refused(409, 55, "conflict");
    assert!(refused.body["message"].as_str().unwrap().contains(&format!("run {}", run.id.0)), "{}", refused.body);
    let job = app.api.post("/maintenance/listJob", &json!({})).await.data()["list"][0].clone();
    assert_eq!((&job["open"]["state"], &job["open"]["node"]), (&json!("running"), &json!("other")));
    // What becomes due meanwhile waits for its end.
    let_years_pass(db).await;
    assert!(elsewhere.finish_run(run.id, runner, "{}", Some("broken"), now).await.unwrap());
    eventually("the due run to wait for the turn", async || match story(&app.api).await.len() {
        2 => Ok(()),
        other => Err(format!("{other} runs")),
    })
    .await;
    assert_eq!(story(&app.api).await, told(&[("schedule", "waiting"), ("request", "failed")]));
    elsewhere.give_turn_back(&Job::Retention.duty(), runner).await.unwrap();
    until_told(&app.api, &[("schedule", "succeeded"), ("request", "failed")]).await;
    app.stop().await;
});

backend_test!(a_job_is_begun_again_once_when_its_node_died, async |db: &TestDb| {
    let mut doomed = Node::doomed(db, &YEARLY, Point::DuringRetention).await;
    doomed.api.post("/maintenance/runJob", &json!({ "job": "retention" })).await.data();
    doomed.dies().await;
    let mut doomed = Node::doomed(db, &YEARLY, Point::DuringRetention).await;
    doomed.dies().await;
    let node = Node::start(db, &YEARLY).await;
    until_told(&node.api, &[("loss", "lost"), ("request", "lost")]).await;
    let lost = runs(&node.api).await[0].clone();
    assert!(lost["errorMsg"].as_str().unwrap().contains("died"), "{lost}");
    assert_eq!(run_now(&node.api).await["state"], "succeeded");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_begins_the_job_of_one_that_was_killed() {
    on(Kind::Postgres, async |db: &TestDb| {
        let mut doomed = Node::doomed(db, &YEARLY, Point::DuringRetention).await;
        doomed.api.post("/maintenance/runJob", &json!({ "job": "retention" })).await.data();
        doomed.dies().await;
        let other = TestApp::with(db, &YEARLY).await;
        until_told(&other.api, &[("loss", "succeeded"), ("request", "lost")]).await;
        other.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_leaves_its_job_to_the_next() {
    on(Kind::Postgres, async |db: &TestDb| {
        let mut raw = Raw::connect(db).await;
        let app = TestApp::with(db, &YEARLY).await;
        raw.execute("BEGIN").await;
        raw.execute("LOCK TABLE asynch_op_log").await;
        app.api.post("/maintenance/runJob", &json!({ "job": "retention" })).await.data();
        until_told(&app.api, &[("request", "running")]).await;
        app.stop().await;
        raw.execute("COMMIT").await;
        assert_eq!(raw.texts("SELECT state::text FROM asynch_job_run").await, ["0"], "it waits again");
        let app = TestApp::with(db, &YEARLY).await;
        until_told(&app.api, &[("request", "succeeded")]).await;
        app.stop().await;
    })
    .await;
}

backend_test!(the_command_line_runs_a_job_beside_the_service_and_without_it, async |db: &TestDb| {
    let cli = async |args: &'static [&'static str]| {
        let environment = crate::support::app::environment(db, "127.0.0.1:0", &YEARLY);
        let dir = db.dir().to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_model-asynch"));
            command.current_dir(dir).env_clear().envs(environment).arg("maintenance").args(args).output().unwrap()
        })
        .await
        .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, printed, _) = cli(&["run", "retention"]).await;
    let result: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, result), (Some(0), json!({ "opLog": 0, "runs": 0, "results": 0 })));
    let app = TestApp::with(db, &YEARLY).await;
    assert_eq!(cli(&["run", "retention"]).await.0, Some(0));
    assert_eq!(story(&app.api).await, told(&[("request", "succeeded"), ("request", "succeeded")]));
    assert_eq!(runs(&app.api).await[0]["creator"], "command line");
    let (code, printed, _) = cli(&["list"]).await;
    assert_eq!(code, Some(0));
    assert!(printed.contains("retention: 0 0 1 1 * UTC") && printed.contains("succeeded (request)"), "{printed}");
    let (code, _, complaint) = cli(&["run", "nothing"]).await;
    assert!(code == Some(2) && complaint.contains("the jobs are retention"), "{complaint}");
    app.stop().await;
});
