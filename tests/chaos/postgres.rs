//! A private Postgres that can be restarted as after a crash of its processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::support::{app::free_address, eventually::within};

/// How long it may take to start or stop: it recovers, perhaps on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Postgres {
    bin: PathBuf,
    port: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Postgres {
    /// Starts one in a folder of its own. `None`, and loud, where it is not installed.
    pub async fn start() -> Option<Postgres> {
        let Some(bin) = newest_bin() else {
            assert!(std::env::var_os("TEST_REQUIRE_SERVERS").is_none(), "PostgreSQL is not installed");
            eprintln!("SKIPPED: PostgreSQL is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        // It refuses to run as root, and whoever it runs as has to get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
        }
        let initdb = as_postgres(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "app", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .current_dir("/")
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let port = free_address().rsplit(':').next().unwrap().to_owned();
        let child = spawn(&bin, &data, &port);
        let server = Postgres { bin, port, child, dir };
        server.answers().await;
        Some(server)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://app@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn create(&self, database: &str) {
        self.execute(&format!("CREATE DATABASE {database}")).await;
    }

    /// `pg_ctl restart -m immediate`: every process of it dies at once, and it recovers from its log.
    pub async fn restart(&mut self) {
        let kill = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        within(PATIENCE, "Postgres to die", async || self.child.try_wait().unwrap().ok_or("it lives")).await;
        self.child = spawn(&self.bin, &self.dir.path().join("data"), &self.port);
        self.answers().await;
    }

    /// Kills every connection but its own.
    pub async fn kill_backends(&self) {
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()").await;
    }

    async fn execute(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    }

    async fn answers(&self) {
        let url = self.url("postgres");
        within(PATIENCE, "Postgres to answer", async || PgConnection::connect(&url).await.map(drop)).await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status().ok();
        self.child.wait().ok();
    }
}

/// Nothing is synced to the disk, which only the machine's own crash could tell.
fn spawn(bin: &Path, data: &Path, port: &str) -> Child {
    let settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "fsync=off"];
    as_postgres(&bin.join("postgres"))
        .arg("-D")
        .arg(data)
        .args(["-p", port])
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The program as the user it may run as; it ends with this process.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(program);
    command
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn newest_bin() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|folder| folder.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions.pop()
}
