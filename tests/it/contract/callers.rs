//! Contract §2: who is calling, on every route.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Answer, Api, TestApp},
        backend::TestDb,
        model::{FakeModel, Reply},
    },
};

const WITHOUT_WORKER: (&str, &str) = ("worker.enabled", "false");
const GATEWAY: (&str, &str) = ("auth.mode", "gateway");

fn informed(api: &Api, info: &Value) -> Api {
    api.with_header("x-user-info", &info.to_string())
}

/// One request to every route that needs a caller, with `tenantId` in body or query.
async fn every_route(api: &Api, named: Option<&Value>) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    for (method, path, mut body) in [
        ("POST", "/model/createModel", json!({ "modelName": "x", "baseUrl": "http://m" })),
        ("PUT", "/model/updateModel", json!({ "id": "1" })),
        ("POST", "/model/deleteModel", json!({ "id": "1" })),
        ("POST", "/model/listModel", json!({})),
        ("POST", "/task/createTask", json!({ "modelName": "x" })),
        ("POST", "/task/getTaskBatch", json!({ "taskIds": ["x"] })),
        ("POST", "/task/listTask", json!({})),
        ("POST", "/task/listAttempt", json!({ "taskId": "x" })),
        ("POST", "/stat/listModelStat", json!({})),
        ("POST", "/stat/getOverview", json!({})),
        ("POST", "/stat/listLane", json!({})),
        ("POST", "/opLog/listOpLog", json!({})),
        ("POST", "/monitor/listAlert", json!({})),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let in_query = match named {
            Some(tenant) => format!("{path}?tenantId={}", tenant.to_string().trim_matches('"')),
            None => path.to_owned(),
        };
        answers.push((in_query.clone(), api.send(api.request(method.clone(), &in_query).json(&body)).await));
        if let Some(tenant) = named {
            body["tenantId"] = tenant.clone();
            answers.push((path.to_owned(), api.send(api.request(method, path).json(&body)).await));
        }
    }
    let tenant = named.map(|tenant| format!("&tenantId={}", tenant.to_string().trim_matches('"'))).unwrap_or_default();
    for (method, path) in [
        (Method::GET, "/model/getModel?id=1"),
        (Method::DELETE, "/model/deleteModel?id=1"),
        (Method::GET, "/task/getTaskResult?taskId=x"),
        (Method::GET, "/caller/getCaller?x=1"),
        (Method::GET, "/node/getHealth?x=1"),
    ] {
        let path = format!("{path}{tenant}");
        answers.push((path.clone(), api.send(api.request(method, &path)).await));
    }
    answers
}

backend_test!(an_unknown_caller_gets_401_on_every_route, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER, GATEWAY]).await;
    for api in [app.api.clone(), app.api.with_header("x-user-info", "nonsense")] {
        for (_, answer) in every_route(&api, None).await {
            answer.refused(401, 61, "unauthenticated");
        }
    }
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(app.api.get(open).await.status, 200, "{open}");
    }
    app.stop().await;
});

backend_test!(naming_another_tenant_is_403_for_all_but_admins_on_every_route, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER, GATEWAY]).await;
    let ann = informed(&app.api, &json!({ "tenantId": 7, "userName": "ann" }));
    for tenant in [json!(8), json!("0")] {
        for (path, answer) in every_route(&ann, Some(&tenant)).await {
            assert_eq!(answer.refused(403, 62, "forbidden").body["error"]["field"], "tenantId", "{path}");
        }
    }
    let admin = informed(&app.api, &json!({ "tenantId": 0, "userName": "root", "admin": true }));
    for (api, tenant) in [(&ann, json!("7")), (&admin, json!(7))] {
        for (path, answer) in every_route(api, Some(&tenant)).await {
            assert!(![401, 403].contains(&answer.status), "{path}: {}", answer.body);
        }
    }
    app.stop().await;
});

backend_test!(user_info_is_believed_in_all_its_spellings, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER, GATEWAY]).await;
    let json = r#"{"tenantId":"7","userId":42}"#;
    let standard = base64::engine::general_purpose::STANDARD.encode(json);
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let percent = "%7B%22tenantId%22%3A%227%22%2C%22userId%22%3A42%7D";
    for (index, header) in [json, &standard, &url_safe, percent].into_iter().enumerate() {
        let api = app.api.with_header("x-user-info", header);
        let id = api.create_model(&format!("m{index}"), "http://m", &json!({})).await;
        let model = api.get(&format!("/model/getModel?id={id}")).await.data();
        assert_eq!((&model["tenantId"], &model["creator"]), (&json!("7"), &json!("42")), "{header}");
    }
    app.stop().await;
});

backend_test!(a_tenants_own_model_comes_before_a_shared_one_of_its_name, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let answering = async |text: &'static str| FakeModel::always(Reply::Body("text/plain", text.into())).await;
    let (common, own, private) = (answering("common").await, answering("own").await, answering("private").await);
    app.api.create_model("tts", &common.url, &json!({ "shared": true })).await;
    app.api.create_model("private", &private.url, &json!({})).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    let id = ann.create_model("tts", &own.url, &json!({})).await;
    let result = async |api: &Api| {
        let task = api.create_task("tts", &Value::Null).await;
        let done = api.until(&task, &[2]).await;
        String::from_utf8(api.fetch(done["ossFile"].as_str().unwrap()).await).unwrap()
    };
    assert_eq!((result(&ann).await.as_str(), result(&bob).await.as_str()), ("own", "common"));
    ann.delete(&format!("/model/deleteModel?id={id}")).await.data();
    assert_eq!(result(&ann).await, "common", "without its own, the shared one");
    // What tenant 0 does not share, and what others may only call, they do not see.
    bob.post("/task/createTask", &json!({ "modelName": "private" })).await.refused(404, 65, "not_found");
    assert_eq!(bob.post("/model/listModel", &json!({})).await.data()["total"], 0);
    let elsewhere = json!({ "modelName": "mine", "baseUrl": "http://m", "shared": true });
    bob.post("/model/createModel", &elsewhere).await.refused(403, 62, "forbidden");
    app.stop().await;
});
