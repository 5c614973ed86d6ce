//! The verbs on the operation log.

use std::sync::LazyLock;

use sqlx::{ColumnIndex, Decode, PgPool, Row, SqlitePool, Type};

use super::{
    Backend, Listing, Page, Store, StoreError,
    models::is_nowhere,
    on_each,
    postgres::{CopyRows, copy_lazily},
    sqlite::Many,
    value::Stamp,
};
use crate::{oplog::OpLog, task::TenantId};

/// What a row is written to; who changed it last is who made it.
macro_rules! written {
    () => {
        "asynch_op_log (tenant_id, creator, created_at, updater, updated_at, ip, user_agent, api_path, http_method, \
         biz_name, model_name, task_id, op_type, success, error_msg, cost_ms, request_payload, response_payload) "
    };
}

/// Columns of `written!()`.
const WRITTEN: u8 = 18;

const INSERT_POSTGRES: &str = concat!("COPY ", written!(), "FROM STDIN (FORMAT BINARY)");

static INSERT_SQLITE: LazyLock<Many> = LazyLock::new(|| Many::new(concat!("INSERT INTO ", written!()), WRITTEN.into()));

/// The filter, bound to `$1` to `$5`.
macro_rules! listed {
    () => {
        " FROM asynch_op_log WHERE tenant_id = $1 AND deleted_at IS NULL AND ($2 IS NULL OR op_type = $2) \
         AND ($3 IS NULL OR model_name = $3) AND ($4 IS NULL OR task_id = $4) AND ($5 IS NULL OR success = $5)"
    };
}

const COUNT: &str = concat!("SELECT count(*)", listed!());

const LIST: &str = concat!(
    "SELECT id, tenant_id, creator, created_at, ip, user_agent, api_path, http_method, biz_name, model_name, task_id, \
     op_type, success, error_msg, cost_ms, CAST(request_payload AS TEXT) AS request_payload, \
     CAST(response_payload AS TEXT) AS response_payload",
    listed!(),
    " ORDER BY id DESC LIMIT $6 OFFSET $7"
);

/// What listOpLog filters by; all given must hold.
#[derive(Debug, Clone, Default)]
pub struct OpLogFilter {
    /// The route's last name.
    pub op_type: Option<String>,
    /// The model's name.
    pub model_name: Option<String>,
    /// The task's id.
    pub task_id: Option<String>,
    /// Whether the call succeeded.
    pub success: Option<bool>,
}

impl Store {
    /// Writes a batch of rows, all or none. Texts have to fit their columns and payloads have to be
    /// JSON; [`OpLogger::record`](crate::oplog::OpLogger::record) and its writer see to both.
    ///
    /// # Errors
    /// Where the database is out of reach or refuses a row.
    pub async fn insert_op_logs(&self, rows: &[OpLog]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        match &self.backend {
            Backend::Postgres { pool, .. } => insert_postgres(pool, rows).await,
            Backend::Sqlite { writer, .. } => insert_sqlite(writer, rows).await,
        }
    }

    /// Rows of a tenant, newest first.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn list_op_logs(
        &self,
        tenant: TenantId,
        filter: &OpLogFilter,
        page: Page,
    ) -> Result<Listing<OpLog>, StoreError> {
        let texts = [&filter.op_type, &filter.model_name, &filter.task_id].map(Option::as_deref);
        if texts.into_iter().flatten().any(is_nowhere) {
            return Ok(Listing { list: Vec::new(), total: 0 });
        }
        let [op_type, model_name, task_id] = texts;
        let success = filter.success.map(i16::from);
        on_each!(&self.backend, read pool => {
            let total = sqlx::query_scalar(COUNT)
                .bind(tenant.0)
                .bind(op_type)
                .bind(model_name)
                .bind(task_id)
                .bind(success)
                .fetch_one(pool)
                .await?;
            let rows = sqlx::query(LIST)
                .bind(tenant.0)
                .bind(op_type)
                .bind(model_name)
                .bind(task_id)
                .bind(success)
                .bind(page.limit)
                .bind(page.offset)
                .fetch_all(pool)
                .await?;
            Ok(Listing { list: rows.iter().map(read_log).collect::<Result<_, _>>()?, total })
        })
    }
}

/// Lazily, for the log must not cost a wait for the disk.
async fn insert_postgres(pool: &PgPool, rows: &[OpLog]) -> Result<(), StoreError> {
    let mut copied = CopyRows::new(WRITTEN.into());
    for row in rows {
        copied
            .row()
            .big(row.tenant.0)
            .text(&row.creator)
            .time(row.created_at)
            .text(&row.creator)
            .time(row.created_at)
            .text(&row.ip)
            .text(&row.user_agent)
            .text(&row.api_path)
            .text(&row.http_method)
            .text(&row.biz_name)
            .text(&row.model_name)
            .text(&row.task_id)
            .text(&row.op_type)
            .small(row.success.into())
            .text(&row.error_msg)
            .big(row.cost_ms)
            .text_if_any(row.request_payload.as_deref())
            .text_if_any(row.response_payload.as_deref());
    }
    copy_lazily(pool, INSERT_POSTGRES, copied).await
}

async fn insert_sqlite(writer: &SqlitePool, rows: &[OpLog]) -> Result<(), StoreError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    for (statement, rows) in INSERT_SQLITE.pieces(rows) {
        let mut insert = sqlx::query(statement);
        for row in rows {
            insert = insert
                .bind(row.tenant.0)
                .bind(&row.creator)
                .bind(Stamp(row.created_at))
                .bind(&row.creator)
                .bind(Stamp(row.created_at))
                .bind(&row.ip)
                .bind(&row.user_agent)
                .bind(&row.api_path)
                .bind(&row.http_method)
                .bind(&row.biz_name)
                .bind(&row.model_name)
                .bind(&row.task_id)
                .bind(&row.op_type)
                .bind(i16::from(row.success))
                .bind(&row.error_msg)
                .bind(row.cost_ms)
                .bind(&row.request_payload)
                .bind(&row.response_payload);
        }
        insert.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn read_log<R>(row: &R) -> Result<OpLog, StoreError>
where
    R: Row,
    for<'c> &'c str: ColumnIndex<R>,
    i16: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Stamp: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(OpLog {
        id: row.try_get("id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        creator: row.try_get("creator")?,
        created_at: row.try_get::<Stamp, _>("created_at")?.0,
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        api_path: row.try_get("api_path")?,
        http_method: row.try_get("http_method")?,
        biz_name: row.try_get("biz_name")?,
        model_name: row.try_get("model_name")?,
        task_id: row.try_get("task_id")?,
        op_type: row.try_get("op_type")?,
        success: row.try_get::<i16, _>("success")? != 0,
        error_msg: row.try_get("error_msg")?,
        cost_ms: row.try_get("cost_ms")?,
        request_payload: row.try_get("request_payload")?,
        response_payload: row.try_get("response_payload")?,
    })
}
