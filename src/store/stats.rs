//! The verbs on statistics. Calls are counted by [`Store::apply`](super::Store::apply).

use chrono::NaiveDate;

use super::{Listing, Page, Store, StoreError};
use crate::{stats::DayStat, task::TenantId};

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
    pub async fn list_stats(
        &self,
        _tenant: Option<TenantId>,
        _filter: &StatFilter,
        _page: Page,
    ) -> Result<Listing<DayStat>, StoreError> {
        todo!()
    }
}
