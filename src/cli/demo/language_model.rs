//! A small real model that is always there: language identification by trigrams (whatlang, compiled
//! in) behind an HTTP server of its own, as any other model. `POST /identify {"text": "..."}`
//! answers `{"language", "script", "confidence", "reliable"}`.
//!
//! Like a server that loads its model on demand it is cold at first: the call that finds it so gets
//! 503 with `Retry-After`, and sets off the one warm-up. That goes through the whole model once and
//! checks that it knows languages when it sees them; if it does not, it never answers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use whatlang::{Lang, detect};

/// Where it is called.
pub(super) const ROUTE: &str = "/identify";

/// Longest request body in bytes.
const MAX_BODY: usize = 64 << 10;

/// Seconds after which a caller who came too early should come again.
const WARM_UP: u64 = 1;

/// What the warm-up must get right: one sentence for each of some languages and scripts.
const KNOWN: [(Lang, &str); 6] = [
    (Lang::Eng, "The harbour master counts the boats every evening before the lamps are lit."),
    (Lang::Deu, "Der Zug nach Hamburg hat heute wieder eine halbe Stunde Verspätung gehabt."),
    (Lang::Rus, "Каждое утро старый библиотекарь открывает тяжёлую дверь и зажигает свет."),
    (Lang::Jpn, "朝になると、図書館の古い扉がゆっくりと開きます。"),
    (Lang::Ara, "يفتح السوق أبوابه في الصباح الباكر ويبيع الصيادون ما اصطادوه ليلا."),
    (Lang::Hin, "हर सुबह पुस्तकालय का पुराना दरवाज़ा धीरे से खुलता है और लोग अंदर आते हैं।"),
];

/// A server that listens, and answers once [`LanguageModel::serve`] runs.
pub(super) struct LanguageModel {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Default)]
struct Model {
    warming: AtomicBool,
    /// Whether the warm-up found it in order; unset until it is over.
    works: OnceLock<bool>,
}

#[derive(Deserialize)]
struct Question {
    text: Option<String>,
}

#[derive(Serialize)]
struct Identified {
    /// ISO 639-3.
    language: &'static str,
    script: String,
    /// 0 to 1.
    confidence: f64,
    reliable: bool,
}

enum Refusal {
    /// Not warm yet.
    Cold,
    /// The warm-up found it broken.
    Broken,
    /// There is no text in the request.
    NoText,
    /// There is a text, in no language.
    NoLanguage,
}

impl LanguageModel {
    /// Listens on a free port of the loopback interface.
    pub(super) async fn bind() -> io::Result<LanguageModel> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(LanguageModel { listener, address })
    }

    /// Base URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers calls; does not end by itself.
    pub(super) async fn serve(self) -> io::Result<()> {
        let router = Router::new()
            .route(ROUTE, post(identify))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::new(Model::default()));
        axum::serve(self.listener, router).await
    }
}

async fn identify(
    State(model): State<Arc<Model>>,
    Json(question): Json<Question>,
) -> Result<Json<Identified>, Refusal> {
    let text = question.text.filter(|text| !text.trim().is_empty()).ok_or(Refusal::NoText)?;
    match model.works.get() {
        Some(true) => {}
        Some(false) => return Err(Refusal::Broken),
        None => {
            model.warm_up();
            return Err(Refusal::Cold);
        }
    }
    let found = detect(&text).ok_or(Refusal::NoLanguage)?;
    Ok(Json(Identified {
        language: found.lang().code(),
        script: found.script().name().to_owned(),
        confidence: (found.confidence() * 1000.0).round() / 1000.0,
        reliable: found.is_reliable(),
    }))
}

impl Model {
    /// Begins the warm-up, unless it has begun.
    fn warm_up(self: &Arc<Model>) {
        if self.warming.swap(true, Ordering::SeqCst) {
            return;
        }
        let model = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            model.works.get_or_init(knows_its_languages);
        });
    }
}

fn knows_its_languages() -> bool {
    KNOWN.iter().all(|(language, text)| detect(text).is_some_and(|found| found.lang() == *language))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Cold => {
                let message = "the model is warming up, come again";
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, WARM_UP.to_string())], message).into_response()
            }
            Refusal::Broken => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the model failed its own check at the start").into_response()
            }
            Refusal::NoText => (StatusCode::UNPROCESSABLE_ENTITY, "text is missing").into_response(),
            Refusal::NoLanguage => (StatusCode::UNPROCESSABLE_ENTITY, "the text is in no language").into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn asked(url: &str, body: &Value) -> (u16, Option<String>, String) {
        let answer = reqwest::Client::new().post(format!("{url}{ROUTE}")).json(body).send().await.unwrap();
        let retry_after = answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry_after, answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn the_first_question_warms_it_up_and_the_others_are_answered() {
        let model = LanguageModel::bind().await.unwrap();
        let url = model.url();
        let conversation = async {
            assert_eq!(asked(&url, &json!({ "txt": "a slip" })).await.0, 422);
            let french = json!({ "text": "Le chat dort sur le toit pendant que la pluie tombe sur le village." });
            let (status, retry_after, _) = asked(&url, &french).await;
            assert_eq!((status, retry_after.as_deref()), (503, Some("1")));
            let answer = loop {
                let (status, _, body) = asked(&url, &french).await;
                if status != 503 {
                    break serde_json::from_str::<Value>(&body).unwrap();
                }
            };
            assert_eq!((&answer["language"], &answer["script"]), (&json!("fra"), &json!("Latin")));
            assert_eq!(asked(&url, &json!({ "text": "12345 !?" })).await.0, 422);
            assert_eq!(asked(&url, &json!({ "text": "a".repeat(MAX_BODY) })).await.0, 413);
        };
        tokio::select! {
            ended = model.serve() => ended.unwrap(),
            () = conversation => {}
        }
    }

    #[test]
    fn it_knows_what_its_warm_up_asks_for() {
        assert!(knows_its_languages());
    }
}
