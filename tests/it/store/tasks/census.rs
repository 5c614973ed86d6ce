//! Counting what is queued and what runs.

use std::{sync::Arc, time::Duration};

use model_asynch::{
    census::CensusTaker,
    clock,
    store::census::{Census, LaneCensus},
    task::{
        Lane, TenantId,
        lifecycle::{self, Place, Slot},
    },
};

use super::{Fixture, Limits, ROOMY, failure, succeeded};
use crate::{backend_test, support::backend::TestDb};

fn numbers(census: &Census, lane: Lane) -> [i64; 4] {
    let found = census.lanes.iter().find(|counted| counted.lane == lane);
    found.map_or([0; 4], |lane: &LaneCensus| [lane.queued, lane.resting, lane.running, lane.uploading])
}

backend_test!(tasks_are_counted_by_what_they_wait_for, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (own, other) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    let elsewhere = Lane { tenant: TenantId(8), ..own };
    fixture.queue(own, 6).await;
    fixture.queue(elsewhere, 2).await;
    let claim = fixture.claim(own, 4).await;
    let rest = Slot { delay: Duration::from_secs(60), place: Place::Tail };
    fixture.done(lifecycle::retried(&claim.tasks[0], &failure("slow"), rest, None)).await;
    fixture.done(lifecycle::parked(&claim.tasks[1], "a".into(), None, None)).await;
    fixture.done(succeeded(&claim.tasks[2])).await;
    let census = fixture.store.count_lanes().await.unwrap();
    assert_eq!(numbers(&census, own), [2, 1, 1, 1]);
    assert_eq!(numbers(&census, elsewhere), [2, 0, 0, 0]);
    assert_eq!(numbers(&census, other), [0; 4]);
    assert_eq!(census.lanes.len(), 2, "lanes without tasks are left out");
});

backend_test!(a_census_knows_the_oldest_task_and_the_latest_start, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let ids = fixture.queue(lane, 3).await;
    let started = fixture.claim_one(lane).await;
    let oldest = fixture.store.task(model_asynch::task::TaskKey { tenant: lane.tenant, id: ids[1] }).await.unwrap();
    let running = fixture.task(started.key).await;
    let census = fixture.store.count_lanes().await.unwrap();
    assert_eq!(census.lanes[0].oldest_enqueue_at, oldest.map(|task| task.enqueue_at));
    assert_eq!(census.lanes[0].started_at, running.started_at);
});

backend_test!(a_census_knows_every_model_that_is_there_or_has_tasks_left, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (idle, busy, gone) = (
        fixture.model(Limits { max: 3, total: 4, queue: 5 }).await,
        fixture.lane(ROOMY).await,
        fixture.model(ROOMY).await,
    );
    fixture.queue(busy, 1).await;
    fixture.delete_model(busy.model).await;
    fixture.delete_model(gone).await;
    fixture.store.register_node(clock::node_id(), "alive", Duration::from_secs(60)).await.unwrap();
    fixture.store.register_node(clock::node_id(), "dead", Duration::ZERO).await.unwrap();
    let census = fixture.store.count_lanes().await.unwrap();
    let facts = &census.models[&idle];
    assert_eq!((facts.max_concurrency, facts.total_concurrency, facts.queue_limit), (3, 4, 5));
    assert!(facts.enabled && !facts.deleted && !facts.shared);
    assert!(census.models[&busy.model].deleted);
    assert_eq!(census.lanes[0].model_name, census.models[&busy.model].model_name);
    assert!(!census.models.contains_key(&gone));
    assert_eq!(census.workers, 1);
});

backend_test!(those_who_ask_at_once_share_one_count, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 1).await;
    let taker = CensusTaker::new(fixture.store.clone());
    let looks = futures::future::join_all((0..20).map(|_| taker.look())).await;
    let first = looks[0].as_ref().unwrap();
    assert!(looks.iter().all(|look| Arc::ptr_eq(look.as_ref().unwrap(), first)));
    fixture.queue(lane, 1).await;
    assert_eq!(numbers(&taker.look().await.unwrap(), lane), [1, 0, 0, 0], "it is given again for a while");
});
