//! The verbs on tasks as Postgres words them. Twin of `sqlite`: same functions, same order.
//!
//! All of it relies on READ COMMITTED: a statement sees what was committed before it began, so
//! what is counted under a lock is counted in a later statement than the one that took the lock.
//! Lanes are locked in the order of [`Lane`](crate::task::Lane), rows in the order of their key.
//! `now()` is the start of the transaction, on the database's clock.

mod apply;
mod claim;
mod copy;
mod enqueue;
mod line;
mod oldest;
mod read;
mod sweep;

pub(super) use self::{
    apply::{adopt, apply, pick_up},
    claim::Claims,
    copy::{CopyRows, copy_lazily},
    enqueue::enqueue,
    line::Line,
    read::{abandoned, lanes_with_work, queued_for_deleted_models, queued_longer_than},
    sweep::{drop_closed_lanes, promote_due, purge},
};

use crate::task::Lane;

/// Lanes as two arrays, models and tenants, for `unnest`.
fn columns<'a>(lanes: impl IntoIterator<Item = &'a Lane>) -> (Vec<i64>, Vec<i64>) {
    lanes.into_iter().map(|lane| (lane.model.0, lane.tenant.0)).unzip()
}
