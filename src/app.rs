//! The composition root: builds the parts from the configuration, starts them, serves, and stops
//! them in order. The only place that spawns long-lived tasks, and it joins all of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use url::Url;

use crate::{
    api::{self, ApiState, Gate, Tls},
    catalog::Catalog,
    census::CensusTaker,
    cleaner::{self, Cleaner},
    clock,
    config::Config,
    consul::{Registration, Services},
    maintenance::Maintenance,
    metrics::Metrics,
    monitor::{self, Monitor},
    oplog,
    permits::{self, Permits},
    recorder::Recorder,
    spool::Spool,
    storage::Storage,
    store::Store,
    tenants::Tenants,
    trace,
    vitals::Vitals,
    wake::Wake,
    watch::{Board, Watch},
    worker::{self, Pulse, Worker},
};

/// How long a part may take to stop, besides what it is known to wait for.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running service.
pub struct App {
    address: SocketAddr,
    stopping: CancellationToken,
    /// In the order in which they are stopped.
    parts: Vec<Part>,
    grace: Duration,
    store: Store,
}

/// A long-lived task.
struct Part {
    name: &'static str,
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

impl App {
    /// Builds and starts everything; the listener is bound when this returns.
    ///
    /// # Errors
    /// The first part that could not be built, in words.
    pub async fn start(config: Config) -> anyhow::Result<App> {
        let listener = TcpListener::bind(config.server.address)
            .await
            .with_context(|| format!("server.address: cannot listen on {}", config.server.address))?;
        let address = listener.local_addr()?;
        let public_url = match &config.server.public_url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("{}://{address}", if config.server.tls.is_some() { "https" } else { "http" }))?,
        };
        let tls = match &config.server.tls {
            Some(files) => {
                Some(Tls::load(files).await.context("server.tlsCertFile or server.tlsKeyFile cannot be used")?)
            }
            None => None,
        };
        let consul = config.consul.as_ref();
        let services = Services::open(consul).map_err(anyhow::Error::msg).context("consul")?;
        let registration = consul
            .map(|consul| Registration::new(consul, address, config.server.tls.is_some()))
            .transpose()
            .map_err(anyhow::Error::msg)
            .context("consul")?;
        let storage = Storage::open(&config, &public_url, &services).map_err(anyhow::Error::msg).context("oss")?;
        // With the node's lease, so that whoever takes over a dead node's tasks finds room for them.
        let ttl = config.worker.lease.min(permits::LONGEST_TTL);
        let permits =
            Permits::open_with_ttl(config.redis.as_ref(), ttl).map_err(anyhow::Error::msg).context("redis.url")?;
        let wake = Wake::open(config.redis.as_ref(), config.worker.enabled)
            .map_err(anyhow::Error::msg)
            .context("redis.url")?;
        let board = Board::open(config.redis.as_ref()).map_err(anyhow::Error::msg).context("redis.url")?;
        let spool = match config.worker.enabled {
            true => Some(Spool::open(&config.worker.tmp_dir).context("worker.tmpDir: cannot make this node's folder")?),
            false => None,
        };
        let metrics = Metrics::new(config.metrics.top_lanes)?;
        let (store, committers) = Store::open(&config.database, config.vault.clone()).await?;
        let committers = committers.measured(&metrics);
        let gate = Gate::open(&config.auth, &store).map_err(anyhow::Error::msg).context("auth")?;
        let (oplog, oplog_writer) = oplog::channel();
        let catalog = Catalog::new(store.clone());
        let tenants = Tenants::load(store.clone(), config.plans.clone()).await?;
        let stopping = CancellationToken::new();

        let (tracer, exporter) = trace::start(&config.telemetry).context("telemetry")?;

