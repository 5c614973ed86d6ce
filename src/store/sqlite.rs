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
    read::{abandoned, lanes_with_work, queued_for_deleted_models, queued_longer_than},
    sweep::{drop_closed_lanes, promote_due, purge},
};

use sqlx::{Sqlite, SqlitePool, Transaction};

use super::StoreError;
use crate::clock;

const MICROS: i64 = 1_000_000;

/// An INSERT for any number of rows: in pieces of a few sizes, whose texts stay prepared.
pub(in crate::store) struct Many([(usize, String); 3]);

impl Many {
    /// What comes before `VALUES`, and how many columns it names.
    pub(in crate::store) fn new(insert: &str, columns: usize) -> Many {
        let row = format!("({})", vec!["?"; columns].join(", "));
        Many([64, 8, 1].map(|rows| (rows, format!("{insert} VALUES {}", vec![row.as_str(); rows].join(", ")))))
    }

    /// The statement for each piece, in order.
    pub(in crate::store) fn pieces<'r, T>(
        &'static self,
        mut rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> {
        std::iter::from_fn(move || {
            let (size, statement) = self.0.iter().find(|(size, _)| *size <= rows.len())?;
            let (piece, rest) = rows.split_at(*size);
            rows = rest;
            Some((statement.as_str(), piece))
        })
    }
}

/// Begins as the one writer.
async fn begin(writer: &SqlitePool) -> Result<Transaction<'static, Sqlite>, StoreError> {
    Ok(writer.begin_with("BEGIN IMMEDIATE").await?)
}

/// This moment.
fn now() -> i64 {
    clock::now().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn rows_are_written_in_few_pieces_and_in_order() {
        static INSERT: LazyLock<Many> = LazyLock::new(|| Many::new("INSERT INTO a (b, c)", 2));
        let rows: Vec<usize> = (0..83).collect();
        let pieces: Vec<&[usize]> = INSERT.pieces(&rows).map(|(_, piece)| piece).collect();
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [64, 8, 8, 1, 1, 1]);
        assert_eq!(pieces.concat(), rows);
        assert_eq!(INSERT.pieces(&[1]).next().unwrap().0, "INSERT INTO a (b, c) VALUES (?, ?)");
    }
}
