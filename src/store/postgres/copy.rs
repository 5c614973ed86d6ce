//! `COPY … FROM STDIN (FORMAT BINARY)`: many rows into a table that the server neither parses nor
//! plans for, and that share their records in its log. A refused row refuses all of them.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgPool, Postgres, pool::PoolConnection};

use crate::store::StoreError;

/// How a stream of rows begins: the format's name, no flags, no extension of the head.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Instead of the number of columns: there are no more rows.
const END: i16 = -1;

/// Instead of a value's length: it is NULL.
const NULL: i32 = -1;

/// The moment from which Postgres counts, 2000-01-01, in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows as they go over the wire.
pub(in crate::store) struct CopyRows {
    columns: i16,
    bytes: Vec<u8>,
}

/// One row, to be filled with as many values as there are columns, in their order.
pub(in crate::store) struct CopyRow<'a>(&'a mut Vec<u8>);

/// A connection that is not given back but closed, unless it is known what it is doing: one that is
/// left in the middle of a COPY has an answer on the way that nobody expects.
struct Lent {
    connection: PoolConnection<Postgres>,
    is_idle: bool,
}

/// Adds the rows, all or none, by the `statement` that names table and columns. The commit does not
/// wait for the disk: a crash of the database may lose its last moment.
pub(in crate::store) async fn copy_lazily(pool: &PgPool, statement: &str, rows: CopyRows) -> Result<(), StoreError> {
    let mut lent = Lent { connection: pool.acquire().await?, is_idle: false };
    let mut transaction = lent.connection.begin().await?;
    sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *transaction).await?;
    let mut copy = transaction.copy_in_raw(statement).await?;
    copy.send(rows.end()).await?;
    copy.finish().await?;
    transaction.commit().await?;
    lent.is_idle = true;
    Ok(())
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_idle {
            self.connection.close_on_drop();
        }
    }
}

impl CopyRows {
    /// For so many columns.
    pub(in crate::store) fn new(columns: i16) -> CopyRows {
        CopyRows { columns, bytes: HEAD.to_vec() }
    }

    /// Begins the next row.
    pub(in crate::store) fn row(&mut self) -> CopyRow<'_> {
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
        CopyRow(&mut self.bytes)
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&END.to_be_bytes());
        self.bytes
    }
}

impl CopyRow<'_> {
    /// A `BIGINT`.
    pub(in crate::store) fn big(self, value: i64) -> Self {
        self.value(&value.to_be_bytes())
    }

    /// A `SMALLINT`.
    pub(in crate::store) fn small(self, value: i16) -> Self {
        self.value(&value.to_be_bytes())
    }

    /// A `TIMESTAMPTZ`.
    pub(in crate::store) fn time(self, value: DateTime<Utc>) -> Self {
        self.big(value.timestamp_micros() - EPOCH_MICROS)
    }

    /// Any kind of text, JSON too: its length goes before it, so nothing in it has to be escaped.
    pub(in crate::store) fn text(self, value: &str) -> Self {
        self.value(value.as_bytes())
    }

    /// The same, or NULL.
    pub(in crate::store) fn text_if_any(self, value: Option<&str>) -> Self {
        match value {
            Some(text) => self.text(text),
            None => {
                self.0.extend_from_slice(&NULL.to_be_bytes());
                self
            }
        }
    }

    fn value(self, bytes: &[u8]) -> Self {
        // What is kept of a call is far shorter; the server would not take a longer value either.
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_worded_as_postgres_reads_them() {
        let mut rows = CopyRows::new(3);
        rows.row().big(-2).text("a\tb").text_if_any(None);
        rows.row().small(1).time(DateTime::from_timestamp(946_684_801, 0).unwrap()).text_if_any(Some(""));
        let body = rows.end();
        let body = body.strip_prefix(HEAD).unwrap();
        let first = [&[0, 3, 0, 0, 0, 8][..], &(-2i64).to_be_bytes(), &[0, 0, 0, 3], b"a\tb", &[0xff; 4]].concat();
        let second = [&[0, 3, 0, 0, 0, 2, 0, 1, 0, 0, 0, 8][..], &1_000_000i64.to_be_bytes(), &[0; 4]].concat();
        assert_eq!(body, [first, second, vec![0xff; 2]].concat());
    }
}
