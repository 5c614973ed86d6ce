//! What a round of checks saw. Whatever could not be looked at is `None`: rules about it are neither
//! broken nor kept then, and their alerts stay as they are.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

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

/// A node that was declared dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostNode {
    /// Its name; several nodes may have the same.
    pub name: String,
    /// When it renewed its lease last.
    pub last_seen: DateTime<Utc>,
    /// When it was declared dead.
    pub lost_at: DateTime<Utc>,
}

/// A node that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNode {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
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

/// Which of the lost nodes nobody succeeded. A successor began after the lost one was heard of last: best
/// one of the same name, else any other, as where each start has a name of its own. Nobody succeeds two.
pub fn without_successor(lost: &[LostNode], live: &[LiveNode]) -> Vec<NodeSight> {
    let mut free: Vec<&LiveNode> = live.iter().collect();
    let mut succeeds = |node: &LostNode, any_name: bool| {
        let fits = |live: &&LiveNode| live.started_at >= node.last_seen && (any_name || live.name == node.name);
        free.iter().position(fits).map(|place| free.swap_remove(place)).is_some()
    };
    let mut missing: Vec<bool> = lost.iter().map(|node| !succeeds(node, false)).collect();
    for (node, missing) in lost.iter().zip(&mut missing).filter(|(_, missing)| **missing) {
        *missing = !succeeds(node, true);
    }
    let mut names: BTreeMap<&str, NodeSight> = BTreeMap::new();
    for (node, missing) in lost.iter().zip(missing) {
        let none = || NodeSight { name: node.name.clone(), missing: 0, lost_at: node.lost_at };
        let sight = names.entry(&node.name).or_insert_with(none);
        sight.missing += i64::from(missing);
        sight.lost_at = sight.lost_at.max(node.lost_at);
    }
    names.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn lost(name: &str, last_seen: i64) -> LostNode {
        LostNode { name: name.into(), last_seen: at(last_seen), lost_at: at(last_seen + 30) }
    }

    fn live(name: &str, started: i64) -> LiveNode {
        LiveNode { name: name.into(), started_at: at(started) }
    }

    fn missing(lost: &[LostNode], live: &[LiveNode]) -> Vec<(String, i64)> {
        without_successor(lost, live).into_iter().map(|node| (node.name, node.missing)).collect()
    }

    #[test]
    fn a_node_is_missing_until_one_began_after_it() {
        let gone = [lost("a", 100)];
        assert_eq!(missing(&gone, &[]), [("a".to_owned(), 1)]);
        assert_eq!(missing(&gone, &[live("a", 99), live("b", 10)]), [("a".to_owned(), 1)], "they lived beside it");
        assert_eq!(missing(&gone, &[live("a", 110)]), [("a".to_owned(), 0)], "it is back, even before it was buried");
        assert_eq!(missing(&gone, &[live("b", 200)]), [("a".to_owned(), 0)], "another took its place");
        assert_eq!(missing(&[], &[live("b", 200)]), []);
    }

    #[test]
    fn nobody_succeeds_two() {
        let gone = [lost("a", 100), lost("b", 100), lost("a", 150)];
        assert_eq!(missing(&gone, &[live("b", 160)]), [("a".to_owned(), 2), ("b".to_owned(), 0)]);
        assert_eq!(missing(&gone, &[live("b", 160), live("c", 160)]), [("a".to_owned(), 1), ("b".to_owned(), 0)]);
        assert_eq!(without_successor(&gone, &[])[0].lost_at, at(180), "the last one of that name");
    }
}
