//! The conformance suite: every verb of the store, on both backends.

mod alerts;
mod jobs;
mod models;
mod nodes;
mod oplog;
mod series;
mod stats;
mod tasks;
mod turns;
