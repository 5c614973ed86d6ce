//! The HTTP interface (contract §1–§4, §6–§8, §10), on both stores.

mod auth;
mod files;
mod health;
mod models;
mod oplog;
mod requests;
mod series;
mod stats;
mod tasks;
