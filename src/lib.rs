//! model-asynch: an asynchronous middleware in front of model services.
//!
//! A business service posts a task and gets an id at once. A worker calls the model when there is
//! capacity for that tenant and model, parks the output in a temp file, uploads it to object
//! storage, and the business picks results up in batches.
//!
//! # How it hangs together
//!
//! Arrows point down only:
//!
//! ```text
//! cli ─▶ app ─▶ { api, dashboard, worker, cleaner, maintenance, monitor, vitals }
//!                  ─▶ { catalog, census, tenants, oplog, recorder, store, permits, wake, watch, turn, storage, spool, trips,
//!                       periodic, trace, consul }
//!                       ─▶ { metrics, series, task, model, alert, caller, tenant, job, token, jwt, stats, config, secrets, egress,
//!                            clock, log_level, faults, breath }
//! ```
//!
//! * [`task`]: what a task is; `task::lifecycle` says which state follows which, and nobody else.
//! * [`store`]: the durable memory, on Postgres or SQLite, with group commit.
//! * [`tenants`]: what each tenant may use up.
//! * [`permits`] and [`wake`]: how many calls may run, and who tells workers of work; over Redis,
//!   or in this process.
//! * [`watch`]: who may declare nodes dead, and whether a lost database is lost to everybody.
//! * [`census`]: what is queued and what runs, counted for all who ask.
//! * [`turn`]: periodic duties that one node does at a time.
//! * [`worker`]: lanes → permits → claim → call → park → upload → finish. Its files are the numbered
//!   steps of a task's life.
//! * [`cleaner`]: due retries, dead workers' tasks, what waited too long, what is past its time.
//! * [`maintenance`]: jobs on a schedule, above all what deletes old rows.
//! * [`monitor`]: looks whether a rule is broken, and tells operators; `alert` says when.
//! * [`spool`] and [`storage`]: results on their way, and where they end up.
//! * [`metrics`]: what this process counts; [`series`]: the values it adds up minute by minute, which
//!   [`recorder`] writes; [`vitals`]: whether what it depends on answers.
//! * [`trace`]: what of a task's life is told to a collector of traces.
//! * [`consul`]: how this node is found, and how it finds models and the file service.
//! * [`egress`]: which hosts and addresses models may have.
//! * [`api`]: the HTTP interface; `dashboard`: the page at `/` that uses it.
//! * [`faults`]: between which steps tests kill the process; nothing in any other build.
//! * [`app`]: builds all of it, starts and stops it in order.
//!
//! A *lane* is one tenant's queue for one model: the unit of order, limits and fairness. A *permit*
//! is the right to have one call of a lane running. An *attempt* is one claim of a task; its number
//! is the fence that keeps a worker which was only paused from overwriting what happened since.
//!
//! # Invariants
//!
//! Each is guarded by a lint (`.clippy.toml`) or by `tests/it/tidy.rs`.
//!
//! 1. `task`, `model`, `alert` and `stats` are pure: values in, values out; no I/O, no clock.
//! 2. Only `task::lifecycle` makes a `Transition`. Every write of state, phase or attempt on an
//!    existing row is one, applied under the guard of state *and* attempt, or one of the two bulk
//!    changes it defines; a stale writer stops quietly.
//! 3. Only `store` names sqlx, only `permits`, `wake` and `watch` redis, only `api` and `dashboard` axum.
//! 4. Only `clock` reads time, makes ids or rolls dice. Leases and deadlines compare on the
//!    database's or Redis' clock.
//! 5. Only `app` spawns long-lived tasks, and it joins all of them.
//! 6. No transaction is held across a model call, an upload or a Redis call.

pub mod cli;
pub mod logging;

pub mod app;

pub mod api;
pub mod cleaner;
mod dashboard;
pub mod maintenance;
pub mod monitor;
pub mod vitals;
pub mod worker;

pub mod catalog;
pub mod census;
pub mod consul;
pub mod oplog;
pub mod periodic;
pub mod permits;
pub mod recorder;
pub mod spool;
pub mod storage;
pub mod store;
pub mod tenants;
pub mod trace;
mod trips;
pub mod turn;
pub mod wake;
pub mod watch;

pub mod alert;
mod breath;
pub mod caller;
pub mod clock;
pub mod config;
pub mod egress;
pub mod faults;
pub mod job;
pub mod jwt;
pub mod log_level;
pub mod metrics;
pub mod model;
pub mod secrets;
pub mod series;
pub mod stats;
pub mod task;
pub mod tenant;
pub mod token;
