//! What became of a task's attempts: written when they end, deleted with their task.

use std::time::Duration;

use model_asynch::{
    store::tasks::ledger::MOST_ATTEMPTS,
    task::{
        AttemptOutcome, PastAttempt, TaskKey, TenantId,
        lifecycle::{self, Applied, Ending, Place, Slot},
    },
};

use super::{Fixture, ROOMY, Running, TENANT, call, clock, failure, succeeded};
use crate::{backend_test, support::backend::TestDb};

const NOW: Slot = Slot { delay: Duration::ZERO, place: Place::Head };

async fn attempts(fixture: &Fixture, key: TaskKey) -> Vec<PastAttempt> {
    fixture.store.attempts(key).await.unwrap().expect("a stored task")
}

/// Number and outcome of each attempt.
async fn outcomes(fixture: &Fixture, key: TaskKey) -> Vec<(i32, &'static str)> {
    attempts(fixture, key).await.iter().map(|past| (past.attempt.0, past.outcome.word())).collect()
}

async fn rows(fixture: &Fixture) -> i64 {
    fixture.raw.number("SELECT count(*) FROM asynch_attempt").await
}

backend_test!(every_way_an_attempt_can_end_is_in_its_timeline, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "running")]);
    fixture.done(lifecycle::retried(&task, &failure("slow\0"), NOW, call(false))).await;
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "failed")]);
    let ends: [fn(&Running) -> lifecycle::Transition; 3] = [
        |task| lifecycle::handed_back(task, None),
        |task| lifecycle::result_gone(task, "no file".into(), None),
        |task| lifecycle::result_lost(task, "no room".into(), 9, None),
    ];
    for end in ends {
        let task = fixture.claim_one(lane).await;
        fixture.done(end(&task)).await;
    }
    fixture.claim_one(lane).await;
    let lost = fixture.store.held_by(fixture.node).await.unwrap();
    let lost: Vec<_> = lost.iter().map(|task| lifecycle::lease_lost(task, 9, None)).collect();
    assert_eq!(fixture.store.apply_all(&lost).await.unwrap(), [Applied::Done]);
    let last = fixture.claim_one(lane).await;
    fixture.done(succeeded(&last)).await;
    let expected = [(1, "failed"), (2, "handedBack"), (3, "uploadFailed"), (4, "lost"), (5, "lost"), (6, "succeeded")];
    assert_eq!(outcomes(&fixture, task.key).await, expected);
    let all = attempts(&fixture, task.key).await;
    let errors: Vec<&str> = all.iter().map(|past| past.error.as_str()).collect();
    assert_eq!(errors, ["slow\u{fffd}", "", "no file", "no room", "attempt 5 was lost with its worker", ""]);
    assert!(all[..5].iter().all(|past| past.node == Some(fixture.node)));
    assert!(all.iter().all(|past| past.started_at.unwrap() <= past.ended_at.unwrap()));
    assert!(all.windows(2).all(|pair| pair[0].ended_at <= pair[1].started_at), "{all:?}");
});

backend_test!(an_attempt_that_only_uploads_runs_with_the_error_of_its_upload, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.done(lifecycle::parked(&task, "a".into(), Some("the upload failed".into()), None)).await;
    let seen = attempts(&fixture, task.key).await;
    assert_eq!((seen[0].outcome, seen[0].error.as_str()), (AttemptOutcome::Running, "the upload failed"));
    assert_eq!((seen[0].node, seen[0].ended_at), (Some(fixture.node), None));
    fixture.done(lifecycle::upload_given_up(&task, "no room".into(), None)).await;
    let seen = attempts(&fixture, task.key).await;
    assert_eq!((seen.len(), seen[0].outcome), (1, AttemptOutcome::Ended(Ending::UploadFailed)));
});

backend_test!(a_task_that_succeeds_at_once_writes_nothing_in_the_ledger, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.done(succeeded(&task)).await;
    fixture.store.pick_up(TENANT, &[task.key.id]).await.unwrap();
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "succeeded")]);
    assert_eq!(rows(&fixture).await, 0);
});

