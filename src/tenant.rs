//! What a tenant may use up and how much of its past is kept: by its own settings, by its plan, or by
//! what holds for all.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::task::TenantId;

/// Most characters in a plan's name.
pub const MAX_PLAN: usize = 64;

/// Numbers that a tenant or a plan may set; `None` leaves it to what stands behind it, and 0 means
/// that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Requests per second on each node.
    pub requests_per_second: Option<i32>,
    /// Calls running at once, over all models and nodes.
    pub max_concurrency: Option<i32>,
    /// Results kept for each model; the oldest go first.
    pub keep_results: Option<i32>,
    /// Days for which the operation log is kept.
    pub op_log_days: Option<i32>,
}

/// A number of [`Terms`]: its name on the wire and in the configuration, and the most it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Its name.
    pub name: &'static str,
    /// Most that is accepted; the least is 0.
    pub most: i32,
}

/// A tenant that somebody has set something for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its number.
    pub id: TenantId,
    /// Its plan, by name.
    pub plan: Option<String>,
    /// Its own settings.
    pub own: Terms,
    /// The limit of calls over all models that claims keep; 0 = none.
    pub cap: i32,
    /// User who set something for it first.
    pub creator: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// User who changed it last.
    pub updater: String,
    /// When.
    pub updated_at: DateTime<Utc>,
}

/// Plans by name, and what holds for tenants that have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plans {
    /// What holds for all.
    pub default: InForce,
    /// The plans of the configuration.
    pub named: BTreeMap<String, Terms>,
}

/// What is in force for a tenant; 0 means that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InForce {
    /// See [`Terms::requests_per_second`].
    pub requests_per_second: i32,
    /// See [`Terms::max_concurrency`].
    pub max_concurrency: i32,
    /// See [`Terms::keep_results`].
    pub keep_results: i32,
    /// See [`Terms::op_log_days`].
    pub op_log_days: i32,
}

/// Every number of [`Terms`], in their order.
pub const TERMS: [Term; 4] = [
    Term { name: "requestsPerSecond", most: 1_000_000 },
    Term { name: "maxConcurrency", most: 1_000_000 },
    Term { name: "keepResults", most: i32::MAX },
    Term { name: "opLogDays", most: 36_500 },
];

impl Terms {
    /// The numbers, in the order of [`TERMS`].
    pub fn numbers(&mut self) -> [&mut Option<i32>; 4] {
        [&mut self.requests_per_second, &mut self.max_concurrency, &mut self.keep_results, &mut self.op_log_days]
    }
}

impl Plans {
    /// What is in force for a tenant on that plan and with those settings of its own.
    ///
    /// A plan that this node's configuration does not know says nothing about how much to keep, so
    /// everything is kept.
    pub fn in_force(&self, plan: Option<&str>, own: &Terms) -> InForce {
        let known = plan.map(|name| self.named.get(name));
        let plan = known.flatten().copied().unwrap_or_default();
        let keep_results = match known {
            Some(None) => 0,
            Some(Some(_)) | None => self.default.keep_results,
        };
        let chosen = |own: Option<i32>, plan: Option<i32>, default: i32| own.or(plan).unwrap_or(default);
        InForce {
            requests_per_second: chosen(
                own.requests_per_second,
                plan.requests_per_second,
                self.default.requests_per_second,
            ),
            max_concurrency: chosen(own.max_concurrency, plan.max_concurrency, self.default.max_concurrency),
            keep_results: chosen(own.keep_results, plan.keep_results, keep_results),
            op_log_days: chosen(own.op_log_days, plan.op_log_days, self.default.op_log_days),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> Plans {
        let gold = Terms { max_concurrency: Some(50), keep_results: Some(100), ..Terms::default() };
        let default = InForce { requests_per_second: 9, max_concurrency: 0, keep_results: 20_000, op_log_days: 90 };
        Plans { default, named: BTreeMap::from([("gold".to_owned(), gold)]) }
    }

    #[test]
    fn a_tenants_own_word_goes_before_its_plans_and_that_before_what_holds_for_all() {
        let own = Terms { max_concurrency: Some(7), op_log_days: Some(0), ..Terms::default() };
        let expected = InForce { requests_per_second: 9, max_concurrency: 7, keep_results: 100, op_log_days: 0 };
        assert_eq!(plans().in_force(Some("gold"), &own), expected);
        assert_eq!(plans().in_force(None, &Terms::default()), plans().default);
    }

    #[test]
    fn everything_is_kept_under_a_plan_that_nobody_knows() {
        let force = plans().in_force(Some("silver"), &Terms::default());
        assert_eq!((force.keep_results, force.op_log_days), (0, 90));
        let own = Terms { keep_results: Some(5), ..Terms::default() };
        assert_eq!(plans().in_force(Some("silver"), &own).keep_results, 5);
    }
}
