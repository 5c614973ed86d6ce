//! Tokens made, used and revoked with the command line, beside a running service.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{bearing, token};
use crate::{
    backend_test,
    support::{
        app::{TestApp, environment},
        backend::{Kind, TestDb},
        eventually::until,
        raw::Raw,
    },
};

const SETTINGS: [(&str, &str); 2] = [("auth.mode", "token"), ("worker.enabled", "false")];

fn command(db: &TestDb, args: &[&str]) -> Output {
    let environment = environment(db, "127.0.0.1:0", &SETTINGS);
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-asynch"));
    command.current_dir(db.dir()).env_clear().envs(environment).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

backend_test!(a_token_is_made_shown_once_used_and_revoked_beside_a_running_service, async |db: &TestDb| {
    let app = TestApp::with(db, &SETTINGS).await;
    let made = command(
        db,
        &["token", "create", "--tenant", "7", "--user", "ci", "--scopes", "task:write,task:read", "--expires", "30d"],
    );
    let text = stdout(&made).trim().to_owned();
    assert!(text.starts_with("ma_") && !text.contains(char::is_whitespace), "{text}");
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(said.contains("tenant 7, user ci") && !said.contains(&text), "{said}");
    let api = bearing(&app.api, &text);
    assert_eq!(api.post("/task/listTask", &json!({})).await.data()["total"], 0);
    api.post("/model/listModel", &json!({})).await.refused(403, 62, "forbidden");

    let listed = stdout(&command(db, &["token", "list"]));
    assert!(listed.contains("works") && listed.contains("task:write,task:read") && listed.contains("ci"), "{listed}");
    assert!(!listed.contains(&text[3..]), "{listed}");
    assert!(!stdout(&command(db, &["token", "list", "--tenant", "8"])).contains("ci"));
    let stored = Raw::connect(db).await.texts("SELECT hash FROM asynch_token").await;
    assert!(stored.len() == 1 && stored[0].len() == 64 && !text.contains(&stored[0]), "{stored:?}");
    let used = Raw::connect(db).await.texts("SELECT user_name FROM asynch_token WHERE last_used_at IS NOT NULL").await;
    assert_eq!(used, ["ci"]);

    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let before = Instant::now();
    assert!(stdout(&command(db, &["token", "revoke", &id])).contains("is revoked"));
    let revoked = Instant::now();
    until("the token to stop", async || api.post("/task/listTask", &json!({})).await.status == 401).await;
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?} {:?}", before.elapsed(), revoked.elapsed());
    assert!(stdout(&command(db, &["token", "revoke", &id])).contains("was revoked before"));
    assert!(stdout(&command(db, &["token", "list"])).contains("revoked"));
    app.stop().await;
});

backend_test!(what_the_command_cannot_do_it_says_in_words, async |db: &TestDb| {
    for (args, code, words) in [
        (&["token", "revoke", "99"][..], 1, "there is no token 99"),
        (
            &["token", "create", "--tenant", "7", "--user", "ci", "--scopes", "task:delete"],
            2,
            "is no scope; accepted: task:write",
        ),
        (&["token", "create", "--tenant", "x", "--user", "ci", "--scopes", "admin"], 2, "--tenant"),
        (&["token", "create", "--tenant", "7", "--user", "", "--scopes", "admin"], 2, "1 to 64 characters"),
        (&["token", "create", "--tenant", "7", "--user", "ci", "--scopes", "admin", "--expires", "5"], 2, "30d"),
    ] {
        let output = command(db, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words), "{args:?}: {said}");
    }
});

backend_test!(an_expired_token_stops_and_a_wrong_one_is_never_asked_for_twice, async |db: &TestDb| {
    let app = TestApp::with(db, &SETTINGS).await;
    let (id, text) = token(db, 7, "ci", "task:read").await;
    let api = bearing(&app.api, &text);
    api.post("/task/listTask", &json!({})).await.data();
    let past = if db.kind() == Kind::Sqlite { "1000" } else { "now() - interval '1 second'" };
    Raw::connect(db).await.execute(format!("UPDATE asynch_token SET expires_at = {past} WHERE id = {}", id.0)).await;
    until("the token to expire", async || api.post("/task/listTask", &json!({})).await.status == 401).await;
    let answer = api.post("/task/listTask", &json!({})).await;
    assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert!(!answer.body.to_string().contains(&text));
    app.stop().await;
});

#[tokio::test]
async fn beside_a_service_of_another_version_the_schema_is_left_alone() {
    let db = TestDb::new(Kind::Sqlite).await.unwrap();
    let app = TestApp::with(&db, &SETTINGS).await;
    Raw::connect(&db).await.execute("DELETE FROM _sqlx_migrations WHERE version = 2").await;
    let output = command(&db, &["token", "list"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("of another version; stop it"), "{said}");
    app.stop().await;
}
