//! Contract §1: no input crashes a handler, and every answer has the form that callers rely on.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Answer, Api, TestApp},
        backend::TestDb,
        raw::Raw,
    },
};

const WITHOUT_WORKER: (&str, &str) = ("worker.enabled", "false");

/// Status, code and kind of every failure in the contract's table that input alone can cause.
const TABLE: [(u16, i64, &str); 10] = [
    (400, 51, "validation"),
    (400, 66, "malformed"),
    (401, 61, "unauthenticated"),
    (403, 62, "forbidden"),
    (404, 65, "not_found"),
    (405, 66, "method_not_allowed"),
    (409, 55, "conflict"),
    (413, 66, "too_large"),
    (415, 66, "unsupported_media_type"),
    (429, 63, "queue_full"),
];

/// Every route that reads a body, with every field that it knows.
const FIELDS: [(&str, &str, &[&str]); 10] = [
    ("POST", "/task/createTask", &["modelName", "bizName", "inputRef", "requestPayload", "tenantId"]),
    ("POST", "/task/getTaskBatch", &["taskIds", "tenantId"]),
    ("POST", "/task/listTask", &["page", "modelName", "taskId", "state", "tenantId"]),
    (
        "POST",
        "/model/createModel",
        &[
            "modelName",
            "baseUrl",
            "route",
            "httpMethod",
            "apiKey",
            "enabled",
            "maxConcurrency",
            "totalConcurrency",
            "queueLimit",
            "timeoutSeconds",
            "retryTimes",
            "retryQueueMaxSeconds",
            "autoCleanSeconds",
            "remark",
            "shared",
            "tenantId",
        ],
    ),
    ("PUT", "/model/updateModel", &["id", "modelName", "apiKey", "remark", "queueLimit", "tenantId"]),
    ("POST", "/model/deleteModel", &["id", "tenantId"]),
    ("POST", "/model/listModel", &["page", "modelName", "tenantId"]),
    ("POST", "/stat/listModelStat", &["page", "startDay", "endDay", "creator", "modelName", "tenantId"]),
    ("POST", "/opLog/listOpLog", &["page", "opType", "modelName", "taskId", "success", "tenantId"]),
    ("POST", "/monitor/listAlert", &["page", "open", "tenantId"]),
];

/// Values as they are written, what JSON allows and no handler wants.
fn hostile() -> Vec<String> {
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let texts = [
        "",
        " ",
        "'; DROP TABLE asynch_task; --",
        "%' OR '1'='1",
        "%_\\",
        "\\",
        "$1",
        "NaN",
        "2026-02-30",
        "99999999999999999999",
        "Key:a\r\nHost: b",
        "\u{202e}\u{feff}\u{10ffff}",
    ];
    let mut values: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    values.extend([json!("x".repeat(5000)).to_string(), deep]);
    values.extend(
        [
            "null",
            "true",
            "-1",
            "0",
            "1.5",
            "1e308",
            "1e999",
            "9223372036854775807",
            "9223372036854775808",
            "-0",
            "123456789012345678901234567890",
            "[]",
            "[null]",
            "{}",
            r#"{"pageNum":-1,"pageSize":1e9}"#,
            r#""\u0000""#,
            r#""a\u0000b""#,
            r#""\ud800""#,
            r#"["\u0000"]"#,
        ]
        .map(str::to_owned),
    );
    values
}

