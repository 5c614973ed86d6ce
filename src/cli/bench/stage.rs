//! Where it is measured: the no-op model for the whole run, and for each figure a fresh database
//! with a service on it.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use url::Url;

use super::{
    Kind, Options,
    api::Api,
    part::Part,
    usage::{Meter, Reading},
    wire::Target,
};
use crate::{
    clock,
    config::{load, raw::RawConfig},
    store::bench::Scratch,
};

/// How long the service may take to start.
const START: Duration = Duration::from_secs(60);

/// Time between two looks at something that is waited for.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How long a killed service may go on.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Characters of the service's log that are shown when it does not start.
const LAST_WORDS: usize = 1500;

/// What all measurements of a run share.
pub(super) struct Bed {
    pub(super) options: Options,
    /// A token: this run's among all that were and will be.
    run: String,
    folder: PathBuf,
    model: Part,
    model_url: String,
}

/// How the service is to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) worker: bool,
    pub(super) storage: Kind,
    pub(super) concurrency: i64,
}

/// A database and a service on it.
pub(super) struct Stage<'a> {
    bed: &'a Bed,
    service: Option<Part>,
    /// `None` with `--url`.
    pub(super) database: Option<Scratch>,
    raw: RawConfig,
    folder: PathBuf,
    pub(super) api: Api,
}

impl Bed {
    pub(super) async fn make(options: Options) -> anyhow::Result<Bed> {
        let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let run = clock::token()[..16].to_owned();
        let folder = parent.join(format!("model-asynch-bench-{run}"));
        make_folder(&folder).with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        let mut model = Part::start(|command| {
            command.args(["bench", "--model-address", &options.model_address, "model"]).stdout(Stdio::piped());
        })?;
        let model_url = model.first_line().await?;
        if model_url.is_empty() {
            bail!("the no-op model did not start");
        }
        Ok(Bed { options, run, folder, model, model_url })
    }

    /// Base URL of the no-op model.
    pub(super) fn model_url(&self) -> &str {
        &self.model_url
    }

    /// Where requests to the no-op model go.
    pub(super) fn model(&self) -> anyhow::Result<Target> {
        Target::new(&self.model_url, &[])
    }

    /// Moves a gate of the no-op model.
    pub(super) async fn gate(&self, path: &str) -> anyhow::Result<()> {
        let model = self.model()?;
        model.connect().await?.ask(&model.post(path, "{}")).await.map(drop)
    }

    /// The folder of this run.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// As the options say.
    pub(super) fn setup(&self, worker: bool) -> Setup {
        Setup { worker, storage: self.options.storage, concurrency: self.options.concurrency }
    }

    /// A meter without a service.
    pub(super) fn meter<'a>(&'a self, database: Option<&'a Scratch>) -> Meter<'a> {
        Meter { service: None, model: self.model.id(), database, redis: self.options.redis.as_ref() }
    }

    /// A fresh database, without a service yet.
    pub(super) async fn database(&self, folder: &Path) -> anyhow::Result<(Scratch, String)> {
        match &self.options.database {
            Some(url) => Ok(Scratch::on_postgres(url, &self.run)
                .await
                .context("--database: cannot make a database to measure with")?),
            None => {
                let path = folder.join("bench.db");
                Ok((Scratch::on_sqlite(&path), format!("sqlite://{}", path.display())))
            }
        }
    }

