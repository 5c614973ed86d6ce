//! An identity provider that publishes its keys, changes them and goes away.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use axum::{Router, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use model_asynch::clock;
use serde_json::{Value, json};

use super::bearing;
use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        eventually::until,
    },
};

/// A server on a port of its own.
struct Provider {
    url: String,
    document: Arc<Mutex<Option<Value>>>,
    looks: Arc<AtomicUsize>,
}

struct Key {
    id: &'static str,
    private: EncodingKey,
    public: Value,
}

impl Key {
    fn made(id: &'static str) -> Key {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let public = json!({ "kty": "EC", "kid": id, "use": "sig", "crv": "P-256", "x": x, "y": y });
        Key { id, private: EncodingKey::from_ec_der(pkcs8.as_ref()), public }
    }

    fn token(&self) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        let claims =
            json!({ "tenantId": 7, "sub": "ann", "scope": ["task:read"], "exp": clock::now().timestamp() + 600 });
        encode(&header, &claims, &self.private).unwrap()
    }
}

impl Provider {
    async fn start(document: Option<Value>) -> Provider {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (document, looks) = (Arc::new(Mutex::new(document)), Arc::new(AtomicUsize::new(0)));
        let (published, counted) = (document.clone(), looks.clone());
        let answer = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let document = published.lock().unwrap().clone();
            async move { document.map(|document| document.to_string()).ok_or(StatusCode::INTERNAL_SERVER_ERROR) }
        };
        let router = Router::new().route("/keys", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Provider { url, document, looks }
    }
}

async fn status(api: &Api, token: &str) -> u16 {
    bearing(api, token).post("/task/listTask", &json!({})).await.status
}

backend_test!(a_new_key_of_the_provider_is_found_and_floods_of_unknown_ones_do_not_reach_it, async |db: &TestDb| {
    let (first, second, stranger) = (Key::made("first"), Key::made("second"), Key::made("stranger"));
    let provider = Provider::start(Some(json!({ "keys": [first.public] }))).await;
    let settings = [("worker.enabled", "false"), ("auth.mode", "jwt"), ("auth.jwt.jwksUrl", &provider.url)];
    let app = TestApp::with(db, &settings).await;
    assert_eq!(status(&app.api, &first.token()).await, 200);
    for _ in 0..20 {
        assert_eq!(status(&app.api, &stranger.token()).await, 401);
    }
    assert_eq!(provider.looks.load(Ordering::SeqCst), 1, "a look at the start, and none so soon after it");
    *provider.document.lock().unwrap() = Some(json!({ "keys": [first.public, second.public] }));
    until("the second key", async || status(&app.api, &second.token()).await == 200).await;
    *provider.document.lock().unwrap() = None;
    assert_eq!(status(&app.api, &first.token()).await, 200, "the keys of the last look stay good");
    assert!(provider.looks.load(Ordering::SeqCst) <= 3);
    app.stop().await;
});

backend_test!(without_any_key_callers_are_asked_to_come_back, async |db: &TestDb| {
    let key = Key::made("first");
    let provider = Provider::start(None).await;
    let settings = [("worker.enabled", "false"), ("auth.mode", "jwt"), ("auth.jwt.jwksUrl", &provider.url)];
    let app = TestApp::with(db, &settings).await;
    let answer = bearing(&app.api, &key.token()).post("/task/listTask", &json!({})).await;
    assert!(answer.refused(503, 63, "unavailable").headers.contains_key("retry-after"));
    app.stop().await;
});
