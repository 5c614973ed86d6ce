//! The processes that `bench` starts: this program again, with a pipe as its standard input. When
//! that is closed, whoever started it has gone, and it ends.

use std::path::Path;

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

use super::model::NoopModel;
use crate::{cli::serve, config::load};

/// Runs the service with that file and nothing from the environment; ends it in order.
pub(super) async fn service(config: &Path) -> anyhow::Result<()> {
    let config = load::load(Some(config), std::iter::empty())?;
    serve::run_until(config, left_alone()).await
}

/// Runs the no-op model, and says where.
pub(super) async fn model(address: &str) -> anyhow::Result<()> {
    let model = NoopModel::bind(address, None).await.context("cannot start the no-op model")?;
    crate::cli::print(&format!("{}\n", model.url()))?;
    tokio::select! {
        ended = model.serve() => ended.context("the no-op model ended"),
        () = left_alone() => Ok(()),
    }
}

async fn left_alone() {
    let mut nothing = [0; 64];
    while tokio::io::stdin().read(&mut nothing).await.is_ok_and(|read| read > 0) {}
}

/// A process that ends with this.
pub(super) struct Part {
    process: Child,
}

impl Part {
    /// Starts this program with these arguments.
    pub(super) fn start(configure: impl FnOnce(&mut Command)) -> anyhow::Result<Part> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        configure(&mut command);
        command.stdin(std::process::Stdio::piped()).env_remove("RUST_LOG").kill_on_drop(true);
        Ok(Part { process: command.spawn().context("cannot start this program again")? })
    }

    /// Its number.
    pub(super) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The first line it writes to its standard output, which must be a pipe.
    pub(super) async fn first_line(&mut self) -> anyhow::Result<String> {
        let output = self.process.stdout.as_mut().context("a part of the measurement has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        Ok(line.trim().to_owned())
    }

    /// Whether it has ended.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it at once, and waits until it has ended.
    pub(super) async fn kill(mut self) {
        // Fails where it has ended already.
        self.process.kill().await.ok();
    }

    /// Asks it to stop, and waits until it has.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        self.process.wait().await?;
        Ok(())
    }
}
