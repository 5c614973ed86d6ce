//! The HTTP interface (contract §1–§4, §6–§8, §10), on both stores.

mod auth;
mod files;
mod health;
mod models;
mod nodes;
mod oplog;
mod overview;
mod requests;
mod series;
mod stats;
mod tasks;
