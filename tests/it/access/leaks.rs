//! Secrets are planted everywhere; then everything that the process wrote, answered and stored is
//! searched for them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{SHARED, bearing, jwt, signed, token};
use crate::{
    backend_test,
    support::{
        app::{Answer, Api, Node},
        backend::{Kind, TestDb},
        eventually::until,
        file_service::{FileService, Reply as Stored},
        model::{Call, FakeModel, Reply},
        raw::Raw,
        redis::RedisServer,
        s3,
    },
};

/// Those parts, too, that are quiet unless they are named.
const EVERYTHING: &str = "trace,sqlx=trace,hyper=trace,hyper_util=trace,h2=trace,reqwest=trace,rustls=trace,\
    tower=trace,object_store=trace";
const API_KEY: &str = "planted-api-key-0451";
const GATEWAY: &str = "planted-gateway-secret-0451";
const REDIS: &str = "planted-redis-password-0451";
const CALLER: &str = "planted-caller-authorization-0451";
const NEIGHBOUR: &str = "planted-token-of-a-neighbour-0451";
const GUESS: &str = "ma_planted-guess-of-a-token-0451";

/// Everything that anyone was told.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn answer(&mut self, answer: &Answer) {
        self.0.push(format!("{:?} {}", answer.headers, answer.body));
    }
}

/// Refuses now and then, and repeats the headers it was sent.
fn indiscreet(call: &Call, before: usize) -> Reply {
    let said = format!("you said {:?}", call.headers);
    match before {
        1 => Reply::Status(422, Vec::new(), said),
        2 => Reply::Break,
        3 => Reply::Status(500, Vec::new(), said),
        _ => Reply::Body("text/plain", "fine".into()),
    }
}

/// What a business does, what goes wrong, and what a stranger tries.
async fn flows(api: &Api, stranger: &Api, model: &FakeModel, told: &mut Told) {
    let registered =
        json!({ "modelName": "m", "baseUrl": model.url, "apiKey": format!("Authorization:Bearer {API_KEY}") });
    told.answer(&api.post("/model/createModel", &registered).await);
    told.answer(&api.post("/model/createModel", &registered).await);
    let broken = json!({ "modelName": "n", "baseUrl": "http://m", "apiKey": format!("A:{API_KEY}\u{1}") });
    told.answer(api.post("/model/createModel", &broken).await.refused(400, 51, "validation"));
    let wrong = json!({ "modelName": 5, "apiKey": { "A": API_KEY } });
    told.answer(&api.post("/model/createModel", &wrong).await);
    let cut = format!("{{\"modelName\":\"n\",\"apiKey\":\"A:{API_KEY}\"");
    let request = api.request(reqwest::Method::POST, "/model/createModel").header("content-type", "application/json");
    told.answer(&api.send(request.body(cut)).await);
    for end in [2, 3, 3, 3, 2] {
        let id = api.create_task("m", &json!({ "text": "hello" })).await;
        if end == 2 || model.calls().len() < 3 {
            api.until(&id, &[2, 3]).await;
        }
        told.answer(&api.get(&format!("/task/getTaskResult?taskId={id}")).await);
    }
    for attempt in [stranger.clone(), bearing(stranger, GUESS), bearing(stranger, &format!("{GUESS}\u{e9}"))] {
        told.answer(&attempt.post("/task/listTask", &json!({})).await);
        told.answer(&attempt.post(&format!("/task/listTask?x={}", "y".repeat(50)), &json!({})).await);
    }
    until("the operation log", async || {
        let answer = api.post("/opLog/listOpLog", &json!({})).await;
        answer.body["data"]["total"].as_i64().unwrap() >= 8
    })
    .await;
    for list in ["/opLog/listOpLog", "/task/listTask", "/model/listModel", "/stat/listModelStat"] {
        told.answer(&api.post(list, &json!({})).await);
    }
    for open in ["/readyz", "/healthz", "/openapi.json"] {
        told.answer(&api.get(open).await);
    }
}

/// All that the database holds.
async fn dump(db: &TestDb) -> String {
    match db.kind() {
        Kind::Sqlite => {
            let files = std::fs::read_dir(db.dir()).unwrap().map(|entry| entry.unwrap().path());
            let of_database = files.filter(|path| path.to_string_lossy().contains("test.db"));
            of_database.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
        }
        Kind::Postgres => {
            let mut all = Vec::new();
            for table in ["models", "task", "op_log", "model_stat", "token", "node"] {
                all.extend(Raw::connect(db).await.texts(format!("SELECT t::text FROM asynch_{table} t")).await);
            }
            all.join("\n")
        }
    }
}

/// Ends the node and looks everywhere.
async fn search(db: &TestDb, mut node: Node, told: Told, planted: &[&str]) {
    node.signal("TERM");
    assert_eq!(node.exit_code().await, Some(0));
    let log = std::fs::read_to_string(&node.log).unwrap();
    assert!(log.contains("TRACE") && log.contains("serving on"), "the log is of the lowest level");
    let stored = dump(db).await;
    assert!(stored.contains("createModel"), "the dump holds the operation log");
    for (place, text) in [("the log", &log), ("the database", &stored), ("an answer", &told.0.join("\n"))] {
        for secret in planted {
            for form in [(*secret).to_owned(), STANDARD.encode(secret), format!("{:?}", secret.as_bytes())] {
                let form = form.trim_end_matches('=');
                let Some(at) = text.find(form) else { continue };
                let around: String = text[..at].chars().rev().take(300).collect();
                panic!("{place} has {secret}: {}", around.chars().rev().collect::<String>());
            }
        }
    }
}

