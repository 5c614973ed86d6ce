//! `secrets`: what is stored under a key. Works beside a running service.

use anyhow::bail;
use clap::Subcommand;

use crate::{
    config::{Config, ConfigError},
    store::{Store, secrets::Rotation},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Seal every stored secret under secrets.key, whatever it was sealed under before
    ///
    /// What it was sealed under must be in secrets.previousKeys, and all nodes must know the new key.
    Rotate,
}

pub(super) async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    match command {
        Command::Rotate => rotate(config).await,
    }
}

async fn rotate(config: Config) -> anyhow::Result<()> {
    if !config.vault.has_key() {
        let message = "is required: the key that everything is to be sealed under".to_owned();
        return Err(ConfigError { key: "secrets.key".into(), message }.into());
    }
    let store = Store::administer(&config.database, config.vault).await?;
    let outcome = resealed(&store).await;
    store.close().await;
    outcome
}

async fn resealed(store: &Store) -> anyhow::Result<()> {
    let models = store.reseal_models().await?;
    let tasks = store.reseal_tasks().await?;
    super::print(&format!(
        "sealed under the current key: the headers of {} models and what {} tasks keep of their callers\n",
        models.resealed, tasks.resealed
    ))?;
    let mut total = Rotation::default();
    total.add(models);
    total.add(tasks);
    if total.overtaken > 0 {
        super::print(&format!("changed meanwhile and left alone: {}; run it again to be sure\n", total.overtaken))?;
    }
    match total.unreadable {
        0 => Ok(()),
        unreadable => bail!(
            "{unreadable} stored secrets are sealed under a key that is neither secrets.key nor in \
             secrets.previousKeys; they were left as they are"
        ),
    }
}
