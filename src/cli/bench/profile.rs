//! `--profile`: where the service's processor time goes, by `perf record` while a figure is
//! measured. Shown twice: by our own functions with all that they call, which are the stages of a
//! task's life, and by whatever function the processor was in.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use super::stage::{Bed, Stage};
use crate::clock;

/// Samples a second of each core: odd, so as not to fall in step with timers.
const FREQUENCY: &str = "199";

/// Stack that is kept with each sample, enough for the depth of an async program.
const STACK: &str = "dwarf,16384";

/// Lines of each part.
const LINES: usize = 40;

/// A recording that runs.
pub(super) struct Recording {
    perf: Child,
    file: PathBuf,
}

/// Share of the processor time in percent, by function.
pub(super) type Shares = Vec<(String, f64)>;

/// What a recording showed.
pub(super) struct Profile {
    pub(super) stages: Shares,
    pub(super) functions: Shares,
}

/// Begins to record, where the options say so.
pub(super) fn begin(bed: &Bed, stage: &Stage<'_>) -> anyhow::Result<Option<Recording>> {
    let Some(process) = stage.process().filter(|_| bed.options.profile) else { return Ok(None) };
    let file = bed.folder().join(clock::token());
    let perf = Command::new("perf")
        .args(["record", "-q", "-F", FREQUENCY, "--call-graph", STACK, "-p", &process.to_string(), "-o"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("--profile needs the program perf (Linux) on the PATH")?;
    Ok(Some(Recording { perf, file }))
}

impl Recording {
    /// Ends it and adds it up.
    pub(super) async fn end(mut self) -> anyhow::Result<Profile> {
        if let Some(id) = self.perf.id() {
            // Only an interrupted perf writes its file to the end.
            Command::new("kill").args(["-INT", &id.to_string()]).status().await?;
        }
        self.perf.wait().await?;
        let profile = Profile {
            stages: self.report(&["--children"]).await?.into_iter().filter(|(name, _)| is_ours(name)).collect(),
            functions: self.report(&["--no-children"]).await?,
        };
        std::fs::remove_file(&self.file).ok();
        if profile.functions.is_empty() {
            bail!("perf saw nothing; is it allowed to (kernel.perf_event_paranoid)?");
        }
        Ok(Profile { stages: first(profile.stages), functions: first(profile.functions) })
    }

    async fn report(&self, how: &[&str]) -> anyhow::Result<Shares> {
        let output = Command::new("perf")
            .args(["report", "--stdio", "--no-inline", "-q", "-g", "none", "--sort", "symbol", "-i"])
            .arg(&self.file)
            .args(how)
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run perf report")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(share).collect())
    }
}

fn first(mut shares: Shares) -> Shares {
    shares.truncate(LINES);
    shares
}

fn is_ours(name: &str) -> bool {
    name.starts_with("model_asynch::") || name.starts_with("<model_asynch::")
}

/// Reads `    12.34%     1.20%  [.] name`: the first share, and the name.
fn share(line: &str) -> Option<(String, f64)> {
    let (share, rest) = line.trim().split_once('%')?;
    let (_, name) = rest.split_once("] ")?;
    // Newer versions of perf have more columns, far to the right.
    let name = name.split("   ").next().unwrap_or(name);
    Some((name.trim().to_owned(), share.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_perf_are_read() {
        assert_eq!(
            share("    12.34%     1.20%  [.] a::b::{{closure}} "),
            Some(("a::b::{{closure}}".to_owned(), 12.34))
        );
        assert_eq!(share("     2.00%  [k] sys                 -      -"), Some(("sys".to_owned(), 2.0)));
        assert_eq!(share("# Overhead  Symbol"), None);
    }
}