fn database_password(db: &TestDb) -> Option<(&'static str, String)> {
    const PASSWORD: &str = "planted-database-password-0451";
    let model_asynch::config::Database::Postgres { url, .. } = &db.config else { return None };
    let mut url = url::Url::parse(url).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    Some((PASSWORD, url.into()))
}

backend_test!(behind_a_gateway_no_secret_gets_out, async |db: &TestDb| {
    let Some(mut redis) = RedisServer::start().await else { return };
    redis.command::<()>(&["CONFIG", "SET", "requirepass", REDIS]).await;
    let redis_url = redis.url().replace("redis://", &format!("redis://:{REDIS}@"));
    let files = FileService::start().await;
    let echo = format!("who are you, Bearer {CALLER}?");
    files.script([Stored::Answer(500, echo.clone()), Stored::Answer(200, echo)]);
    let (key, upload) = (STANDARD.encode([7; 32]), files.url().to_string());
    let password = database_password(db);
    // A collector of traces and a Consul agent, as far as it matters here.
    let neighbours = FakeModel::always(Reply::Body("application/json", "[]".into())).await;
    let headers = format!("Authorization:Bearer {NEIGHBOUR}");
    let mut settings = vec![
        ("log.level", EVERYTHING),
        ("log.format", "json"),
        ("telemetry.otlpEndpoint", &neighbours.url),
        ("telemetry.otlpHeaders", &headers),
        ("consul.address", &neighbours.url),
        ("consul.token", NEIGHBOUR),
        ("auth.mode", "gateway"),
        ("auth.gatewaySecret", GATEWAY),
        ("secrets.key", &key),
        ("redis.url", &redis_url),
        ("oss.kind", "http"),
        ("oss.url", &upload),
    ];
    let mut planted = vec![API_KEY, GATEWAY, REDIS, CALLER, NEIGHBOUR, GUESS, key.as_str()];
    if let Some((password, url)) = &password {
        settings.push(("database.url", url));
        planted.push(password);
    }
    let node = Node::start(db, &settings).await;
    let model = FakeModel::start(indiscreet).await;
    let mut told = Told::default();
    let caller = bearing(&node.api.as_tenant(7, "ann"), CALLER).with_header("x-gateway-secret", GATEWAY);
    flows(&caller, &node.api.as_tenant(7, "eve").with_header("x-gateway-secret", "guess"), &model, &mut told).await;
    redis.kill();
    told.answer(&node.api.get("/readyz").await);
    let id = caller.create_task("m", &Value::Null).await;
    caller.until(&id, &[2]).await;
    until("traces", async || neighbours.calls().iter().any(|call| call.target == "/v1/traces")).await;
    for call in neighbours.calls() {
        assert!(format!("{:?}", call.headers).contains(NEIGHBOUR), "{call:?}");
        told.0.push(String::from_utf8_lossy(&call.body).into_owned());
    }
    search(db, node, told, &planted).await;
});

backend_test!(with_tokens_of_a_provider_no_secret_gets_out, async |db: &TestDb| {
    let Some(s3) = s3::store() else { return };
    let (key, previous, endpoint) = (STANDARD.encode([7; 32]), STANDARD.encode([8; 32]), s3.endpoint.clone().unwrap());
    let settings = [
        ("log.level", EVERYTHING),
        ("log.format", "text"),
        ("auth.mode", "jwt"),
        ("auth.jwt.secret", SHARED),
        ("secrets.key", &key),
        ("secrets.previousKeys", &previous),
        ("oss.kind", "s3"),
        ("oss.endpoint", endpoint.as_str()),
        ("oss.bucket", &s3.bucket),
        ("oss.accessKey", &s3.access_key),
        ("oss.secretKey", &s3.secret_key),
    ];
    let node = Node::start(db, &settings).await;
    let model = FakeModel::start(indiscreet).await;
    let mut told = Told::default();
    let all = "task:write,task:read,model:write,stat:read";
    let (good, reader, expired) =
        (jwt(7, "ann", all), jwt(7, "ann", "task:read"), signed(&json!({ "exp": 1 }), SHARED));
    flows(&bearing(&node.api, &good), &bearing(&node.api, &reader), &model, &mut told).await;
    told.answer(&bearing(&node.api, &expired).post("/task/listTask", &json!({})).await);
    told.answer(&bearing(&node.api, &reader).post("/task/createTask", &json!({ "modelName": "m" })).await);
    let planted = [API_KEY, SHARED, GUESS, &key, &previous, &s3.secret_key, &good, &reader, &expired];
    search(db, node, told, &planted).await;
});

backend_test!(with_tokens_of_our_own_no_secret_gets_out, async |db: &TestDb| {
    let key = STANDARD.encode([7; 32]);
    let settings = [("log.level", EVERYTHING), ("log.format", "json"), ("auth.mode", "token"), ("secrets.key", &key)];
    let node = Node::start(db, &settings).await;
    let model = FakeModel::start(indiscreet).await;
    let mut told = Told::default();
    let (_, good) = token(db, 7, "ann", "task:write,task:read,model:write,stat:read").await;
    let (_, reader) = token(db, 7, "ann", "task:read").await;
    flows(&bearing(&node.api, &good), &bearing(&node.api, &reader), &model, &mut told).await;
    search(db, node, told, &[API_KEY, GUESS, &key, &good, &reader]).await;
});
