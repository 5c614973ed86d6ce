//! A new `secrets.key`: everything stored is sealed anew while the service runs.

use std::process::{Command, Output};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use model_asynch::secrets::Vault;
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{TestApp, environment},
        backend::TestDb,
        file_service::FileService,
        raw::Raw,
    },
};

fn rotate(db: &TestDb, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-asynch"));
    let environment = environment(db, "127.0.0.1:0", settings);
    command.current_dir(db.dir()).env_clear().envs(environment).args(["secrets", "rotate"]).output().unwrap()
}

async fn stored(db: &TestDb) -> Vec<String> {
    let query = "SELECT api_key FROM asynch_models UNION ALL SELECT caller_headers FROM asynch_task";
    Raw::connect(db).await.texts(query).await
}

backend_test!(everything_is_sealed_under_the_new_key_while_the_service_runs, async |db: &TestDb| {
    let files = FileService::start().await;
    let url = files.url().to_string();
    let keys = [[7_u8; 32], [8; 32]].map(|key| STANDARD.encode(key));
    let common = [("worker.enabled", "false"), ("oss.kind", "http"), ("oss.url", url.as_str())];
    let with = |extra: &[(&'static str, &str)]| -> Vec<(String, String)> {
        common.iter().chain(extra).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let make = async |settings: &[(String, String)], name: &str| {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let app = TestApp::with(db, &settings).await;
        app.api.create_model(name, "http://m", &json!({ "apiKey": format!("A:key-of-{name}") })).await;
        app.api.with_header("authorization", &format!("Bearer {name}")).create_task(name, &Value::Null).await;
        app
    };
    // One model and task in clear, one under the first key, one under the second.
    make(&with(&[]), "clear").await.stop().await;
    make(&with(&[("secrets.key", &keys[0])]), "first").await.stop().await;
    let both = with(&[("secrets.key", &keys[1]), ("secrets.previousKeys", &keys[0])]);
    let app = make(&both, "second").await;
    let both: Vec<(&str, &str)> = both.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();

    let lost = rotate(db, &[("secrets.key", &keys[1])]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("2 stored secrets are sealed under a key"), "{lost:?}");
    let output = rotate(db, &both);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 models") && said.contains("1 tasks"), "{said}");
    assert!(String::from_utf8_lossy(&rotate(db, &both).stdout).contains("0 models"), "a second run has nothing to do");

    let only_new = Vault::new(&[8; 32]);
    let opened: Vec<String> = stored(db).await.iter().map(|stored| only_new.open(stored).unwrap()).collect();
    for name in ["clear", "first", "second"] {
        assert!(opened.iter().any(|text| text.contains(&format!("key-of-{name}"))), "{name}");
        assert!(opened.iter().any(|text| text.contains(&format!("Bearer {name}"))), "{name}");
    }
    assert!(stored(db).await.iter().all(|stored| stored.starts_with("sealed:v2:")));
    assert_eq!(app.api.post("/model/listModel", &json!({})).await.data()["total"], 3, "the service reads them all");
    app.stop().await;
    let needs = rotate(db, &[]);
    assert_eq!(needs.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&needs.stderr).contains("secrets.key: is required"));
});
