//! The verbs on the operation log.

use super::{Listing, Page, Store, StoreError};
use crate::{oplog::OpLog, task::TenantId};

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
    /// Writes a batch of rows.
    pub async fn insert_op_logs(&self, _rows: &[OpLog]) -> Result<(), StoreError> {
        todo!()
    }

    /// Rows of a tenant, newest first.
    pub async fn list_op_logs(
        &self,
        _tenant: TenantId,
        _filter: &OpLogFilter,
        _page: Page,
    ) -> Result<Listing<OpLog>, StoreError> {
        todo!()
    }
}
