//! `migrate`: bring the schema up to date, and end. `serve` does the same at its start.

use crate::{
    config::{Config, Database, keys},
    store::Store,
};

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    // The committers are dropped: this command writes no tasks.
    let (store, _) = Store::open(&config.database, config.vault).await?;
    store.close().await;
    super::print(&format!("the schema of {} is up to date\n", name(&config.database)))
}

/// Which database, without its password.
fn name(database: &Database) -> String {
    match database {
        Database::Postgres { url, .. } => keys::shown("database.url", &url.as_str().into()),
        Database::Sqlite { path } => path.display().to_string(),
    }
}
