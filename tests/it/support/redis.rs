//! A private `redis-server` for tests that kill, freeze or empty it.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use model_asynch::config;
use redis::aio::MultiplexedConnection;

use crate::support::eventually::until;

/// A server process on a port of its own that keeps nothing on disk; killed when dropped.
pub struct RedisServer {
    port: u16,
    dir: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts one. `None`, and loud, where the binary is missing; fails instead where
    /// `TEST_REQUIRE_SERVERS` is set.
    pub async fn start() -> Option<RedisServer> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("TEST_REQUIRE_SERVERS").is_none(), "redis-server is not installed");
            eprintln!("SKIPPED: redis-server is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(port, &dir);
        let server = RedisServer { port, dir, child };
        server.answers().await;
        Some(server)
    }

    /// For `Permits::open` and `Wake::open`.
    pub fn config(&self) -> config::Redis {
        config::Redis { url: self.url(), key_prefix: "test:".into() }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection of the test's own.
    pub async fn connection(&self) -> MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// Runs one command, such as `["ZCARD", "key"]`.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// Dies without a word, and with all it knew.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Comes back after [`RedisServer::kill`], on the same port, empty.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, &self.dir);
        self.answers().await;
    }

    /// Stops answering without closing a connection, as behind a cut cable.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Goes on after [`RedisServer::freeze`], with all it knew.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn answers(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        until("redis-server answers", async || client.get_multiplexed_async_connection().await.is_ok()).await;
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, dir: &tempfile::TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
