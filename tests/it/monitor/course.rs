//! From the beginning of an alert to its end: once each, whoever checks.

use serde_json::{Value, json};

use super::{alerts, close, hears, listed, posting_to, queue, receiver, start, told, types, watching};
use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::{Kind, TestDb, on},
        eventually::{eventually, until},
        smtp::MailServer,
    },
};

/// Each lane with more than two tasks.
fn rule() -> Value {
    json!([{ "name": "too long", "pendingAbove": 2, "severity": "critical" }])
}

backend_test!(an_alert_is_mailed_once_when_it_begins_and_once_when_it_ends, async |db: &TestDb| {
    let Some(mail) = MailServer::start().await else { return };
    let public = vec![("server.publicUrl", "https://models.example".to_owned())];
    let app = start(db, &[watching(&rule()), mail.settings(), public]).await;
    let ann = app.api.as_tenant(7, "ann");
    let model = queue(&ann, "tts", 2).await;
    ann.create_task("tts", &Value::Null).await;

    let began = mail.takes(1).await.remove(0);
    assert_eq!(began.subject, "[critical] tts of tenant 7: 3 tasks are waiting (more than 2)");
    assert!(
        began.text.contains("Rule: too long\n") && began.text.contains("https://models.example/"),
        "{}",
        began.text
    );
    assert!(began.html.contains("<li>3 tasks are waiting (more than 2)</li>"), "{}", began.html);
    assert_eq!((began.sender.as_str(), began.from.as_str()), ("models@example.com", "Models <models@example.com>"));
    assert_eq!(began.recipients, ["ann@example.com", "bo@example.com"]);
    assert_eq!(began.automatic, "auto-generated");
    let open = listed(&app.api, &json!({ "open": true }), 1).await.remove(0);
    assert_eq!(
        (&open["rule"], &open["severity"], &open["target"]),
        (&json!("too long"), &json!("critical"), &json!("lane"))
    );
    assert_eq!((&open["tenantId"], &open["modelName"], &open["name"]), (&json!("7"), &json!("tts"), &Value::Null));
    assert_eq!(open["causes"], json!([{ "condition": "pending", "tasks": 3, "above": 2 }]));
    assert_eq!(open["message"], "tts of tenant 7: 3 tasks are waiting (more than 2)");
    assert_eq!((&open["open"], &open["endedAt"]), (&json!(true), &Value::Null));

    close(&ann, &model).await;
    let both = mail.takes(2).await;
    assert_eq!(both[1].subject, "[over] tts of tenant 7: 3 tasks are waiting (more than 2)");
    assert_ne!(both[0].id, both[1].id);
    // The mail server has it before that is written down.
    let over = eventually("both mails to be written off", async || {
        let over = listed(&app.api, &json!({ "open": false }), 1).await.remove(0);
        if over["undelivered"] == json!([]) { Ok(over) } else { Err(over.to_string()) }
    })
    .await;
    assert_eq!(over["id"], open["id"]);
    assert!(over["endedAt"].is_string());
    assert!(alerts(&app.api, &json!({ "open": true })).await.is_empty());
    app.stop().await;
    assert_eq!(mail.mails().len(), 2, "neither was told again");
});

backend_test!(tenants_see_the_alerts_about_their_own_queues, async |db: &TestDb| {
    let rules = json!([
        { "name": "lanes", "pendingAbove": 0 },
        { "name": "models", "target": "model", "pendingAbove": 0 },
        { "name": "tenants", "target": "tenant", "tenant": 7, "pendingAbove": 0 },
    ]);
    let app = start(db, &[watching(&rules)]).await;
    let (ann, bo) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bo"));
    queue(&ann, "a", 1).await;
    queue(&bo, "b", 1).await;
    assert_eq!(listed(&app.api, &json!({}), 5).await.len(), 5, "an admin sees all of them");
    let of = async |list: Vec<Value>| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut found: Vec<_> = list.iter().map(|alert| (text(&alert["rule"]), text(&alert["tenantId"]))).collect();
        found.sort();
        found
    };
    let pair = |rule: &str, tenant: &str| (rule.to_owned(), tenant.to_owned());
    assert_eq!(of(alerts(&ann, &json!({})).await).await, [pair("lanes", "7"), pair("tenants", "7")]);
    assert_eq!(of(alerts(&bo, &json!({})).await).await, [pair("lanes", "8")]);
    assert_eq!(of(alerts(&app.api, &json!({ "tenantId": "8" })).await).await, [pair("lanes", "8")]);
    bo.post("/monitor/listAlert", &json!({ "tenantId": "7" })).await.refused(403, 62, "forbidden");
    let page = app.api.post("/monitor/listAlert", &json!({ "page": { "pageNum": 2, "pageSize": 2 } })).await.data();
    assert_eq!((page["total"].as_i64(), page["list"].as_array().unwrap().len()), (Some(5), 2));
    app.stop().await;
});

