//! Statements past the store: what its verbs do not do, and a look at what they did.

use model_asynch::config::Database;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use super::backend::TestDb;

/// A connection of its own to the test's database.
pub(crate) enum Raw {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Raw {
    pub(crate) async fn connect(db: &TestDb) -> Raw {
        match &db.config {
            Database::Postgres { url, .. } => Raw::Postgres(PgConnection::connect(url).await.unwrap()),
            Database::Sqlite { path } => {
                Raw::Sqlite(SqliteConnectOptions::new().filename(path).connect().await.unwrap())
            }
        }
    }

    /// Runs a statement.
    pub(crate) async fn execute(&mut self, statement: impl Into<String>) {
        let statement = AssertSqlSafe(statement.into());
        match self {
            Raw::Postgres(connection) => drop(connection.execute(statement).await.unwrap()),
            Raw::Sqlite(connection) => drop(connection.execute(statement).await.unwrap()),
        }
    }

    /// The one text column of a query.
    pub(crate) async fn texts(&mut self, query: impl Into<String>) -> Vec<String> {
        let query = AssertSqlSafe(query.into());
        match self {
            Raw::Postgres(connection) => sqlx::query_scalar(query).fetch_all(connection).await.unwrap(),
            Raw::Sqlite(connection) => sqlx::query_scalar(query).fetch_all(connection).await.unwrap(),
        }
    }
}
