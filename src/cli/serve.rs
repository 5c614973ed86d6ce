//! `serve`: run the service until a signal, or until a part of it fails.

use std::future::pending;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{app::App, config::Config, logging};

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    run_until(config, pending()).await
}

/// The same, also until `over`.
pub(super) async fn run_until(config: Config, over: impl Future<Output = ()>) -> anyhow::Result<()> {
    logging::init(&config.log)?;
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut app = tokio::select! {
        app = Box::pin(App::start(config)) => app?,
        name = signals.next() => {
            info!(signal = name, "stopped before it was up");
            return Ok(());
        }
    };
    info!(address = %app.address(), version = env!("CARGO_PKG_VERSION"), "serving on http://{}", app.address());
    let failure = tokio::select! {
        part = app.failed() => {
            error!(error = part, "a part of the service ended on its own, stopping the rest");
            Some(part)
        }
        name = signals.next() => {
            info!(signal = name, "stopping; a second signal ends at once");
            None
        }
        () = over => {
            info!("stopping, as whoever started it is done");
            None
        }
    };
    tokio::select! {
        () = app.stop() => info!("stopped"),
        name = signals.next() => bail!("ended at once by a second signal ({name}); its tasks go to others when its lease runs out"),
    }
    match failure {
        Some(part) => bail!("stopped because a part of the service ended on its own: {part}"),
        None => Ok(()),
    }
}

/// The signals that ask a service to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
