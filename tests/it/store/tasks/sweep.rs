//! What the cleaner and the dispatcher look for, and what is deleted.

use std::time::Duration;

use model_asynch::{
    clock,
    store::tasks::LaneVerdict,
    task::{
        Lane, NodeId, TaskId, TenantId,
        lifecycle::{self, Phase, Place, Slot},
    },
};

use super::{Enqueued, Fixture, ROOMY, TENANT, call, distinct, failure, new_task, succeeded, verdicts, want};
use crate::{
    backend_test,
    support::backend::{Kind, TestDb},
};

const HOUR: Duration = Duration::from_secs(3600);

impl Fixture {
    async fn register(&self, node: NodeId) {
        let (now, until) = (self.raw.at(0), self.raw.at(600));
        let sql = format!(
            "INSERT INTO asynch_node (node, name, started_at, lease_until) VALUES ('{node}', 'n', {now}, {until})"
        );
        self.raw.run(&sql).await;
    }

    /// Claims one task and lets it rest.
    async fn rest(&self, lane: Lane) -> TaskId {
        let task = self.claim_one(lane).await;
        let slot = Slot { delay: HOUR, place: Place::Kept };
        self.done(lifecycle::retried(&task, &failure("slow"), slot, None)).await;
        task.key.id
    }
}

backend_test!(every_lane_with_a_claimable_task_is_found, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    assert!(fixture.store.lanes_with_work().await.unwrap().is_empty());
    let (first, second) = (fixture.model(ROOMY).await, fixture.model(ROOMY).await);
    let lane = |model, tenant| Lane { model, tenant: TenantId(tenant) };
    let lanes = [lane(first, -1), lane(second, 7), lane(first, 7), lane(second, 9)];
    for lane in lanes {
        fixture.queue(lane, 3).await;
    }
    let (resting, running) = (lane(first, 8), lane(second, 8));
    fixture.queue(resting, 1).await;
    fixture.rest(resting).await;
    fixture.running(running).await;
    let found = fixture.store.lanes_with_work().await.unwrap();
    assert_eq!((found.len(), distinct(found)), (4, distinct(lanes)));
});

backend_test!(due_retries_are_promoted_in_batches_with_their_lanes, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lanes = [fixture.lane(ROOMY).await, fixture.lane(ROOMY).await];
    for lane in [lanes[0], lanes[1], lanes[0]] {
        fixture.queue(lane, 1).await;
        fixture.rest(lane).await;
    }
    assert_eq!(fixture.store.promote_due(10).await.unwrap(), (0, vec![]));
    assert_eq!(verdicts(&fixture.claim(lanes[0], 1).await), [LaneVerdict::Empty], "a resting task cannot be claimed");
    fixture.raw.shift("due_at", -3601).await;
    let (promoted, first) = fixture.store.promote_due(2).await.unwrap();
    let (rest, second) = fixture.store.promote_due(2).await.unwrap();
    assert_eq!((promoted, rest), (2, 1));
    assert_eq!(distinct([first, second].concat()), distinct(lanes));
    assert_eq!(fixture.claim(lanes[0], 9).await.tasks.len(), 2);
});

backend_test!(tasks_of_nodes_without_a_lease_are_abandoned, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 4).await;
    let (alive, dead) = (clock::node_id(), clock::node_id());
    fixture.register(alive).await;
    fixture.store.claim(alive, &[want(lane, 2)]).await.unwrap();
    let lost = fixture.store.claim(dead, &[want(lane, 2)]).await.unwrap().tasks;
    fixture.done(lifecycle::parked(&lost[1], "a".into(), None, None)).await;

    let mut abandoned = fixture.store.abandoned(10).await.unwrap();
    abandoned.sort_by_key(|task| task.key.id);
    assert_eq!(abandoned.iter().map(|task| task.key).collect::<Vec<_>>(), [lost[0].key, lost[1].key]);
    assert_eq!((abandoned[0].phase, abandoned[1].phase), (Phase::Model, Phase::Upload));
    assert_eq!((abandoned[0].lane, abandoned[0].attempt, abandoned[0].lost_attempts), (lane, lost[0].attempt, 0));
    assert_eq!((abandoned[0].creator.as_str(), abandoned[0].model_name.as_str()), ("ann", "tts"));
    assert_eq!(fixture.store.abandoned(1).await.unwrap().len(), 1);

    let rescued: Vec<_> = abandoned.iter().map(|task| lifecycle::lease_lost(task, 3, call(false))).collect();
    fixture.store.apply_all(&rescued).await.unwrap();
    assert!(fixture.store.abandoned(10).await.unwrap().is_empty());
});

backend_test!(a_run_long_past_its_deadline_is_abandoned_although_its_node_lives, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    fixture.register(fixture.node).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    // 100 s of the model, 60 s of grace, 60 s for its owner to end it.
    fixture.raw.shift("deadline_at", -215).await;
    assert!(fixture.store.abandoned(10).await.unwrap().is_empty());
    fixture.raw.shift("deadline_at", -10).await;
    let overdue: Vec<_> = fixture.store.abandoned(10).await.unwrap().iter().map(|task| task.key).collect();
    // The embedded store has only the clock of the one process that keeps the deadline.
    assert_eq!(overdue, if db.kind() == Kind::Sqlite { vec![] } else { vec![task.key] });
});

