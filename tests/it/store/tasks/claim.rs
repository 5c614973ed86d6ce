//! Claims: in order, exactly within the limits, with a verdict for each lane.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::TimeDelta;
use futures::future::join_all;
use model_asynch::{
    clock,
    store::{
        Store,
        tasks::{LaneVerdict, Want},
    },
    task::{Attempt, Lane, TenantId, lifecycle, lifecycle::Phase, lifecycle::State},
    tenant::{Plans, Terms},
};

use super::{
    Fixture, Limits, ROOMY, Raw, TENANT, TaskKey, distinct, eventually, ids, new_task, succeeded, verdicts, want,
};
use crate::{
    backend_test,
    support::backend::{Kind, TestDb, on},
};

backend_test!(a_claim_takes_the_oldest_of_each_lane_in_the_order_asked, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (first, second) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    let (in_first, in_second) = (fixture.queue(first, 3).await, fixture.queue(second, 3).await);
    let claim = fixture.store.claim(fixture.node, &[want(second, 2), want(first, 5)]).await.unwrap();
    assert_eq!(ids(&claim), [&in_second[..2], &in_first[..]].concat());
    assert_eq!(verdicts(&claim), [LaneVerdict::More, LaneVerdict::Empty]);
    assert_eq!(distinct(claim.models.keys().copied()), distinct([first.model, second.model]));
    assert_eq!(claim.models[&first.model].spec.timeout_seconds, 100);

    let task = &claim.tasks[0];
    assert_eq!((task.attempt, task.phase, task.lane), (Attempt(1), Phase::Model, second));
    let row = fixture.task(task.key).await;
    assert_eq!(row.state, State::Running);
    assert!(row.started_at >= Some(row.created_at));
    assert!(fixture.store.claim(fixture.node, &[]).await.unwrap().lanes.is_empty());
});

backend_test!(every_claim_of_a_task_gets_the_next_attempt, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 1).await;
    for n in 1..=3 {
        let task = fixture.claim_one(lane).await;
        assert_eq!(task.attempt, Attempt(n));
        fixture.done(lifecycle::handed_back(&task, None)).await;
    }
});

backend_test!(the_cursor_leaves_out_what_was_queued_before, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let tasks = fixture.queue(lane, 3).await;
    let middle = fixture.task(TaskKey { tenant: TENANT, id: tasks[1] }).await.enqueue_at;
    let claim_since = async |since| {
        let wants = [Want { since: Some(since), ..want(lane, 9) }];
        ids(&fixture.store.claim(fixture.node, &wants).await.unwrap())
    };
    assert_eq!(claim_since(middle).await, tasks[1..]);
    assert!(claim_since(middle).await.is_empty());
    assert_eq!(claim_since(middle - TimeDelta::hours(1)).await, tasks[..1]);
});

backend_test!(a_full_lane_gives_nothing_and_says_so, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(Limits { max: 2, ..ROOMY }).await;
    fixture.queue(lane, 4).await;
    let claim = fixture.claim(lane, 3).await;
    assert_eq!((claim.tasks.len(), verdicts(&claim)), (2, vec![LaneVerdict::Full]));
    assert_eq!(verdicts(&fixture.claim(lane, 1).await), [LaneVerdict::Full]);
    fixture.done(succeeded(&claim.tasks[0])).await;
    let claim = fixture.claim(lane, 1).await;
    assert_eq!((claim.tasks.len(), verdicts(&claim)), (1, vec![LaneVerdict::More]));
});

backend_test!(an_upload_takes_no_room_from_calls, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(Limits { max: 1, ..ROOMY }).await;
    fixture.queue(lane, 2).await;
    let task = fixture.claim_one(lane).await;
    fixture.done(lifecycle::parked(&task, "a".into(), None, None)).await;
    assert_eq!(fixture.claim(lane, 1).await.tasks.len(), 1);
});

