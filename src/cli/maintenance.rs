//! `maintenance`: run a job now, and see how jobs went. Works beside a running service, and without one.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use chrono::SecondsFormat;
use clap::Subcommand;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    config::Config,
    consul::Services,
    job::{Job, Run, RunId, RunState},
    maintenance::Maintenance,
    storage::Storage,
    store::{Page, Store, jobs::Requested},
};

/// Who asks for runs, and at which node they are, where they were asked for here.
const HERE: &str = "command line";

/// How often a run of another node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a job now, wait for its end and print what it did, as JSON
    Run {
        /// Its name, as list shows it
        #[arg(value_name = "JOB", value_parser = job)]
        job: Job,
    },
    /// List the jobs, when they run and how they last went
    List,
}

pub(super) async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    let store = Store::administer(&config.database, config.vault.clone()).await?;
    let outcome = match command {
        Command::Run { job } => run_now(&store, &config, job).await,
        Command::List => list(&store, &config).await,
    };
    store.close().await;
    outcome
}

async fn run_now(store: &Store, config: &Config, job: Job) -> anyhow::Result<()> {
    let id = match store.request_run(job, HERE, store.now().await?).await? {
        Requested::Waiting(id) => id,
        Requested::Open(id) => bail!("run {} of {} waits or is under way; try again after it", id.0, job.name()),
    };
    let run = ended(store, config, job, id).await?;
    if let Some(result) = &run.result {
        super::print(&format!("{result}\n"))?;
    }
    match run.state {
        RunState::Succeeded => Ok(()),
        RunState::Waiting | RunState::Running | RunState::Failed | RunState::Lost => {
            bail!("run {} of {} {}: {}", id.0, job.name(), run.state.word(), run.error_msg)
        }
    }
}

/// Takes the run up here, unless a node of the service was faster; waits for its end then.
async fn ended(store: &Store, config: &Config, job: Job, id: RunId) -> anyhow::Result<Run> {
    let public_url = match &config.server.public_url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{}", config.server.address))?,
    };
    let services = Services::open(config.consul.as_ref()).map_err(anyhow::Error::msg).context("consul")?;
    let storage = Storage::open(config, &public_url, &services).map_err(anyhow::Error::msg).context("oss")?;
    let maintenance = Maintenance::new(store.clone(), storage, config, HERE.to_owned());
    loop {
        maintenance.take_up(job, &CancellationToken::new()).await?;
        let run = store.run(id).await?.context("the run is no longer listed")?;
        if run.state.is_over() {
            return Ok(run);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn list(store: &Store, config: &Config) -> anyhow::Result<()> {
    let mut text = String::new();
    for job in Job::ALL {
        let schedule = match config.maintenance.schedule(job) {
            Some(schedule) => schedule.to_string(),
            None => "off".to_owned(),
        };
        writeln!(text, "{}: {schedule}\n    {}", job.name(), job.description())?;
        for run in store.list_runs(Some(job), Page { offset: 0, limit: 5 }).await?.list {
            writeln!(text, "    {}", line(&run))?;
        }
    }
    super::print(&text)
}

/// A run in a line: `run 7 2026-11-22T03:00:00Z succeeded (schedule) {"opLog":3}`.
fn line(run: &Run) -> String {
    let at = run.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let result = run.result.as_deref().unwrap_or_default();
    let text = format!("run {} {at} {} ({}) {result} {}", run.id.0, run.state.word(), run.cause.word(), run.error_msg);
    text.trim_end().to_owned()
}

fn job(name: &str) -> Result<Job, String> {
    Job::from_name(name).ok_or_else(|| format!("the jobs are {}", Job::ALL.map(Job::name).join(", ")))
}
