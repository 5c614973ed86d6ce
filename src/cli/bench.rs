//! `bench`: what this machine, with this database, can do. Starts the service, a no-op model and a
//! load of its own and measures them; `docs/performance.md` says how to read the figures.
//!
//! Service and model run in processes of their own, so that what each costs can be told apart. They
//! work in a temporary folder and in a database that is made for the measurement and goes with it.

mod all;
mod api;
mod backlog;
mod drain;
mod enqueue;
mod fairness;
mod goals;
mod latency;
mod load;
mod machine;
mod memory;
mod model;
mod nearby;
mod part;
mod pickup;
mod plot;
mod profile;
mod report;
mod stage;
mod table;
mod usage;
mod wire;
mod yardstick;

use std::{
    io::IsTerminal,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use url::Url;

use self::{report::Report, stage::Bed};
use super::serve::Signals;

const EXAMPLES: &str = "\
Examples:
  model-asynch bench drain
  model-asynch bench enqueue --database postgres://app@localhost/app --redis redis://localhost
  model-asynch bench all --json today.json --database postgres://app@localhost/app --redis redis://localhost
  model-asynch bench backlog --rows 10000,1000000,10000000 --lanes 100 --hold 60 --json today.json --database …
  model-asynch bench plot today.json --out docs

On Postgres it makes a database of its own and drops it at the end; the user must be allowed to. Write-ahead log and
commits are those of the whole server, so let nobody else work there. Processor times need Linux, and servers on this
machine.";

/// What `bench` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum What {
    /// createTask: requests a second and latency at several numbers of connections
    Enqueue,
    /// From queued to stored: tasks a second for small, middling and large answers
    Drain,
    /// One task at a time: how soon the model is called, and how soon its answer is stored
    Latency,
    /// Whether a long queue makes anything slower
    Backlog,
    /// How long a tenant waits behind a full one, and how tenants share a model
    Fairness,
    /// getTaskBatch of 1, 100 and 1000 ids
    Pickup,
    /// Resident memory: idle, with 10,000 calls in flight, while 1 GiB passes through
    Memory,
    /// Everything within a quarter of an hour, and how it compares with what is to be reached
    All,
    /// Draw how figures grow with the queue, from the JSON of a run
    Plot {
        /// What --json has written
        file: PathBuf,
        /// Folder for the pictures
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// The service that is measured, in a process of its own
    #[command(hide = true)]
    Service,
    /// The no-op model and file service, in a process of its own
    #[command(hide = true)]
    Model,
}

/// What every measurement takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measuring")]
struct Options {
    /// Measure a service that runs already, as far as that can be done from outside
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A header for every request, such as 'Authorization: Bearer …'; may be repeated
    #[arg(long = "header", global = true, value_name = "HEADER")]
    headers: Vec<String>,
    /// Postgres server to measure with, by the URL of any database there [default: embedded SQLite]
    #[arg(long, global = true, value_name = "URL")]
    database: Option<String>,
    /// Redis server to measure with [default: permits are kept in the process]
    #[arg(long, global = true, value_name = "URL")]
    redis: Option<Url>,
    /// Where results go; s3 takes its settings from the section oss of config.yml, or its variables
    #[arg(long, global = true, value_name = "KIND", default_value = "fs")]
    storage: Kind,
    /// Folder for the embedded database, results and logs: the disk that is measured [default: the temporary folder]
    #[arg(long, global = true, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Where the no-op model listens; the service must be able to reach it there
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    model_address: String,
    /// How often each figure is taken
    #[arg(long, global = true, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    /// How long each figure is measured that has no end of its own
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 4.0)]
    seconds: f64,
    /// Numbers of connections to createTask
    #[arg(long, global = true, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 8, 32, 64, 256])]
    connections: Vec<usize>,
    /// Tasks to drain, or rows in the table [default: depends on the measurement]
    #[arg(long, global = true, value_name = "N,…", value_delimiter = ',')]
    rows: Vec<u64>,
    /// Tenants, each a lane of its own [default: depends on the measurement]
    #[arg(long, global = true, value_name = "N,…", value_delimiter = ',')]
    lanes: Vec<u64>,
    /// Sizes of the model's answers in bytes
    #[arg(long, global = true, value_name = "N,…", value_delimiter = ',', default_values_t = [100, 10_000, 1_000_000])]
    answers: Vec<u64>,
    /// worker.concurrency of the service
    #[arg(long, global = true, value_name = "N", default_value_t = 256)]
    concurrency: i64,
    /// backlog: also hold vacuum back by an old transaction for so long
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
    /// enqueue, drain: show where the service's processor time goes, by perf (Linux), by stage and by function; a
    /// release build has no names, so build with cargo build --profile profiling
    #[arg(long, global = true)]
    profile: bool,
    /// Write everything that was measured to this file, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Kinds of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A folder
    Fs,
    /// The no-op file service
    Http,
    /// An S3-compatible store
    S3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Fs => "fs",
            Kind::Http => "http",
            Kind::S3 => "s3",
        }
    }
}

/// Measures.
///
/// # Errors
/// What could not be started, or went wrong while it was measured.
pub(super) async fn run(args: Args, config: Option<&Path>) -> anyhow::Result<()> {
    match &args.what {
        What::Service => {
            return Box::pin(part::service(config.context("the service under test needs a configuration")?)).await;
        }
        What::Model => return part::model(&args.options.model_address).await,
        What::Plot { file, out } => return plot::draw(file, out),
        What::Enqueue | What::Drain | What::Latency | What::Backlog => {}
        What::Fairness | What::Pickup | What::Memory | What::All => {}
    }
    check(&args.options)?;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let bed = Bed::make(args.options).await?;
    let mut report = Report::begin(&bed).await?;
    let measured = tokio::select! {
        measured = measure(&args.what, &bed, &mut report) => measured,
        name = signals.next() => Err(anyhow!("interrupted by {name}")),
    };
    let cleared = bed.clear().await;
    // What was measured until something went wrong is worth showing.
    if !report.figures.is_empty() {
        super::print(&table::render(&report, std::io::stdout().is_terminal()))?;
        if args.what == What::All {
            super::print(&format!("\n{}", goals::render(&report)))?;
        }
        if let Some(file) = &report.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    measured.and(cleared)
}

fn check(options: &Options) -> anyhow::Result<()> {
    if !(0.1..=3600.0).contains(&options.seconds) {
        bail!("--seconds must be between 0.1 and 3600");
    }
    if options.connections.iter().any(|&n| !(1..=10_000).contains(&n)) {
        bail!("--connections must be between 1 and 10000");
    }
    if options.url.is_some() && (options.database.is_some() || options.redis.is_some()) {
        bail!("--url is for a service with a database of its own; leave out --database and --redis");
    }
    Ok(())
}

async fn measure(what: &What, bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    match what {
        What::Enqueue => enqueue::measure(bed, report).await,
        What::Drain => drain::measure(bed, report).await,
        What::Latency => latency::measure(bed, report).await,
        What::Backlog => backlog::measure(bed, report).await,
        What::Fairness => fairness::measure(bed, report).await,
        What::Pickup => pickup::measure(bed, report).await,
        What::Memory => memory::measure(bed, report).await,
        What::All => all::measure(bed, report).await,
        What::Service | What::Model | What::Plot { .. } => Ok(()),
    }
}

/// What happens now, for who is waiting; not part of the result.
fn tell(what: &str) {
    eprintln!("  {what}");
}