backend_test!(a_restart_neither_repeats_nor_forgets_an_alert, async |db: &TestDb| {
    let receiver = receiver().await;
    let app = start(db, &[watching(&rule()), posting_to(&receiver)]).await;
    let model = queue(&app.api.as_tenant(7, "ann"), "tts", 3).await;
    hears(&receiver, 1).await;
    app.stop().await;

    let app = start(db, &[watching(&rule()), posting_to(&receiver)]).await;
    close(&app.api.as_tenant(7, "ann"), &model).await;
    let told = hears(&receiver, 2).await;
    assert_eq!(types(&told), ["alert.began", "alert.ended"]);
    assert_eq!(told[0].1["alertId"], told[1].1["alertId"]);
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_one_tells_and_the_other_goes_on_when_it_leaves() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(mail) = MailServer::start().await else { return };
        let settings = || [watching(&rule()), mail.settings()];
        let nodes = [start(db, &settings()).await, start(db, &settings()).await];
        let ann = nodes[1].api.as_tenant(7, "ann");
        let model = queue(&ann, "tts", 3).await;
        mail.takes(1).await;
        let [first, second] = nodes;
        // Whichever has the turn: it may be taken over once, and once again.
        first.stop().await;
        close(&ann, &model).await;
        let mails = mail.takes(2).await;
        assert!(mails[0].subject.starts_with("[critical]") && mails[1].subject.starts_with("[over]"), "{mails:?}");
        let third = start(db, &settings()).await;
        second.stop().await;
        queue(&third.api.as_tenant(8, "bo"), "ocr", 3).await;
        let mails = mail.takes(3).await;
        assert!(mails[2].subject.starts_with("[critical] ocr of tenant 8"), "{mails:?}");
        third.stop().await;
        assert_eq!(mail.mails().len(), 3);
    })
    .await;
}

backend_test!(an_alert_that_lasts_is_told_again_at_the_interval, async |db: &TestDb| {
    let receiver = receiver().await;
    let reminding = vec![("monitor.remindEvery", "1s".to_owned())];
    let app = start(db, &[watching(&rule()), posting_to(&receiver), reminding]).await;
    let model = queue(&app.api.as_tenant(7, "ann"), "tts", 3).await;
    let told = hears(&receiver, 3).await;
    assert_eq!(types(&told)[..3], ["alert.began", "alert.reminded", "alert.reminded"]);
    let time = |data: &Value| chrono::DateTime::parse_from_rfc3339(data["at"].as_str().unwrap()).unwrap();
    assert!((time(&told[2].1) - time(&told[1].1)).num_milliseconds() >= 1000);
    close(&app.api.as_tenant(7, "ann"), &model).await;
    until("the end", async || types(&super::told(&receiver.calls())).last() == Some(&"alert.ended")).await;
    app.stop().await;
});

backend_test!(a_condition_that_does_not_last_for_long_enough_is_not_told, async |db: &TestDb| {
    let receiver = receiver().await;
    let rules = json!([
        { "name": "patient", "model": "tts", "pendingAbove": 2, "for": "1h" },
        { "name": "quick", "model": "ocr", "pendingAbove": 0 },
    ]);
    let app = start(db, &[watching(&rules), posting_to(&receiver)]).await;
    let ann = app.api.as_tenant(7, "ann");
    let model = queue(&ann, "tts", 3).await;
    queue(&ann, "ocr", 1).await;
    hears(&receiver, 1).await;
    close(&ann, &model).await;
    queue(&ann.as_tenant(9, "cy"), "ocr", 1).await;
    let told = hears(&receiver, 2).await;
    assert!(told.iter().all(|(_, data)| data["rule"] == "quick"), "{told:?}");
    assert_eq!(listed(&app.api, &json!({}), 2).await.len(), 2, "what is only pending is not listed");
    app.stop().await;
});

