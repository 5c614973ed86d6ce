//! Rows of `asynch_task` as domain values, alike on both backends. Partial indexes are used where
//! a statement repeats their predicate, so state numbers stand in the text of statements; a test
//! below ties them to the lifecycle.

use tracing::warn;

use super::{PickedUp, Purged, admission::Gate, object_key};
use crate::{
    secrets::Vault,
    store::{StoreError, row::Columns},
    task::{
        Abandoned, Attempt, CallerHeaders, Lane, ModelId, NodeId, Running, Task, TaskId, TaskKey, TenantId, Waiting,
        lifecycle::{Phase, State},
    },
};

macro_rules! task_columns {
    () => {
        "tenant_id, task_id, creator, model_name, biz_name, state, phase, oss_file, oss_key, file_type, file_size, \
         error_msg, retry_count, input_ref, CAST(request_payload AS TEXT) AS request_payload, created_at, enqueue_at, \
         started_at, finished_at, expire_at"
    };
}
pub(in crate::store) use task_columns;

macro_rules! running_columns {
    () => {
        "tenant_id, task_id, model_id, attempt, owner, retry_count, lost_attempts, phase, creator, model_name, input_ref, \
         CAST(request_payload AS TEXT) AS request_payload, caller_headers, traceparent, created_at, enqueue_at, \
         started_at"
    };
}
pub(in crate::store) use running_columns;

macro_rules! pickup_columns {
    () => {
        "task_id, state, oss_file, oss_key, file_type, file_size, error_msg, traceparent"
    };
}
pub(in crate::store) use pickup_columns;

/// Reads `task_columns!()`.
pub(in crate::store) fn read_task(row: &impl Columns) -> Result<Task, StoreError> {
    Ok(Task {
        key: read_key(row)?,
        creator: row.text("creator")?,
        model_name: row.text("model_name")?,
        biz_name: row.text("biz_name")?,
        state: read_state(row)?,
        phase: read_phase(row)?,
        oss_file: row.text("oss_file")?,
        oss_key: read_object_key(row)?,
        file_type: row.text("file_type")?,
        file_size: row.big("file_size")?,
        error_msg: row.text("error_msg")?,
        retry_count: row.int("retry_count")?,
        input_ref: row.text("input_ref")?,
        request_payload: row.text_if_any("request_payload")?,
        created_at: row.time("created_at")?,
        enqueue_at: row.time("enqueue_at")?,
        started_at: row.time_if_any("started_at")?,
        finished_at: row.time_if_any("finished_at")?,
        expire_at: row.time_if_any("expire_at")?,
    })
}

/// Reads `running_columns!()`.
pub(in crate::store) fn read_running(row: &impl Columns, vault: &Vault) -> Result<Running, StoreError> {
    let key = read_key(row)?;
    Ok(Running {
        key,
        lane: read_lane(row)?,
        attempt: Attempt(row.int("attempt")?),
        node: NodeId(row.uuid("owner")?),
        retry_count: row.int("retry_count")?,
        lost_attempts: row.int("lost_attempts")?,
        phase: read_phase(row)?,
        creator: row.text("creator")?,
        model_name: row.text("model_name")?,
        input_ref: row.text("input_ref")?,
        request_payload: row.text_if_any("request_payload")?,
        caller_headers: open_headers(key, &row.text("caller_headers")?, vault),
        traceparent: row.text("traceparent")?,
        created_at: row.time("created_at")?,
        enqueue_at: row.time("enqueue_at")?,
        started_at: row.time_if_any("started_at")?,
    })
}

/// Reads `pickup_columns!()`.
pub(in crate::store) fn read_picked_up(row: &impl Columns) -> Result<PickedUp, StoreError> {
    Ok(PickedUp {
        id: TaskId(row.uuid("task_id")?),
        state: read_state(row)?,
        oss_file: row.text("oss_file")?,
        oss_key: read_object_key(row)?,
        file_type: row.text("file_type")?,
        file_size: row.big("file_size")?,
        error_msg: row.text("error_msg")?,
        traceparent: row.text("traceparent")?,
    })
}

/// Reads a task whose worker is gone.
pub(in crate::store) fn read_abandoned(row: &impl Columns) -> Result<Abandoned, StoreError> {
    Ok(Abandoned {
        key: read_key(row)?,
        lane: read_lane(row)?,
        attempt: Attempt(row.int("attempt")?),
        owner: NodeId(row.uuid("owner")?),
        lost_attempts: row.int("lost_attempts")?,
        phase: read_phase(row)?,
        creator: row.text("creator")?,
        model_name: row.text("model_name")?,
        traceparent: row.text("traceparent")?,
        started_at: row.time_if_any("started_at")?,
    })
}

/// Reads a task in the queue.
pub(in crate::store) fn read_waiting(row: &impl Columns) -> Result<Waiting, StoreError> {
    Ok(Waiting {
        key: read_key(row)?,
        lane: read_lane(row)?,
        attempt: Attempt(row.int("attempt")?),
        model_name: row.text("model_name")?,
        traceparent: row.text("traceparent")?,
    })
}

