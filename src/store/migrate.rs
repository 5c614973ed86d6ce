//! Migrations: twin files with equal numbers and names, forward only, safe on several nodes at once
//! (Postgres takes an advisory lock while they run; SQLite has one process).

use sqlx::{
    SqlStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Backend, StoreError, on_each};

/// Number, name, text for Postgres, text for SQLite.
const MIGRATIONS: [(i64, &str, &str, &str); 11] = [
    (
        1,
        "tables",
        include_str!("../../migrations/postgres/0001_tables.sql"),
        include_str!("../../migrations/sqlite/0001_tables.sql"),
    ),
    (
        2,
        "tokens",
        include_str!("../../migrations/postgres/0002_tokens.sql"),
        include_str!("../../migrations/sqlite/0002_tokens.sql"),
    ),
    (
        3,
        "watch",
        include_str!("../../migrations/postgres/0003_watch.sql"),
        include_str!("../../migrations/sqlite/0003_watch.sql"),
    ),
    (
        4,
        "task layout",
        include_str!("../../migrations/postgres/0004_task_layout.sql"),
        include_str!("../../migrations/sqlite/0004_task_layout.sql"),
    ),
    (
        5,
        "attempts",
        include_str!("../../migrations/postgres/0005_attempts.sql"),
        include_str!("../../migrations/sqlite/0005_attempts.sql"),
    ),
    (
        6,
        "series",
        include_str!("../../migrations/postgres/0006_series.sql"),
        include_str!("../../migrations/sqlite/0006_series.sql"),
    ),
    (
        7,
        "maintenance",
        include_str!("../../migrations/postgres/0007_maintenance.sql"),
        include_str!("../../migrations/sqlite/0007_maintenance.sql"),
    ),
    (
        8,
        "alerts",
        include_str!("../../migrations/postgres/0008_alerts.sql"),
        include_str!("../../migrations/sqlite/0008_alerts.sql"),
    ),
    (
        9,
        "running order",
        include_str!("../../migrations/postgres/0009_running_order.sql"),
        include_str!("../../migrations/sqlite/0009_running_order.sql"),
    ),
    (
        10,
        "claim sight",
        include_str!("../../migrations/postgres/0010_claim_sight.sql"),
        include_str!("../../migrations/sqlite/0010_claim_sight.sql"),
    ),
    (
        11,
        "less log",
        include_str!("../../migrations/postgres/0011_less_log.sql"),
        include_str!("../../migrations/sqlite/0011_less_log.sql"),
    ),
];

/// How many of ours are there, in the table that the migrator keeps.
const APPLIED: &str = "SELECT count(*) FROM _sqlx_migrations WHERE success";

/// Brings the schema up to date.
pub(super) async fn run(backend: &Backend) -> Result<(), StoreError> {
    let embedded = matches!(backend, Backend::Sqlite { .. });
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(number, name, postgres, sqlite)| {
            let text = SqlStr::from_static(if embedded { sqlite } else { postgres });
            Migration::new(number, name.into(), MigrationType::Simple, text, false)
        })
        .collect();
    let migrator = Migrator::with_migrations(migrations);
    let result = match backend {
        Backend::Postgres { pool, .. } => migrator.run(pool).await,
        Backend::Sqlite { writer, .. } => migrator.run(writer).await,
    };
    result.map_err(|error| match error {
        MigrateError::Execute(error) => error.into(),
        error => StoreError::Broken(format!("migration failed: {error}")),
    })
}

/// True where the schema is the one of this version. Migrations only go forward, so equal numbers
/// of them are equal ones.
pub(super) async fn is_current(backend: &Backend) -> Result<bool, StoreError> {
    on_each!(backend, read pool => {
        let applied: i64 = sqlx::query_scalar(APPLIED).fetch_one(pool).await?;
        Ok(usize::try_from(applied).is_ok_and(|applied| applied == MIGRATIONS.len()))
    })
}
