//! Listing a tenant's tasks.
//!
//! A tenant may have millions, so each list begins where the key does, with the newest, and ends with
//! its page; beyond [`MOST_COUNTED`] nobody is told how many there are. What few tasks are (running,
//! failed, …) is found through a partial index. Statements are put together from the filters that
//! are given: with a literal state the planner knows those indexes, and how many rows to expect.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Sqlite, SqlitePool};
use uuid::Uuid;

use super::rows::{read_task, task_columns};
use crate::{
    store::{Backend, Page, Store, StoreError, value::Id, within},
    task::{Task, TaskId, TenantId, lifecycle::State},
};

/// Up to here totals are exact.
pub const MOST_COUNTED: i64 = 10_000;

/// What listTask filters by; all given must hold.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Part of the model's name, to the letter.
    pub model_name: Option<String>,
    /// Part of the task id, or all of it.
    pub task_id: Option<String>,
    /// State.
    pub state: Option<State>,
    /// The caller's module, all of it.
    pub biz_name: Option<String>,
    /// User who created it, the whole name.
    pub creator: Option<String>,
    /// Not created before this moment, as the ids say.
    pub created_from: Option<DateTime<Utc>>,
    /// Not created after it.
    pub created_to: Option<DateTime<Utc>>,
}

/// One page of tasks.
#[derive(Debug)]
pub struct TaskListing {
    /// The tasks, newest first.
    pub list: Vec<Task>,
    /// Tasks on all pages, or as many as were counted.
    pub total: i64,
    /// There are more than `total`.
    pub total_is_at_least: bool,
}

impl Store {
    /// Tasks of a tenant, newest first.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_tasks(
        &self,
        tenant: TenantId,
        filter: &TaskFilter,
        page: Page,
    ) -> Result<TaskListing, StoreError> {
        within(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let rows = rows_postgres(tenant, filter, page).build().persistent(false).fetch_all(pool).await?;
                    let list: Vec<Task> = rows.iter().map(read_task).collect::<Result<_, _>>()?;
                    match known_total(list.len(), page) {
                        Some(total) => Ok(TaskListing { list, total, total_is_at_least: false }),
                        None => {
                            let mut count = count_postgres(tenant, filter);
                            let total = count.build_query_scalar().persistent(false).fetch_one(pool).await?;
                            Ok(TaskListing::counted(list, total))
                        }
                    }
                }
                Backend::Sqlite { readers, .. } => {
                    let way = way(readers, tenant, filter.state).await?;
                    let rows = rows_sqlite(tenant, filter, page, way).build().fetch_all(readers).await?;
                    let list: Vec<Task> = rows.iter().map(read_task).collect::<Result<_, _>>()?;
                    match known_total(list.len(), page) {
                        Some(total) => Ok(TaskListing { list, total, total_is_at_least: false }),
                        None => {
                            let total =
                                count_sqlite(tenant, filter, way).build_query_scalar().fetch_one(readers).await?;
                            Ok(TaskListing::counted(list, total))
                        }
                    }
                }
            }
        })
        .await
    }
}

impl TaskListing {
    fn counted(list: Vec<Task>, counted: i64) -> TaskListing {
        TaskListing { list, total: counted.min(MOST_COUNTED), total_is_at_least: counted > MOST_COUNTED }
    }
}

/// How to get at the tasks of a state. Postgres knows how many there are of it and decides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the newest on, until the page is full.
    Key,
    /// Through the partial index of the state, and sorted: there are few of that state.
    Few,
}

async fn way(readers: &SqlitePool, tenant: TenantId, state: Option<State>) -> Result<Way, StoreError> {
    let Some(state) = state else { return Ok(Way::Key) };
    let Some(mut probe) = probe(state, tenant) else { return Ok(Way::Few) };
    let found: i64 = probe.build_query_scalar().fetch_one(readers).await?;
    Ok(if found > MOST_COUNTED { Way::Key } else { Way::Few })
}

/// A page that is not full is the last, which says how many there are without counting.
fn known_total(found: usize, page: Page) -> Option<i64> {
    let found = found as i64;
    let is_last = found < page.limit && (found > 0 || page.offset == 0);
    is_last.then(|| page.offset.saturating_add(found))
}

fn rows_postgres(tenant: TenantId, filter: &TaskFilter, page: Page) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(concat!("SELECT ", task_columns!(), " FROM asynch_task"));
    conditions_postgres(&mut query, tenant, filter, Way::Few);
    query.push(" ORDER BY task_id DESC LIMIT ").push_bind(page.limit).push(" OFFSET ").push_bind(page.offset);
    query
}

fn count_postgres(tenant: TenantId, filter: &TaskFilter) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT FROM asynch_task");
    conditions_postgres(&mut query, tenant, filter, Way::Few);
    query.push(format_args!(" LIMIT {}) AS q", MOST_COUNTED + 1));
    query
}

fn rows_sqlite(tenant: TenantId, filter: &TaskFilter, page: Page, way: Way) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(concat!("SELECT ", task_columns!(), " FROM asynch_task"));
    query.push(index(filter.state, way));
    conditions_sqlite(&mut query, tenant, filter, way);
    query.push(" ORDER BY task_id DESC LIMIT ").push_bind(page.limit).push(" OFFSET ").push_bind(page.offset);
    query
}

fn count_sqlite(tenant: TenantId, filter: &TaskFilter, way: Way) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT 1 FROM asynch_task");
    query.push(index(filter.state, way));
    conditions_sqlite(&mut query, tenant, filter, way);
    query.push(format_args!(" LIMIT {})", MOST_COUNTED + 1));
    query
}

