//! Listing a tenant's tasks.
//!
//! A tenant may have millions, so each list begins where the key does, with the newest, and ends with
//! its page; beyond [`MOST_COUNTED`] nobody is told how many there are. What few tasks are (running,
//! failed, …) is found through a partial index. Statements are put together from the filters that
//! are given: with a literal state the planner knows those indexes, and how many rows to expect.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Sqlite};
use uuid::Uuid;

use super::rows::{read_task, task_columns};
use crate::{
    store::{Backend, Page, Store, StoreError, value::Id, within},
    task::{Task, TaskId, TenantId, lifecycle::State},
};

/// Up to here totals are exact.
pub const MOST_COUNTED: i64 = 10_000;

/// As many of a tenant's newest tasks are looked through before anything else is tried.
const NEAR: i64 = 20_000;

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
            let ask = Asked { tenant, filter, page };
            let mut list = if ask.may_be_near() { self.tasks_found(&ask, Way::Near).await? } else { Vec::new() };
            if !ask.fills_page(&list) {
                list = self.tasks_found(&ask, Way::Whole).await?;
            }
            if let Some(total) = ask.known_total(list.len()) {
                return Ok(TaskListing { list, total, total_is_at_least: false });
            }
            let counted = self.tasks_counted(&ask).await?;
            Ok(TaskListing { list, total: counted.min(MOST_COUNTED), total_is_at_least: counted > MOST_COUNTED })
        })
        .await
    }

    async fn tasks_found(&self, ask: &Asked<'_>, way: Way) -> Result<Vec<Task>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                let rows = rows_postgres(ask, way).build().persistent(false).fetch_all(pool).await?;
                rows.iter().map(read_task).collect()
            }
            Backend::Sqlite { readers, .. } => {
                let rows = rows_sqlite(ask, way).build().fetch_all(readers).await?;
                rows.iter().map(read_task).collect()
            }
        }
    }

    /// How many there are, at most one more than are counted.
    async fn tasks_counted(&self, ask: &Asked<'_>) -> Result<i64, StoreError> {
        Ok(match &self.backend {
            Backend::Postgres { pool, .. } => {
                count_postgres(ask).build_query_scalar().persistent(false).fetch_one(pool).await?
            }
            Backend::Sqlite { readers, .. } => count_sqlite(ask).build_query_scalar().fetch_one(readers).await?,
        })
    }
}

/// What was asked for.
struct Asked<'a> {
    tenant: TenantId,
    filter: &'a TaskFilter,
    page: Page,
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Among the newest of the tenant only. A page that they fill is the page asked for.
    Near,
    /// Among all of them, those of a state through its partial index.
    Whole,
}

impl Asked<'_> {
    /// True where the newest tasks may hold the page, and there is no quicker way to it: an index with few
    /// entries, the key itself, or an end of it.
    fn may_be_near(&self) -> bool {
        let filter = self.filter;
        let few = matches!(filter.state, Some(State::Running | State::Failed | State::Cancelled));
        let keyed = filter.created_to.is_some() || filter.task_id.as_deref().and_then(whole_id).is_some();
        let by_name = filter.model_name.is_some() || filter.biz_name.is_some() || filter.creator.is_some();
        let filtered = filter.state.is_some() || filter.task_id.is_some() || by_name;
        filtered && !few && !keyed && self.page.offset.saturating_add(self.page.limit) <= NEAR
    }

    fn fills_page(&self, list: &[Task]) -> bool {
        list.len() as i64 >= self.page.limit
    }

    /// A page that is not full is the last, which says how many there are without counting.
    fn known_total(&self, found: usize) -> Option<i64> {
        let (found, page) = (found as i64, self.page);
        let is_last = found < page.limit && (found > 0 || page.offset == 0);
        is_last.then(|| page.offset.saturating_add(found))
    }
}

/// The page of rows from what was pushed last.
macro_rules! push_page {
    ($query:expr, $page:expr) => {
        $query.push(" ORDER BY task_id DESC LIMIT ").push_bind($page.limit).push(" OFFSET ").push_bind($page.offset)
    };
}

