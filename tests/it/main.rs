//! One test binary. Servers come from the environment (`tests/run.sh` starts them).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod access;
mod api;
mod bench;
mod browser;
mod cli;
mod config;
mod consul;
mod contract;
mod crash;
mod dashboard;
mod demo;
mod deploy;
mod disk;
mod egress;
mod engine;
mod fuzz;
mod lifecycle;
mod maintenance;
mod metrics;
mod migrations;
mod monitor;
mod outage;
mod packs;
mod permits;
mod real_model;
mod server;
mod spool;
mod storage;
mod store;
mod support;
mod tenants;
mod tidy;
mod traces;
mod wake;
