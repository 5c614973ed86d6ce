//! The command line: one file for each subcommand.

mod alert;
mod bench;
mod check_config;
pub mod demo;
mod healthcheck;
mod maintenance;
mod migrate;
mod openapi;
mod secrets;
mod serve;
mod token;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, load, raw::RawConfig};

const EXAMPLES: &str = "\
Examples:
  model-asynch demo                             see what it does
  model-asynch                                  serve with ./config.yml, or with the defaults
  model-asynch --config /etc/model-asynch.yml   serve with another file
  MODEL_ASYNCH__SERVER__ADDRESS=127.0.0.1:9000 model-asynch
  model-asynch token create --tenant 7 --user ci --scopes task:write,task:read --expires 30d
  model-asynch alert test                       see whether alerts arrive
  model-asynch check-config                     show what is in force, and what looks wrong

Every key of config.yml can be set by the environment: MODEL_ASYNCH__WORKER__LEASE_SECONDS is
worker.leaseSeconds; MODEL_ASYNCH__DATABASE__URL__FILE names a file that holds database.url.

Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong.";

/// Asynchronous middleware in front of model services.
///
/// Takes tasks and answers with an id at once, calls the models within exact limits, stores the
/// results, and hands them out in batches. Without configuration it serves on 127.0.0.1:8080 and
/// keeps everything under ./data.
#[derive(Debug, Parser)]
#[command(name = "model-asynch", version, after_help = EXAMPLES, verbatim_doc_comment)]
pub struct Cli {
    /// Configuration file [default: config.yml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (this is what happens without a command)
    Serve,
    /// Show it at work with real models, in a temporary folder and without any settings
    Demo(demo::Args),
    /// Measure what this machine can do: rates, latencies, and what a task costs
    Bench(Box<bench::Args>),
    /// Bring the database schema up to date, and end
    Migrate,
    /// Check the configuration and show what is in force, secrets masked
    CheckConfig,
    /// Print the description of the HTTP interface (OpenAPI, JSON)
    Openapi,
    /// Make, list and revoke the tokens of auth.mode token
    #[command(subcommand)]
    Token(token::Command),
    /// Run maintenance jobs, and see how they went
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Change the key that secrets are stored under
    #[command(subcommand)]
    Secrets(secrets::Command),
    /// See whether operators can be told
    #[command(subcommand)]
    Alert(alert::Command),
    /// Ask a running service whether it is ready; exit code 0 if it is, 1 if not
    Healthcheck(healthcheck::Args),
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// In words, for one line; [`exit_code`] says how the process ends.
    pub fn run(self) -> anyhow::Result<()> {
        let file = self.config.as_deref();
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => block_on(serve::run(load_from(file)?)),
            Command::Demo(args) => block_on(demo::run(args)),
            Command::Bench(args) => block_on(bench::run(*args, file)),
            Command::Migrate => block_on(migrate::run(load_from(file)?)),
            Command::CheckConfig => check_config::run(file),
            Command::Openapi => openapi::run(),
            Command::Token(command) => block_on(token::run(command, load_from(file)?)),
            Command::Maintenance(command) => block_on(maintenance::run(command, load_from(file)?)),
            Command::Secrets(command) => block_on(secrets::run(command, load_from(file)?)),
            Command::Alert(command) => block_on(alert::run(command, load_from(file)?)),
            // Any trouble means "not ready" here, a bad configuration too.
            Command::Healthcheck(args) => block_on(healthcheck::run(args, || Ok(load_from(file)?))),
        }
    }
}

/// 2 for the configuration, as for the command line; 1 for everything else.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
}

fn load_from(file: Option<&Path>) -> Result<Config, ConfigError> {
    load::load(file, environment())
}

fn read_from(file: Option<&Path>) -> Result<RawConfig, ConfigError> {
    load::read(file, environment())
}

/// The environment, but for what is not text and so cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(command);
    // Whatever needed an end has had one; a blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

/// Prints, unless the reader has gone: `model-asynch openapi | head` is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_may_be_named_before_and_after_the_command() {
        for line in [["model-asynch", "--config", "a.yml", "migrate"], ["model-asynch", "migrate", "--config", "a.yml"]]
        {
            assert_eq!(Cli::parse_from(line).config, Some(PathBuf::from("a.yml")));
        }
    }

    #[test]
    fn without_a_command_it_serves() {
        assert!(Cli::parse_from(["model-asynch"]).command.is_none());
    }

    #[test]
    fn a_configuration_error_is_known_by_its_exit_code() {
        let error = ConfigError { key: "a.b".into(), message: "c".into() };
        assert_eq!(exit_code(&anyhow::Error::from(error).context("d")), ExitCode::from(2));
        assert_eq!(exit_code(&anyhow::anyhow!("e")), ExitCode::from(1));
    }
}