backend_test!(a_cleaner_cannot_take_back_what_was_adopted_since_it_looked, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    let seen = fixture.store.abandoned(10).await.unwrap();
    let successor = clock::node_id();
    fixture.store.adopt(successor, task.key, task.attempt, "f").await.unwrap().unwrap();
    let late = fixture.store.apply(lifecycle::lease_lost(&seen[0], 3, None)).await.unwrap();
    assert_eq!(late, lifecycle::Applied::Stale);
    assert_eq!(fixture.store.held_by(successor).await.unwrap()[0].key, task.key);
    let now = fixture.store.abandoned(10).await.unwrap();
    let rescued = fixture.store.apply(lifecycle::lease_lost(&now[0], 3, None)).await.unwrap();
    assert_eq!(rescued, lifecycle::Applied::Done, "its own look is good");
});

backend_test!(tasks_queued_too_long_are_found_lane_by_lane, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (lane, other) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    let old = [fixture.queue(lane, 2).await, fixture.queue(other, 1).await].concat();
    fixture.queue(lane, 1).await;
    fixture.rest(lane).await;
    fixture.raw.shift("enqueue_at", -7200).await;
    fixture.raw.shift("updated_at", -7200).await;
    fixture.queue(lane, 2).await;
    let found = fixture.store.queued_longer_than(HOUR, 10).await.unwrap();
    // The first of the lane was claimed and rests, the third took its place among the old ones.
    assert_eq!(found.len(), 3);
    assert!(found.iter().any(|task| task.key.id == old[2] && task.lane == other));
    assert!(found.iter().all(|task| task.key.id != old[0]));
    assert_eq!(fixture.store.queued_longer_than(HOUR, 2).await.unwrap().len(), 2);
    assert!(fixture.store.queued_longer_than(HOUR * 3, 10).await.unwrap().is_empty());
    assert!(fixture.store.queued_longer_than(Duration::MAX, 10).await.unwrap().is_empty());
});

backend_test!(queued_tasks_of_deleted_models_are_found_and_their_lanes_dropped, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (closed, open) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    fixture.queue(closed, 3).await;
    fixture.queue(open, 1).await;
    let resting = fixture.rest(closed).await;
    let running = fixture.claim_one(closed).await;
    assert!(fixture.store.queued_for_deleted_models(10).await.unwrap().is_empty());
    fixture.delete_model(closed.model).await;

    let found = fixture.store.queued_for_deleted_models(10).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|task| task.key.id == resting));
    assert!(found.iter().all(|task| task.lane == closed));
    assert_eq!(fixture.store.queued_for_deleted_models(1).await.unwrap().len(), 1);

    let dropped: Vec<_> =
        found.iter().map(|task| lifecycle::dropped_from_queue(task, "its model was deleted".into())).collect();
    fixture.store.apply_all(&dropped).await.unwrap();
    assert!(fixture.store.queued_for_deleted_models(10).await.unwrap().is_empty());

    assert_eq!(fixture.store.drop_closed_lanes(10).await.unwrap(), 0, "a task is still running there");
    fixture.done(succeeded(&running)).await;
    assert_eq!(fixture.store.drop_closed_lanes(10).await.unwrap(), 1);
    for table in ["asynch_lane_in", "asynch_lane_out"] {
        let left = format!("SELECT model_id FROM {table}");
        assert_eq!(fixture.raw.number(&left).await, open.model.0);
    }
    assert_eq!(fixture.store.enqueue(new_task(closed)).await.unwrap(), Enqueued::ModelGone);
});

backend_test!(what_is_past_its_time_is_purged_and_nothing_else, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let (failed, picked, unclaimed) =
        (fixture.running(lane).await, fixture.running(lane).await, fixture.running(lane).await);
    fixture.running(lane).await;
    fixture.queue(lane, 1).await;
    fixture.done(lifecycle::failed(&failed, "no".into(), None)).await;
    fixture.done(succeeded(&picked)).await;
    fixture.done(succeeded(&unclaimed)).await;
    fixture.store.pick_up(TENANT, &[picked.key.id]).await.unwrap();
    assert!(fixture.store.purge(HOUR, 10).await.unwrap().is_empty());

    fixture.raw.shift("expire_at", -60).await;
    let purged = fixture.store.purge(HOUR, 1).await.unwrap();
    let purged = [purged, fixture.store.purge(HOUR, 10).await.unwrap()].concat();
    assert_eq!(distinct(purged.iter().map(|task| task.key)), distinct([failed.key, picked.key]));
    let of_picked = purged.iter().find(|task| task.key == picked.key).unwrap();
    assert_eq!((of_picked.oss_key.as_str(), of_picked.model_name.is_empty()), ("a.wav", false));

    fixture.raw.shift("finished_at", -3601).await;
    let purged = fixture.store.purge(HOUR, 10).await.unwrap();
    assert_eq!(purged.iter().map(|task| task.key).collect::<Vec<_>>(), [unclaimed.key]);
    assert_eq!(fixture.raw.number("SELECT count(*) FROM asynch_task").await, 2);
});
