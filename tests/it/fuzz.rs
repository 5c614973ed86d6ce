//! The API under schemathesis: requests made up from the OpenAPI document that the running service
//! hands out, ones that keep to it and ones that do not. No answer may be a 5xx, or one that the
//! document does not describe.
//!
//! A few requests for each route, the same ones every time, unless `TEST_FUZZ_EXAMPLES` and
//! `TEST_FUZZ_SEED` say otherwise.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::{TestDb, server},
        model::FakeModel,
        process::Process,
    },
};

/// What every answer must be.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance";

backend_test!(no_request_gets_an_answer_that_the_document_does_not_allow, async |db: &TestDb| {
    let Some(program) = server("TEST_SCHEMATHESIS") else { return };
    let model = FakeModel::echo().await;
    // The made-up models are nowhere, so nothing but an answer comes of them.
    let app = TestApp::with(db, &[("egress.otherwise", "all")]).await;
    // Named as in the document's examples, which thereby create tasks.
    let model_id = app.api.create_model("tts", &model.url, &json!({})).await;
    let task_id = app.api.create_task("tts", &json!({ "text": "Hello" })).await;
    let done = app.api.until(&task_id, &[2]).await;
    let (_, file) = done["ossFile"].as_str().unwrap().split_once("/file/").unwrap();
    let config = with_known(db.dir(), &model_id, &task_id, file);

    let (examples, seed) = (number("TEST_FUZZ_EXAMPLES", 5), number("TEST_FUZZ_SEED", 1));
    let mut command = Command::new(program);
    command.arg("--config-file").arg(config).args(["run", &format!("{}/openapi.json", app.api.url)]);
    command.args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--continue-on-failure"]);
    command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()]);
    command.args(["--generation-database", "none", "--warnings", "off", "--request-timeout", "20", "--no-color"]);
    command.current_dir(db.dir()).env("NO_PROXY", "127.0.0.1").env("PYTHONUTF8", "1");
    let mut run = Process::start(&mut command);
    let ended = run.exit_code_within(Duration::from_secs(300 + 20 * examples)).await;
    assert_eq!(ended, Some(0), "{}", run.said());
    app.stop().await;
});

/// A configuration with names of things that exist: made-up ids alone would meet nothing but 404s.
fn with_known(folder: &Path, model: &str, task: &str, file: &str) -> PathBuf {
    let path = folder.join("schemathesis.toml");
    let text = format!(
        r#"
        [dictionaries]
        models = {{ values = ["{model}"] }}
        tasks = {{ values = ["{task}"] }}
        files = {{ values = ["{file}"] }}
        known = {{ values = ["{model}", "{task}", "tts", "7"] }}

        [parameters]
        id = {{ dictionary = "models", probability = 0.5 }}
        taskId = {{ dictionary = "tasks", probability = 0.5 }}
        key = {{ dictionary = "files", probability = 0.5 }}

        [generation.dictionaries]
        string = {{ dictionary = "known", probability = 0.2 }}
        "#
    );
    fs::write(&path, text).unwrap();
    path
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let said = env::var(variable).ok().filter(|text| !text.is_empty());
    said.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number: {text:?}")))
}