backend_test!(closed_models_keep_their_tasks_and_others_go_on, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (disabled, deleted, sealed, open) =
        (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await, fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    let lanes = [disabled, deleted, sealed, open];
    for lane in lanes {
        fixture.queue(lane, 1).await;
    }
    fixture.raw.run(&format!("UPDATE asynch_models SET enabled = 0 WHERE id = {}", disabled.model)).await;
    fixture.delete_model(deleted.model).await;
    let unreadable = format!("UPDATE asynch_models SET api_key = 'sealed:v1:AAAA' WHERE id = {}", sealed.model);
    fixture.raw.run(&unreadable).await;
    let claim = fixture.store.claim(fixture.node, &lanes.map(|lane| want(lane, 1))).await.unwrap();
    assert_eq!(
        verdicts(&claim),
        [LaneVerdict::Closed, LaneVerdict::Closed, LaneVerdict::Closed, LaneVerdict::More],
        "one secret that cannot be read closes one lane"
    );
    assert_eq!(claim.tasks.len(), 1);
});

backend_test!(many_claimers_never_exceed_a_lanes_limit, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(Limits { max: 5, ..ROOMY }).await;
    fixture.queue(lane, 100).await;
    let running = format!("SELECT count(*) FROM asynch_task WHERE state = 1 AND model_id = {}", lane.model);
    assert_eq!(contend(&fixture, db, &[lane], &running, 5).await, 100);
});

backend_test!(many_claimers_never_exceed_a_models_limit_over_all_tenants, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let model = fixture.model(Limits { max: 4, total: 6, ..ROOMY }).await;
    let lanes = [1, 2, 3].map(|tenant| Lane { model, tenant: TenantId(tenant) });
    for lane in lanes {
        fixture.queue(lane, 40).await;
    }
    let running = format!("SELECT count(*) FROM asynch_task WHERE state = 1 AND model_id = {model}");
    assert_eq!(contend(&fixture, db, &lanes, &running, 6).await, 120);
});

backend_test!(many_claimers_never_exceed_a_tenants_limit_over_all_models, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let mut lanes = Vec::new();
    for _ in 0..3 {
        let model = fixture.model(Limits { max: 4, total: 6, ..ROOMY }).await;
        lanes.extend([TENANT, TenantId(8)].map(|tenant| Lane { model, tenant }));
    }
    for lane in &lanes {
        fixture.queue(*lane, 30).await;
    }
    cap(&fixture, TENANT, 5).await;
    let running = format!("SELECT count(*) FROM asynch_task WHERE state = 1 AND tenant_id = {TENANT}");
    assert_eq!(contend(&fixture, db, &lanes, &running, 5).await, 180);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_somebody_is_claiming_for_holds_up_nobody_else() {
    on(Kind::Postgres, async |db| {
        let fixture = Fixture::open(db).await;
        let capped = fixture.lane(ROOMY).await;
        let free = Lane { tenant: TenantId(8), ..capped };
        fixture.queue(capped, 1).await;
        fixture.queue(free, 1).await;
        cap(&fixture, TENANT, 5).await;
        let Raw::Postgres(pool) = &fixture.raw else { unreachable!() };
        let mut other = pool.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM asynch_tenant FOR NO KEY UPDATE").execute(&mut *other).await.unwrap();
        let claim = fixture.store.claim(fixture.node, &[want(capped, 1), want(free, 1)]).await.unwrap();
        assert_eq!(verdicts(&claim), [LaneVerdict::Busy, LaneVerdict::More]);
        other.rollback().await.unwrap();
        let claim = fixture.store.claim(fixture.node, &[want(capped, 1)]).await.unwrap();
        assert_eq!(verdicts(&claim), [LaneVerdict::More]);
    })
    .await;
}

backend_test!(lanes_of_every_kind_are_claimed_from_at_once_in_the_order_asked, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let (first, last) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
    let shared = Lane { tenant: TenantId(8), ..fixture.lane(Limits { total: 3, ..ROOMY }).await };
    let capped = Lane { tenant: TenantId(9), ..first };
    cap(&fixture, capped.tenant, 2).await;
    let lanes = [first, shared, capped, last];
    for lane in lanes {
        fixture.queue(lane, 5).await;
    }
    let claim = async |most, known| {
        let wants = lanes.map(|lane| Want { shares: known && lane != first && lane != last, ..want(lane, most) });
        fixture.store.claim(fixture.node, &wants).await.unwrap()
    };
    for (most, known, given) in [(1, true, [1, 1, 1, 1]), (1, false, [1, 1, 1, 1]), (2, false, [2, 1, 0, 2])] {
        let claim = claim(most, known).await;
        let gave: Vec<Lane> = claim.tasks.iter().map(|task| task.lane).collect();
        let expected: Vec<Lane> = lanes.iter().zip(given).flat_map(|(lane, count)| vec![*lane; count]).collect();
        assert_eq!(gave, expected);
        assert_eq!(claim.lanes.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(), lanes);
        let full = |count| if count == most as usize { LaneVerdict::More } else { LaneVerdict::Full };
        assert_eq!(verdicts(&claim), given.map(full));
    }
});

