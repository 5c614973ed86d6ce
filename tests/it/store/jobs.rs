use std::time::Duration;

use chrono::TimeDelta;
use model_asynch::{
    clock,
    job::{Cause, Job, RunState},
    secrets::Vault,
    store::{Page, Store, jobs::Requested},
};

use crate::{backend_test, support::backend::TestDb};

const JOB: Job = Job::Retention;
const LONG: Duration = Duration::from_secs(60);
const FIRST: Page = Page { offset: 0, limit: 10 };

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

async fn states(store: &Store) -> Vec<(Cause, RunState)> {
    store.list_runs(Some(JOB), FIRST).await.unwrap().list.iter().map(|run| (run.cause, run.state)).collect()
}

backend_test!(a_job_has_one_open_run_at_most, async |db: &TestDb| {
    let store = open(db).await;
    let now = store.now().await.unwrap();
    let asked = futures::future::try_join_all((0..4).map(|_| store.request_run(JOB, "ann", now))).await.unwrap();
    let waiting: Vec<_> = asked.iter().filter(|asked| matches!(asked, Requested::Waiting(_))).collect();
    assert_eq!(waiting.len(), 1);
    let runner = clock::node_id();
    let run = store.start_run(JOB, runner, "n", now).await.unwrap().unwrap();
    assert_eq!((run.creator.as_str(), run.state, run.cause), ("ann", RunState::Running, Cause::Request));
    assert_eq!(store.request_run(JOB, "ann", now).await.unwrap(), Requested::Open(run.id));
    assert_eq!(store.start_run(JOB, runner, "n", now).await.unwrap(), None);
    assert!(store.finish_run(run.id, runner, r#"{"a":1}"#, None, now).await.unwrap());
    let over = store.run(run.id).await.unwrap().unwrap();
    assert_eq!(
        (over.state, over.result.as_deref(), over.node.as_str()),
        (RunState::Succeeded, Some(r#"{"a":1}"#), "n")
    );
    assert!(matches!(store.request_run(JOB, "ann", now).await.unwrap(), Requested::Waiting(_)));
});

backend_test!(what_is_due_is_asked_for_by_one_node_and_once, async |db: &TestDb| {
    let store = open(db).await;
    let now = store.now().await.unwrap();
    assert_eq!(store.job_done_until(JOB).await.unwrap(), None);
    let began = now - TimeDelta::days(3);
    store.register_job(JOB, "@daily UTC", began).await.unwrap();
    store.register_job(JOB, "@daily UTC", now).await.unwrap();
    assert_eq!(store.job_done_until(JOB).await.unwrap(), Some(began), "the next node to come moves nothing");
    let asked = futures::future::try_join_all((0..4).map(|_| store.schedule_run(JOB, began, now))).await.unwrap();
    assert_eq!(asked.into_iter().flatten().count(), 1);
    assert_eq!(store.job_done_until(JOB).await.unwrap(), Some(now));

    let later = now + TimeDelta::days(1);
    assert_eq!(store.schedule_run(JOB, now, later).await.unwrap(), None, "the one before is still open");
    assert_eq!(store.job_done_until(JOB).await.unwrap(), Some(now), "so it stays due");
    assert_eq!(states(&store).await, [(Cause::Schedule, RunState::Waiting)]);

    store.register_job(JOB, "off", later).await.unwrap();
    assert_eq!(store.job_done_until(JOB).await.unwrap(), Some(later), "another schedule begins anew");
});

backend_test!(a_run_without_its_turn_is_lost_and_begun_again_once, async |db: &TestDb| {
    let store = open(db).await;
    let (runner, now) = (clock::node_id(), store.now().await.unwrap());
    store.request_run(JOB, "ann", now).await.unwrap();
    store.take_turn(&JOB.duty(), runner, LONG).await.unwrap();
    let run = store.start_run(JOB, runner, "n", now).await.unwrap().unwrap();
    assert_eq!(store.bury_run(JOB, now).await.unwrap(), None, "its node is at it");
    store.give_turn_back(&JOB.duty(), runner).await.unwrap();
    assert_eq!(store.bury_run(JOB, now).await.unwrap(), Some(run.id));
    assert!(!store.finish_run(run.id, runner, "{}", None, now).await.unwrap(), "it comes too late");
    assert!(!store.hand_run_back(run.id, runner).await.unwrap());
    assert_eq!(states(&store).await, [(Cause::Loss, RunState::Waiting), (Cause::Request, RunState::Lost)]);

    let again = store.start_run(JOB, clock::node_id(), "m", now).await.unwrap().unwrap();
    assert_eq!(again.creator, "ann");
    assert_eq!(store.bury_run(JOB, now).await.unwrap(), Some(again.id));
    assert_eq!(states(&store).await, [(Cause::Loss, RunState::Lost), (Cause::Request, RunState::Lost)]);
});

backend_test!(a_run_that_is_handed_back_waits_for_the_next_node, async |db: &TestDb| {
    let store = open(db).await;
    let (runner, now) = (clock::node_id(), store.now().await.unwrap());
    store.request_run(JOB, "ann", now).await.unwrap();
    let run = store.start_run(JOB, runner, "n", now).await.unwrap().unwrap();
    assert!(!store.hand_run_back(run.id, clock::node_id()).await.unwrap(), "somebody else's");
    assert!(store.hand_run_back(run.id, runner).await.unwrap());
    let waits = store.open_run(JOB).await.unwrap().unwrap();
    assert_eq!((waits.state, waits.started_at, waits.node.as_str()), (RunState::Waiting, None, ""));
    assert_eq!(store.start_run(JOB, clock::node_id(), "m", now).await.unwrap().unwrap().id, run.id);
});
