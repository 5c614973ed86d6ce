//! Models: from the first one to the last.

use serde_json::json;

use super::{Scene, Visitor, obliging};
use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
};

backend_test!(a_first_visit_leads_to_a_model_and_to_its_answer, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = obliging().await;
    let Some(visitor) = Visitor::at(&app.api.url).await else { return };
    visitor.sees("Three steps to the first result").await;
    visitor.presses("Register a model").await;
    visitor.fills("Name", "echo").await;
    visitor.fills("Base URL", "not a URL").await;
    visitor.presses("Save").await;
    visitor.sees("Please enter a URL").await;
    visitor.fills("Base URL", &model.url).await;
    visitor.fills("Calls at once", "3").await;
    visitor.presses("Save").await;
    visitor.sees("echo is registered.").await;

    visitor.presses("Models").await;
    visitor.presses("Test call: echo").await;
    visitor.fills("Payload (JSON)", "{not json").await;
    visitor.presses("Send").await;
    visitor.sees("This is not JSON").await;
    visitor.fills("Payload (JSON)", r#"{"greeting": "Good morning", "big": 12345678901234567890}"#).await;
    visitor.presses("Send").await;
    visitor.sees("Succeeded").await;
    // The answer, every digit of it.
    visitor.sees("\"greeting\": \"Good morning\"").await;
    visitor.sees("12345678901234567890").await;
    assert_eq!(model.calls().len(), 1);
    let models = app.api.post("/model/listModel", &json!({})).await.data();
    assert_eq!(models["list"][0]["maxConcurrency"], 3);
    visitor.leaves().await;
    app.stop().await;
});

backend_test!(a_model_is_paused_resumed_changed_and_deleted, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let (app, visitor) = (&scene.app, &scene.visitor);
    let reader = async || {
        let found = app.api.post("/model/listModel", &json!({ "modelName": "reader" })).await.data();
        found["list"][0].clone()
    };
    visitor.presses("Models").await;
    visitor.presses("Pause: reader").await;
    visitor.sees("reader is paused").await;
    assert_eq!(reader().await["enabled"], 0);
    visitor.presses("Resume: reader").await;
    visitor.sees("reader goes on.").await;
    assert_eq!(reader().await["enabled"], 1);

    visitor.presses("Edit: reader").await;
    visitor.fills("Retries", "4").await;
    visitor.fills("Headers for the model", "Authorization:Bearer s3cret").await;
    visitor.presses("Save").await;
    visitor.sees("reader is saved.").await;
    assert_eq!(
        (reader().await["retryTimes"].clone(), reader().await["apiKey"].clone()),
        (json!(4), json!("Authorization:****"))
    );
    visitor.presses("Edit: reader").await;
    visitor.fills("Name", "painter").await;
    visitor.presses("Save").await;
    // The service's refusal, at its field or above the buttons, and the form stays.
    visitor.sees("another model").await;
    visitor.presses("Cancel").await;

    visitor.presses("Delete: reader").await;
    visitor.sees("Delete reader?").await;
    visitor.presses("Delete").await;
    visitor.sees("reader is deleted.").await;
    assert_eq!(app.api.post("/model/listModel", &json!({})).await.data()["total"], 1);
    scene.visitor.leaves_after(&["model/updateModel"]).await;
    scene.app.stop().await;
});
