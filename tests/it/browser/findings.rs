//! What people look for: the task that failed and why, a result, a number, a file.

use std::process::Command;

use serde_json::json;

use super::Scene;
use crate::{
    backend_test,
    support::{backend::TestDb, eventually::until},
};

backend_test!(the_failed_task_and_its_reason_are_found_from_the_first_page, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    // The reason is there at once, and more of it one step further.
    visitor.sees("page 9 is empty").await;
    visitor.presses("All failed tasks").await;
    visitor.sees("1–1 of 1").await;
    visitor.presses(&format!("…{}", &scene.failed[24..])).await;
    visitor.sees("Why it failed").await;
    visitor.sees("422 Unprocessable Entity: page 9 is empty").await;
    visitor.sees("Attempt 1").await;
    visitor.sees("\"fail\": \"page 9 is empty\"").await;
    scene.ends().await;
});

backend_test!(tasks_are_filtered_opened_and_copied_as_a_command_that_works, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    visitor.presses("Tasks").await;
    visitor.sees("1–6 of 6").await;
    visitor.fills("Model", "pain").await;
    visitor.sees("1–2 of 2").await;
    visitor.chooses("State", "Failed").await;
    visitor.sees("No task fits the filter").await;
    visitor.presses("Clear filters").await;
    visitor.sees("1–6 of 6").await;
    visitor.chooses("State", "Succeeded").await;
    visitor.sees("1–5 of 5").await;

    // A whole id leads to its task.
    visitor.fills("Task id", &scene.picture).await;
    visitor.sees("What happened").await;
    visitor.sees("png · ").await;
    until("the picture to be shown", async || {
        visitor.finds_out("return document.querySelector('img.preview')?.naturalWidth === 1").await == json!(true)
    })
    .await;
    visitor.presses("Copy as curl").await;
    visitor.sees("Copied.").await;
    let command = visitor.pastes().await;
    let run = Command::new("sh").arg("-c").arg(&command).output().unwrap();
    let answer: serde_json::Value =
        serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{command}: {run:?}"));
    let again = scene.app.api.until(answer["data"]["taskId"].as_str().unwrap(), &[2]).await;
    assert_eq!((&again["requestPayload"], &again["modelName"]), (&json!({ "kind": "image" }), &json!("painter")));
    scene.ends().await;
});

backend_test!(results_are_shown_by_their_kind, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    let found = scene.app.api.post("/task/listTask", &json!({ "modelName": "reader", "state": 2 })).await.data();
    for task in found["list"].as_array().unwrap() {
        let id = task["taskId"].as_str().unwrap();
        visitor.goes(&format!("#/task/{id}")).await;
        match task["fileType"].as_str().unwrap() {
            "txt" => visitor.sees("Grüße aus dem Modell").await,
            "json" => visitor.sees("\"exact\": 1.0").await,
            "wav" => {
                let can_play = "return document.querySelector('audio.preview')?.readyState >= 1";
                until("the sound to be there", async || visitor.finds_out(can_play).await == json!(true)).await;
            }
            other => panic!("a result of another kind: {other}"),
        }
    }
    scene.ends().await;
});

backend_test!(statistics_are_grouped_and_saved_as_a_file, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    // A spreadsheet must not take a user's name for a formula.
    let odd = scene.app.api.as_tenant(0, "=cmd()");
    let task = odd.create_task("painter", &json!({})).await;
    odd.until(&task, &[2]).await;
    visitor.presses("Statistics").await;
    visitor.sees("Average call").await;
    visitor.presses("Model").await;
    visitor.sees("painter").await;
    visitor.presses("Download CSV").await;
    let (name, text) = visitor.receives(".csv").await;
    assert!(name.starts_with("model-asynch 20"), "{name}");
    assert!(text.starts_with("\u{feff}day,tenantId,creator,modelName,requestCount,"), "{text}");
    assert!(text.contains(",0,'=cmd(),painter,1,1,0,"), "{text}");
    assert!(text.contains(",0,anonymous,reader,4,3,1,"), "{text}");
    scene.ends().await;
});

backend_test!(lanes_log_and_health_say_how_things_are, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    visitor.presses("Lanes").await;
    visitor.sees("No task is queued or running.").await;
    visitor.presses("Operation log").await;
    visitor.chooses("Operation", "createModel").await;
    visitor.sees("1–2 of 2").await;
    visitor.presses("Health").await;
    visitor.sees("This node has been up for").await;
    visitor.sees("Object storage").await;
    visitor.presses("Run now: retention").await;
    visitor.sees("retention will run at once.").await;
    scene.ends().await;
});

backend_test!(a_service_that_does_not_answer_is_told_and_comes_back_by_itself, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    let network =
        |offline: bool| json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
    visitor.presses("Lanes").await;
    visitor.sees("painter").await;
    visitor.tells("Network.enable", json!({})).await;
    visitor.tells("Network.emulateNetworkConditions", network(true)).await;
    visitor.sees("No answer, next try in").await;
    // What was there stays readable.
    visitor.sees("painter").await;
    visitor.tells("Network.emulateNetworkConditions", network(false)).await;
    visitor.sees_no_more("No answer").await;
    scene.visitor.leaves_after(&["ERR_INTERNET_DISCONNECTED"]).await;
    scene.app.stop().await;
});
