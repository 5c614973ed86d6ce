//! The verbs on alerts: which are open, what becomes of them, and what is still to be told.
//!
//! An alert's change and what is told of it are written together or not at all, each change under the
//! guard of the alert's version. So whoever checks, and however often it dies in between, every
//! beginning and every end is told once.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{Backend, Listing, Page, Store, StoreError, on_each, row::Columns, value::Stamp, within};
use crate::{
    alert::{Alert, AlertId, Channel, News, Notice, Severity, Subject, course::Step, sight::CallSight},
    clock,
    task::TenantId,
};

/// The columns that [`read_alert`] wants to find in a row, as a literal for `concat!`.
macro_rules! alert_columns {
    () => {
        "id, rule, subject, severity, version, since, began_at, clear_since, told_at, ended_at, causes"
    };
}

/// More cannot be open: that many for each rule.
const OPEN: &str = concat!("SELECT ", alert_columns!(), " FROM asynch_alert WHERE ended_at IS NULL LIMIT 100000");

const INSERT: &str = "\
    INSERT INTO asynch_alert (rule, subject, tenant_id, severity, since, began_at, told_at, seen_at, causes) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT (rule, subject) WHERE ended_at IS NULL DO NOTHING RETURNING id";

const UPDATE: &str = "\
    UPDATE asynch_alert SET began_at = $3, clear_since = $4, told_at = $5, ended_at = $6, causes = $7, \
        version = version + 1 \
    WHERE id = $1 AND version = $2 AND ended_at IS NULL";

const FORGET: &str = "DELETE FROM asynch_alert WHERE id = $1 AND version = $2 AND began_at IS NULL";

// One reminder at a time: a channel that is away must not pile them up.
const TELL: &str = "\
    INSERT INTO asynch_alert_news (channel, alert_id, news, notice, created_at, next_try_at) \
    SELECT $1, $2, $3, $4, $5, $5 WHERE NOT $6 OR NOT EXISTS ( \
        SELECT 1 FROM asynch_alert_news WHERE alert_id = $2 AND channel = $1 \
    )";

const SEEN_POSTGRES: &str = "UPDATE asynch_alert SET seen_at = $1 WHERE ended_at IS NULL AND rule = ANY($2)";

const SEEN_SQLITE: &str = "\
    UPDATE asynch_alert SET seen_at = $1 WHERE ended_at IS NULL AND rule IN (SELECT value FROM json_each($2))";

const END_UNSEEN: &str = "\
    UPDATE asynch_alert SET ended_at = $1, version = version + 1 \
    WHERE ended_at IS NULL AND began_at IS NOT NULL AND seen_at < $2";

const FORGET_UNSEEN: &str = "DELETE FROM asynch_alert WHERE began_at IS NULL AND seen_at < $1";

const PURGE: &str = "DELETE FROM asynch_alert WHERE id IN ( \
    SELECT id FROM asynch_alert WHERE ended_at < $1 ORDER BY ended_at LIMIT 500)";

/// Those that are due, taken for as long as it may take to send them.
macro_rules! claim {
    ($now:literal, $later:literal, $skip:literal) => {
        concat!(
            "UPDATE asynch_alert_news SET tries = tries + 1, next_try_at = ",
            $later,
            " WHERE id IN (SELECT id FROM asynch_alert_news WHERE channel = $1 AND next_try_at <= ",
            $now,
            " ORDER BY id LIMIT $3 ",
            $skip,
            ") RETURNING id, notice, created_at, tries"
        )
    };
}

const CLAIM_POSTGRES: &str = claim!("now()", "now() + make_interval(secs => $2)", "FOR UPDATE SKIP LOCKED");
const CLAIM_SQLITE: &str = claim!("$4", "$2", "");

const SENT: &str = "DELETE FROM asynch_alert_news WHERE id = $1";

const FAILED: &str = "UPDATE asynch_alert_news SET error = $2, next_try_at = $3 WHERE id = $1";

/// The filter, bound to `$1` and `$2`.
macro_rules! listed {
    () => {
        " FROM asynch_alert WHERE began_at IS NOT NULL AND ($1 IS NULL OR tenant_id = $1) \
         AND ($2 IS NULL OR (ended_at IS NULL) = $2)"
    };
}