/// Asserts that an answer is a success or a row of the contract's table.
fn in_the_table(answer: &Answer, asked: &str) {
    assert!(answer.headers.contains_key("x-request-id"), "{asked}");
    assert_eq!(answer.headers["content-type"], "application/json", "{asked}");
    let body = &answer.body;
    if let (200, Value::String(text)) = (answer.status, body) {
        // A payload comes back to the letter, and not every reader takes all that JSON allows.
        assert!(text.starts_with(r#"{"code":0,"message":"OK","data":{"#), "{asked} -> {text}");
        return;
    }
    if answer.status == 200 {
        assert_eq!((&body["code"], &body["message"]), (&json!(0), &json!("OK")), "{asked}");
        return;
    }
    let row = TABLE.iter().find(|(status, code, kind)| {
        *status == answer.status && body["code"] == *code && body["error"]["kind"] == *kind
    });
    assert!(row.is_some(), "{asked} -> {} {body}", answer.status);
    assert!(body["data"].is_null() && body["error"]["requestId"] == answer.headers["x-request-id"].to_str().unwrap());
    let message = body["message"].as_str().unwrap();
    for leak in ["SELECT", "INSERT", "asynch_", "sqlx", "src/", "panicked"] {
        assert!(!message.contains(leak) || asked.contains(leak), "{asked} -> {message}");
    }
    if body["error"]["kind"] == "validation" {
        let field = body["error"]["field"].as_str().unwrap();
        assert!(message.contains(field), "{asked} -> {body}");
    }
}

backend_test!(whatever_a_field_holds_the_answer_is_in_the_table, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let model = app.api.create_model("tts", "http://m", &json!({})).await;
    for (method, path, fields) in FIELDS {
        for field in fields {
            for value in hostile() {
                // The other fields are right, so that this one is what the handler meets.
                let mut body = match path {
                    "/task/createTask" => json!({ "modelName": "tts" }),
                    "/model/createModel" => json!({ "modelName": "new", "baseUrl": "http://m" }),
                    "/model/updateModel" => json!({ "id": model }),
                    _ => json!({}),
                };
                body.as_object_mut().unwrap().remove(*field);
                let rest = body.to_string();
                let comma = if rest == "{}" { "" } else { "," };
                let text = format!("{{\"{field}\":{value}{comma}{}", &rest[1..]);
                let request = app.api.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
                let answer = app.api.send(request.header("content-type", "application/json").body(text.clone())).await;
                in_the_table(&answer, &format!("{method} {path} {}", &text[..text.len().min(200)]));
            }
        }
    }
    for id in ["'", "%27%20OR%201=1", "%00", "1%00", "-9223372036854775809", "%F0%9F%98%80", "1;2", "0x1"] {
        for path in ["/model/getModel?id=", "/task/getTaskResult?taskId="] {
            in_the_table(&app.api.get(&format!("{path}{id}")).await, &format!("{path}{id}"));
        }
        in_the_table(&app.api.delete(&format!("/model/deleteModel?id={id}")).await, id);
    }
    let after = app.api.get(&format!("/model/getModel?id={model}")).await.data();
    assert_eq!(after["tenantId"], "0", "nothing was harmed");
    app.stop().await;
});

backend_test!(metacharacters_of_sql_and_like_are_taken_to_the_letter, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let names = ["a%b", "a_b", "a\\b", "a'b", "aXb", "A%B", "été"];
    let total = async |route: &str, filter: &Value| app.api.post(route, filter).await.data()["total"].clone();
    for name in names {
        app.api.create_model(name, "http://m", &json!({ "remark": name })).await;
        app.api.create_task(name, &json!(name)).await;
    }
    for name in names {
        for route in ["/model/listModel", "/task/listTask"] {
            assert_eq!(total(route, &json!({ "modelName": name })).await, 1, "{route} {name}");
        }
    }
    for (part, count) in [("%", 2), ("_", 1), ("\\", 1), ("'", 1), ("a%", 1), ("b", 5), ("%%", 0), ("A", 1)] {
        for route in ["/model/listModel", "/task/listTask"] {
            assert_eq!(total(route, &json!({ "modelName": part })).await, count, "{route} {part}");
        }
    }
    assert_eq!(total("/task/listTask", &json!({ "taskId": "%" })).await, 0);
    assert_eq!(total("/task/listTask", &json!({ "taskId": "_" })).await, 0);
    app.stop().await;
});

