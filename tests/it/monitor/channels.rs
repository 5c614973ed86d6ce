//! How operators are told: mails over every kind of connection, signed posts, and `alert test`.

use std::process::{Command, Output};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use model_asynch::config::load::variable;
use serde_json::{Value, json};

use super::{SECRET, hears, posting_to, queue, receiver, start, types, watching};
use crate::{
    backend_test,
    support::{
        backend::TestDb,
        model::{Call, FakeModel, Reply},
        smtp::{MailServer, Manners},
    },
};

/// `alert test` with these settings, in an empty folder.
fn alert_test(arguments: &[&str], settings: &[(&str, String)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_model-asynch"))
        .args(["alert", "test"])
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .envs(settings.iter().map(|(key, value)| (variable(key), value)))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// With one setting otherwise.
fn but(mut settings: Vec<(&'static str, String)>, key: &'static str, value: &str) -> Vec<(&'static str, String)> {
    settings.retain(|(other, _)| *other != key);
    settings.push((key, value.to_owned()));
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_alert_is_mailed_over_every_kind_of_connection() {
    for (tls, login) in [("none", ("", "")), ("starttls", ("ann", "geheim")), ("tls", ("ann", "geheim"))] {
        let Some(server) = MailServer::with(&Manners { tls, login }).await else { return };
        let mut settings = but(server.settings(), "monitor.email.tls", tls);
        if tls != "none" {
            settings.push(("monitor.email.caFile", server.certificate.display().to_string()));
        }
        if !login.0.is_empty() {
            settings
                .extend([("monitor.email.user", login.0.to_owned()), ("monitor.email.password", login.1.to_owned())]);
        }
        let output = alert_test(&["--channel", "email"], &settings);
        assert_eq!(output.status.code(), Some(0), "{tls}: {}", said(&output));
        let line = format!("email: sent to ann@example.com, bo@example.com through 127.0.0.1:{}", server.port());
        assert!(said(&output).contains(&line) && said(&output).contains("it is taken"), "{}", said(&output));
        let mail = server.takes(1).await.remove(0);
        assert_eq!(mail.subject, "[test] this is a test, nothing is wrong");
        assert_eq!((mail.secret, mail.user.as_str()), (tls != "none", login.0), "{tls}");
        assert!(!said(&output).contains("geheim"), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_cannot_be_trusted_or_trusts_nobody_gets_no_mail() {
    let Some(server) = MailServer::with(&Manners { tls: "starttls", login: ("ann", "geheim") }).await else { return };
    let mut trusted = but(server.settings(), "monitor.email.tls", "starttls");
    trusted.push(("monitor.email.user", "ann".to_owned()));
    trusted.push(("monitor.email.password", "geheim".to_owned()));
    let stranger = alert_test(&[], &trusted);
    assert_eq!(stranger.status.code(), Some(1));
    assert!(
        said(&stranger).contains("email: NOT sent to ann@example.com") && said(&stranger).contains("certificate"),
        "{}",
        said(&stranger)
    );
    assert!(said(&stranger).contains("webhook: not set up; monitor.webhook.url is empty"), "{}", said(&stranger));
    trusted.push(("monitor.email.caFile", server.certificate.display().to_string()));
    let wrong = alert_test(&["--channel", "email"], &but(trusted.clone(), "monitor.email.password", "falsch"));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("NOT sent") && said(&wrong).contains("535"), "{}", said(&wrong));
    assert!(!said(&wrong).contains("falsch"), "{}", said(&wrong));
    // A server that does not offer TLS must not get the password in clear.
    let Some(plain) = MailServer::start().await else { return };
    let downgraded = but(trusted, "monitor.email.port", plain.port());
    let output = alert_test(&["--channel", "email"], &downgraded);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(server.mails().is_empty() && plain.mails().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_can_be_in_chinese() {
    let Some(server) = MailServer::start().await else { return };
    let mut settings = server.settings();
    settings.push(("monitor.language", "zh".to_owned()));
    let output = alert_test(&["--channel", "email"], &settings);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let mail = server.takes(1).await.remove(0);
    assert_eq!(mail.subject, "[测试] 这是一条测试消息，一切正常");
    assert!(mail.text.contains("由命令 model-asynch alert test 发送。"), "{}", mail.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_alert_says_what_became_of_it_on_each_channel() {
    let receiver = receiver().await;
    let output = alert_test(&[], &posting_to(&receiver));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("email: not set up; monitor.email.host is empty\n"), "{text}");
    assert!(text.contains(&format!("webhook: sent to {}; the other side said: 200 OK\n", receiver.url)), "{text}");
    assert!(text.contains("alert test: this is a test, nothing is wrong") && text.contains("log: written"), "{text}");
    assert_eq!(types(&super::told(&receiver.calls())), ["alert.test"]);

    let refusing = FakeModel::always(Reply::Status(403, Vec::new(), "no".into())).await;
    let output = alert_test(&["--channel", "webhook"], &posting_to(&refusing));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the receiver answered 403 Forbidden"), "{}", said(&output));
    let output = alert_test(&["--channel", "webhook"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("webhook: not set up"), "{}", said(&output));
}

/// As a receiver that read the convention does it.
fn is_signed(call: &Call) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(SECRET).unwrap());
    let (id, timestamp) = (call.header("webhook-id"), call.header("webhook-timestamp"));
    let signed = format!("{id}.{timestamp}.{}", call.text());
    let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().unwrap();
    let signature = STANDARD.decode(call.header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&key, signed.as_bytes(), &signature).is_ok() && (0..60).contains(&age)
}

backend_test!(a_post_is_signed_and_repeated_under_the_same_id_until_it_is_taken, async |db: &TestDb| {
    let receiver = FakeModel::start(|_, before| match before {
        0 => Reply::Status(500, Vec::new(), "not now".into()),
        1 => Reply::Status(302, vec![("location", "http://127.0.0.1:9/elsewhere".into())], String::new()),
        _ => Reply::Body("text/plain", "thanks".into()),
    })
    .await;
    let rules = json!([{ "name": "long", "pendingAbove": 0 }]);
    let app = start(db, &[watching(&rules), posting_to(&receiver)]).await;
    queue(&app.api.as_tenant(7, "ann"), "tts", 1).await;
    let told = hears(&receiver, 3).await;
    assert_eq!(types(&told), ["alert.began"; 3]);
    let calls = receiver.calls();
    assert!(calls.iter().all(is_signed), "{calls:?}");
    assert!(calls.iter().all(|call| call.header("webhook-id") == calls[0].header("webhook-id")));
    assert_eq!((calls[0].method.as_str(), calls[0].target.as_str()), ("POST", "/alerts"));
    assert_eq!(calls[0].header("content-type"), "application/json");
    let data = &told[0].1;
    assert_eq!((&data["rule"], &data["news"], &data["tenantId"]), (&json!("long"), &json!("began"), &json!("7")));
    assert_eq!(data["message"], "tts of tenant 7: 1 task is waiting (more than 0)");
    assert!(data["alertId"].is_string() && data["since"].as_str().unwrap().ends_with('Z'));
    let body: Value = serde_json::from_slice(&calls[0].body).unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(body["timestamp"].as_str().unwrap()).is_ok());
    app.stop().await;
});

#[test]
fn a_mistake_in_a_rule_stops_the_start_and_names_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let run = |yaml: &str, command: &str| {
        std::fs::write(dir.path().join("config.yml"), yaml).unwrap();
        let program = env!("CARGO_BIN_EXE_model-asynch");
        Command::new(program).arg(command).current_dir(dir.path()).env_clear().output().unwrap()
    };
    for (rule, message) in [
        (
            "{ name: a, pendingAbov: 3 }",
            "monitor.rules[0].pendingAbov: unknown key; did you mean monitor.rules[0].pendingAbove?",
        ),
        (
            "{ name: a, nodeLost: yes please }",
            "monitor.rules[0].nodeLost: \"yes please\" cannot be used; accepted: true",
        ),
        ("just a text", "monitor.rules: [\"just a text\"] cannot be used; accepted: a list of sections"),
    ] {
        let output = run(&format!("monitor:\n  rules:\n    - {rule}\n"), "serve");
        assert_eq!(output.status.code(), Some(2), "{rule}");
        assert!(said(&output).starts_with(&format!("model-asynch: {message}")), "{}", said(&output));
    }
    let output = run("monitor:\n  rules:\n    - { name: a, pendingAbove: 3, for: 2m }\n", "check-config");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("rule \"a\" (warning): each lane: more than 3 tasks wait, for 2m\n"),
        "{}",
        said(&output)
    );
    assert!(said(&output).contains("warning: monitor.rules are set, but neither"), "{}", said(&output));
}
