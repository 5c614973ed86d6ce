//! Adoption: a restarted node goes on with what it had parked, unless somebody else began again.

use model_asynch::{
    clock,
    task::{
        Attempt, TaskKey,
        lifecycle::{self, Applied, Phase, Place, Slot, State},
    },
};

use super::{Fixture, ROOMY, call, failure, stored, succeeded};
use crate::{backend_test, support::backend::TestDb};

backend_test!(a_task_still_running_is_adopted_with_its_call_to_be_counted, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    let reborn = clock::node_id();
    let adopted = fixture.store.adopt(reborn, task.key, task.attempt, "a.part").await.unwrap().unwrap();
    assert!(adopted.call_uncounted);
    assert_eq!((adopted.task.phase, adopted.task.attempt), (Phase::Model, task.attempt));
    assert_eq!(adopted.model.id, lane.model);
    let row = fixture.task(task.key).await;
    assert_eq!((row.state, row.phase), (State::Running, Phase::Model));
    assert_eq!(fixture.raw.text("SELECT tmp_file FROM asynch_task").await, "a.part");

    // Whoever adopted it may not have heard of that, or have died: the next one is told the same.
    let adopted = fixture.store.adopt(reborn, task.key, task.attempt, "a.part").await.unwrap().unwrap();
    assert!(adopted.call_uncounted);
    // Parking it counts its call, once.
    for _ in 0..2 {
        fixture.done(lifecycle::parked(&adopted.task, "a.part".into(), None, call(true))).await;
        assert_eq!(fixture.calls().await, [1, 1, 0, 5]);
    }
    let adopted = fixture.store.adopt(reborn, task.key, task.attempt, "a.part").await.unwrap().unwrap();
    assert!(!adopted.call_uncounted && adopted.task.phase == Phase::Upload);
    fixture.done(succeeded(&adopted.task)).await;
});

backend_test!(a_parked_task_is_adopted_with_its_call_counted, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.done(lifecycle::parked(&task, "a.part".into(), None, call(true))).await;
    let adopted = fixture.store.adopt(clock::node_id(), task.key, task.attempt, "a.part").await.unwrap().unwrap();
    assert!(!adopted.call_uncounted);
});

backend_test!(a_dead_workers_last_write_changes_nothing_after_the_adoption, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    let adopted = fixture.store.adopt(clock::node_id(), task.key, task.attempt, "a.part").await.unwrap().unwrap();
    fixture.done(lifecycle::parked(&adopted.task, "a.part".into(), Some("full".into()), call(true))).await;
    // Sent by the worker that died, under the same attempt, and carried out only now.
    for late in [
        lifecycle::parked(&task, "b.part".into(), Some("slow".into()), call(true)),
        lifecycle::failed(&task, "no".into(), call(false)),
        lifecycle::handed_back(&task, call(false)),
        lifecycle::succeeded(&task, stored(), call(true)),
    ] {
        assert_eq!(fixture.store.apply(late).await.unwrap(), Applied::Stale);
    }
    assert_eq!(fixture.calls().await, [1, 1, 0, 5], "the call is counted once");
    assert_eq!(fixture.raw.text("SELECT tmp_file FROM asynch_task").await, "a.part");
    fixture.done(succeeded(&adopted.task)).await;
});

backend_test!(a_task_back_in_the_queue_is_adopted_even_while_it_rests, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    let lost = fixture.store.abandoned(1).await.unwrap();
    fixture.done(lifecycle::lease_lost(&lost[0], 3, call(false))).await;
    let adopted = fixture.store.adopt(fixture.node, task.key, task.attempt, "a.part").await.unwrap().unwrap();
    assert!(!adopted.call_uncounted, "the rescue has counted it");
    assert_eq!((adopted.task.lost_attempts, adopted.task.attempt), (1, task.attempt));
    assert!(fixture.claim(lane, 1).await.tasks.is_empty());

    let slot = Slot { delay: std::time::Duration::from_secs(60), place: Place::Kept };
    fixture.done(lifecycle::retried(&adopted.task, &failure("slow"), slot, None)).await;
    assert!(fixture.store.adopt(fixture.node, task.key, task.attempt, "a.part").await.unwrap().is_some());
});

backend_test!(a_task_that_moved_on_is_not_adopted, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let old = fixture.running(lane).await;
    fixture.done(lifecycle::handed_back(&old, None)).await;
    let new = fixture.claim_one(lane).await;
    assert!(fixture.store.adopt(fixture.node, old.key, old.attempt, "a").await.unwrap().is_none(), "claimed again");
    assert!(fixture.store.adopt(fixture.node, old.key, Attempt(3), "a").await.unwrap().is_none(), "never claimed so");
    fixture.done(succeeded(&new)).await;
    assert!(fixture.store.adopt(fixture.node, new.key, new.attempt, "a").await.unwrap().is_none(), "finished");
    let unknown = TaskKey { id: clock::task_id(), ..new.key };
    assert!(fixture.store.adopt(fixture.node, unknown, new.attempt, "a").await.unwrap().is_none(), "purged");
});

backend_test!(a_deleted_models_task_is_adopted_because_its_result_is_there, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let task = fixture.running(lane).await;
    fixture.delete_model(lane.model).await;
    assert!(fixture.store.adopt(fixture.node, task.key, task.attempt, "a").await.unwrap().is_some());
});