/// Reads the entrance of a lane.
pub(in crate::store) fn read_gate(row: &impl Columns) -> Result<Gate, StoreError> {
    Ok(Gate {
        enabled: row.flag("enabled")?,
        deleted: row.flag("deleted")?,
        limit: row.int("queue_limit")?,
        entered: row.big("entered")?,
        counted_entered: row.big("counted_entered")?,
        counted_live: row.big("counted_live")?,
        changed: false,
    })
}

/// Reads a task that was deleted.
pub(in crate::store) fn read_purged(row: &impl Columns) -> Result<Purged, StoreError> {
    Ok(Purged {
        key: read_key(row)?,
        model_name: row.text("model_name")?,
        attempt: Attempt(row.int("attempt")?),
        oss_key: read_object_key(row)?,
    })
}

/// Reads the key of the result's object.
fn read_object_key(row: &impl Columns) -> Result<String, StoreError> {
    Ok(object_key::read(&row.text("oss_file")?, row.text("oss_key")?))
}

/// Of tasks that were deleted, those that may have attempts in the ledger: most have succeeded at once.
pub(in crate::store) fn tried(rows: &[impl Columns]) -> Result<Vec<TaskKey>, StoreError> {
    let mut keys = Vec::new();
    for row in rows {
        if row.flag("tried")? {
            keys.push(read_key(row)?);
        }
    }
    Ok(keys)
}

/// Reads tenant and id.
pub(in crate::store) fn read_key(row: &impl Columns) -> Result<TaskKey, StoreError> {
    Ok(TaskKey { tenant: TenantId(row.big("tenant_id")?), id: TaskId(row.uuid("task_id")?) })
}

/// Reads model and tenant.
pub(in crate::store) fn read_lane(row: &impl Columns) -> Result<Lane, StoreError> {
    Ok(Lane { model: ModelId(row.big("model_id")?), tenant: TenantId(row.big("tenant_id")?) })
}

/// Reads the state; a number of a later version is an error.
pub(in crate::store) fn read_state(row: &impl Columns) -> Result<State, StoreError> {
    let number = row.small("state")?;
    State::from_number(number.into())
        .ok_or_else(|| StoreError::Broken(format!("a task has the unknown state {number}")))
}

/// Reads the phase; a number of a later version is an error.
pub(in crate::store) fn read_phase(row: &impl Columns) -> Result<Phase, StoreError> {
    let number = row.small("phase")?;
    Phase::from_number(number.into())
        .ok_or_else(|| StoreError::Broken(format!("a task has the unknown phase {number}")))
}

/// The caller's headers as they are stored: sealed JSON, empty if there are none.
pub(in crate::store) fn seal_headers(headers: &CallerHeaders, vault: &Vault) -> Result<String, StoreError> {
    if headers.is_empty() {
        return Ok(String::new());
    }
    let json = serde_json::to_string(headers)
        .map_err(|error| StoreError::Broken(format!("caller headers cannot be written: {error}")))?;
    Ok(vault.seal(&json)?)
}

/// Headers that cannot be read are left out: the file service then refuses this one upload, while
/// an error here would keep the whole lane from being claimed.
fn open_headers(key: TaskKey, stored: &str, vault: &Vault) -> CallerHeaders {
    if stored.is_empty() {
        return CallerHeaders::default();
    }
    let opened = vault.open(stored).map_err(|error| error.to_string());
    opened.and_then(|json| serde_json::from_str(&json).map_err(|error| error.to_string())).unwrap_or_else(|error| {
        warn!(task_id = %key.id, tenant_id = %key.tenant, error, "caller headers cannot be read, going on without");
        CallerHeaders::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::lifecycle::{CLAIM, PICK_UP};

    #[test]
    fn the_numbers_in_the_statements_are_those_of_the_lifecycle() {
        assert_eq!((CLAIM.from.number(), CLAIM.to.number()), (0, 1));
        assert_eq!((PICK_UP.from.number(), PICK_UP.to.number()), (2, 4));
        let purged: Vec<i16> = State::ALL.iter().filter(|state| state.is_final()).map(|state| state.number()).collect();
        assert_eq!(purged, [2, 3, 4, 5], "2 is purged when unclaimed, the others when expired");
        assert_eq!((Phase::Model.number(), Phase::Upload.number()), (0, 1));
    }

    #[test]
    fn caller_headers_are_sealed_and_unreadable_ones_left_out() {
        let key = TaskKey { tenant: TenantId(7), id: TaskId(uuid::Uuid::nil()) };
        let headers = CallerHeaders { authorization: "Bearer x".into(), user_info: String::new() };
        let vault = Vault::new(&[7; 32]);
        let sealed = seal_headers(&headers, &vault).unwrap();
        assert!(!sealed.contains("Bearer"));
        assert_eq!(open_headers(key, &sealed, &vault), headers);
        assert!(open_headers(key, &sealed, &Vault::default()).is_empty());
        assert!(open_headers(key, "{", &vault).is_empty());
        assert_eq!(seal_headers(&CallerHeaders::default(), &vault).unwrap(), "");
    }
}
