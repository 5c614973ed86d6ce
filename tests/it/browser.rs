//! The dashboard in a real Chromium: what people do there, on both stores.

mod access;
mod findings;
mod looks;
mod models;
mod visitor;

use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) use self::visitor::Visitor;
use crate::support::{
    app::TestApp,
    backend::TestDb,
    model::{FakeModel, Reply},
};

/// One pixel.
const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\xf8\
    \xcf\xc0\xf0\x1f\0\x05\0\x01\xff\x89\x99=\x1d\0\0\0\0IEND\xaeB`\x82";

/// A model that fails where the payload says `fail`, and answers with the kind of result it names.
async fn obliging() -> FakeModel {
    FakeModel::start(|call, _| {
        let payload: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        if let Some(why) = payload["fail"].as_str() {
            return Reply::Status(422, Vec::new(), why.to_owned());
        }
        match payload["kind"].as_str() {
            Some("image") => Reply::Body("image/png", Bytes::from_static(PNG)),
            Some("text") => Reply::Body("text/plain", Bytes::from_static("Grüße aus dem Modell".as_bytes())),
            Some("sound") => Reply::Body("audio/wav", silence()),
            Some(_) | None => Reply::Body("application/json", call.body.clone()),
        }
    })
    .await
}

/// A tenth of a second of it, as WAV.
fn silence() -> Bytes {
    const RATE: u32 = 8000;
    let samples = vec![0; RATE as usize / 10];
    let mut wav = Vec::from(*b"RIFF");
    wav.extend((36 + samples.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(RATE.to_le_bytes());
    wav.extend(RATE.to_le_bytes());
    wav.extend(b"\x01\0\x08\0data");
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav.into()
}

/// A service with a model and tasks that ended in every way, and somebody who looks at it.
struct Scene {
    app: TestApp,
    visitor: Visitor,
    /// The task that failed.
    failed: String,
    /// The one whose result is a picture.
    picture: String,
}

impl Scene {
    /// `None` where there is no browser.
    async fn set(db: &TestDb) -> Option<Scene> {
        let app = TestApp::start(db).await;
        let model = obliging().await;
        app.api.create_model("painter", &model.url, &json!({ "maxConcurrency": 2 })).await;
        app.api.create_model("reader", &model.url, &json!({})).await;
        let failed = app.api.create_task("reader", &json!({ "fail": "page 9 is empty" })).await;
        let picture = app.api.create_task("painter", &json!({ "kind": "image" })).await;
        for (model, payload) in [
            ("painter", json!({ "kind": "image" })),
            ("reader", json!({ "kind": "text" })),
            ("reader", json!({ "kind": "sound" })),
            ("reader", json!({ "pages": [1, 2], "exact": 1.0 })),
        ] {
            let task = app.api.create_task(model, &payload).await;
            app.api.until(&task, &[2]).await;
        }
        app.api.until(&failed, &[3]).await;
        app.api.until(&picture, &[2]).await;
        let visitor = Visitor::at(&app.api.url).await?;
        Some(Scene { app, visitor, failed, picture })
    }

    async fn ends(self) {
        self.visitor.leaves().await;
        self.app.stop().await;
    }
}
