//! The verbs on API tokens.

use chrono::{DateTime, Utc};

use super::{Store, StoreError, on_each, row::Columns, value::Stamp, within};
use crate::{
    caller::Scopes,
    clock,
    task::TenantId,
    token::{Token, TokenHash, TokenId},
};

/// The columns that [`read_token`] wants to find in a row, as a literal for `concat!`.
macro_rules! token_columns {
    () => {
        "id, tenant_id, user_name, scopes, created_at, expires_at, last_used_at, revoked_at"
    };
}

const INSERT: &str = "\
    INSERT INTO asynch_token (tenant_id, user_name, hash, scopes, created_at, expires_at) \
    VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";

const SELECT_BY_HASH: &str = concat!("SELECT ", token_columns!(), " FROM asynch_token WHERE hash = $1");

const LIST: &str = concat!(
    "SELECT ",
    token_columns!(),
    " FROM asynch_token WHERE ($1 IS NULL OR tenant_id = $1) AND id > $2 ORDER BY id LIMIT $3"
);

const REVOKE: &str = "UPDATE asynch_token SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";

const EXISTS: &str = "SELECT count(*) FROM asynch_token WHERE id = $1";

const USED: &str = "UPDATE asynch_token SET last_used_at = $1 WHERE id = $2";

/// What became of the wish to revoke a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// It is revoked.
    Done,
    /// It was revoked before.
    Already,
    /// There is no such token.
    NotFound,
}

impl Store {
    /// Stores a token by its hash.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn create_token(
        &self,
        hash: TokenHash,
        tenant: TenantId,
        user: &str,
        scopes: Scopes,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<TokenId, StoreError> {
        within(async {
            let id = on_each!(&self.backend, write pool => {
                sqlx::query_scalar(INSERT)
                    .bind(tenant.0)
                    .bind(user)
                    .bind(hash.hex())
                    .bind(scopes.to_string())
                    .bind(Stamp(clock::now()))
                    .bind(expires_at.map(Stamp))
                    .fetch_one(pool)
                    .await?
            });
            Ok(TokenId(id))
        })
        .await
    }

    /// The token of that hash, whether it works or not.
    ///
    /// # Errors
    /// Where the database is out of reach or the row cannot be read.
    pub async fn token(&self, hash: TokenHash) -> Result<Option<Token>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let row = sqlx::query(SELECT_BY_HASH).bind(hash.hex()).fetch_optional(pool).await?;
                row.map(|row| read_token(&row)).transpose()
            })
        })
        .await
    }

    /// Up to `limit` tokens with a greater id than `after`, of one tenant or of all, oldest first.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_tokens(
        &self,
        tenant: Option<TenantId>,
        after: TokenId,
        limit: i64,
    ) -> Result<Vec<Token>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let rows = sqlx::query(LIST)
                    .bind(tenant.map(|tenant| tenant.0))
                    .bind(after.0)
                    .bind(limit)
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(read_token).collect()
            })
        })
        .await
    }

    /// Ends a token for good.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn revoke_token(&self, id: TokenId) -> Result<Revoked, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let now = Stamp(clock::now());
                if sqlx::query(REVOKE).bind(now).bind(id.0).execute(pool).await?.rows_affected() == 1 {
                    return Ok(Revoked::Done);
                }
                let there: i64 = sqlx::query_scalar(EXISTS).bind(id.0).fetch_one(pool).await?;
                Ok(if there == 1 { Revoked::Already } else { Revoked::NotFound })
            })
        })
        .await
    }

    /// Notes that a token was used now.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn token_used(&self, id: TokenId) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                sqlx::query(USED).bind(Stamp(clock::now())).bind(id.0).execute(pool).await?;
            });
            Ok(())
        })
        .await
    }
}

fn read_token(row: &impl Columns) -> Result<Token, StoreError> {
    let id = row.big("id")?;
    let scopes = Scopes::parse(&row.text("scopes")?);
    Ok(Token {
        id: TokenId(id),
        tenant: TenantId(row.big("tenant_id")?),
        user: row.text("user_name")?,
        scopes: scopes.map_err(|error| StoreError::Broken(format!("the scopes of token {id}: {error}")))?,
        created_at: row.time("created_at")?,
        expires_at: row.time_if_any("expires_at")?,
        last_used_at: row.time_if_any("last_used_at")?,
        revoked_at: row.time_if_any("revoked_at")?,
    })
}
