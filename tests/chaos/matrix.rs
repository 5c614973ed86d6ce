//! The crash matrix: one node dies at one kill point, and either itself, restarted on the same disk,
//! or another node with a disk of its own carries on. Each case is alone in a database of its own, so
//! what is observed is what that death does.
//!
//! `--write-matrix` writes `docs/crash-matrix.md` from what was observed; the test run observes it
//! again and compares.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _};
use model_asynch::faults::Point;
use serde_json::{Value, json};

use crate::{
    Args,
    node::Node,
    postgres::Postgres,
    support::{
        app::Api,
        eventually::{eventually, until},
        file_service::{FileService, Reply as FileReply},
        model::{FakeModel, Reply},
        redis::RedisServer,
    },
    world::settings,
};

/// Cases that run at once; they mostly wait for leases.
const AT_ONCE: usize = 10;

/// The lease, in seconds.
const LEASE: u64 = 2;

/// Large enough to be uploaded in several pieces.
const RESULT: usize = 700_000;

/// How often a case is tried whose createTask gets no answer.
const TRIES: u32 = 5;

/// How long a node may take to come to its kill point.
const DEATH: Duration = Duration::from_secs(30);

const DOCUMENT: &str = "docs/crash-matrix.md";

/// Where the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// At a point in the code.
    At(Point),
    /// While the model works.
    DuringCall,
}

/// Who carries on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survivor {
    Restarted,
    Other,
}

/// What was seen of one case.
struct Seen {
    death: Death,
    survivor: Survivor,
    /// Tasks that exist in the end.
    tasks: usize,
    /// createTask got no answer and was asked again.
    repeated: bool,
    /// Model calls before the death.
    calls_before: usize,
    /// Model calls in all.
    calls: usize,
    /// Number of the last attempt that the model saw.
    attempt: u32,
    /// The survivor went on with the parked result.
    adopted: bool,
    /// Uploads that storage got whole.
    uploads: usize,
    /// From the death to the task's end.
    recovery: Duration,
    json: Value,
}

/// Runs every case; true if the document says what was observed.
pub async fn run(args: &Args) -> bool {
    let Some(postgres) = Postgres::start().await else { return true };
    let Some(redis) = RedisServer::start().await else { return true };
    let deaths = Point::ALL.into_iter().filter(|point| point.is_of_a_task()).map(Death::At).chain([Death::DuringCall]);
    let cases = deaths.flat_map(|death| [(death, Survivor::Restarted), (death, Survivor::Other)]);
    let running = cases.map(|(death, survivor)| {
        let (postgres, redis) = (&postgres, &redis);
        let case = observe(postgres, redis, death, survivor);
        // One that fails does not keep the others from being seen.
        AssertUnwindSafe(case).catch_unwind()
    });
    let seen: Vec<_> = futures::stream::iter(running).buffered(AT_ONCE).collect().await;
    let wanted = seen.len();
    let mut seen: Vec<Seen> = seen.into_iter().filter_map(Result::ok).collect();
    seen.sort_by_key(|seen| seen.death.order());
    println!("\ncrash matrix: {} of {wanted} cases ended as they have to", seen.len());
    if let Some(path) = &args.json {
        let rows: Vec<&Value> = seen.iter().map(|seen| &seen.json).collect();
        fs::write(path.with_extension("matrix.json"), format!("{:#}\n", json!(rows))).unwrap();
    }
    if seen.len() < wanted {
        return false;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    if args.write_matrix {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, document(&seen)).unwrap();
        println!("wrote {DOCUMENT}");
        return true;
    }
    says_what_was_seen(&fs::read_to_string(&path).unwrap_or_default(), &seen)
}

/// What is seen of a death. A worker may be so quick that its process dies before createTask has
/// answered; what follows is that of `after-enqueue` then, so the case is tried again.
async fn observe(postgres: &Postgres, redis: &RedisServer, death: Death, survivor: Survivor) -> Seen {
    let mut number = 1;
    loop {
        let seen = Case::new(postgres, redis, death, survivor, number).await.run().await;
        if !seen.repeated || death.component() == "API" || number == TRIES {
            return seen;
        }
        number += 1;
    }
}

