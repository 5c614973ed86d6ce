//! The service as a process: started, killed, paused, and asked what it did by reading its log.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use model_asynch::faults::VARIABLE;
use serde_json::Value;

use crate::support::app::free_address;

/// How long a node may take to become ready where nothing hinders it.
const START: Duration = Duration::from_secs(60);

/// One process of the service; ends with this value.
pub struct Node {
    /// Unique in the run, over all restarts.
    pub incarnation: usize,
    pub url: String,
    pub log: PathBuf,
    child: Child,
}

impl Node {
    /// Starts one. `kill_at` names a kill point and a pass, such as `after-claim:2`.
    pub fn spawn(incarnation: usize, logs: &Path, settings: &[(String, String)], kill_at: Option<&str>) -> Node {
        let address = free_address();
        let log = log_of(logs, incarnation);
        let output = File::create(&log).unwrap();
        let variable =
            |(key, value): &(String, String)| (format!("MODEL_ASYNCH__{}", key.replace('.', "__")), value.clone());
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_model-asynch"), "serve"])
            .current_dir(logs)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(settings.iter().map(variable))
            .env("MODEL_ASYNCH__SERVER__ADDRESS", &address)
            .envs(kill_at.map(|at| (VARIABLE, at)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Node { incarnation, url: format!("http://{address}"), log, child }
    }

    /// Waits until it is ready to serve; false if it ended before that.
    pub async fn ready(&mut self) -> bool {
        let deadline = Instant::now() + START;
        let client = reqwest::Client::new();
        loop {
            let asked = client.get(format!("{}/healthz", self.url)).timeout(Duration::from_secs(1)).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            if self.ended().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "a node does not start:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end, but not for longer than that.
    pub async fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline => return None,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal by name, such as `STOP`; false if there is nobody any more.
    pub fn signal(&self, name: &str) -> bool {
        let id = self.child.id().to_string();
        Command::new("kill").args([&format!("-{name}"), &id]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_of(logs: &Path, incarnation: usize) -> PathBuf {
    logs.join(format!("node-{incarnation}.log"))
}

/// Which incarnation made which call, by task and attempt, from the logs of all of them.
pub fn callers(logs: &Path, incarnations: usize) -> HashMap<(String, u32), usize> {
    let mut callers = HashMap::new();
    for incarnation in 0..incarnations {
        let text = fs::read(log_of(logs, incarnation)).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines().filter(|line| line.contains("\"calling the model\"")) {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            if let (Some(task), Some(attempt)) = (line["task_id"].as_str(), line["attempt"].as_u64()) {
                callers.insert((task.to_owned(), u32::try_from(attempt).unwrap()), incarnation);
            }
        }
    }
    callers
}
