//! Transitions: guarded by state and attempt, placed in the queue as they say, counted once.

use std::time::Duration;

use futures::future::join_all;
use model_asynch::task::{
    Attempt, Waiting,
    lifecycle::{self, Applied, Phase, Place, Slot, State},
};

use super::{Fixture, ROOMY, TaskKey, call, failure, ids, seconds_between, stored, succeeded};
use crate::{backend_test, support::backend::TestDb};

const REST: Duration = Duration::from_secs(60);

backend_test!(a_stale_attempt_cannot_write, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let old = fixture.running(lane).await;
    fixture.done(lifecycle::handed_back(&old, None)).await;
    let new = fixture.claim_one(lane).await;
    let stale = [
        succeeded(&old),
        lifecycle::parked(&old, "a".into(), None, None),
        lifecycle::failed(&old, "no".into(), None),
        lifecycle::handed_back(&old, None),
    ];
    for transition in stale.clone() {
        assert_eq!(fixture.store.apply(transition).await.unwrap(), Applied::Stale);
    }
    assert_eq!(fixture.store.apply_all(&stale).await.unwrap(), [Applied::Stale; 4]);
    let row = fixture.task(new.key).await;
    assert_eq!((row.state, row.phase, row.error_msg.as_str()), (State::Running, Phase::Model, ""));
    fixture.done(succeeded(&new)).await;
    assert_eq!(fixture.store.apply(lifecycle::failed(&new, "late".into(), None)).await.unwrap(), Applied::Stale);
});

backend_test!(of_many_writers_of_one_attempt_one_wins, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let second = fixture.second(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    let stores = [&fixture.store, &second];
    let writers = (0..20).map(|n| stores[n % 2].apply(lifecycle::failed(&task, format!("{n}"), None)));
    let applied: Vec<Applied> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(applied.iter().filter(|applied| **applied == Applied::Done).count(), 1);
});

backend_test!(a_success_carries_its_file_and_a_failure_its_reason, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    fixture.done(succeeded(&task)).await;
    let row = fixture.task(task.key).await;
    assert_eq!((row.state, row.phase, row.file_size), (State::Succeeded, Phase::Model, 5));
    assert_eq!([row.oss_file, row.oss_key, row.file_type], ["http://files/a.wav", "a.wav", "wav"]);
    assert!(row.finished_at >= row.started_at && row.expire_at.is_none());

    let task = fixture.running(lane).await;
    fixture.done(lifecycle::failed(&task, "answered 400: \0".into(), None)).await;
    let row = fixture.task(task.key).await;
    assert_eq!((row.state, row.error_msg.as_str()), (State::Failed, "answered 400: \u{fffd}"));
    assert_eq!(seconds_between(row.finished_at, row.expire_at), 50, "the model's autoCleanSeconds");
    assert_eq!(row.oss_file, "");
});

backend_test!(a_failure_is_kept_a_day_where_the_model_is_unknown, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.raw.run("DELETE FROM asynch_models").await;
    fixture.done(lifecycle::failed(&task, "no".into(), None)).await;
    let row = fixture.task(task.key).await;
    assert_eq!(seconds_between(row.finished_at, row.expire_at), 86_400);
});

backend_test!(a_parked_task_keeps_running_with_only_its_upload_left, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    for error in ["storage answered 503", "storage answered 500"] {
        fixture.done(lifecycle::parked(&task, "a.part".into(), Some(error.into()), None)).await;
        let row = fixture.task(task.key).await;
        assert_eq!((row.state, row.phase, row.error_msg.as_str()), (State::Running, Phase::Upload, error));
    }
    assert_eq!(fixture.raw.text("SELECT tmp_file FROM asynch_task").await, "a.part");
    fixture.done(succeeded(&task)).await;
    assert_eq!(fixture.raw.text("SELECT tmp_file FROM asynch_task").await, "");
    assert_eq!(fixture.task(task.key).await.error_msg, "");
});

backend_test!(a_retry_rests_and_then_stands_at_the_head_or_the_tail, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let queued = fixture.queue(lane, 4).await;
    let tasks = fixture.claim(lane, 2).await.tasks;
    let slot = |place| Slot { delay: REST, place };
    fixture.done(lifecycle::retried(&tasks[0], &failure("slow"), slot(Place::Tail), None)).await;
    fixture.done(lifecycle::retried(&tasks[1], &failure("slow"), slot(Place::Head), None)).await;
    let row = fixture.task(tasks[0].key).await;
    assert_eq!((row.state, row.retry_count, row.error_msg.as_str()), (State::Queued, 1, "slow"));
    assert!(seconds_between(Some(row.created_at), Some(row.enqueue_at)) >= 60);
    let row = fixture.task(tasks[1].key).await;
    assert_eq!(row.enqueue_at, row.created_at);

    assert_eq!(fixture.store.promote_due(10).await.unwrap(), (0, vec![]), "nothing is due yet");
    fixture.raw.shift("due_at", -61).await;
    assert_eq!(fixture.store.promote_due(10).await.unwrap(), (2, vec![lane]));
    let claim = fixture.claim(lane, 9).await;
    assert_eq!(ids(&claim), [queued[1], queued[2], queued[3], queued[0]]);
    assert_eq!((claim.tasks[0].retry_count, claim.tasks[0].lost_attempts), (1, 0));
});

