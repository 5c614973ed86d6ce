//! The verbs on statistics. Calls are counted by [`Store::apply`](super::Store::apply).

use chrono::NaiveDate;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{Listing, Page, Store, StoreError, models::is_nowhere, on_each, value::Stamp};
use crate::{stats::DayStat, task::TenantId};

/// The filter, bound to `$1` to `$5`. Days are DATE on Postgres and `YYYY-MM-DD` on SQLite, and
/// sqlx binds a date as either; "contains" is worded as in the listing of models.
macro_rules! listed {
    () => {
        " FROM asynch_model_stat WHERE ($1 IS NULL OR tenant_id = $1) \
         AND ($2 IS NULL OR day >= $2) AND ($3 IS NULL OR day <= $3) \
         AND ($4 IS NULL OR replace(creator, $4, '') <> creator) \
         AND ($5 IS NULL OR replace(model_name, $5, '') <> model_name)"
    };
}

const COUNT: &str = concat!("SELECT count(*)", listed!());

const LIST: &str = concat!(
    "SELECT day, tenant_id, creator, model_name, request_count, success_count, failure_count, total_seconds, \
     result_bytes, created_at, updated_at",
    listed!(),
    " ORDER BY day DESC, request_count DESC, tenant_id, creator, model_name LIMIT $6 OFFSET $7"
);

/// What listModelStat filters by; all given must hold.
#[derive(Debug, Clone, Default)]
pub struct StatFilter {
    /// First day.
    pub start_day: Option<NaiveDate>,
    /// Last day, inclusive.
    pub end_day: Option<NaiveDate>,
    /// Part of the creator's name.
    pub creator: Option<String>,
    /// Part of the model's name.
    pub model_name: Option<String>,
}

impl Store {
    /// Statistics of a tenant (`None`: of all), newest day first, then the largest count.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn list_stats(
        &self,
        tenant: Option<TenantId>,
        filter: &StatFilter,
        page: Page,
    ) -> Result<Listing<DayStat>, StoreError> {
        let tenant = tenant.map(|tenant| tenant.0);
        let creator = filter.creator.as_deref().filter(|part| !part.is_empty());
        let model_name = filter.model_name.as_deref().filter(|part| !part.is_empty());
        if creator.into_iter().chain(model_name).any(is_nowhere) {
            return Ok(Listing { list: Vec::new(), total: 0 });
        }
        on_each!(&self.backend, read pool => {
            let total = sqlx::query_scalar(COUNT)
                .bind(tenant)
                .bind(filter.start_day)
                .bind(filter.end_day)
                .bind(creator)
                .bind(model_name)
                .fetch_one(pool)
                .await?;
            let rows = sqlx::query(LIST)
                .bind(tenant)
                .bind(filter.start_day)
                .bind(filter.end_day)
                .bind(creator)
                .bind(model_name)
                .bind(page.limit)
                .bind(page.offset)
                .fetch_all(pool)
                .await?;
            Ok(Listing { list: rows.iter().map(read_stat).collect::<Result<_, _>>()?, total })
        })
    }
}

fn read_stat<R>(row: &R) -> Result<DayStat, StoreError>
where
    R: Row,
    for<'c> &'c str: ColumnIndex<R>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    f64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    NaiveDate: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Stamp: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(DayStat {
        day: row.try_get("day")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        creator: row.try_get("creator")?,
        model_name: row.try_get("model_name")?,
        request_count: row.try_get("request_count")?,
        success_count: row.try_get("success_count")?,
        failure_count: row.try_get("failure_count")?,
        total_seconds: row.try_get("total_seconds")?,
        result_bytes: row.try_get("result_bytes")?,
        created_at: row.try_get::<Stamp, _>("created_at")?.0,
        updated_at: row.try_get::<Stamp, _>("updated_at")?.0,
    })
}
