//! The businesses: they create tasks, try again on 503, pick results up, and remember what they were
//! promised.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{model::Payload, world::World};

/// How long a business waits for an answer: a paused node never gives one.
const PATIENCE: Duration = Duration::from_secs(4);

/// Most ids in one pickup.
const BATCH: usize = 200;

/// One tenant's queue for one model.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    pub tenant: i64,
    pub model: &'static str,
    /// The model's `maxConcurrency`.
    pub limit: usize,
    work_millis: (u64, u64),
    /// Tasks that its business has waiting at most.
    waiting: usize,
}

/// The shared model's `totalConcurrency`.
pub const SHARED_TOTAL: usize = 3;

const fn lane(tenant: i64, model: &'static str, limit: usize, work_millis: (u64, u64), waiting: usize) -> Lane {
    Lane { tenant, model, limit, work_millis, waiting }
}

/// Every lane of the run.
pub const LANES: [Lane; 8] = [
    lane(1, "quick", 6, (2, 60), 16),
    lane(1, "medium", 4, (200, 1200), 8),
    lane(1, "long", 3, (3000, 7000), 4),
    lane(2, "quick", 3, (2, 30), 8),
    lane(2, "long", 2, (2000, 6000), 3),
    lane(1, "shared", 2, (100, 600), 4),
    lane(2, "shared", 2, (100, 600), 4),
    lane(3, "shared", 2, (100, 600), 4),
];

impl Lane {
    /// As the models know it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.tenant, self.model)
    }
}

/// A task that createTask has accepted.
#[derive(Debug, Clone)]
pub struct Task {
    pub tenant: i64,
    pub scenario: usize,
    pub lane: String,
    pub refuse: bool,
    /// Its final state as the first pickup showed it, and when that was.
    pub done: Option<(i64, Instant)>,
    pub file: String,
}

/// What the businesses know.
#[derive(Default)]
pub struct Ledger {
    pub accepted: Mutex<HashMap<String, Task>>,
    /// Requests of createTask whose answer never came: tenant, by the payload's number.
    pub unanswered: Mutex<HashMap<u64, i64>>,
    next: AtomicU64,
    pub closed: AtomicBool,
    pub over: AtomicBool,
}

/// One of them.
pub struct Business {
    pub world: Arc<World>,
    pub ledger: Arc<Ledger>,
    client: Client,
    rng: fastrand::Rng,
}

impl Business {
    pub fn new(world: &Arc<World>, ledger: &Arc<Ledger>, rng: fastrand::Rng) -> Business {
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        Business { world: world.clone(), ledger: ledger.clone(), client, rng }
    }

    /// Registers the models of all lanes.
    pub async fn register(&mut self) {
        let mut registered = Vec::new();
        for lane in LANES {
            let shared = lane.model == "shared";
            let tenant = if shared { 0 } else { lane.tenant };
            if registered.contains(&(tenant, lane.model)) {
                continue;
            }
            registered.push((tenant, lane.model));
            let model = json!({
                "modelName": lane.model, "baseUrl": self.world.models.url, "maxConcurrency": lane.limit,
                "timeoutSeconds": 10, "retryTimes": 100, "queueLimit": 0, "shared": shared,
                "totalConcurrency": if shared { SHARED_TOTAL } else { 0 },
            });
            let answer = self.ask(tenant, Method::POST, "/model/createModel", &model).await;
            assert!(matches!(answer, Ok((200, _))), "{answer:?}");
        }
    }

    /// Creates tasks of a lane until the ledger is closed.
    pub async fn create(mut self, lane: Lane) {
        while !self.ledger.closed.load(Ordering::SeqCst) {
            let pause = Duration::from_millis(self.rng.u64(20..150));
            tokio::time::sleep(pause).await;
            if self.waiting(lane) < lane.waiting {
                self.create_one(lane).await;
            }
        }
    }

    fn waiting(&self, lane: Lane) -> usize {
        let name = lane.name();
        let accepted = self.ledger.accepted.lock().unwrap();
        accepted.values().filter(|task| task.done.is_none() && task.lane == name).count()
    }

