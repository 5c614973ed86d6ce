//! Programs that tests start: they end with the test, and what they said is shown where it fails.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::eventually::{LIMIT, eventually, within};

/// A program that runs.
pub struct Process {
    child: Child,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Process {
    /// Starts it; what it says goes to a file.
    pub fn start(command: &mut Command) -> Process {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let output = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, log, _dir: dir }
    }

    /// Waits until somebody listens at `address`, which is to be this program.
    pub async fn listens(&mut self, address: &str) {
        eventually(&format!("a listener at {address}"), async || {
            assert!(self.child.try_wait().unwrap().is_none(), "the program has ended:\n{}", self.said());
            tokio::net::TcpStream::connect(address).await.map(drop)
        })
        .await;
    }

    /// Waits until it has said that, and returns all it has said.
    pub async fn says(&mut self, words: &str) -> String {
        self.says_one_of(&[words]).await
    }

    /// Waits until it has said one of these, and returns all it has said.
    pub async fn says_one_of(&mut self, words: &[&str]) -> String {
        eventually(&format!("the words {words:?}"), async || {
            let said = self.said();
            if words.iter().any(|words| said.contains(words)) { Ok(said) } else { Err(said) }
        })
        .await
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end and returns the exit code, `None` where a signal killed it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        self.exit_code_within(LIMIT).await
    }

    /// The same, for a program that takes longer.
    pub async fn exit_code_within(&mut self, limit: Duration) -> Option<i32> {
        within(limit, "the end of the program", async || {
            self.child.try_wait().unwrap().map(|status| status.code()).ok_or("it still runs")
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the program said:\n{}", self.said());
        }
    }
}