        // The last to stop come first; reversed below.
        let mut parts = Vec::new();
        if let Some(exporter) = exporter {
            parts.push(part("traces", |stop| exporter.run(stop)));
        }
        parts.push(part("database writers", |stop| committers.run(stop)));
        let log_store = store.clone();
        parts.push(part("operation log", |stop| oplog_writer.run(log_store, stop)));
        let recorder = Recorder::new(store.clone(), metrics.clone());
        parts.push(part("series", |stop| recorder.run(stop)));
        let permits_kept = permits.clone();
        parts.push(part("permits", |stop| async move { permits_kept.run(stop).await }));
        let callers = gate.clone();
        parts.push(part("identity provider", |stop| callers.run(stop)));
        let tenants_read = tenants.clone();
        parts.push(part("tenants", |stop| tenants_read.run(stop)));
        let bus = wake.clone();
        parts.push(part("wake-ups", |stop| async move { bus.run(stop).await }));
        let census = CensusTaker::new(store.clone());
        let counts = census.clone();
        parts.push(part("census", |stop| counts.run(stop)));
        let server_stops_before = parts.len();
        let mut pulse = None;
        if let Some(spool) = spool {
            let worker_parts = worker::Parts {
                store: store.clone(),
                catalog: catalog.clone(),
                permits: permits.clone(),
                tenants: tenants.clone(),
                wake: wake.clone(),
                board: board.clone(),
                spool,
                storage: storage.clone(),
                metrics: metrics.clone(),
                services: services.clone(),
                tracer: tracer.clone(),
            };
            let (worker, signs) = start_worker(worker_parts, &config).await?;
            parts.push(worker);
            pulse = Some(signs);
        }
        if config.cleaner.enabled {
            let watch = Watch::new(store.clone(), board, config.node_name(), config.worker.lease);
            let cleaner_parts = cleaner::Parts {
                store: store.clone(),
                storage: storage.clone(),
                wake: wake.clone(),
                watch,
                metrics: metrics.clone(),
                tracer: tracer.clone(),
            };
            let cleaner = Cleaner::new(cleaner_parts, &config);
            parts.push(part("cleaner", |stop| cleaner.run(stop)));
        }
        let vitals = Vitals {
            store: store.clone(),
            permits: permits.clone(),
            storage: storage.clone(),
            pulse: pulse.clone(),
            metrics: metrics.clone(),
        };
        parts.push(part("vitals", |stop| vitals.run(stop)));
        let maintenance = Maintenance::new(store.clone(), storage.clone(), &config, config.node_name());
        let bell = maintenance.bell();
        if config.maintenance.enabled {
            parts.push(part("maintenance", |stop| maintenance.run(stop)));
        }
        let monitor_parts = monitor::Parts {
            store: store.clone(),
            census: census.clone(),
            permits: permits.clone(),
            storage: storage.clone(),
        };
        let monitor = Monitor::new(monitor_parts, &config).map_err(anyhow::Error::msg)?;
        parts.push(part("monitor", |stop| monitor.run(stop)));
        let grace = config.server.shutdown_grace;
        let egress = config.egress.clone();
        let state = ApiState::from(api::Parts {
            config: Arc::new(config),
            gate,
            store: store.clone(),
            catalog,
            census,
            wake,
            storage,
            egress,
            permits,
            oplog,
            tenants,
            bell,
            pulse,
            metrics,
            services,
            tracer,
            started_at: clock::now(),
            stopping: stopping.clone(),
        });
        // Started last and stopped after the worker: while running calls end, probes are told that
        // the service stops, and callers that have not heard of it yet are still served.
        parts.insert(server_stops_before, part("http server", |stop| api::serve(listener, state, tls, stop)));
        if let Some(registration) = registration {
            parts.push(part("consul", |stop| registration.run(stop)));
        }
        parts.reverse();
        Ok(App { address, stopping, parts, grace, store })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the name of a part that has ended on its own, which is a bug; never otherwise.
    pub async fn failed(&mut self) -> &'static str {
        let handles = self.parts.iter_mut().map(|part| &mut part.handle);
        let (_, index, _) = futures::future::select_all(handles).await;
        self.parts.remove(index).name
    }

    /// Stops in order: not ready, no more claims, grace for running calls, hand back, no more
    /// requests, flush, close.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        // The worker stops claiming at once, while the cleaner and what maintains end their rounds and
        // Consul is told that nobody needs to come any more.
        let at_once = ["consul", "cleaner", "maintenance", "worker"];
        for part in self.parts.iter().filter(|part| at_once.contains(&part.name)) {
            part.stop.cancel();
        }
        let began = clock::tick();
        for part in &mut self.parts {
            part.stop.cancel();
            // One grace for all: a download that takes long does not get a second one.
            let left = (self.grace + STOP_TIMEOUT).saturating_sub(began.elapsed()).max(STOP_TIMEOUT);
            if tokio::time::timeout(left, &mut part.handle).await.is_err() {
                warn!(part = part.name, "did not stop in time and is cut off");
                part.handle.abort();
            }
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.store.close()).await.is_err() {
            warn!("the database connections did not close in time");
        }
    }
}

/// Starts the worker and waits until it has adopted what was parked: before that the cleaner must
/// not take a dead predecessor's tasks away from it.
async fn start_worker(parts: worker::Parts, config: &Config) -> anyhow::Result<(Part, Pulse)> {
    if parts.store.is_embedded() {
        parts.store.bury_every_node().await?;
    }
    let worker = Worker::new(parts, config)?;
    let pulse = worker.pulse();
    let (ready, is_ready) = oneshot::channel();
    let announce = move || {
        ready.send(()).ok();
    };
    let part = part("worker", |stop| worker.run(stop, announce));
    is_ready.await.context("the worker did not start")?;
    Ok((part, pulse))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns long-lived tasks")]
fn part<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F) -> Part
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = CancellationToken::new();
    let handle = tokio::spawn(run(stop.clone()));
    Part { name, stop, handle }
}
