//! Migrations: twin files with equal numbers and names, forward only, safe on several nodes at once
//! (Postgres takes an advisory lock while they run; SQLite has one process).

use sqlx::{
    SqlStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Backend, StoreError};

/// Number, name, text for Postgres, text for SQLite.
const MIGRATIONS: [(i64, &str, &str, &str); 2] = [
    (
        1,
        "tables",
        include_str!("../../migrations/postgres/0001_tables.sql"),
        include_str!("../../migrations/sqlite/0001_tables.sql"),
    ),
    (
        4,
        "task layout",
        include_str!("../../migrations/postgres/0004_task_layout.sql"),
        include_str!("../../migrations/sqlite/0004_task_layout.sql"),
    ),
];

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
