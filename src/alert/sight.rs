//! What a round of checks saw. Whatever could not be looked at is `None`: rules about it are neither
//! broken nor kept then, and their alerts stay as they are.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};

use super::Dependency;
use crate::task::TenantId;

/// One look at everything.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// When.
    pub at: DateTime<Utc>,
    /// Every lane with tasks that wait.
    pub lanes: Option<Vec<LaneSight>>,
    /// Calls of each lane over each window that a rule asks for.
    pub calls: HashMap<Duration, Option<Vec<CallSight>>>,
    /// Nodes by their names.
    pub nodes: Option<Vec<NodeSight>>,
    /// Whether each dependency answers.
    pub dependencies: Vec<(Dependency, bool)>,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSight {
    /// Its tenant.
    pub tenant: TenantId,
    /// Name of its model.
    pub model_name: String,
    /// Tasks that wait, for capacity or for a retry.
    pub pending: i64,
    /// Since when the oldest waits for capacity.
    pub oldest: Option<DateTime<Utc>>,
}

/// The calls of one lane in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSight {
    /// Its tenant.
    pub tenant: TenantId,
    /// Name of its model.
    pub model_name: String,
    /// All that ended.
    pub calls: i64,
    /// Those that failed.
    pub failures: i64,
}

/// The nodes of one name that went without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSight {
    /// The name.
    pub name: String,
    /// How many of them have no successor.
    pub missing: i64,
    /// When the last one was declared dead.
    pub lost_at: DateTime<Utc>,
}