backend_test!(more_than_one_statement_takes_is_claimed_in_several, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lanes = [fixture.lane(ROOMY).await, fixture.lane(ROOMY).await];
    for lane in lanes {
        fixture.claim(lane, 1).await;
        let queued = (0..200).map(|_| fixture.store.enqueue(new_task(lane)));
        join_all(queued).await;
    }
    let claim = fixture.store.claim(fixture.node, &lanes.map(|lane| want(lane, 200))).await.unwrap();
    assert_eq!((claim.tasks.len(), verdicts(&claim)), (400, vec![LaneVerdict::More; 2]));
});

backend_test!(a_limit_that_a_node_has_not_heard_of_holds_for_its_next_claim, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let other = Lane { tenant: TenantId(8), ..lane };
    for lane in [lane, other] {
        fixture.queue(lane, 9).await;
        fixture.claim_one(lane).await;
    }
    let set = async |limit: &str| {
        fixture.raw.run(&format!("UPDATE asynch_models SET {limit} WHERE id = {}", lane.model)).await;
        let claim = fixture.claim(lane, 3).await;
        (claim.tasks.len(), verdicts(&claim)[0])
    };
    assert_eq!(set("max_concurrency = 2").await, (1, LaneVerdict::Full));
    assert_eq!(set("max_concurrency = 9, total_concurrency = 5").await, (2, LaneVerdict::Full), "one is the other's");
    assert_eq!(set("enabled = 0").await, (0, LaneVerdict::Closed));
    cap(&fixture, TENANT, 5).await;
    assert_eq!(set("enabled = 1, total_concurrency = 0").await, (1, LaneVerdict::Full));
    cap(&fixture, TENANT, 0).await;
    assert_eq!(set("timeout_seconds = 77").await, (3, LaneVerdict::More));
    let claim = fixture.claim(lane, 1).await;
    assert_eq!(claim.models[&lane.model].spec.timeout_seconds, 77);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_given_up_leaves_nothing_behind_but_what_it_took() {
    on(Kind::Postgres, async |db| {
        let fixture = Fixture::open(db).await;
        let lane = fixture.lane(ROOMY).await;
        fixture.queue(lane, 4).await;
        fixture.claim_one(lane).await;
        let Raw::Postgres(pool) = &fixture.raw else { unreachable!() };
        let mut other = pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE asynch_tenant IN ACCESS EXCLUSIVE MODE").execute(&mut *other).await.unwrap();
        let given_up = async {
            tokio::select! {
                claim = fixture.claim(lane, 1) => panic!("it waits for the table, with its lane locked: {claim:?}"),
                () = eventually(async || (waiting(pool).await == 1).then_some(())) => {}
            }
        };
        given_up.await;
        other.rollback().await.unwrap();
        eventually(async || (waiting(pool).await == 0).then_some(())).await;
        let claim = eventually(async || {
            let claim = fixture.claim(lane, 1).await;
            (verdicts(&claim) != [LaneVerdict::Busy]).then_some(claim)
        });
        let claim = claim.await;
        assert_eq!((claim.tasks.len(), verdicts(&claim)), (1, vec![LaneVerdict::More]));
        let held = fixture.store.held_by(fixture.node).await.unwrap().len() as i64;
        let running = fixture.raw.number("SELECT count(*) FROM asynch_task WHERE state = 1").await;
        assert!(held == running && (2..=3).contains(&held), "whatever was taken can be told: {held} of {running}");
    })
    .await;
}

/// Statements that wait for a lock.
async fn waiting(pool: &sqlx::PgPool) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap()
}