const COUNT: &str = concat!("SELECT count(*)", listed!());

const LIST: &str = concat!("SELECT ", alert_columns!(), listed!(), " ORDER BY id DESC LIMIT $3 OFFSET $4");

macro_rules! undelivered {
    ($alerts:literal) => {
        concat!(
            "SELECT alert_id, channel, news, created_at, tries, error FROM asynch_alert_news WHERE alert_id ",
            $alerts,
            " ORDER BY id LIMIT 10000"
        )
    };
}

const UNDELIVERED_POSTGRES: &str = undelivered!("= ANY($1)");
const UNDELIVERED_SQLITE: &str = undelivered!("IN (SELECT value FROM json_each($1))");

// Minutes, which the series keeps for longer than any rule looks back.
const CALLS: &str = "\
    SELECT tenant_id, model_name, CAST(sum(succeeded + failed + retried) AS BIGINT) AS calls, \
        CAST(sum(failed + retried) AS BIGINT) AS failures \
    FROM asynch_series WHERE span_seconds = 60 AND began_at > $1 GROUP BY tenant_id, model_name";

/// An alert as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedAlert {
    /// The alert.
    pub alert: Alert,
    /// What is still to be told of it.
    pub undelivered: Vec<Undelivered>,
}

/// Something that is still to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// Through which channel.
    pub channel: String,
    /// What.
    pub news: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// How often that was tried.
    pub tries: i32,
    /// Why the last try failed; empty where none did.
    pub error: String,
}

/// Something to tell now.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// Its number.
    pub id: i64,
    /// What.
    pub notice: Notice,
    /// Since when it is to be told.
    pub created_at: DateTime<Utc>,
    /// Which try this is, from 1.
    pub tries: i32,
}