backend_test!(mails_come_late_but_come_when_the_server_was_away, async |db: &TestDb| {
    let Some(mut mail) = MailServer::start().await else { return };
    let receiver = receiver().await;
    mail.down();
    let app = start(db, &[watching(&rule()), mail.settings(), posting_to(&receiver)]).await;
    let ann = app.api.as_tenant(7, "ann");
    let model = queue(&ann, "tts", 3).await;
    hears(&receiver, 1).await;
    let alert = eventually("a failure that is noted", async || {
        let alert = alerts(&app.api, &json!({ "open": true })).await.remove(0);
        let noted = alert["undelivered"][0]["error"].as_str().is_some_and(|error| !error.is_empty());
        if noted { Ok(alert) } else { Err(alert.to_string()) }
    })
    .await;
    let undelivered = &alert["undelivered"][0];
    assert_eq!((&undelivered["channel"], &undelivered["news"]), (&json!("email"), &json!("began")));
    assert!(undelivered["error"].as_str().unwrap().contains("refused"), "{undelivered}");
    assert_eq!(alerts(&ann, &json!({})).await[0]["undelivered"][0]["error"], "", "operators alone see why");
    // Checks go on, and so do the other channels.
    close(&ann, &model).await;
    assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
    assert!(mail.mails().is_empty());
    mail.up().await;
    let mails = mail.takes(2).await;
    let mut subjects: Vec<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
    subjects.sort_unstable();
    assert!(subjects[0].starts_with("[critical]") && subjects[1].starts_with("[over]"), "{subjects:?}");
    until("nothing to be left", async || alerts(&app.api, &json!({})).await[0]["undelivered"] == json!([])).await;
    app.stop().await;
});

backend_test!(many_alerts_at_once_are_no_flood, async |db: &TestDb| {
    let Some(mail) = MailServer::start().await else { return };
    let receiver = receiver().await;
    let rules = json!([{ "name": "long", "pendingAbove": 0 }]);
    // The queues are there before anybody looks.
    let quiet = TestApp::with(db, &[("worker.enabled", "false")]).await;
    quiet.api.create_model("tts", "http://127.0.0.1:9", &json!({ "shared": true })).await;
    for tenant in 1..=46 {
        quiet.api.as_tenant(tenant, "ann").create_task("tts", &Value::Null).await;
    }
    quiet.stop().await;
    let app = start(db, &[watching(&rules), mail.settings(), posting_to(&receiver)]).await;
    let mails = mail.takes(10).await;
    assert_eq!(mails.iter().filter(|mail| mail.subject.starts_with("[warning] tts of tenant ")).count(), 9);
    assert_eq!(mails[9].subject, "[warning] alerts about 37 more lanes");
    assert!(mails[9].text.contains("and 17 more lanes"), "{}", mails[9].text);
    let told = hears(&receiver, 10).await;
    assert_eq!((told[9].0.as_str(), told[9].1["alerts"].as_array().unwrap().len()), ("alert.summary", 37));
    assert_eq!(listed(&app.api, &json!({ "page": { "pageSize": 100 } }), 46).await.len(), 46);
    app.stop().await;
    assert_eq!((mail.mails().len(), receiver.calls().len()), (10, 10));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_are_in_the_log_with_their_fields() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let settings = watching(&rule());
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let node = Node::start(db, &settings).await;
        queue(&node.api.as_tenant(7, "ann"), "tts", 3).await;
        let line = eventually("the line", async || {
            let log = std::fs::read_to_string(&node.log).unwrap();
            let line = log.lines().find(|line| line.contains("alert began: ")).map(str::to_owned);
            line.ok_or(log)
        })
        .await;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message"], "alert began: tts of tenant 7: 3 tasks are waiting (more than 2)");
        assert_eq!(
            (&line["level"], &line["alert"], &line["rule"]),
            (&json!("ERROR"), &json!("began"), &json!("too long"))
        );
        assert_eq!((&line["tenant_id"], &line["model_name"]), (&json!("7"), &json!("tts")));
    })
    .await;
}

backend_test!(what_is_told_is_not_forgotten_while_nobody_looks, async |db: &TestDb| {
    let receiver = receiver().await;
    let app = start(db, &[watching(&rule()), posting_to(&receiver)]).await;
    let ann = app.api.as_tenant(7, "ann");
    let model = queue(&ann, "tts", 3).await;
    hears(&receiver, 1).await;
    app.stop().await;
    // A node without rules has no opinion.
    let quiet = TestApp::with(db, &[("worker.enabled", "false")]).await;
    close(&quiet.api.as_tenant(7, "ann"), &model).await;
    assert_eq!(alerts(&quiet.api, &json!({ "open": true })).await.len(), 1);
    quiet.stop().await;
    let app = start(db, &[watching(&rule()), posting_to(&receiver)]).await;
    assert_eq!(types(&hears(&receiver, 2).await), ["alert.began", "alert.ended"]);
    app.stop().await;
    assert_eq!(told(&receiver.calls()).len(), 2);
});
