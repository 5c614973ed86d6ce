//! Contract §3: models.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
};

const WITHOUT_WORKER: (&str, &str) = ("worker.enabled", "false");

backend_test!(a_model_is_registered_shown_changed_and_deleted, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(7, "bob"));
    let id = ann.create_model("tts", "http://m", &json!({ "apiKey": "A:secret,B:\"x, y\"", "retryTimes": 2 })).await;
    let path = format!("/model/getModel?id={id}");
    let model = ann.get(&path).await.data();
    assert_eq!((&model["id"], &model["tenantId"], &model["creator"]), (&json!(id), &json!("7"), &json!("ann")));
    assert_eq!(
        (&model["apiKey"], &model["retryTimes"], &model["enabled"]),
        (&json!("A:****,B:****"), &json!(2), &json!(1))
    );

    let change = json!({ "id": id.parse::<i64>().unwrap(), "enabled": 0, "apiKey": "A:****" });
    assert_eq!(bob.put("/model/updateModel", &change).await.data(), json!({}));
    let changed = ann.get(&path).await.data();
    assert_eq!((&changed["updater"], &changed["creator"]), (&json!("bob"), &json!("ann")));
    assert_eq!(
        (&changed["enabled"], &changed["retryTimes"], &changed["apiKey"]),
        (&json!(0), &json!(2), &json!("A:****"))
    );

    assert_eq!(ann.delete(&format!("/model/deleteModel?id={id}")).await.data(), json!({}));
    ann.get(&path).await.refused(404, 65, "not_found");
    ann.put("/model/updateModel", &change).await.refused(404, 65, "not_found");
    ann.delete(&format!("/model/deleteModel?id={id}")).await.refused(404, 65, "not_found");
    let again = ann.create_model("tts", "http://m", &json!({})).await;
    assert_ne!(again, id);
    assert_eq!(ann.post("/model/deleteModel", &json!({ "id": again })).await.data(), json!({}));
    app.stop().await;
});

backend_test!(a_name_is_taken_once_per_tenant, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    ann.create_model("tts", "http://m", &json!({})).await;
    let ocr = ann.create_model("ocr", "http://m", &json!({})).await;
    bob.create_model("tts", "http://m", &json!({})).await;
    let twice = ann.post("/model/createModel", &json!({ "modelName": "tts", "baseUrl": "http://m" })).await;
    twice.refused(409, 55, "conflict");
    assert_eq!(twice.body["error"]["field"], "modelName");
    ann.put("/model/updateModel", &json!({ "id": ocr, "modelName": "tts" })).await.refused(409, 55, "conflict");
    app.stop().await;
});

backend_test!(a_field_that_breaks_its_rule_is_named, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let ann = app.api.as_tenant(7, "ann");
    let id = ann.create_model("tts", "http://m", &json!({})).await;
    for (field, value) in [
        ("modelName", json!("")),
        ("modelName", json!("x".repeat(129))),
        ("baseUrl", json!("ftp://m")),
        ("httpMethod", json!("PUT")),
        ("apiKey", json!("A:b\r\nC:d")),
        ("enabled", json!(true)),
        ("maxConcurrency", json!(0)),
        ("maxConcurrency", json!(10.0)),
        ("maxConcurrency", json!(99_999_999_999_i64)),
        ("timeoutSeconds", json!("60")),
        ("retryTimes", json!(101)),
        ("remark", json!("a\0b")),
        ("shared", json!(1)),
    ] {
        let mut create = json!({ "modelName": "new", "baseUrl": "http://m" });
        create[field] = value.clone();
        let mut update = json!({ "id": id });
        update[field] = value.clone();
        for answer in [ann.post("/model/createModel", &create).await, ann.put("/model/updateModel", &update).await] {
            answer.refused(400, 51, "validation");
            assert_eq!(answer.body["error"]["field"], field, "{value}");
            assert!(answer.body["message"].as_str().unwrap().contains(field), "{value}");
        }
    }
    for (body, field) in [(json!({}), "modelName"), (json!({ "modelName": "x" }), "baseUrl")] {
        assert_eq!(ann.post("/model/createModel", &body).await.body["error"]["field"], field);
    }
    let shared = ann.put("/model/updateModel", &json!({ "id": id, "shared": true })).await;
    shared.refused(403, 62, "forbidden");
    assert_eq!(shared.body["error"]["field"], "shared");
    app.stop().await;
});

backend_test!(a_bad_id_is_refused_and_an_unknown_one_not_found, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    for query in ["", "?id=", "?id=x", "?id=1.5", "?id=99999999999999999999", "?other=1"] {
        for answer in [
            app.api.get(&format!("/model/getModel{query}")).await,
            app.api.delete(&format!("/model/deleteModel{query}")).await,
        ] {
            answer.refused(400, 51, "validation");
            assert_eq!(answer.body["error"]["field"], "id", "{query}");
        }
    }
    for id in [json!(null), json!(1.5), json!("x"), json!([1]), json!(true)] {
        let answer = app.api.put("/model/updateModel", &json!({ "id": id })).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], "id", "{id}");
    }
    for id in ["0", "-1", "9223372036854775807"] {
        app.api.get(&format!("/model/getModel?id={id}")).await.refused(404, 65, "not_found");
    }
    app.stop().await;
});

backend_test!(models_are_listed_newest_first_page_by_page, async |db: &TestDb| {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    for name in ["a_1", "a%2", "b3"] {
        app.api.create_model(name, "http://m", &json!({})).await;
    }
    let names = async |body: Value| {
        let data = app.api.post("/model/listModel", &body).await.data();
        let names: Vec<String> =
            data["list"].as_array().unwrap().iter().map(|model| model["modelName"].as_str().unwrap().into()).collect();
        (names.join(" "), data["total"].as_i64().unwrap())
    };
    assert_eq!(names(json!({})).await, ("b3 a%2 a_1".into(), 3));
    assert_eq!(names(json!({ "page": { "pageNum": "2", "pageSize": 2 } })).await, ("a_1".into(), 3));
    assert_eq!(names(json!({ "page": { "pageNum": i64::MAX, "pageSize": 1000 } })).await, (String::new(), 3));
    assert_eq!(names(json!({ "modelName": "a" })).await, ("a%2 a_1".into(), 2));
    assert_eq!(names(json!({ "modelName": "_" })).await, ("a_1".into(), 1));
    assert_eq!(names(json!({ "modelName": "" })).await.1, 3);
    for (page, field) in [
        (json!({ "pageNum": 0 }), "page.pageNum"),
        (json!({ "pageNum": "x" }), "page.pageNum"),
        (json!({ "pageSize": 1001 }), "page.pageSize"),
        (json!({ "pageSize": 1.5 }), "page.pageSize"),
        (json!([]), "page"),
    ] {
        let answer = app.api.post("/model/listModel", &json!({ "page": page })).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field, "{page}");
    }
    app.stop().await;
});
