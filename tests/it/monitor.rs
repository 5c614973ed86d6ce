//! Operators are told: by a real mail server, a webhook's real receiver, and the log.

mod channels;
mod conditions;
mod course;

use serde_json::{Value, json};

use crate::support::{
    app::{Api, TestApp},
    backend::TestDb,
    eventually::eventually,
    model::{Call, FakeModel, Reply},
};

/// `whsec_` and this is what test webhooks are signed with.
const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A service that checks these rules as often as it can, and calls no models.
fn watching(rules: &Value) -> Vec<(&'static str, String)> {
    vec![
        ("monitor.rules", rules.to_string()),
        ("monitor.interval", "100ms".to_owned()),
        ("worker.enabled", "false".to_owned()),
    ]
}

/// The settings of a service that posts its alerts there.
fn posting_to(receiver: &FakeModel) -> Vec<(&'static str, String)> {
    vec![
        ("monitor.webhook.url", format!("{}/alerts", receiver.url)),
        ("monitor.webhook.secret", format!("whsec_{SECRET}")),
    ]
}

async fn start(db: &TestDb, settings: &[Vec<(&'static str, String)>]) -> TestApp {
    let settings: Vec<(&str, &str)> = settings.iter().flatten().map(|(key, value)| (*key, value.as_str())).collect();
    TestApp::with(db, &settings).await
}

/// Takes every post.
async fn receiver() -> FakeModel {
    FakeModel::always(Reply::Body("text/plain", "thanks".into())).await
}

/// What a receiver was told: `(type, data)`.
fn told(calls: &[Call]) -> Vec<(String, Value)> {
    calls
        .iter()
        .map(|call| {
            let mut body: Value = serde_json::from_slice(&call.body).unwrap();
            (body["type"].as_str().unwrap().to_owned(), body["data"].take())
        })
        .collect()
}

/// Waits until the receiver was told so much, and returns it.
async fn hears(receiver: &FakeModel, count: usize) -> Vec<(String, Value)> {
    eventually(&format!("{count} posts"), async || {
        let told = told(&receiver.calls());
        if told.len() >= count { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await
}

/// The types of what was told.
fn types(told: &[(String, Value)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| kind.as_str()).collect()
}

/// A tenant's queue with that many tasks, which nobody works at; returns the model's id.
async fn queue(api: &Api, model: &str, tasks: usize) -> String {
    let id = api.create_model(model, "http://127.0.0.1:9", &json!({})).await;
    for _ in 0..tasks {
        api.create_task(model, &Value::Null).await;
    }
    id
}

/// Ends a queue: its tasks fail.
async fn close(api: &Api, model: &str) {
    api.delete(&format!("/model/deleteModel?id={model}")).await.data();
}

/// The alerts that a listing shows.
async fn alerts(api: &Api, ask: &Value) -> Vec<Value> {
    api.post("/monitor/listAlert", ask).await.data()["list"].as_array().unwrap().clone()
}

/// Waits until the listing shows so many, and returns them.
async fn listed(api: &Api, ask: &Value, count: usize) -> Vec<Value> {
    eventually(&format!("{count} alerts"), async || {
        let list = alerts(api, ask).await;
        if list.len() == count { Ok(list) } else { Err(json!(list).to_string()) }
    })
    .await
}
