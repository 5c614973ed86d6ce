//! Contract §8: small results that come together share a file, and nobody can tell by what their URLs
//! answer.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use model_asynch::{
    clock,
    config::{OssKind, check::check, raw::RawConfig},
    consul::Services,
    faults::Point,
    spool::Spool,
    storage::Storage,
    task::{Attempt, CallerHeaders, TaskKey, TenantId},
};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::{Api, Node, TestApp},
        backend::TestDb,
        eventually::until,
        model::{FakeModel, Reply},
    },
};

/// Results that come at once.
const BURST: usize = 60;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

const SIGNED: [(&str, &str); 2] = [("secrets.key", KEY), ("oss.urlTtlSeconds", "3600")];

/// A stored result.
struct Stored {
    id: String,
    text: String,
    /// Below the service's URL.
    path: String,
    key: String,
}

impl Stored {
    /// The number in its pack.
    fn number(&self) -> usize {
        let (_, rest) = self.path.split_once(".pack/").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }
}

/// Another part of the service that stores in the same folder.
fn storage(db: &TestDb, settings: &[(&str, &str)], packs: bool) -> Storage {
    let mut raw = RawConfig::default();
    for (name, value) in settings {
        match *name {
            "secrets.key" => raw.secrets.key = (*value).to_owned(),
            _ => raw.oss.url_ttl_seconds = value.parse().unwrap(),
        }
    }
    let mut config = check(&raw).unwrap();
    let OssKind::Fs { url_ttl, .. } = config.oss.kind else { panic!("not fs") };
    config.oss.kind = OssKind::Fs { path: db.dir().join("oss"), url_ttl, packs };
    Storage::open(&config, &"http://files.example".parse().unwrap(), &Services::default()).unwrap()
}

/// Stores small results of one tenant that come all at once.
async fn stored(db: &TestDb, storage: &Storage, count: usize) -> Vec<Stored> {
    let spool = Spool::open(&db.dir().join("other-tmp")).unwrap();
    let nobody = CallerHeaders::default();
    let parked = futures::future::join_all((0..count).map(async |n| {
        let key = TaskKey { tenant: TenantId(7), id: clock::task_id() };
        let mut draft = spool.draft(key, Attempt(2));
        draft.write(format!("result {n} of many").into()).await.unwrap();
        draft.finish(Some("text/plain"), Duration::from_millis(5)).await.unwrap()
    }))
    .await;
    let stored = futures::future::join_all(parked.iter().map(|parked| storage.put(parked, &nobody))).await;
    let mut all = Vec::new();
    for (n, (stored, parked)) in stored.into_iter().zip(&parked).enumerate() {
        let stored = stored.unwrap();
        let url = storage.url(&stored.oss_file, &stored.oss_key).await;
        let path = url.strip_prefix("http://files.example").unwrap().to_owned();
        let id = parked.key.id.to_string();
        all.push(Stored { id, text: format!("result {n} of many"), path, key: stored.oss_key });
        spool.remove(parked).await.unwrap();
    }
    all
}

/// Those of many results that were packed: when they come faster than they are written, most are.
async fn packed(db: &TestDb, settings: &[(&str, &str)]) -> Vec<Stored> {
    let all = stored(db, &storage(db, settings, true), 300).await;
    let packed: Vec<_> = all.into_iter().filter(|one| one.path.contains(".pack/")).collect();
    assert!(packed.len() >= 8, "{}", packed.len());
    packed
}

/// A model that keeps its answers back until they are released, and answers with what it was sent.
async fn model(api: &Api) -> FakeModel {
    let model = FakeModel::start(|call, _| Reply::Gated(Box::new(Reply::Body("text/plain", call.body.clone())))).await;
    let fields = json!({ "maxConcurrency": BURST, "queueLimit": 0, "autoCleanSeconds": 1 });
    api.create_model("m", &model.url, &fields).await;
    model
}

/// Tasks whose calls all wait for their answers, each with its payload.
async fn create(api: &Api, model: &FakeModel) -> Vec<(String, String)> {
    let created = (0..BURST).map(|n| async move {
        let text = format!("result {n} of a burst");
        (api.create_task("m", &json!(text)).await, json!(text).to_string())
    });
    let created = futures::future::join_all(created).await;
    until("all calls", async || model.running() == BURST).await;
    created
}