/// Limits what a tenant may have running over all models; 0 = no limit.
async fn cap(fixture: &Fixture, tenant: TenantId, most: i32) {
    let cap = |_: &mut Option<String>, own: &mut Terms| own.max_concurrency = Some(most);
    fixture.store.update_tenant(tenant, "ann", &Plans::default(), cap).await.unwrap();
}

/// Four nodes claim and finish until nothing is left, while somebody keeps counting; returns how
/// many tasks were claimed.
async fn contend(fixture: &Fixture, db: &TestDb, lanes: &[Lane], running: &str, limit: i64) -> usize {
    let others = [fixture.second(db).await, fixture.second(db).await, fixture.second(db).await];
    let claimed = AtomicUsize::new(0);
    let all = fixture.raw.number("SELECT count(*) FROM asynch_task WHERE state = 0").await as usize;
    // Some know of limits that lanes share, others do not.
    let claimer = async |(store, shares): (&Store, bool)| {
        let node = clock::node_id();
        let wants: Vec<Want> = lanes.iter().map(|lane| Want { shares, ..want(*lane, 10) }).collect();
        while claimed.load(Ordering::Relaxed) < all {
            let claim = store.claim(node, &wants).await.unwrap();
            claimed.fetch_add(claim.tasks.len(), Ordering::Relaxed);
            assert!(fixture.raw.number(running).await <= limit);
            join_all(claim.tasks.iter().map(|task| fixture.done(succeeded(task)))).await;
        }
    };
    let stores = [&fixture.store, &others[0], &others[1], &others[2]];
    join_all(stores.into_iter().zip([false, false, true, true]).map(claimer)).await;
    claimed.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_began_long_ago_counts_until_it_ends() {
    on(Kind::Postgres, async |db| {
        let fixture = Fixture::open(db).await;
        let lane = fixture.lane(Limits { max: 2, ..ROOMY }).await;
        fixture.queue(lane, 4).await;
        let long = fixture.claim_one(lane).await;
        fixture.raw.run("UPDATE asynch_task SET started_at = now() - interval '1 hour' WHERE state = 1").await;
        let second = fixture.second(db).await;
        let claim = async || second.claim(fixture.node, &[want(lane, 9)]).await.unwrap();
        for _ in 0..2 {
            let claimed = claim().await;
            assert_eq!((claimed.tasks.len(), verdicts(&claimed)), (1, vec![LaneVerdict::Full]));
            assert_eq!(verdicts(&claim().await), [LaneVerdict::Full]);
            fixture.done(succeeded(&claimed.tasks[0])).await;
        }
        fixture.done(succeeded(&long)).await;
        assert_eq!(claim().await.tasks.len(), 1, "the last one");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_somebody_is_claiming_from_is_busy() {
    on(Kind::Postgres, async |db| {
        let fixture = Fixture::open(db).await;
        let (taken, free) = (fixture.lane(ROOMY).await, fixture.lane(ROOMY).await);
        fixture.queue(taken, 1).await;
        fixture.queue(free, 1).await;
        let Raw::Postgres(pool) = &fixture.raw else { unreachable!() };
        let mut other = pool.begin().await.unwrap();
        let lock = "SELECT 1 FROM asynch_lane_out WHERE model_id = $1 FOR UPDATE";
        sqlx::query(lock).bind(taken.model.0).execute(&mut *other).await.unwrap();
        let claim = fixture.store.claim(fixture.node, &[want(taken, 1), want(free, 1)]).await.unwrap();
        assert_eq!(verdicts(&claim), [LaneVerdict::Busy, LaneVerdict::More]);
        other.rollback().await.unwrap();
        assert_eq!(verdicts(&fixture.claim(taken, 1).await), [LaneVerdict::More]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_without_a_row_can_be_claimed_from_the_second_time() {
    on(Kind::Postgres, async |db| {
        let fixture = Fixture::open(db).await;
        let lane = fixture.lane(ROOMY).await;
        fixture.queue(lane, 1).await;
        fixture.raw.run("DELETE FROM asynch_lane_out").await;
        assert_eq!(verdicts(&fixture.claim(lane, 1).await), [LaneVerdict::Busy]);
        assert_eq!(verdicts(&fixture.claim(lane, 1).await), [LaneVerdict::More]);
    })
    .await;
}