backend_test!(ids_are_strings_on_the_way_out_and_either_on_the_way_in, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    // Above 2^53, where a reader that makes floating-point numbers of them would lose digits.
    let tenant = 9_007_199_254_740_993_i64;
    let mut raw = Raw::connect(db).await;
    let now = match db.kind() {
        crate::support::backend::Kind::Postgres => "now()",
        crate::support::backend::Kind::Sqlite => "1700000000000000",
    };
    raw.execute(format!(
        "INSERT INTO asynch_models (id, tenant_id, creator, created_at, updater, updated_at, model_name, base_url)
         VALUES (9007199254740995, {tenant}, 'ann', {now}, 'ann', {now}, 'tts', 'http://m')"
    ))
    .await;
    for (id, tenant) in
        [(json!("9007199254740995"), json!(tenant.to_string())), (json!(9_007_199_254_740_995_i64), json!(tenant))]
    {
        let body = json!({ "id": id, "tenantId": tenant, "remark": "seen" });
        app.api.put("/model/updateModel", &body).await.data();
        let list = app.api.post("/model/listModel", &json!({ "tenantId": tenant })).await.data()["list"].clone();
        assert_eq!((&list[0]["id"], &list[0]["tenantId"]), (&json!("9007199254740995"), &json!("9007199254740993")));
        assert_eq!(list[0]["remark"], "seen");
    }
    let named = json!({ "id": 9_007_199_254_740_995_i64, "tenantId": tenant });
    app.api.post("/model/deleteModel", &named).await.data();
    app.stop().await;
});

backend_test!(every_answer_carries_a_request_id_and_a_sane_one_of_the_caller_is_kept, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let id = |answer: &Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let ours = app.api.with_header("x-request-id", "order-7:retry.1_a");
    for path in
        ["/healthz", "/readyz", "/openapi.json", "/nowhere", "/file/x", "/model/getModel?id=1", "/task/createTask"]
    {
        assert_eq!(id(&ours.get(path).await), "order-7:retry.1_a", "{path}");
        let (first, second) = (id(&app.api.get(path).await), id(&app.api.get(path).await));
        assert!(first.len() >= 16 && first != second, "{path}: {first}");
    }
    for insane in ["a b", "<script>", &"x".repeat(129), "", "é"] {
        let answer = app.api.with_header("x-request-id", insane).get("/nowhere").await;
        assert_ne!(id(&answer), insane);
        assert_eq!(answer.body["error"]["requestId"], id(&answer));
    }
    app.stop().await;
});

backend_test!(times_are_utc_with_milliseconds_wherever_they_show, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    app.api.create_model("tts", "http://m", &json!({})).await;
    app.api.create_task("tts", &Value::Null).await;
    let first = async |api: &Api, route: &str| {
        crate::support::eventually::eventually("a row", async || {
            let row = api.post(route, &json!({})).await.data()["list"][0].clone();
            if row.is_object() { Ok(row) } else { Err(row) }
        })
        .await
    };
    for (route, fields) in [
        ("/model/listModel", &["createdAt", "updatedAt"][..]),
        ("/task/listTask", &["createdAt", "enqueueAt"]),
        ("/opLog/listOpLog", &["createdAt", "updatedAt"]),
    ] {
        let row = first(&app.api, route).await;
        for field in fields {
            let time = row[field].as_str().unwrap();
            let read = chrono::DateTime::parse_from_rfc3339(time).unwrap();
            assert_eq!(time, read.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "{route} {field}");
        }
    }
    let task = first(&app.api, "/task/listTask").await;
    for none in ["startedAt", "finishedAt", "expireAt"] {
        assert!(task.as_object().unwrap().contains_key(none) && task[none].is_null(), "{none}");
    }
    app.stop().await;
});

backend_test!(a_page_out_of_range_is_refused_by_every_list, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    for route in ["/model/listModel", "/task/listTask", "/stat/listModelStat", "/opLog/listOpLog"] {
        for (page, field) in [
            (json!({ "pageNum": 0 }), "page.pageNum"),
            (json!({ "pageNum": -1 }), "page.pageNum"),
            (json!({ "pageSize": 0 }), "page.pageSize"),
            (json!({ "pageSize": 1001 }), "page.pageSize"),
            (json!({ "pageSize": "ten" }), "page.pageSize"),
            (json!("1"), "page"),
        ] {
            let answer = app.api.post(route, &json!({ "page": page })).await;
            assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field, "{route} {page}");
        }
        let far = json!({ "page": { "pageNum": i64::MAX, "pageSize": 1000 } });
        assert_eq!(app.api.post(route, &far).await.data()["list"], json!([]), "{route}");
    }
    app.stop().await;
});
