//! Contract §2: who is calling, and for which tenant.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
    },
};

const WITHOUT_WORKER: (&str, &str) = ("worker.enabled", "false");

fn admin(api: &Api) -> Api {
    api.with_header("x-user-info", &json!({ "tenantId": 0, "userName": "root", "admin": true }).to_string())
}

backend_test!(behind_a_gateway_every_caller_is_named, async |db: &TestDb| {
    let settings = [WITHOUT_WORKER, ("auth.mode", "gateway"), ("auth.gatewaySecret", "s3cret")];
    let app = TestApp::with(db, &settings).await;
    let list = async |api: &Api| api.post("/model/listModel", &json!({})).await;
    list(&app.api).await.refused(401, 61, "unauthenticated");
    let ann = app.api.as_tenant(7, "ann");
    list(&ann).await.refused(401, 61, "unauthenticated");
    list(&ann.with_header("x-gateway-secret", "guess")).await.refused(401, 61, "unauthenticated");
    let gateway = app.api.with_header("x-gateway-secret", "s3cret");
    list(&gateway).await.refused(401, 61, "unauthenticated");
    list(&gateway.with_header("x-user-info", "{}")).await.refused(401, 61, "unauthenticated");
    assert_eq!(list(&gateway.as_tenant(7, "ann")).await.data()["total"], 0);
    assert_eq!(app.api.get("/healthz").await.status, 200, "probes need no caller");
    app.stop().await;
});

backend_test!(what_belongs_to_another_tenant_is_not_there, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    let model = ann.create_model("tts", "http://m", &json!({})).await;
    let task = ann.create_task("tts", &Value::Null).await;
    bob.get(&format!("/model/getModel?id={model}")).await.refused(404, 65, "not_found");
    bob.put("/model/updateModel", &json!({ "id": model, "enabled": 0 })).await.refused(404, 65, "not_found");
    bob.delete(&format!("/model/deleteModel?id={model}")).await.refused(404, 65, "not_found");
    bob.get(&format!("/task/getTaskResult?taskId={task}")).await.refused(404, 65, "not_found");
    bob.post("/task/createTask", &json!({ "modelName": "tts" })).await.refused(404, 65, "not_found");
    assert_eq!(bob.post("/task/getTaskBatch", &json!({ "taskIds": [task] })).await.data()["missing"], json!([task]));
    for route in ["/model/listModel", "/task/listTask", "/stat/listModelStat"] {
        assert_eq!(bob.post(route, &json!({})).await.data()["total"], 0, "{route}");
    }
    app.stop().await;
});

backend_test!(only_an_admin_acts_for_another_tenant, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let (ann, root) = (app.api.as_tenant(7, "ann"), admin(&app.api));
    let model = ann.create_model("tts", "http://m", &json!({})).await;
    let task = ann.create_task("tts", &Value::Null).await;
    let bob = app.api.as_tenant(8, "bob");
    let foreign = [
        bob.post("/task/createTask", &json!({ "modelName": "tts", "tenantId": "7" })).await,
        bob.post("/task/listTask?tenantId=7", &json!({})).await,
        bob.post("/task/getTaskBatch", &json!({ "taskIds": [task], "tenantId": 7 })).await,
        bob.get(&format!("/task/getTaskResult?taskId={task}&tenantId=7")).await,
        bob.get(&format!("/model/getModel?id={model}&tenantId=7")).await,
        bob.delete(&format!("/model/deleteModel?id={model}&tenantId=7")).await,
        bob.post("/stat/listModelStat", &json!({ "tenantId": 7 })).await,
        bob.post("/opLog/listOpLog", &json!({ "tenantId": 7 })).await,
    ];
    for answer in &foreign {
        answer.refused(403, 62, "forbidden");
        assert_eq!(answer.body["error"]["field"], "tenantId");
    }
    let seen = root.get(&format!("/task/getTaskResult?taskId={task}&tenantId=7")).await.data();
    assert_eq!((&seen["tenantId"], &seen["creator"]), (&json!("7"), &json!("ann")));
    let created = root.post("/task/createTask", &json!({ "modelName": "tts", "tenantId": 7 })).await.data();
    let seen = ann.task(created["taskId"].as_str().unwrap()).await;
    assert_eq!((&seen["tenantId"], &seen["creator"]), (&json!("7"), &json!("root")));
    assert_eq!(root.post("/task/listTask", &json!({})).await.data()["total"], 0, "its own tenant unless it names one");
    app.stop().await;
});
