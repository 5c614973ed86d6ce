//! Plans: no verb on the hot paths reads the task table from end to end.

use std::time::Duration;

use model_asynch::{
    store::{Page, tasks::TaskFilter},
    task::{
        Lane, ModelId, TaskId, TenantId,
        lifecycle::{self, State},
    },
};
use sqlx::PgPool;

use super::{Fixture, Limits, ROOMY, Raw, call, eventually, failure, new_task, stored, want};
use crate::support::backend::{Kind, on};

/// Rounds after which Postgres would have gone over to a generic plan, with one to spare.
const ROUNDS: usize = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verb_scans_the_task_table() {
    on(Kind::Postgres, async |db| {
        // Sessions hand in their numbers when they end, the migrating one those of making indexes.
        close(Fixture::open(db).await).await;
        let fixture = Fixture::open(db).await;
        let lanes = backlog(&fixture, pool(&fixture)).await;
        let before = sequential_scans(pool(&fixture)).await;
        for _ in 0..ROUNDS {
            round(&fixture, &lanes).await;
        }
        let fixture = close(fixture).await;
        assert!(index_scans(pool(&fixture)).await > 0, "the numbers have arrived");
        assert_eq!(sequential_scans(pool(&fixture)).await, before);
    })
    .await;
}

fn pool(fixture: &Fixture) -> &PgPool {
    match &fixture.raw {
        Raw::Postgres(pool) => pool,
        Raw::Sqlite(_) => unreachable!("this test runs on Postgres"),
    }
}

/// Closes the store and waits until its sessions have ended.
async fn close(fixture: Fixture) -> Fixture {
    fixture.stop.cancel();
    fixture.store.close().await;
    eventually(async || (sessions(pool(&fixture)).await == 0).then_some(())).await;
    fixture
}

/// 9,000 queued tasks in one lane and 100 in each of ten others, behind 10,000 finished ones.
async fn backlog(fixture: &Fixture, pool: &PgPool) -> Vec<Lane> {
    let big = fixture.model(ROOMY).await;
    let full = fixture.model(Limits { max: 1000, total: 1000, queue: 50 }).await;
    let fill = "
        INSERT INTO asynch_task (tenant_id, task_id, creator, model_id, model_name, state, finished_at, expire_at)
        SELECT CASE WHEN n % 10 = 0 THEN n % 100 ELSE 7 END, gen_random_uuid(), 'ann',
               CASE WHEN n % 10 = 0 THEN $2 ELSE $1 END, 'tts',
               CASE WHEN n > 10000 THEN 4 ELSE 0 END, CASE WHEN n > 10000 THEN now() END,
               CASE WHEN n > 10000 THEN now() + interval '1 day' END
        FROM generate_series(1, 20000) AS n";
    sqlx::query(fill).bind(big.0).bind(full.0).execute(pool).await.unwrap();
    let lanes = "INSERT INTO asynch_lane_out (model_id, tenant_id) VALUES ($1, 7), ($2, 10), ($2, 20)";
    sqlx::query(lanes).bind(big.0).bind(full.0).execute(pool).await.unwrap();
    sqlx::raw_sql("ANALYZE").execute(pool).await.unwrap();
    let lane = |model, tenant| Lane { model, tenant: TenantId(tenant) };
    vec![lane(big, 7), lane(full, 10), lane(full, 20), lane(ModelId(999), 7)]
}

/// Every verb of the hot paths once, and the cleaner's.
async fn round(fixture: &Fixture, lanes: &[Lane]) {
    let store = &fixture.store;
    // Two of the lanes are full, so their tasks are counted.
    for lane in lanes {
        store.enqueue(new_task(*lane)).await.unwrap();
    }
    let wants: Vec<_> = lanes.iter().map(|lane| want(*lane, 4)).collect();
    let tasks = store.claim(fixture.node, &wants).await.unwrap().tasks;
    assert_eq!(tasks.len(), 12);
    let slot = lifecycle::Slot { delay: Duration::from_millis(1), place: lifecycle::Place::Tail };
    for (n, task) in tasks.iter().enumerate() {
        fixture
            .done(match n % 4 {
                0 => lifecycle::retried(task, &failure("slow"), slot, call(false)),
                1 => lifecycle::failed(task, "no".into(), call(false)),
                2 => lifecycle::parked(task, "a".into(), None, call(true)),
                _ => lifecycle::succeeded(task, stored(), call(true)),
            })
            .await;
    }
    let late: Vec<_> = tasks.iter().map(|task| lifecycle::failed(task, "late".into(), None)).collect();
    store.apply_all(&late).await.unwrap();
    let adopted = store.adopt(fixture.node, tasks[2].key, tasks[2].attempt, "a").await.unwrap();
    assert!(adopted.is_none(), "it failed late");
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.key.id).collect();
    for tenant in [7, 10, 20] {
        store.pick_up(TenantId(tenant), &ids).await.unwrap();
    }
    store.task(tasks[0].key).await.unwrap();
    store.lanes_with_work().await.unwrap();
    store.count_lanes().await.unwrap();
    // States that few tasks are in. Of others a page is soon full, and so is the count.
    for state in [State::Running, State::Succeeded, State::Failed, State::Cancelled] {
        let filter = TaskFilter { state: Some(state), ..TaskFilter::default() };
        let found = store.list_tasks(TenantId(7), &filter, Page { offset: 0, limit: 100 }).await.unwrap();
        assert!(found.list.len() < 100);
    }
    store.attempts(tasks[0].key).await.unwrap();
    store.promote_due(100).await.unwrap();
    store.abandoned(100).await.unwrap();
    store.queued_longer_than(Duration::from_secs(3600), 100).await.unwrap();
    store.queued_for_deleted_models(100).await.unwrap();
    store.drop_closed_lanes(100).await.unwrap();
    store.purge(Duration::from_secs(3600), 100).await.unwrap();
}

async fn sequential_scans(pool: &PgPool) -> i64 {
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'asynch_task'";
    sqlx::query_scalar(scans).fetch_one(pool).await.unwrap()
}

async fn index_scans(pool: &PgPool) -> i64 {
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'ix_asynch_task_queued'";
    sqlx::query_scalar(scans).fetch_one(pool).await.unwrap()
}

/// Sessions of the store that have not ended yet.
async fn sessions(pool: &PgPool) -> i64 {
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'model-asynch'";
    sqlx::query_scalar(open).fetch_one(pool).await.unwrap()
}
