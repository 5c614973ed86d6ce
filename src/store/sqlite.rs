//! The verbs on tasks as SQLite words them. Twin of `postgres`: same functions, same order.
//!
//! There is one writer, so `BEGIN IMMEDIATE` is the lock: what a transaction counts stays true
//! until it commits. Statements cost no round trip but two switches between threads, so what is
//! many takes one statement where it pays. Time is this process's clock, read once in each
//! transaction, in microseconds.

mod apply;
mod claim;
mod enqueue;
mod read;
mod sweep;

pub(super) use self::{
    apply::{adopt, apply, pick_up},
    claim::claim,
    enqueue::enqueue,
    read::{abandoned, lanes_with_work, list_tasks, queued_for_deleted_models, queued_longer_than},
    sweep::{drop_closed_lanes, promote_due, purge},
};

use sqlx::{Sqlite, SqlitePool, Transaction};

use super::StoreError;
use crate::clock;

const MICROS: i64 = 1_000_000;

/// Begins as the one writer.
async fn begin(writer: &SqlitePool) -> Result<Transaction<'static, Sqlite>, StoreError> {
    Ok(writer.begin_with("BEGIN IMMEDIATE").await?)
}

/// This moment.
fn now() -> i64 {
    clock::now().timestamp_micros()
}