    async fn create_one(&mut self, lane: Lane) {
        let (from, to) = lane.work_millis;
        let large = self.rng.u8(..) < 25;
        let payload = Payload {
            n: self.ledger.next.fetch_add(1, Ordering::SeqCst),
            lane: lane.name(),
            work_millis: self.rng.u64(from..to),
            size: if large { self.rng.usize(300_000..800_000) } else { self.rng.usize(0..4000) },
            refuse: self.rng.u8(..) < 6,
        };
        let body = json!({ "modelName": lane.model, "requestPayload": payload });
        let scenario = self.world.scenario.load(Ordering::SeqCst);
        match self.ask(lane.tenant, Method::POST, "/task/createTask", &body).await {
            Ok((200, data)) => {
                let id = data["taskId"].as_str().unwrap().to_owned();
                let task = Task {
                    tenant: lane.tenant,
                    scenario,
                    lane: payload.lane,
                    refuse: payload.refuse,
                    done: None,
                    file: String::new(),
                };
                self.ledger.accepted.lock().unwrap().insert(id, task);
            }
            // 503: the row may be there all the same.
            Ok((503, _)) | Err(_) => {
                self.ledger.unanswered.lock().unwrap().insert(payload.n, lane.tenant);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok((status, data)) => self.world.blame(format!("createTask answered {status}: {data}")),
        }
    }

    /// Picks up what the tenant waits for, until the run is over.
    pub async fn pick_up(mut self, tenant: i64) {
        while !self.ledger.over.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(self.rng.u64(100..300))).await;
            let mut ids = self.waiting_for(tenant);
            self.rng.shuffle(&mut ids);
            ids.truncate(BATCH);
            if !ids.is_empty() {
                self.pick_up_these(tenant, &ids).await;
            }
        }
    }

    /// Unfinished tasks, and some that were picked up before and must answer the same.
    fn waiting_for(&mut self, tenant: i64) -> Vec<String> {
        let ledger = self.ledger.clone();
        let accepted = ledger.accepted.lock().unwrap();
        let mut wanted = |task: &Task| task.done.is_none() || self.rng.u8(..) < 3;
        accepted.iter().filter(|(_, task)| task.tenant == tenant && wanted(task)).map(|(id, _)| id.clone()).collect()
    }

    /// Asks for these and takes note; true if there was an answer.
    pub async fn pick_up_these(&mut self, tenant: i64, ids: &[String]) -> bool {
        let answer = self.ask(tenant, Method::POST, "/task/getTaskBatch", &json!({ "taskIds": ids })).await;
        let Ok((200, data)) = answer else { return false };
        for id in data["missing"].as_array().unwrap() {
            self.world.blame(format!("LOST: getTaskBatch does not know {id}"));
        }
        let mut accepted = self.ledger.accepted.lock().unwrap();
        for item in data["list"].as_array().unwrap() {
            let (id, state) = (item["taskId"].as_str().unwrap(), item["state"].as_i64().unwrap());
            let (file, task) = (item["ossFile"].as_str().unwrap(), accepted.get_mut(id).unwrap());
            match task.done {
                None if state >= 2 => {
                    task.done = Some((state, Instant::now()));
                    task.file = file.to_owned();
                }
                Some((before, _)) if state < before || file != task.file => {
                    self.world.blame(format!("LOST: {id} was {before} with {}, and now is {item}", task.file));
                }
                None | Some(_) => {}
            }
        }
        true
    }

    /// Every task of a tenant as listTask shows it.
    pub async fn list(&mut self, tenant: i64) -> Vec<Value> {
        let mut all = Vec::new();
        for number in 1.. {
            let page = json!({ "page": { "pageNum": number, "pageSize": 1000 } });
            let listed = crate::support::eventually::eventually("a page of tasks", async || {
                match self.ask(tenant, Method::POST, "/task/listTask", &page).await {
                    Ok((200, data)) => Ok(data["list"].as_array().unwrap().clone()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            let last = listed.len() < 1000;
            all.extend(listed);
            if last {
                break;
            }
        }
        all
    }

    /// One request to a random node that is up: status and data.
    async fn ask(&mut self, tenant: i64, method: Method, path: &str, body: &Value) -> Result<(u16, Value), String> {
        let urls: Vec<String> = self.world.urls.lock().unwrap().iter().flatten().cloned().collect();
        let url = self.rng.choice(&urls).ok_or("no node is up")?;
        let user = json!({ "tenantId": tenant.to_string(), "userName": "chaos" }).to_string();
        let request = self.client.request(method, format!("{url}{path}")).header("x-user-info", user).json(body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.map_err(|error| error.to_string())?;
        Ok((status, if status == 200 { body["data"].clone() } else { body }))
    }
}
