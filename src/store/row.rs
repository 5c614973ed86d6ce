//! Reading columns by name and type, alike on both backends, so that a row has one reader.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    StoreError,
    value::{Id, Stamp},
};

/// A row of either backend. A column of another type is [`StoreError::Broken`].
pub(super) trait Columns {
    /// A yes or no.
    fn flag(&self, column: &str) -> Result<bool, StoreError>;
    /// A `SMALLINT`.
    fn small(&self, column: &str) -> Result<i16, StoreError>;
    /// An `INT`.
    fn int(&self, column: &str) -> Result<i32, StoreError>;
    /// An `INT`, if any.
    fn int_if_any(&self, column: &str) -> Result<Option<i32>, StoreError>;
    /// A `BIGINT`.
    fn big(&self, column: &str) -> Result<i64, StoreError>;
    /// A text.
    fn text(&self, column: &str) -> Result<String, StoreError>;
    /// A text, if any.
    fn text_if_any(&self, column: &str) -> Result<Option<String>, StoreError>;
    /// A moment.
    fn time(&self, column: &str) -> Result<DateTime<Utc>, StoreError>;
    /// A moment, if any.
    fn time_if_any(&self, column: &str) -> Result<Option<DateTime<Utc>>, StoreError>;
    /// An id.
    fn uuid(&self, column: &str) -> Result<Uuid, StoreError>;
    /// An id, if any.
    fn uuid_if_any(&self, column: &str) -> Result<Option<Uuid>, StoreError>;
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn flag(&self, column: &str) -> Result<bool, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn small(&self, column: &str) -> Result<i16, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn int(&self, column: &str) -> Result<i32, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn int_if_any(&self, column: &str) -> Result<Option<i32>, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn big(&self, column: &str) -> Result<i64, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn text(&self, column: &str) -> Result<String, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn text_if_any(&self, column: &str) -> Result<Option<String>, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn time(&self, column: &str) -> Result<DateTime<Utc>, StoreError> {
                Ok(self.try_get::<Stamp, _>(column)?.0)
            }

            fn time_if_any(&self, column: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
                Ok(self.try_get::<Option<Stamp>, _>(column)?.map(|stamp| stamp.0))
            }

            fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
                Ok(self.try_get::<Id, _>(column)?.0)
            }

            fn uuid_if_any(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
                Ok(self.try_get::<Option<Id>, _>(column)?.map(|id| id.0))
            }
        }
    };
}
columns_of!(PgRow);
columns_of!(SqliteRow);
