//! Where models may be called: checked when a model is saved, and when a connection is made.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::TestDb,
        model::{FakeModel, Reply},
    },
};

backend_test!(a_model_at_an_address_that_may_not_be_called_is_not_saved, async |db: &TestDb| {
    let app = TestApp::with(db, &[("egress.allow", "127.0.0.1"), ("egress.otherwise", "public")]).await;
    let id = app.api.create_model("m", "http://127.0.0.1:9/", &json!({})).await;
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://10.0.0.1:8000/",
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://0.0.0.0/",
    ] {
        let create = json!({ "modelName": "other", "baseUrl": url });
        let refused = app.api.post("/model/createModel", &create).await;
        assert_eq!(refused.refused(400, 51, "validation").body["error"]["field"], "baseUrl", "{url}");
        let update = json!({ "id": id, "baseUrl": url });
        app.api.put("/model/updateModel", &update).await.refused(400, 51, "validation");
    }
    let saved = app.api.get(&format!("/model/getModel?id={id}")).await.data();
    assert_eq!(saved["baseUrl"], "http://127.0.0.1:9/");
    app.stop().await;
});

backend_test!(a_connection_is_made_only_to_what_may_be_called_now, async |db: &TestDb| {
    let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
    let by_name = model.url.replace("127.0.0.1", "localhost");
    let app = TestApp::with(db, &[("egress.allow", "127.0.0.0/8, ::1")]).await;
    app.api.create_model("by-name", &by_name, &json!({ "retryTimes": 5 })).await;
    app.api.create_model("by-address", &model.url, &json!({ "retryTimes": 5 })).await;
    for name in ["by-name", "by-address"] {
        let task = app.api.create_task(name, &Value::Null).await;
        app.api.until(&task, &[2]).await;
    }
    app.stop().await;

    let calls = model.calls().len();
    let app = TestApp::with(db, &[("egress.allow", ""), ("egress.otherwise", "public")]).await;
    for name in ["by-name", "by-address"] {
        let task = app.api.create_task(name, &Value::Null).await;
        let failed = app.api.until(&task, &[3]).await;
        assert!(failed["errorMsg"].as_str().unwrap().contains("egress.allow"), "{failed}");
        assert_eq!(failed["retryCount"], 0);
    }
    assert_eq!(model.calls().len(), calls);
    app.stop().await;
});