backend_test!(a_writer_that_comes_again_or_too_late_adds_nothing, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    let retried = lifecycle::retried(&task, &failure("slow"), NOW, call(false));
    fixture.done(retried.clone()).await;
    fixture.done(retried).await;
    assert_eq!(rows(&fixture).await, 1);
    fixture.claim_one(lane).await;
    let late = lifecycle::failed(&task, "late".into(), None);
    assert_eq!(fixture.store.apply(late).await.unwrap(), Applied::Stale);
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "failed"), (2, "running")]);
});

backend_test!(a_lost_attempt_whose_result_is_found_again_goes_on, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    let lost = fixture.store.held_by(fixture.node).await.unwrap();
    fixture.store.apply_all(&[lifecycle::lease_lost(&lost[0], 9, None)]).await.unwrap();
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "lost")]);
    let node = clock::node_id();
    let adopted = fixture.store.adopt(node, task.key, task.attempt, "a").await.unwrap().unwrap();
    assert_eq!((outcomes(&fixture, task.key).await, adopted.task.node), (vec![(1, "running")], node));
    fixture.done(succeeded(&adopted.task)).await;
    assert_eq!(outcomes(&fixture, task.key).await, [(1, "succeeded")]);
});

backend_test!(a_task_dropped_from_its_queue_has_the_attempts_it_had, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    fixture.done(lifecycle::retried(&task, &failure("slow"), NOW, None)).await;
    fixture.queue(lane, 1).await;
    fixture.delete_model(lane.model).await;
    for waiting in fixture.store.queued_for_deleted_models(10).await.unwrap() {
        let expected: &[(i32, &str)] = if waiting.key == task.key { &[(1, "failed")] } else { &[] };
        fixture.done(lifecycle::dropped_from_queue(&waiting, "the model was deleted".into())).await;
        assert_eq!(outcomes(&fixture, waiting.key).await, expected);
    }
});

backend_test!(the_ledger_of_a_task_is_bounded_and_goes_with_it, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let kept = fixture.running(lane).await;
    fixture.done(lifecycle::failed(&kept, "kept".into(), None)).await;
    let task = fixture.running(lane).await;
    fixture.done(lifecycle::retried(&task, &failure("slow"), NOW, None)).await;
    for _ in 0..MOST_ATTEMPTS + 5 {
        let task = fixture.claim_one(lane).await;
        fixture.done(lifecycle::handed_back(&task, None)).await;
    }
    let last = fixture.claim_one(lane).await;
    fixture.done(lifecycle::failed(&last, "no".into(), None)).await;
    let seen = outcomes(&fixture, task.key).await;
    assert_eq!(seen.len(), MOST_ATTEMPTS as usize);
    assert_eq!((seen[0].0, seen.last()), (8, Some(&(107, "failed"))));
    let id = task.key.id;
    let past = fixture.raw.at(-1);
    fixture.raw.run(&format!("UPDATE asynch_task SET expire_at = {past} WHERE task_id = '{id}'")).await;
    assert_eq!(fixture.store.purge(Duration::from_secs(60), 100).await.unwrap().len(), 1);
    assert!(fixture.store.attempts(task.key).await.unwrap().is_none());
    assert_eq!(rows(&fixture).await, 1, "the other task's is still there");
    assert_eq!(outcomes(&fixture, kept.key).await, [(1, "failed")]);
});

backend_test!(a_task_that_is_one_too_many_takes_its_attempts_along, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let (kept, gone) = (fixture.running(lane).await, fixture.running(lane).await);
    for task in [&kept, &gone] {
        fixture.done(lifecycle::failed(task, "no".into(), None)).await;
    }
    assert_eq!(rows(&fixture).await, 2);
    assert_eq!(fixture.store.purge_results(TENANT, &[gone.key.id]).await.unwrap().len(), 1);
    assert_eq!(rows(&fixture).await, 1);
    assert_eq!(outcomes(&fixture, kept.key).await, [(1, "failed")]);
});

backend_test!(the_attempts_of_another_tenants_task_are_not_there, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    let elsewhere = TaskKey { tenant: TenantId(8), ..task.key };
    assert!(fixture.store.attempts(elsewhere).await.unwrap().is_none());
});