/// One death in a world of its own.
struct Case {
    death: Death,
    survivor: Survivor,
    settings: Vec<(String, String)>,
    model: FakeModel,
    files: FileService,
    dir: tempfile::TempDir,
    nodes: std::sync::atomic::AtomicUsize,
}

impl Case {
    async fn new(postgres: &Postgres, redis: &RedisServer, death: Death, survivor: Survivor, number: u32) -> Case {
        let name = format!("{}_{survivor:?}_{number}", death.name()).replace('-', "_").to_lowercase();
        postgres.create(&name).await;
        let files = FileService::start().await;
        if death == Death::At(Point::AfterParkedMark) {
            files.script([FileReply::Answer(500, String::new())]);
        }
        let settings = settings(&[
            ("database.url", &postgres.url(&name)),
            ("egress.otherwise", "all"),
            ("database.maxConnections", "4"),
            ("redis.url", &redis.url()),
            ("redis.keyPrefix", &format!("{name}:")),
            ("worker.leaseSeconds", &LEASE.to_string()),
            ("worker.pollInterval", "200ms"),
            ("cleaner.interval", "100ms"),
            ("server.shutdownGrace", "100ms"),
            ("oss.kind", "http"),
            ("oss.url", files.url().as_str()),
        ]);
        let model = FakeModel::start(move |call, before| {
            let result =
                crate::model::result(call.header("x-task-id"), call.header("x-task-attempt").parse().unwrap(), RESULT);
            let result = Reply::Body("application/octet-stream", result.into());
            match (death, before) {
                (Death::At(Point::BeforeRetry), 0) => Reply::Status(500, vec![], "no".to_owned()),
                (Death::DuringCall, 0) => Reply::Hang,
                (Death::At(Point::BeforeHandBack | Point::DuringReaping | Point::AfterReaping), 0) => Reply::Hang,
                _ => result,
            }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        Case { death, survivor, settings, model, files, dir, nodes: Default::default() }
    }

    async fn run(self) -> Seen {
        let armed = match self.death {
            Death::At(Point::AfterAdoption) => Some(Point::AfterPark),
            Death::At(Point::DuringReaping | Point::AfterReaping) | Death::DuringCall => None,
            Death::At(point) => Some(point),
        };
        // The second piece: the first is on its way by then.
        let pass = if armed == Some(Point::HalfUpload) { 2 } else { 1 };
        let mut node = self.node("disk", armed.map(|point| (point, pass))).await;
        let api = Api::new(&node.url);
        api.create_model("m", &self.model.url, &json!({ "maxConcurrency": 2, "retryTimes": 2 })).await;
        let mut task = self.create(&api).await;
        let mut picked_up = Value::Null;
        match self.death {
            Death::DuringCall => {
                until("the call", async || self.model.running() == 1).await;
                node.kill();
            }
            Death::At(Point::BeforeHandBack) => {
                until("the call", async || self.model.running() == 1).await;
                node.signal("TERM");
                self.dies(&mut node).await;
            }
            Death::At(Point::DuringReaping | Point::AfterReaping) => {
                until("the call", async || self.model.running() == 1).await;
                node.kill();
                node = self.armed_reaper().await;
                self.dies(&mut node).await;
            }
            Death::At(Point::AfterAdoption) => {
                self.dies(&mut node).await;
                node = self.spawn("disk", Some((Point::AfterAdoption, 1)));
                self.dies(&mut node).await;
            }
            Death::At(Point::AfterPickUp) => {
                picked_up = api.until(task.as_ref().unwrap(), &[2]).await["ossFile"].clone();
                assert!(self.pick_up(&api, task.as_ref().unwrap()).await.is_none(), "it answered");
                self.dies(&mut node).await;
            }
            Death::At(_) => self.dies(&mut node).await,
        }
        let died = Instant::now();
        let calls_before = self.model.calls().len();
        let repeated = task.is_none();
        let disk = if self.survivor == Survivor::Restarted { "disk" } else { "other disk" };
        let survivor = self.node(disk, None).await;
        let api = Api::new(&survivor.url);
        if task.is_none() {
            // What a business does that got no answer.
            task = self.create(&api).await;
        }
        let task = task.expect("a task at last");
        let done = api.until(&task, &[2, 4]).await;
        let recovery = died.elapsed();
        self.check_pick_up(&api, &task, &picked_up).await;
        let seen = self.observe(&api, &survivor, &task, &done, recovery).await;
        Seen { repeated, calls_before, ..seen }
    }

    async fn observe(&self, api: &Api, survivor: &Node, task: &str, done: &Value, recovery: Duration) -> Seen {
        // Also those that nobody was told of.
        let all = eventually("every task to end", async || {
            let page = json!({ "page": { "pageNum": 1, "pageSize": 10 } });
            let all = api.post("/task/listTask", &page).await.data()["list"].as_array().unwrap().clone();
            if all.iter().all(|task| task["state"].as_i64().unwrap() >= 2) { Ok(all) } else { Err(format!("{all:?}")) }
        })
        .await;
        let file: usize = done["ossFile"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        let uploads = self.files.uploads();
        let calls = self.model.calls();
        let attempts: Vec<u32> = calls.iter().map(|call| call.header("x-task-attempt").parse().unwrap()).collect();
        let expected = calls.iter().zip(&attempts).filter(|(call, _)| call.header("x-task-id") == task);
        let expected: Vec<Vec<u8>> =
            expected.map(|(_, attempt)| crate::model::result(task, *attempt, RESULT)).collect();
        assert!(expected.iter().any(|bytes| uploads[file].content == bytes[..]), "the file is not what the model sent");
        let adopted = survivor.said().contains("found the parked result of this task");
        let attempt = attempts.iter().copied().max().unwrap_or_default();
        let json = json!({
            "point": self.death.name(), "survivor": format!("{:?}", self.survivor), "tasks": all.len(),
            "calls": calls.len(), "attempt": attempt, "adopted": adopted, "uploads": uploads.len(),
            "retryCount": done["retryCount"], "recoverySeconds": recovery.as_secs_f64(),
        });
        Seen {
            death: self.death,
            survivor: self.survivor,
            tasks: all.len(),
            repeated: false,
            calls_before: 0,
            calls: calls.len(),
            attempt,
            adopted,
            uploads: uploads.len(),
            recovery,
            json,
        }
    }

    /// The first answer that is heard says the same as the one that was not.
    async fn check_pick_up(&self, api: &Api, task: &str, picked_up: &Value) {
        let item = self.pick_up(api, task).await.expect("an answer");
        if self.death == Death::At(Point::AfterPickUp) {
            assert_eq!((&item["state"], &item["ossFile"]), (&json!(4), picked_up));
        } else {
            assert_eq!(item["state"], 2);
        }
        assert_eq!(self.pick_up(api, task).await.expect("an answer")["state"], 4);
    }

    async fn pick_up(&self, api: &Api, task: &str) -> Option<Value> {
        let request = api.request(reqwest::Method::POST, "/task/getTaskBatch").json(&json!({ "taskIds": [task] }));
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        Some(answer["data"]["list"][0].clone())
    }

    /// The task's id, if there was an answer.
    async fn create(&self, api: &Api) -> Option<String> {
        let body = json!({ "modelName": "m", "requestPayload": {} });
        let answer = api.request(reqwest::Method::POST, "/task/createTask").json(&body).send().await.ok()?;
        let answer: Value = answer.json().await.ok()?;
        Some(answer["data"]["taskId"].as_str()?.to_owned())
    }

    /// A node that dies when it finds the dead one's tasks.
    async fn armed_reaper(&self) -> Node {
        let Death::At(point) = self.death else { unreachable!("only points are armed") };
        self.spawn("third disk", Some((point, 1)))
    }

    async fn dies(&self, node: &mut Node) {
        let status = node.end_within(DEATH).await;
        assert!(status.is_some_and(|status| status.code().is_none()), "{}: {}", self.death.name(), node.said());
    }

    async fn node(&self, disk: &str, kill_at: Option<(Point, u32)>) -> Node {
        let mut node = self.spawn(disk, kill_at);
        assert!(node.ready().await, "{}", node.said());
        node
    }

    fn spawn(&self, disk: &str, kill_at: Option<(Point, u32)>) -> Node {
        let mut settings = self.settings.clone();
        let disk: PathBuf = self.dir.path().join(disk);
        settings.push(("worker.tmpDir".to_owned(), disk.to_string_lossy().into_owned()));
        let kill_at = kill_at.map(|(point, pass)| format!("{}:{pass}", point.name()));
        let number = self.nodes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Node::spawn(number, self.dir.path(), &settings, kill_at.as_deref())
    }
}

impl Death {
    fn name(self) -> &'static str {
        match self {
            Death::At(point) => point.name(),
            Death::DuringCall => "during-call",
        }
    }

    /// In the order in which a task comes by.
    fn order(self) -> usize {
        let place = |point| Point::ALL.iter().position(|other| *other == point).unwrap() * 2;
        match self {
            Death::At(point) => place(point),
            Death::DuringCall => place(Point::AfterClaim) + 1,
        }
    }

    fn component(self) -> &'static str {
        match self {
            Death::At(Point::BeforeEnqueue | Point::AfterEnqueue | Point::AfterPickUp) => "API",
            Death::At(Point::DuringReaping | Point::AfterReaping) => "cleaner",
            Death::At(Point::HalfPark) => "spool",
            Death::At(Point::HalfUpload) => "storage",
            Death::At(_) | Death::DuringCall => "worker",
        }
    }
}

impl Survivor {
    fn name(self) -> &'static str {
        match self {
            Survivor::Restarted => "itself, restarted on its disk",
            Survivor::Other => "another node",
        }
    }
}

