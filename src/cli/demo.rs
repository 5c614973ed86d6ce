//! `demo`: everything at once on this machine, with real models and nothing to set up.
//!
//! The service runs in this process, embedded, in a temporary folder. It calls Piper (text to
//! speech) where that is installed, and always a language identifier that is compiled in. What is
//! shown goes through the public HTTP interface, and what comes back is checked: the exit code
//! says whether every task ended as it should.

mod client;
mod folder;
mod language_model;
mod piper;
mod screen;
mod story;

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    path::Path,
    pin::pin,
};

use anyhow::{Context, anyhow};
use tracing::Level;

use self::{folder::Folder, language_model::LanguageModel, piper::Piper, screen::Screen};
use super::serve::Signals;
use crate::{
    app::App,
    config::{Config, ConfigError, check, raw::RawConfig},
};

/// What the demo takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep everything up until Ctrl-C, for trying more calls
    #[arg(long)]
    stay: bool,
    /// Port of the service on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// A Python that has Piper [default: python3, where it has]
    #[arg(long, env = "MODEL_ASYNCH_DEMO_PYTHON", value_name = "PATH")]
    python: Option<OsString>,
}

/// Runs the demo.
///
/// # Errors
/// What could not be started, or the tasks that did not end as they should.
pub async fn run(args: Args) -> anyhow::Result<()> {
    only_warnings();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let screen = Screen::new();
    screen.title();
    let folder = Folder::create().context("cannot make a temporary folder")?;
    let python = args.python.as_deref().filter(|python| !python.is_empty()).map(Path::new);
    let piper = tokio::select! {
        started = piper_if_any(python, folder.path(), &screen) => started?,
        name = signals.next() => return Err(interrupted(name)),
    };
    let language = LanguageModel::bind().await.context("cannot start the language model")?;
    screen.part("language", "language identification", &language.url());
    let models = story::models(piper.as_ref().map(Piper::url), &language.url());
    let mut app = App::start(config(folder.path(), args.port)?).await?;
    let service = format!("http://{}", app.address());
    screen.part("service", "this program, SQLite, no settings", &service);

    let mut serving = pin!(language.serve());
    let told = tokio::select! {
        told = story::tell(&service, &models, &screen) => told,
        failed = &mut serving => failed.context("the language model ended"),
        part = app.failed() => Err(broken(part)),
        name = signals.next() => Err(interrupted(name)),
    };
    let ended = match told {
        Ok(()) if args.stay => {
            screen.hints(&service);
            tokio::select! {
                failed = &mut serving => failed.context("the language model ended"),
                part = app.failed() => Err(broken(part)),
                _ = signals.next() => Ok(()),
            }
        }
        Ok(()) => {
            screen.farewell();
            Ok(())
        }
        Err(error) => Err(error),
    };
    app.stop().await;
    if let Some(piper) = piper {
        piper.stop().await;
    }
    ended
}

fn interrupted(signal: &str) -> anyhow::Error {
    anyhow!("interrupted by {signal}")
}

fn broken(part: &str) -> anyhow::Error {
    anyhow!("a part of the service ended on its own: {part}")
}

/// Piper, where it is installed and starts. Where somebody named a Python, it has to.
async fn piper_if_any(named: Option<&Path>, folder: &Path, screen: &Screen) -> anyhow::Result<Option<Piper>> {
    screen.loading("speech");
    match Piper::start(named.unwrap_or(Path::new("python3")), folder).await {
        Ok(piper) => {
            screen.part("speech", "text to speech, Piper", piper.url());
            Ok(Some(piper))
        }
        Err(error) if named.is_some() => Err(error),
        Err(error) => {
            screen.part("speech", "left out", &format!("{error:#}"));
            Ok(None)
        }
    }
}

/// The defaults, but for folders of its own and a quick clean-up, so that a retry is not waited
/// for longer than it asks for. No file and no environment: they are meant for the real service.
fn config(folder: &Path, port: u16) -> Result<Config, ConfigError> {
    let inside = |name: &str| folder.join(name).display().to_string();
    let mut raw = RawConfig::default();
    raw.server.address = format!("127.0.0.1:{port}");
    raw.server.shutdown_grace = "2s".to_owned();
    raw.database.url = format!("sqlite://{}", inside("demo.db"));
    raw.worker.tmp_dir = inside("tmp");
    raw.oss.path = inside("oss");
    raw.cleaner.interval = "100ms".to_owned();
    check::check(&raw)
}

/// Standard output belongs to the show; whatever is wrong goes to standard error.
fn only_warnings() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .finish();
    // Fails where there is a subscriber already, and then that one is used.
    tracing::subscriber::set_global_default(subscriber).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auth, Database, OssKind};

    #[test]
    fn the_service_of_the_demo_keeps_everything_in_its_folder() {
        let folder = Path::new("/somewhere/demo");
        let config = config(folder, 0).unwrap();
        assert!(config.server.address.ip().is_loopback());
        assert!(matches!(config.auth, Auth::Anonymous) && config.redis.is_none());
        assert!(matches!(&config.database, Database::Sqlite { path } if path.starts_with(folder)));
        assert!(matches!(&config.oss.kind, OssKind::Fs { path, .. } if path.starts_with(folder)));
        assert!(config.worker.tmp_dir.starts_with(folder));
    }
}