/// `OFFSET 0` keeps the planner from walking the key for a page of tasks that it takes to be spread
/// evenly, when they lie behind a million newer ones of another state.
fn rows_postgres(ask: &Asked<'_>, way: Way) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(concat!("SELECT ", task_columns!(), " FROM "));
    match way {
        Way::Near => {
            query.push("(SELECT * FROM asynch_task WHERE tenant_id = ").push_bind(ask.tenant.0);
            query.push(format_args!(" ORDER BY task_id DESC LIMIT {NEAR}) AS t"));
            conditions_postgres(&mut query, ask);
        }
        Way::Whole if ask.filter.state.is_some() => {
            query.push("(SELECT * FROM asynch_task");
            conditions_postgres(&mut query, ask);
            query.push(" OFFSET 0) AS t");
        }
        Way::Whole => {
            query.push("asynch_task");
            conditions_postgres(&mut query, ask);
        }
    }
    push_page!(query, ask.page);
    query
}

fn count_postgres(ask: &Asked<'_>) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT FROM (SELECT FROM asynch_task");
    conditions_postgres(&mut query, ask);
    query.push(format_args!(" OFFSET 0) AS t LIMIT {}) AS q", MOST_COUNTED + 1));
    query
}

fn rows_sqlite(ask: &Asked<'_>, way: Way) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(concat!("SELECT ", task_columns!(), " FROM "));
    match way {
        Way::Near => {
            query.push("(SELECT * FROM asynch_task WHERE tenant_id = ").push_bind(ask.tenant.0);
            query.push(format_args!(" ORDER BY task_id DESC LIMIT {NEAR})"));
        }
        Way::Whole => {
            query.push("asynch_task").push(index(ask.filter.state));
        }
    }
    conditions_sqlite(&mut query, ask);
    push_page!(query, ask.page);
    query
}

fn count_sqlite(ask: &Asked<'_>) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT 1 FROM asynch_task");
    query.push(index(ask.filter.state));
    conditions_sqlite(&mut query, ask);
    query.push(format_args!(" LIMIT {})", MOST_COUNTED + 1));
    query
}

/// Both dialects read the conditions alike, but for how to look for a part of a text.
macro_rules! conditions {
    ($name:ident, $database:ty, $position:literal, $id_as_text:literal) => {
        fn $name(query: &mut QueryBuilder<$database>, ask: &Asked<'_>) {
            let filter = ask.filter;
            query.push(" WHERE tenant_id = ").push_bind(ask.tenant.0);
            if let Some(state) = filter.state {
                query.push(" AND ").push(in_state(state));
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
            if let Some(part) = &filter.task_id {
                match whole_id(part) {
                    Some(id) => query.push(" AND task_id = ").push_bind(Id(id.0)),
                    None => {
                        query.push(concat!(" AND ", $position, "(", $id_as_text, ", "));
                        query.push_bind(part.to_lowercase()).push(") > 0")
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
const fn index(state: Option<State>) -> &'static str {
    match state {
        None | Some(State::Queued) => "",
        Some(State::Running) => " INDEXED BY ix_asynch_task_running",
        Some(State::Succeeded) => " INDEXED BY ix_asynch_task_unclaimed",
        Some(State::Failed | State::Cancelled) => " INDEXED BY ix_asynch_task_failed",
        Some(State::PickedUp) => " INDEXED BY ix_asynch_task_expire",
    }
}

/// The state, worded as the partial indexes are.
const fn in_state(state: State) -> &'static str {
    match state {
        State::Queued => "(state = 0 AND due_at IS NULL OR state = 0 AND due_at IS NOT NULL)",
        State::Running => "state = 1",
        State::Succeeded => "state = 2",
        State::Failed => "state = 3",
        State::PickedUp => "state IN (3, 4, 5) AND state = 4",
        State::Cancelled => "state = 5",
    }
}

/// The id, where the part to look for is all of it.
fn whole_id(part: &str) -> Option<TaskId> {
    part.parse().ok()
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
        let filter = TaskFilter::default();
        let known = |found, offset| {
            Asked { tenant: TenantId(7), filter: &filter, page: Page { offset, limit: 10 } }.known_total(found)
        };
        assert_eq!(known(0, 0), Some(0));
        assert_eq!(known(9, 0), Some(9));
        assert_eq!(known(3, 20), Some(23));
        assert_eq!(known(10, 0), None, "there may be more");
        assert_eq!(known(0, 20), None, "it is past the end");
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