async fn url(api: &Api, id: &str) -> String {
    api.until(id, &[2]).await["ossFile"].as_str().unwrap().to_owned()
}

async fn get(api: &Api, path: &str) -> Response {
    api.request(Method::GET, path).send().await.unwrap()
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Whether any file below the folder has that in it.
fn holds(folder: &Path, text: &str) -> bool {
    let holds = |file: Vec<u8>| file.windows(text.len()).any(|found| found == text.as_bytes());
    files_below(folder).into_iter().any(|path| std::fs::read(path).is_ok_and(holds))
}

backend_test!(results_that_share_a_file_are_served_like_those_that_do_not, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let packed = packed(db, &[]).await;
    for one in &packed {
        let answer = get(&app.api, &one.path).await;
        let headers = answer.headers();
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["content-disposition"], format!("inline; filename=\"{}.txt\"", one.id));
        assert_eq!(answer.text().await.unwrap(), one.text);
    }
    let alone = &stored(db, &storage(db, &[], false), 1).await[0];
    let one = &packed[packed.len() / 2];
    let names = async |one: &Stored| {
        let answer = get(&app.api, &one.path).await;
        let mut names: Vec<String> = answer.headers().keys().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(one).await, names(alone).await);

    let request = |method| app.api.request(method, &one.path);
    let length = one.text.len();
    let head = request(Method::HEAD).send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &length.into()));
    assert_eq!(head.text().await.unwrap(), "");
    for (range, from, to) in [("bytes=1-6", 1, 6), ("bytes=7-", 7, length - 1), ("bytes=-4", length - 4, length - 1)] {
        let part = request(Method::GET).header("range", range).send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()["content-range"], format!("bytes {from}-{to}/{length}"));
        assert_eq!(part.text().await.unwrap(), one.text[from..=to], "{range}");
    }
    app.api.send(request(Method::GET).header("range", "bytes=9999-")).await.refused(416, 66, "range_not_satisfiable");
    let first = request(Method::GET).send().await.unwrap();
    for (condition, header) in [("if-none-match", "etag"), ("if-modified-since", "last-modified")] {
        let again = request(Method::GET).header(condition, first.headers()[header].clone()).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{condition}");
    }
    app.stop().await;
});

backend_test!(a_record_of_a_pack_opens_to_nobody_who_lacks_its_name, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let packed = packed(db, &[]).await;
    let (one, other) = (&packed[0], &packed[1]);
    let (pack, rest) = one.path.split_once(".pack/").unwrap();
    let name = rest.split_once('/').unwrap().1;
    let name_of_other = other.path.rsplit('/').next().unwrap();
    let (task, token) = name.rsplit_once('-').unwrap();
    let guessed = format!("{task}-{}.txt", "0".repeat(token.len() - 4));
    for wrong in [
        format!("{pack}.pack"),
        format!("{pack}.pack/"),
        format!("{pack}%2epack"),
        format!("{pack}.PACK"),
        format!("{pack}.pack/{}", one.number()),
        format!("{pack}.pack/{}/", one.number()),
        format!("{pack}.pack/{}/{name}", other.number()),
        format!("{pack}.pack/{}/{name_of_other}", one.number()),
        format!("{pack}.pack/{}/{guessed}", one.number()),
        format!("{pack}.pack/9999/{name}"),
        format!("{pack}.pack/99999999999/{name}"),
        format!("{pack}.pack/-1/{name}"),
        format!("{}/{name}", pack.rsplit_once('/').unwrap().0),
        one.path.replacen("/file/7/", "/file/8/", 1),
        format!("{}/", one.path),
        format!("{}/x", one.path),
    ] {
        app.api.get(&wrong).await.refused(404, 65, "not_found");
    }
    assert_eq!(get(&app.api, &one.path).await.text().await.unwrap(), one.text);
    app.stop().await;
});

