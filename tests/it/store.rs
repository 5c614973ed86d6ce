//! The conformance suite: every verb of the store, on both backends.

mod alerts;
mod models;
mod nodes;
mod oplog;
mod stats;
mod tasks;
mod turns;