/// Both dialects read the conditions alike, but for how to look for a part of a text.
macro_rules! conditions {
    ($name:ident, $database:ty, $position:literal, $id_as_text:literal) => {
        fn $name(query: &mut QueryBuilder<$database>, tenant: TenantId, filter: &TaskFilter, way: Way) {
            query.push(" WHERE tenant_id = ").push_bind(tenant.0);
            if let Some(state) = filter.state {
                query.push(" AND ").push(in_state(state, way));
            }
            if let Some(part) = &filter.model_name {
                query.push(concat!(" AND ", $position, "(model_name, ")).push_bind(part.clone()).push(") > 0");
            }
            if let Some(name) = &filter.biz_name {
                query.push(" AND biz_name = ").push_bind(name.clone());
            }
            if let Some(name) = &filter.creator {
                query.push(" AND creator = ").push_bind(name.clone());
            }
            if let Some(part) = filter.task_id.as_ref().map(|part| part.to_lowercase()) {
                match part.parse::<TaskId>() {
                    Ok(id) => query.push(" AND task_id = ").push_bind(Id(id.0)),
                    Err(_) => {
                        query.push(concat!(" AND ", $position, "(", $id_as_text, ", ")).push_bind(part).push(") > 0")
                    }
                };
            }
            if let Some(from) = filter.created_from {
                query.push(" AND task_id >= ").push_bind(Id(first_id(from.timestamp_millis())));
            }
            if let Some(to) = filter.created_to {
                query.push(" AND task_id < ").push_bind(Id(first_id(to.timestamp_millis().saturating_add(1))));
            }
        }
    };
}
conditions!(conditions_postgres, Postgres, "strpos", "task_id::text");
conditions!(conditions_sqlite, Sqlite, "instr", "task_id");

/// How SQLite is told to use a partial index; it would rather read the whole key.
const fn index(state: Option<State>, way: Way) -> &'static str {
    match (way, state) {
        (Way::Key, _) | (Way::Few, None | Some(State::Queued)) => "",
        (Way::Few, Some(State::Running)) => " INDEXED BY ix_asynch_task_running",
        (Way::Few, Some(State::Succeeded)) => " INDEXED BY ix_asynch_task_unclaimed",
        (Way::Few, Some(State::Failed | State::Cancelled)) => " INDEXED BY ix_asynch_task_failed",
        (Way::Few, Some(State::PickedUp)) => " INDEXED BY ix_asynch_task_expire",
    }
}

/// Counts what may be many of a state, as far as it matters; `None` where there are always few, or
/// the index has the order of the list.
fn probe(state: State, tenant: TenantId) -> Option<QueryBuilder<Sqlite>> {
    let indexed = match state {
        State::Running | State::Failed | State::Cancelled => return None,
        State::Queued => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM (");
            for (condition, glue) in [("IS NULL", " UNION ALL "), ("IS NOT NULL", ")")] {
                query.push("SELECT * FROM (SELECT 1 FROM asynch_task WHERE tenant_id = ").push_bind(tenant.0);
                query
                    .push(format_args!(" AND state = 0 AND due_at {condition} LIMIT {})", MOST_COUNTED + 1))
                    .push(glue);
            }
            return Some(query);
        }
        State::Succeeded => "ix_asynch_task_unclaimed WHERE state = 2",
        State::PickedUp => "ix_asynch_task_expire WHERE state IN (3, 4, 5)",
    };
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT 1 FROM asynch_task INDEXED BY ");
    query.push(indexed).push(format_args!(" LIMIT {})", MOST_COUNTED + 1));
    Some(query)
}

/// The state, worded as the partial indexes are. Where many may be queued SQLite is not told that they
/// are in two of them, or it would read and sort both.
const fn in_state(state: State, way: Way) -> &'static str {
    match (state, way) {
        (State::Queued, Way::Few) => "(state = 0 AND due_at IS NULL OR state = 0 AND due_at IS NOT NULL)",
        (State::Queued, Way::Key) => "state = 0",
        (State::Running, _) => "state = 1",
        (State::Succeeded, _) => "state = 2",
        (State::Failed, _) => "state = 3",
        (State::PickedUp, Way::Few) => "state IN (3, 4, 5) AND state = 4",
        (State::PickedUp, Way::Key) => "state = 4",
        (State::Cancelled, _) => "state = 5",
    }
}

/// The smallest `UUIDv7` of a millisecond.
fn first_id(millis: i64) -> Uuid {
    const MOST: i64 = (1 << 48) - 1;
    Uuid::from_u128(u128::from(millis.clamp(0, MOST).unsigned_abs()) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_not_full_says_how_many_there_are() {
        let page = |offset, limit| Page { offset, limit };
        assert_eq!(known_total(0, page(0, 10)), Some(0));
        assert_eq!(known_total(9, page(0, 10)), Some(9));
        assert_eq!(known_total(3, page(20, 10)), Some(23));
        assert_eq!(known_total(10, page(0, 10)), None, "there may be more");
        assert_eq!(known_total(0, page(20, 10)), None, "it is past the end");
    }

    #[test]
    fn ids_of_a_millisecond_lie_between_its_bounds() {
        let at = DateTime::<Utc>::from_timestamp_millis(1_795_321_445_678).unwrap();
        let id = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 1_795_321_445, 678_000_000));
        let millis = at.timestamp_millis();
        assert!(first_id(millis) <= id && id < first_id(millis + 1));
        assert_eq!(first_id(-1), Uuid::nil());
        assert!(first_id(i64::MAX) < Uuid::max());
    }
}
