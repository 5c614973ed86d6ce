//! Contract §7: every changing call leaves a row.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        eventually::eventually,
    },
};

/// The rows that a filter finds, once there are so many.
async fn rows(api: &Api, filter: &Value, count: usize) -> Vec<Value> {
    eventually(&format!("{count} rows for {filter}"), async || {
        let found = api.post("/opLog/listOpLog", filter).await.data();
        let list = found["list"].as_array().unwrap().clone();
        if list.len() == count { Ok(list) } else { Err(found.to_string()) }
    })
    .await
}

backend_test!(every_changing_call_leaves_a_row_with_its_secrets_masked, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let ann = app.api.as_tenant(7, "ann").with_header("user-agent", "test/1");
    let model = ann.create_model("tts", "http://m", &json!({ "apiKey": "A:topsecret" })).await;
    ann.put("/model/updateModel", &json!({ "id": model, "remark": "new" })).await.data();
    let task = ann.post("/task/createTask", &json!({ "modelName": "tts", "bizName": "book" })).await.data();
    ann.delete(&format!("/model/deleteModel?id={model}")).await.data();
    ann.post("/model/listModel", &json!({})).await.data();

    let all = rows(&ann, &json!({}), 4).await;
    let types: Vec<&str> = all.iter().map(|row| row["opType"].as_str().unwrap()).collect();
    assert_eq!(types, ["deleteModel", "createTask", "updateModel", "createModel"], "newest first, and no reading call");
    for row in &all {
        assert_eq!((&row["tenantId"], &row["creator"], &row["updater"]), (&json!("7"), &json!("ann"), &json!("ann")));
        assert_eq!((&row["success"], &row["errorMsg"], &row["modelName"]), (&json!(1), &json!(""), &json!("tts")));
        assert_eq!((&row["ip"], &row["userAgent"]), (&json!("127.0.0.1"), &json!("test/1")));
        assert!(row["id"].is_string() && row["costMs"].as_i64().unwrap() >= 0);
        assert_eq!(row["responsePayload"]["code"], 0);
        assert!(!row.to_string().contains("topsecret"));
    }
    let created = &rows(&ann, &json!({ "opType": "createTask" }), 1).await[0];
    assert_eq!((&created["taskId"], &created["bizName"]), (&task["taskId"], &json!("book")));
    assert_eq!((&created["apiPath"], &created["httpMethod"]), (&json!("/task/createTask"), &json!("POST")));
    assert_eq!(created["requestPayload"]["bizName"], "book");
    assert_eq!(rows(&ann, &json!({ "taskId": task["taskId"] }), 1).await[0]["opType"], "createTask");
    assert_eq!(rows(&ann, &json!({ "opType": "deleteModel" }), 1).await[0]["requestPayload"]["id"], json!(model));
    app.stop().await;
});

backend_test!(a_call_that_failed_leaves_a_row_that_says_why, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let ann = app.api.as_tenant(7, "ann");
    ann.post("/task/createTask", &json!({ "modelName": "nothing" })).await.refused(404, 65, "not_found");
    ann.post("/task/createTask", &json!({ "modelName": 5 })).await.refused(400, 51, "validation");
    ann.post("/task/createTask", &json!({ "modelName": "x", "tenantId": 8 })).await.refused(403, 62, "forbidden");
    let broken = ann.request(reqwest::Method::POST, "/task/createTask").body("{");
    ann.send(broken).await.refused(400, 66, "malformed");

    let failed = rows(&ann, &json!({ "success": 0 }), 4).await;
    let codes: Vec<i64> = failed.iter().map(|row| row["responsePayload"]["code"].as_i64().unwrap()).collect();
    assert_eq!(codes, [66, 62, 51, 65]);
    for row in &failed {
        assert_eq!((&row["tenantId"], &row["success"]), (&json!("7"), &json!(0)));
        assert_eq!(row["errorMsg"], row["responsePayload"]["message"]);
    }
    assert_eq!((&failed[3]["modelName"], &failed[0]["requestPayload"]), (&json!("nothing"), &Value::Null));
    assert_eq!(rows(&ann, &json!({ "success": 1 }), 0).await, Vec::<Value>::new());
    for (filter, field) in [(json!({ "success": 2 }), "success"), (json!({ "opType": 1 }), "opType")] {
        let answer = ann.post("/opLog/listOpLog", &filter).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field);
    }
    app.stop().await;
});

backend_test!(what_an_admin_does_for_a_tenant_is_in_the_log_of_that_tenant, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let model = json!({ "modelName": "tts", "baseUrl": "http://m", "tenantId": 7 });
    app.api.post("/model/createModel", &model).await.data();
    let row = &rows(&app.api.as_tenant(7, "ann"), &json!({}), 1).await[0];
    assert_eq!((&row["tenantId"], &row["creator"]), (&json!("7"), &json!("anonymous")));
    app.stop().await;
});