impl Store {
    /// How the attempts of each lane ended since then, to the minute. Those that died with their worker
    /// count where that ended their task.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn calls_since(&self, since: DateTime<Utc>) -> Result<Vec<CallSight>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                sqlx::query(CALLS).bind(Stamp(since)).fetch_all(pool).await?.iter().map(read_calls).collect()
            })
        })
        .await
    }

    /// Every alert that has not ended, those that have not begun included.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn open_alerts(&self) -> Result<Vec<Alert>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                sqlx::query(OPEN).fetch_all(pool).await?.iter().map(read_alert).collect()
            })
        })
        .await
    }

    /// Applies what a round made of the alerts, all or nothing, and leaves the news for the channels.
    /// Returns what is news, with the numbers of new alerts; a step that somebody else has overtaken is
    /// left out.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn apply_alerts(&self, steps: &[Step], channels: &[Channel]) -> Result<Vec<Notice>, StoreError> {
        within(async {
            let now = clock::now();
            let mut told = Vec::new();
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin().await?;
                for step in steps {
                    let (alert, news) = match step {
                        Step::Open(alert, news) => {
                            let id: Option<i64> = sqlx::query_scalar(INSERT)
                                .bind(&alert.rule)
                                .bind(alert.subject.to_string())
                                .bind(alert.subject.tenant().map(|tenant| tenant.0))
                                .bind(alert.severity.word())
                                .bind(Stamp(alert.since))
                                .bind(alert.began_at.map(Stamp))
                                .bind(alert.told_at.map(Stamp))
                                .bind(Stamp(now))
                                .bind(json(&alert.causes)?)
                                .fetch_optional(&mut *transaction)
                                .await?;
                            let Some(id) = id else { continue };
                            (Alert { id: AlertId(id), ..alert.clone() }, *news)
                        }
                        Step::Change(alert, news) => {
                            let changed = sqlx::query(UPDATE)
                                .bind(alert.id.0)
                                .bind(alert.version)
                                .bind(alert.began_at.map(Stamp))
                                .bind(alert.clear_since.map(Stamp))
                                .bind(alert.told_at.map(Stamp))
                                .bind(alert.ended_at.map(Stamp))
                                .bind(json(&alert.causes)?)
                                .execute(&mut *transaction)
                                .await?;
                            if changed.rows_affected() == 0 {
                                continue;
                            }
                            (alert.clone(), *news)
                        }
                        Step::Forget(alert) => {
                            let query = sqlx::query(FORGET).bind(alert.id.0).bind(alert.version);
                            query.execute(&mut *transaction).await?;
                            continue;
                        }
                    };
                    let Some(news) = news else { continue };
                    let notice = alert.notice(news, alert.told_at.unwrap_or(now));
                    for channel in channels {
                        sqlx::query(TELL)
                            .bind(channel.word())
                            .bind(alert.id.0)
                            .bind(news.word())
                            .bind(json(&notice)?)
                            .bind(Stamp(now))
                            .bind(news == News::Reminded)
                            .execute(&mut *transaction)
                            .await?;
                    }
                    told.push(notice);
                }
                transaction.commit().await?;
            });
            Ok(told)
        })
        .await
    }

    /// Notes that these rules are in force, and ends without a word what belongs to rules that nobody
    /// has had in force since `unseen`.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn alerts_seen(&self, rules: &[&str], unseen: DateTime<Utc>) -> Result<(), StoreError> {
        within(async {
            let now = Stamp(clock::now());
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    sqlx::query(SEEN_POSTGRES).bind(now).bind(rules).execute(pool).await?;
                }
                Backend::Sqlite { writer, .. } => {
                    sqlx::query(SEEN_SQLITE).bind(now).bind(json(&rules)?).execute(writer).await?;
                }
            }
            on_each!(&self.backend, write pool => {
                sqlx::query(FORGET_UNSEEN).bind(Stamp(unseen)).execute(pool).await?;
                sqlx::query(END_UNSEEN).bind(now).bind(Stamp(unseen)).execute(pool).await?;
            });
            Ok(())
        })
        .await
    }

    /// Deletes a batch of alerts that ended before.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge_alerts(&self, ended_before: DateTime<Utc>) -> Result<u64, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                Ok(sqlx::query(PURGE).bind(Stamp(ended_before)).execute(pool).await?.rows_affected())
            })
        })
        .await
    }

    /// Takes what is due on a channel, in order; nobody else does for that long.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn claim_news(&self, channel: Channel, hold: Duration, limit: i64) -> Result<Vec<Claimed>, StoreError> {
        within(async {
            let mut claimed: Vec<Claimed> = match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let query = sqlx::query(CLAIM_POSTGRES).bind(channel.word()).bind(hold.as_secs_f64()).bind(limit);
                    query.fetch_all(pool).await?.iter().map(read_claimed).collect::<Result<_, _>>()?
                }
                Backend::Sqlite { writer, .. } => {
                    let now = clock::now();
                    let query = sqlx::query(CLAIM_SQLITE).bind(channel.word()).bind(Stamp(now + hold)).bind(limit);
                    let rows = query.bind(Stamp(now)).fetch_all(writer).await?;
                    rows.iter().map(read_claimed).collect::<Result<_, _>>()?
                }
            };
            claimed.sort_by_key(|news| news.id);
            Ok(claimed)
        })
        .await
    }

    /// Forgets what was told.
    ///
    /// # Errors
    /// Where the database is out of reach: it will be told again.
    pub async fn news_sent(&self, ids: &[i64]) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin().await?;
                for id in ids {
                    sqlx::query(SENT).bind(*id).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
            });
            Ok(())
        })
        .await
    }

    /// Notes why something could not be told, and when that is tried again.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn news_failed(&self, failed: &[(i64, DateTime<Utc>)], error: &str) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin().await?;
                for (id, next_try) in failed {
                    let query = sqlx::query(FAILED).bind(*id).bind(error).bind(Stamp(*next_try));
                    query.execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
            });
            Ok(())
        })
        .await
    }

    /// Alerts that have begun, newest first: of a tenant (`None`: all), open or not.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_alerts(
        &self,
        tenant: Option<TenantId>,
        open: Option<bool>,
        page: Page,
    ) -> Result<Listing<ListedAlert>, StoreError> {
        let tenant = tenant.map(|tenant| tenant.0);
        within(async {
            let (alerts, total) = on_each!(&self.backend, read pool => {
                let total: i64 = sqlx::query_scalar(COUNT).bind(tenant).bind(open).fetch_one(pool).await?;
                let query = sqlx::query(LIST).bind(tenant).bind(open).bind(page.limit).bind(page.offset);
                let rows = query.fetch_all(pool).await?;
                (rows.iter().map(read_alert).collect::<Result<Vec<_>, _>>()?, total)
            });
            let mut undelivered = self.undelivered(&alerts).await?;
            let list = alerts.into_iter().map(|alert| {
                let undelivered = undelivered.remove(&alert.id).unwrap_or_default();
                ListedAlert { alert, undelivered }
            });
            Ok(Listing { list: list.collect(), total })
        })
        .await
    }

    async fn undelivered(&self, alerts: &[Alert]) -> Result<HashMap<AlertId, Vec<Undelivered>>, StoreError> {
        let ids: Vec<i64> = alerts.iter().map(|alert| alert.id.0).collect();
        let rows: Vec<(AlertId, Undelivered)> = match &self.backend {
            Backend::Postgres { pool, .. } => {
                let rows = sqlx::query(UNDELIVERED_POSTGRES).bind(ids).fetch_all(pool).await?;
                rows.iter().map(read_undelivered).collect::<Result<_, _>>()?
            }
            Backend::Sqlite { readers, .. } => {
                let rows = sqlx::query(UNDELIVERED_SQLITE).bind(json(&ids)?).fetch_all(readers).await?;
                rows.iter().map(read_undelivered).collect::<Result<_, _>>()?
            }
        };
        let mut by_alert: HashMap<AlertId, Vec<Undelivered>> = HashMap::new();
        for (alert, news) in rows {
            by_alert.entry(alert).or_default().push(news);
        }
        Ok(by_alert)
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Broken(format!("cannot be written as JSON: {error}")))
}