impl Seen {
    fn outcome(&self) -> String {
        let again = self.calls - self.calls_before;
        let run = match (self.repeated, self.adopted, again) {
            (true, _, _) if self.tasks == 1 => "nothing was stored; the repeated request is the task",
            (true, _, _) => "the task runs, and the repeated request is a second one",
            (false, true, 0) => "the parked result is uploaded, the model is not called again",
            (false, true, _) => "a parked result is uploaded, and yet the model was called again",
            (false, false, 0) => "it had succeeded; nothing is done again",
            (false, false, _) if self.calls_before == 0 => "runs for the first time",
            (false, false, _) => "runs again",
        };
        let uploads = if self.uploads > self.tasks { "; storage got it twice" } else { "" };
        format!("{run}{uploads}")
    }

    /// The row, but for how long it took.
    fn row(&self) -> String {
        format!(
            "| `{}` | {} | {} | {} | {} | {} |",
            self.death.name(),
            self.death.component(),
            self.survivor.name(),
            self.outcome(),
            self.attempt,
            self.calls,
        )
    }
}

fn document(seen: &[Seen]) -> String {
    let mut text = String::from(
        "# Crash matrix\n\n\
         What becomes of a task when the process that holds it dies as by `kill -9`, between any two steps.\n\
         Generated from what `tests/chaos/matrix.rs` observes on real processes, Postgres and Redis; not to be\n\
         edited:\n\n\
         ```sh\ncargo test --test chaos -- --write-matrix\n```\n\n",
    );
    writeln!(
        text,
        "In every case the task succeeded, its file was what the model sent, and pickups agreed: the test run\n\
         observes all of it again and fails where it differs from this page. The points are described in\n\
         [`src/faults.rs`](../src/faults.rs). *Recovery* is from the death to the task's end, with\n\
         `worker.leaseSeconds` {LEASE} and the start of the surviving process (a debug build) in it.\n"
    )
    .unwrap();
    text.push_str("| dies at | component | who carries on | outcome | attempts | calls | recovery (s) |\n");
    text.push_str("| --- | --- | --- | --- | ---: | ---: | ---: |\n");
    for seen in seen {
        writeln!(text, "{} {:.1} |", seen.row(), seen.recovery.as_secs_f64()).unwrap();
    }
    text
}

fn says_what_was_seen(document: &str, seen: &[Seen]) -> bool {
    let rows = document.lines().filter(|line| line.starts_with("| `")).map(without_time);
    let (said, seen): (BTreeSet<String>, BTreeSet<String>) = (rows.collect(), seen.iter().map(Seen::row).collect());
    seen.difference(&said).for_each(|row| println!("observed, but not in {DOCUMENT}: {row}"));
    said.difference(&seen).for_each(|row| println!("in {DOCUMENT}, but not observed: {row}"));
    if said != seen {
        println!("if that is how it has to be: cargo test --test chaos -- --write-matrix");
    }
    said == seen
}

fn without_time(row: &str) -> String {
    let cells = row.trim_end_matches('|').rfind('|').unwrap_or_default();
    format!("{}|", &row[..cells])
}
