//! The schema: same on both backends, made once however many ask for it.

use std::{collections::BTreeSet, path::Path};

use model_asynch::{
    secrets::Vault,
    store::{Store, StoreError},
};

use crate::{
    backend_test,
    support::{
        backend::{Kind, TestDb},
        raw::Raw,
    },
};

/// Tables and columns of the service that this one succeeds.
const INHERITED: [(&str, &str); 4] = [
    (
        "asynch_models",
        "id tenant_id creator created_at updater updated_at deleted_at model_name base_url route http_method api_key \
         enabled max_concurrency queue_limit timeout_seconds retry_times retry_queue_max_seconds auto_clean_seconds \
         remark",
    ),
    (
        "asynch_task",
        "id tenant_id creator created_at updater updated_at deleted_at model_name biz_name task_id state oss_file \
         file_type file_size error_msg started_at finished_at expire_at retry_count enqueue_at phase tmp_file \
         input_ref request_payload",
    ),
    (
        "asynch_op_log",
        "id tenant_id creator created_at updater updated_at deleted_at ip user_agent api_path http_method biz_name \
         model_name task_id op_type success error_msg cost_ms request_payload response_payload",
    ),
    ("asynch_model_stat", "day tenant_id creator model_name request_count created_at updated_at"),
];

/// Names of the files that migrate one backend, in order.
fn files(backend: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(backend);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `table.column` of every table that migrations made.
async fn columns(db: &TestDb) -> BTreeSet<String> {
    let query = match db.kind() {
        Kind::Postgres => {
            "SELECT table_name || '.' || column_name FROM information_schema.columns \
             WHERE table_name LIKE 'asynch%'"
        }
        Kind::Sqlite => {
            "SELECT t.name || '.' || c.name FROM sqlite_master t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name LIKE 'asynch%'"
        }
    };
    Raw::connect(db).await.texts(query).await.into_iter().collect()
}

/// `name` of every index but those that the databases name themselves.
async fn indexes(db: &TestDb) -> BTreeSet<String> {
    let query = match db.kind() {
        Kind::Postgres => {
            "SELECT indexname::text FROM pg_indexes WHERE tablename LIKE 'asynch%' AND indexname NOT LIKE '%pkey'"
        }
        Kind::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    };
    Raw::connect(db).await.texts(query).await.into_iter().collect()
}

async fn applied(db: &TestDb) -> usize {
    Raw::connect(db).await.texts("SELECT description FROM _sqlx_migrations WHERE success").await.len()
}

#[test]
fn every_migration_has_a_twin() {
    assert_eq!(files("postgres"), files("sqlite"));
    let mut last = 0;
    for name in files("sqlite") {
        let number: u32 = name.split('_').next().unwrap().parse().unwrap();
        assert!(number > last && name.len() > 8 && name.ends_with(".sql"), "{name}");
        last = number;
    }
}

backend_test!(every_migration_is_run_and_a_second_start_finds_nothing_to_do, async |db: &TestDb| {
    for _ in 0..2 {
        let (store, _committers) = Store::open(&db.config, Vault::default()).await.unwrap();
        store.ping().await.unwrap();
        store.close().await;
        assert_eq!(applied(db).await, files("postgres").len());
    }
});

backend_test!(every_inherited_column_is_there, async |db: &TestDb| {
    let (_store, _committers) = Store::open(&db.config, Vault::default()).await.unwrap();
    let present = columns(db).await;
    for (table, names) in INHERITED {
        for name in names.split_whitespace() {
            assert!(present.contains(&format!("{table}.{name}")), "{table}.{name}");
        }
    }
});

#[tokio::test]
async fn both_backends_have_the_same_columns_and_indexes() {
    let Some(postgres) = TestDb::new(Kind::Postgres).await else { return };
    let sqlite = TestDb::new(Kind::Sqlite).await.unwrap();
    for db in [&postgres, &sqlite] {
        Store::open(&db.config, Vault::default()).await.unwrap().0.close().await;
    }
    assert_eq!(columns(&postgres).await, columns(&sqlite).await);
    assert_eq!(indexes(&postgres).await, indexes(&sqlite).await);
}

#[tokio::test]
async fn nodes_that_start_at_once_migrate_once() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let starts = (0..4).map(|_| Store::open(&db.config, Vault::default()));
    for (store, _committers) in futures::future::try_join_all(starts).await.unwrap() {
        store.ping().await.unwrap();
        store.close().await;
    }
    assert_eq!(applied(&db).await, files("postgres").len());
}

#[tokio::test]
async fn the_new_layout_of_the_task_table_keeps_what_is_in_it() {
    let Some(db) = TestDb::new(Kind::Postgres).await else { return };
    let open = async || Store::open(&db.config, Vault::default()).await.unwrap().0.close().await;
    open().await;
    let mut raw = Raw::connect(&db).await;
    let insert = "INSERT INTO asynch_task (tenant_id, task_id, creator, model_id, model_name, request_payload) \
                  VALUES (7, gen_random_uuid(), 'ann', 3, 'tts', '{\"n\": 1.0}')";
    raw.execute(insert).await;
    let rows = "SELECT to_json(t)::text FROM asynch_task t ORDER BY id";
    let before = raw.texts(rows).await;
    raw.execute("DELETE FROM _sqlx_migrations WHERE version = 4").await;
    open().await;
    assert_eq!(raw.texts(rows).await, before);
    raw.execute(insert).await;
    assert_eq!(raw.texts(rows).await.len(), 2, "ids go on where they were");
    assert_eq!(raw.texts("SELECT id::text FROM asynch_task GROUP BY id HAVING count(*) > 1").await.len(), 0);
}

#[tokio::test]
async fn an_embedded_database_is_opened_by_one_process_at_a_time() {
    let db = TestDb::new(Kind::Sqlite).await.unwrap();
    let (first, _committers) = Store::open(&db.config, Vault::default()).await.unwrap();
    let Err(StoreError::Unavailable(message)) = Store::open(&db.config, Vault::default()).await else {
        panic!("a second handle was opened")
    };
    assert!(message.contains("another process"), "{message}");
    first.close().await;
    drop(first);
    Store::open(&db.config, Vault::default()).await.unwrap().0.ping().await.unwrap();
}
