//! Pickup: results are handed out once and again, each known id once.

use futures::future::join_all;
use model_asynch::{
    clock,
    store::tasks::PickedUp,
    task::{TaskId, TenantId, lifecycle, lifecycle::State},
};

use super::{Fixture, ROOMY, TENANT, distinct, seconds_between, succeeded};
use crate::{backend_test, support::backend::TestDb};

fn states(picked: &[PickedUp]) -> Vec<State> {
    picked.iter().map(|task| task.state).collect()
}

backend_test!(a_pickup_answers_with_the_state_before_it_and_starts_the_clock, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.done(succeeded(&task)).await;
    let picked = fixture.store.pick_up(TENANT, &[task.key.id]).await.unwrap();
    assert_eq!(states(&picked), [State::Succeeded]);
    assert_eq!((picked[0].id, picked[0].oss_file.as_str()), (task.key.id, "http://files/a.wav"));
    assert_eq!((picked[0].oss_key.as_str(), picked[0].file_type.as_str(), picked[0].file_size), ("a.wav", "wav", 5));
    let row = fixture.task(task.key).await;
    assert_eq!(row.state, State::PickedUp);
    assert!((50..60).contains(&seconds_between(row.finished_at, row.expire_at)), "the model's autoCleanSeconds");

    let again = fixture.store.pick_up(TENANT, &[task.key.id]).await.unwrap();
    assert_eq!((states(&again), again[0].oss_file.as_str()), (vec![State::PickedUp], "http://files/a.wav"));
    assert_eq!(fixture.task(task.key).await.expire_at, row.expire_at, "asking again does not keep it longer");
});

backend_test!(unfinished_unknown_and_foreign_tasks_are_left_alone, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let (running, failed, foreign) =
        (fixture.running(lane).await, fixture.running(lane).await, fixture.running(lane).await);
    fixture.done(lifecycle::failed(&failed, "no".into(), None)).await;
    fixture.done(succeeded(&foreign)).await;
    let queued = fixture.queue(lane, 1).await[0];
    let ids = [running.key.id, failed.key.id, queued, clock::task_id(), running.key.id];
    let picked = fixture.store.pick_up(TENANT, &ids).await.unwrap();
    assert_eq!(picked.len(), 3, "each known id once");
    assert_eq!(distinct(states(&picked)), distinct([State::Running, State::Failed, State::Queued]));
    assert!(fixture.store.pick_up(TenantId(8), &[foreign.key.id]).await.unwrap().is_empty());
    assert_eq!(fixture.task(foreign.key).await.state, State::Succeeded);
    assert!(fixture.store.pick_up(TENANT, &[]).await.unwrap().is_empty());
});

backend_test!(concurrent_pickups_all_get_the_results, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let second = fixture.second(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 50).await;
    let tasks = fixture.claim(lane, 50).await.tasks;
    join_all(tasks.iter().map(|task| fixture.done(succeeded(task)))).await;
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.key.id).collect();
    let backwards: Vec<TaskId> = ids.iter().rev().copied().collect();
    let stores = [&fixture.store, &second];
    let asked = (0..8).map(|n| stores[n % 2].pick_up(TENANT, if n % 3 == 0 { &ids } else { &backwards }));
    for picked in join_all(asked).await {
        let picked = picked.unwrap();
        assert_eq!(picked.len(), 50);
        assert!(picked.iter().all(|task| task.oss_key == "a.wav"));
    }
    assert_eq!(fixture.raw.number("SELECT count(*) FROM asynch_task WHERE state = 4").await, 50);
});

backend_test!(a_thousand_ids_fit_in_one_pickup, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let task = fixture.running(fixture.lane(ROOMY).await).await;
    fixture.done(succeeded(&task)).await;
    let mut ids: Vec<TaskId> = (0..999).map(|_| clock::task_id()).collect();
    ids.push(task.key.id);
    assert_eq!(states(&fixture.store.pick_up(TENANT, &ids).await.unwrap()), [State::Succeeded]);
});
