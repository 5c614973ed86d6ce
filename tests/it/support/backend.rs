//! The two stores, fresh for each test.
//!
//! `backend_test!(name, async |db| { … })` makes `name::sqlite` and `name::postgres`. Postgres comes
//! from `TEST_POSTGRES_URL`, Redis from `TEST_REDIS_URL`; without the former the Postgres half says
//! that it is skipped, and fails where `TEST_REQUIRE_SERVERS` is set.

use std::path::PathBuf;

use model_asynch::config::Database;
use sqlx::{Connection, Executor, PgConnection};

/// A database of its own for one test, gone with it.
pub struct TestDb {
    /// For `Store::open` or a configuration.
    pub config: Database,
    _dir: tempfile::TempDir,
    drop_url: Option<(String, String)>,
}

/// Which store a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Makes one test for each store out of an async closure that takes a [`TestDb`].
#[macro_export]
macro_rules! backend_test {
    ($(#[$meta:meta])* $name:ident, $body:expr) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "what the body uses comes from around it")]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                $crate::support::backend::on($crate::support::backend::Kind::Sqlite, $body).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                $crate::support::backend::on($crate::support::backend::Kind::Postgres, $body).await;
            }
        }
    };
}

/// Runs `body` on a fresh database of that kind.
pub async fn on(kind: Kind, body: impl AsyncFnOnce(&TestDb)) {
    if let Some(db) = TestDb::new(kind).await {
        body(&db).await;
    }
}

/// The value of a variable that names a test server; loud where it is missing.
pub fn server(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        assert!(std::env::var_os("TEST_REQUIRE_SERVERS").is_none(), "{variable} is not set");
        eprintln!("SKIPPED: {variable} is not set; ./tests/run.sh starts the servers");
    }
    value
}

impl TestDb {
    pub async fn new(kind: Kind) -> Option<TestDb> {
        let dir = tempfile::tempdir().unwrap();
        match kind {
            Kind::Sqlite => {
                let path: PathBuf = dir.path().join("test.db");
                Some(TestDb { config: Database::Sqlite { path }, _dir: dir, drop_url: None })
            }
            Kind::Postgres => {
                let admin = server("TEST_POSTGRES_URL")?;
                let name = format!("test_{}", uuid::Uuid::new_v4().simple());
                let mut connection = PgConnection::connect(&admin).await.unwrap();
                connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
                let mut url = url::Url::parse(&admin).unwrap();
                url.set_path(&name);
                let config = Database::Postgres { url: url.into(), max_connections: 8 };
                Some(TestDb { config, _dir: dir, drop_url: Some((admin, name)) })
            }
        }
    }

    /// The kind of this database.
    pub fn kind(&self) -> Kind {
        match self.config {
            Database::Sqlite { .. } => Kind::Sqlite,
            Database::Postgres { .. } => Kind::Postgres,
        }
    }

    /// The URL of a Postgres database.
    pub fn url(&self) -> &str {
        match &self.config {
            Database::Postgres { url, .. } => url,
            Database::Sqlite { .. } => panic!("not Postgres"),
        }
    }

    /// How many results lie in any spool of this test.
    pub fn parked_files(&self) -> usize {
        let Ok(folders) = std::fs::read_dir(self.dir().join("tmp")) else { return 0 };
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).into_iter().flatten());
        files.filter(|file| file.as_ref().unwrap().metadata().unwrap().len() > 0).count()
    }

    /// A folder that goes with the test.
    pub fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let Some((admin, name)) = self.drop_url.take() else { return };
        // A runtime of its own: drop is not async and may run inside one.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect(&admin).await {
                    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    connection.execute(sqlx::AssertSqlSafe(statement)).await.ok();
                }
            });
        })
        .join();
        dropped.ok();
    }
}