backend_test!(a_task_handed_back_is_the_first_again_and_uses_nothing_up, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let queued = fixture.queue(lane, 2).await;
    let task = fixture.claim_one(lane).await;
    fixture.done(lifecycle::handed_back(&task, None)).await;
    let claim = fixture.claim(lane, 2).await;
    assert_eq!(ids(&claim), queued);
    assert_eq!((claim.tasks[0].retry_count, claim.tasks[0].lost_attempts), (0, 0));
});

backend_test!(lost_attempts_are_counted_apart_and_end_in_failure, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 1).await;
    for n in 1..=3 {
        let task = fixture.claim_one(lane).await;
        assert_eq!((task.lost_attempts, task.retry_count), (n - 1, 0));
        // Nobody registered this node, so its tasks are abandoned at once.
        let lost = fixture.store.abandoned(10).await.unwrap();
        fixture.done(lifecycle::lease_lost(&lost[0], 3, call(false))).await;
    }
    let row = fixture.raw.number("SELECT state * 100 + lost_attempts * 10 + retry_count FROM asynch_task").await;
    assert_eq!(row, 330);
    assert_eq!(fixture.calls().await, [3, 0, 3, 15]);
});

backend_test!(a_waiting_task_can_be_dropped_from_the_queue, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let id = fixture.queue(lane, 1).await[0];
    let key = TaskKey { tenant: lane.tenant, id };
    let waiting = Waiting { key, lane, attempt: Attempt::NONE, model_name: "tts".into(), traceparent: String::new() };
    fixture.done(lifecycle::dropped_from_queue(&waiting, "waited too long".into())).await;
    assert_eq!(fixture.task(key).await.state, State::Failed);

    let task = fixture.running(lane).await;
    let waiting = Waiting { key: task.key, attempt: Attempt::NONE, ..waiting };
    let dropped = lifecycle::dropped_from_queue(&waiting, "waited too long".into());
    assert_eq!(fixture.store.apply(dropped).await.unwrap(), Applied::Stale, "it was claimed in between");
});

backend_test!(transitions_of_one_task_in_one_batch_are_applied_in_order, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let (task, other) = (fixture.running(lane).await, fixture.running(lane).await);
    let batch = [
        lifecycle::parked(&task, "a".into(), None, call(true)),
        succeeded(&other),
        succeeded(&task),
        lifecycle::failed(&task, "no".into(), None),
    ];
    let applied = fixture.store.apply_all(&batch).await.unwrap();
    assert_eq!(applied, [Applied::Done, Applied::Done, Applied::Done, Applied::Stale]);
    assert_eq!(fixture.task(task.key).await.state, State::Succeeded);
    assert_eq!(fixture.calls().await, [1, 1, 0, 5]);
    assert!(fixture.store.apply_all(&[]).await.unwrap().is_empty());
});

backend_test!(calls_add_up_per_day_tenant_creator_and_model, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let second = fixture.second(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 40).await;
    let tasks = fixture.claim(lane, 40).await.tasks;
    let stores = [&fixture.store, &second];
    let finish = tasks.iter().enumerate().map(async |(n, task)| {
        let transition = if n % 4 == 0 {
            lifecycle::failed(task, "no".into(), call(false))
        } else {
            lifecycle::succeeded(task, stored(), call(true))
        };
        assert_eq!(stores[n % 2].apply(transition).await.unwrap(), Applied::Done);
    });
    join_all(finish).await;
    assert_eq!(fixture.calls().await, [40, 30, 10, 200]);
    let rows = "SELECT count(*) FROM asynch_model_stat WHERE tenant_id = 7 AND creator = 'ann' AND model_name = 'tts'
                AND total_seconds = 20.0 AND created_at <= updated_at AND CAST(day AS TEXT) = '2026-11-22'";
    assert_eq!(fixture.raw.number(rows).await, 1);
});

backend_test!(a_transition_that_comes_again_is_done_and_not_counted_again, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let slot = Slot { delay: REST, place: Place::Tail };
    let tasks = [
        fixture.running(lane).await,
        fixture.running(lane).await,
        fixture.running(lane).await,
        fixture.running(lane).await,
    ];
    let transitions = [
        lifecycle::succeeded(&tasks[0], stored(), call(true)),
        lifecycle::failed(&tasks[1], "no\0".into(), call(false)),
        lifecycle::retried(&tasks[2], &failure("slow"), slot, call(false)),
        lifecycle::parked(&tasks[3], "a".into(), Some("storage is away".into()), call(true)),
    ];
    for _ in 0..2 {
        for transition in transitions.clone() {
            fixture.done(transition).await;
        }
        fixture.store.pick_up(lane.tenant, &[tasks[0].key.id]).await.unwrap();
        assert_eq!(fixture.calls().await, [4, 2, 2, 20]);
    }
    assert_eq!(fixture.task(tasks[2].key).await.retry_count, 1);
});

backend_test!(a_stale_writers_call_is_counted_by_whoever_took_its_task, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let old = fixture.running(lane).await;
    fixture.done(lifecycle::handed_back(&old, call(false))).await;
    fixture.claim_one(lane).await;
    let counted = fixture.calls().await;
    let late = lifecycle::succeeded(&old, stored(), call(true));
    assert_eq!(fixture.store.apply(late).await.unwrap(), Applied::Stale);
    assert_eq!(fixture.calls().await, counted);
    assert_eq!(counted[0], 1);
});