fn read_alert(row: &impl Columns) -> Result<Alert, StoreError> {
    let (id, subject, severity) = (row.big("id")?, row.text("subject")?, row.text("severity")?);
    let unknown = |what: &str| StoreError::Broken(format!("alert {id} has the unknown {what}"));
    Ok(Alert {
        id: AlertId(id),
        version: row.int("version")?,
        rule: row.text("rule")?,
        subject: Subject::parse(&subject).ok_or_else(|| unknown(&format!("subject {subject:?}")))?,
        severity: Severity::parse(&severity).ok_or_else(|| unknown(&format!("severity {severity:?}")))?,
        since: row.time("since")?,
        began_at: row.time_if_any("began_at")?,
        clear_since: row.time_if_any("clear_since")?,
        told_at: row.time_if_any("told_at")?,
        ended_at: row.time_if_any("ended_at")?,
        causes: serde_json::from_str(&row.text("causes")?).map_err(|error| unknown(&format!("causes: {error}")))?,
    })
}

fn read_calls(row: &impl Columns) -> Result<CallSight, StoreError> {
    Ok(CallSight {
        tenant: TenantId(row.big("tenant_id")?),
        model_name: row.text("model_name")?,
        calls: row.big("calls")?,
        failures: row.big("failures")?,
    })
}

fn read_claimed(row: &impl Columns) -> Result<Claimed, StoreError> {
    let id = row.big("id")?;
    let unreadable = |error| StoreError::Broken(format!("the news {id} of an alert cannot be read: {error}"));
    Ok(Claimed {
        id,
        notice: serde_json::from_str(&row.text("notice")?).map_err(unreadable)?,
        created_at: row.time("created_at")?,
        tries: row.int("tries")?,
    })
}

fn read_undelivered(row: &impl Columns) -> Result<(AlertId, Undelivered), StoreError> {
    let news = Undelivered {
        channel: row.text("channel")?,
        news: row.text("news")?,
        created_at: row.time("created_at")?,
        tries: row.int("tries")?,
        error: row.text("error")?,
    };
    Ok((AlertId(row.big("alert_id")?), news))
}