backend_test!(a_signed_url_of_a_record_opens_that_one_only, async |db: &TestDb| {
    let app = TestApp::with(db, &[SIGNED[0], SIGNED[1], ("worker.enabled", "false")]).await;
    let packed = packed(db, &SIGNED).await;
    let (bare, query) = packed[0].path.split_once('?').unwrap();
    assert_eq!(get(&app.api, &packed[0].path).await.text().await.unwrap(), packed[0].text);
    app.api.get(bare).await.refused(404, 65, "not_found");
    let mixed = format!("{}?{query}", packed[1].path.split_once('?').unwrap().0);
    app.api.get(&mixed).await.refused(404, 65, "not_found");
    app.stop().await;
});

backend_test!(a_deleted_record_is_gone_and_its_pack_with_the_last_one, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let (storage, other) = (storage(db, &[], true), storage(db, &[], true));
    let all = stored(db, &storage, 300).await;
    let folder = db.dir().join("oss");
    let (first, rest) = all.split_last().unwrap();
    storage.delete(&first.key).await.unwrap();
    storage.delete(&first.key).await.unwrap();
    assert!(!holds(&folder, &first.text));
    app.api.get(&first.path).await.refused(404, 65, "not_found");
    for one in rest {
        assert_eq!(get(&app.api, &one.path).await.text().await.unwrap(), one.text);
    }
    let deleted =
        futures::future::join_all(rest.iter().flat_map(|one| [storage.delete(&one.key), other.delete(&one.key)]));
    assert!(deleted.await.into_iter().all(|deleted| deleted.is_ok()));
    assert_eq!(files_below(&folder), [] as [PathBuf; 0]);
    app.stop().await;
});

backend_test!(a_burst_is_stored_and_purged_to_the_last_byte, async |db: &TestDb| {
    let app = TestApp::with(db, &[("oss.deleteOnPurge", "true")]).await;
    let model = model(&app.api).await;
    let created = create(&app.api, &model).await;
    model.release(BURST);
    let folder = db.dir().join("oss");
    for (id, text) in &created {
        assert_eq!(app.api.fetch(&url(&app.api, id).await).await, text.as_bytes());
        assert!(holds(&folder, text));
    }
    let (half, rest) = created.split_at(BURST / 2);
    for some in [half, rest] {
        let ids: Vec<_> = some.iter().map(|(id, _)| id).collect();
        app.api.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await.data();
        until("their contents to be gone", async || !some.iter().any(|(_, text)| holds(&folder, text))).await;
    }
    until("every file to be gone", async || files_below(&folder).is_empty()).await;
    app.stop().await;
});

backend_test!(without_packs_every_result_has_a_file_of_its_own, async |db: &TestDb| {
    let app = TestApp::with(db, &[("oss.packs", "false")]).await;
    let model = model(&app.api).await;
    let created = create(&app.api, &model).await;
    model.release(BURST);
    for (id, text) in created {
        let url = url(&app.api, &id).await;
        let (_, key) = url.split_once("/file/").unwrap();
        assert_eq!(std::fs::read_to_string(db.dir().join("oss").join(key)).unwrap(), text);
    }
    assert_eq!(files_below(&db.dir().join("oss")).len(), BURST);
    app.stop().await;
});

backend_test!(a_node_that_dies_while_it_stores_a_burst_loses_nothing, async |db: &TestDb| {
    let settings = [("worker.leaseSeconds", "2")];
    let mut node = Node::doomed_at(db, &settings, Point::HalfUpload, 2).await;
    let model = model(&node.api).await;
    let created = create(&node.api, &model).await;
    model.release(1);
    until("the first result", async || !files_below(&db.dir().join("oss")).is_empty()).await;
    model.release(BURST);
    node.dies().await;
    let node = Node::start(db, &settings).await;
    // Those whose answers had not come in whole are called again.
    model.release(BURST);
    for (id, text) in created {
        // What was stored before has the URL of the node that died, which listened elsewhere.
        let url = url(&node.api, &id).await;
        let path = url.split_once("/file/").unwrap().1;
        assert_eq!(node.api.fetch(&format!("{}/file/{path}", node.api.url)).await, text.as_bytes());
    }
});