    /// A service on a fresh database; with `--url` the one that runs there.
    pub(super) async fn stage(&self, setup: Setup) -> anyhow::Result<Stage<'_>> {
        let folder = self.folder.join(clock::token());
        make_folder(&folder)?;
        if let Some(url) = &self.options.url {
            let api = Api { target: Target::new(url, &self.options.headers)? };
            return Ok(Stage { bed: self, service: None, database: None, raw: RawConfig::default(), folder, api });
        }
        let (database, url) = self.database(&folder).await?;
        let raw = self.config(&folder, url, setup)?;
        let api = Api { target: Target::new("http://127.0.0.1:1", &[])? };
        let mut stage = Stage { bed: self, service: None, database: Some(database), raw, folder, api };
        if let Err(error) = stage.start().await {
            stage.clear().await.ok();
            return Err(error);
        }
        Ok(stage)
    }

    /// The defaults, but for folders of its own; S3 as the configuration of this machine says.
    fn config(&self, folder: &Path, database: String, setup: Setup) -> anyhow::Result<RawConfig> {
        let inside = |name: &str| folder.join(name).display().to_string();
        let mut raw = RawConfig::default();
        if setup.storage == Kind::S3 {
            raw.oss = load::read(None, crate::cli::environment())?.oss;
        }
        raw.server.address = "127.0.0.1:0".to_owned();
        raw.server.shutdown_grace = "2s".to_owned();
        raw.database.url = database;
        if let Some(redis) = &self.options.redis {
            raw.redis.url = redis.to_string();
            raw.redis.key_prefix = format!("model-asynch-bench-{}:", clock::token());
        }
        // The no-op model is on this machine.
        raw.egress.otherwise = "all".to_owned();
        raw.worker.enabled = setup.worker;
        raw.worker.concurrency = setup.concurrency;
        raw.worker.tmp_dir = inside("tmp");
        raw.oss.kind = setup.storage.name().to_owned();
        raw.oss.path = inside("oss");
        raw.oss.url = format!("{}/file", self.model_url);
        Ok(raw)
    }

    /// Ends the model, and removes databases and the folder, those of an interrupted measurement too.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        self.model.kill().await;
        if let Some(url) = &self.options.database {
            Scratch::remove_all(url, &self.run).await.context("a database is left behind")?;
        }
        // An interrupted service was killed, and may still be at its last write.
        let began = clock::tick();
        while let Err(error) = fs::remove_dir_all(&self.folder) {
            if began.elapsed() > LAST_WRITE {
                return Err(error).with_context(|| format!("{} is left behind", self.folder.display()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Stage<'_> {
    /// Starts the service again on the same database, otherwise set up; with `--url` it just goes on.
    pub(super) async fn restart(&mut self, setup: Setup) -> anyhow::Result<()> {
        if self.database.is_none() {
            return Ok(());
        }
        self.stop().await?;
        self.raw.worker.enabled = setup.worker;
        self.raw.worker.concurrency = setup.concurrency;
        self.start().await
    }

    /// Stops the service in order.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        match self.service.take() {
            Some(service) => service.stop().await,
            None => Ok(()),
        }
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        let (config, log) = (self.folder.join("config.yml"), self.folder.join("log"));
        // JSON is YAML, too.
        fs::write(&config, serde_json::to_vec(&self.raw)?)?;
        let output = fs::File::create(&log)?;
        let mut service = Part::start(|command| {
            command.arg("--config").arg(&config).args(["bench", "service"]).stderr(Stdio::inherit()).stdout(output);
        })?;
        let url = tokio::time::timeout(START, listens_at(&mut service, &log)).await;
        let Ok(Some(url)) = url else {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let skipped = text.chars().count().saturating_sub(LAST_WORDS);
            bail!("the service did not start: {}", text.chars().skip(skipped).collect::<String>());
        };
        self.api = Api { target: Target::new(&url, &self.bed.options.headers)? };
        self.service = Some(service);
        Ok(())
    }

    /// The configuration of the service.
    pub(super) fn raw(&self) -> &RawConfig {
        &self.raw
    }

    /// The process of the service, where we started it.
    pub(super) fn process(&self) -> Option<u32> {
        self.service.as_ref().and_then(Part::id)
    }

    /// Reads all counters.
    pub(super) async fn reading(&self) -> Reading {
        Meter { service: self.process(), ..self.bed.meter(self.database.as_ref()) }.read().await
    }

    /// Ends the service and drops the database.
    pub(super) async fn clear(mut self) -> anyhow::Result<()> {
        if let Some(service) = self.service.take() {
            service.kill().await;
        }
        if let Some(database) = self.database.take() {
            database.remove().await?;
        }
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

/// Reads from its log where the service listens; `None` where it ended instead.
async fn listens_at(service: &mut Part, log: &Path) -> Option<String> {
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some((_, rest)) = text.split_once("serving on http://")
            && let Some((address, _)) = rest.split_once(['"', '\n', ' '])
        {
            return Some(format!("http://{address}"));
        }
        if service.ended() {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// The URL of a server without what must stay secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        url.set_password(Some("****")).ok();
    }
    url.to_string()
}
