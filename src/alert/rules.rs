//! Rules, as the configuration says them, and whether they are broken.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Cause, Dependency, Severity, Subject,
    sight::{LaneSight, Sight},
};
use crate::task::TenantId;

/// A node that was declared dead is told of even if another took its place before anyone looked.
pub const NODE_LINGERS: Duration = Duration::from_secs(60);

/// What operators want to be told of.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique; alerts are kept under it.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// How long it must hold before it begins, and be gone before it ends.
    pub hold: Duration,
    /// What it is about.
    pub watch: Watch,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Watch {
    /// Queues: all of these conditions hold for one subject.
    Queues(Target, Vec<Condition>),
    /// A node that went without a word.
    Nodes,
    /// One of these does not answer.
    Dependencies(Vec<Dependency>),
}

/// Which queues, and whether they are counted one by one or together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Each lane on its own: those of that tenant and of models of that name, where given.
    Lane(Option<TenantId>, Option<String>),
    /// The lanes of models of one name together: that name, or each.
    Model(Option<String>),
    /// The lanes of a tenant together: that tenant, or each.
    Tenant(Option<TenantId>),
    /// All lanes together.
    All,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// More tasks wait.
    PendingAbove(i64),
    /// The oldest that waits for capacity has done so for longer.
    OldestAbove(Duration),
    /// A greater part of the calls failed.
    FailureRateAbove {
        /// 0 to 1.
        rate: f64,
        /// How far back to look.
        window: Duration,
        /// Fewer calls say nothing.
        min_calls: i64,
    },
}

/// A subject that breaks a rule, and by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Which one.
    pub subject: Subject,
    /// One for each condition.
    pub causes: Vec<Cause>,
}

/// What is known of one subject.
#[derive(Debug, Default)]
struct Counted {
    pending: i64,
    oldest: Option<chrono::DateTime<chrono::Utc>>,
    /// Calls and failures for each condition that asks for them, in their order.
    calls: Vec<(i64, i64)>,
}

impl Rule {
    /// The windows over which its conditions count calls.
    pub fn windows(&self) -> impl Iterator<Item = Duration> + '_ {
        let conditions = match &self.watch {
            Watch::Queues(_, conditions) => conditions.as_slice(),
            Watch::Nodes | Watch::Dependencies(_) => &[],
        };
        conditions.iter().filter_map(|condition| match condition {
            Condition::FailureRateAbove { window, .. } => Some(*window),
            Condition::PendingAbove(_) | Condition::OldestAbove(_) => None,
        })
    }

    /// Whatever breaks it, worst first; `None` where that cannot be said.
    pub fn judge(&self, sight: &Sight) -> Option<Vec<Finding>> {
        match &self.watch {
            Watch::Queues(target, conditions) => queues(target, conditions, sight),
            Watch::Nodes => Some(lost_nodes(sight.nodes.as_deref()?, sight)),
            Watch::Dependencies(watched) => Some(down(watched, sight)),
        }
    }
}

impl Target {
    /// What a lane counts towards; `None` where it does not.
    fn subject(&self, tenant: TenantId, model_name: &str) -> Option<Subject> {
        let is_tenant = |wanted: &Option<TenantId>| wanted.is_none_or(|wanted| wanted == tenant);
        let is_model = |wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| wanted == model_name);
        match self {
            Target::Lane(one, name) if is_tenant(one) && is_model(name) => {
                Some(Subject::Lane(tenant, model_name.to_owned()))
            }
            Target::Model(name) if is_model(name) => Some(Subject::Model(model_name.to_owned())),
            Target::Tenant(one) if is_tenant(one) => Some(Subject::Tenant(tenant)),
            Target::All => Some(Subject::All),
            Target::Lane(..) | Target::Model(_) | Target::Tenant(_) => None,
        }
    }
}

fn queues(target: &Target, conditions: &[Condition], sight: &Sight) -> Option<Vec<Finding>> {
    let counted = counted(target, conditions, sight)?;
    let mut broken: Vec<(i64, Finding)> = counted
        .into_iter()
        .filter_map(|(subject, counted)| {
            let causes = causes(conditions, &counted, sight)?;
            Some((counted.pending, Finding { subject, causes }))
        })
        .collect();
    // The sort is stable and the subjects came in order.
    broken.sort_by_key(|(pending, _)| std::cmp::Reverse(*pending));
    Some(broken.into_iter().map(|(_, finding)| finding).collect())
}

fn counted(target: &Target, conditions: &[Condition], sight: &Sight) -> Option<BTreeMap<Subject, Counted>> {
    let mut subjects: BTreeMap<Subject, Counted> = BTreeMap::new();
    for lane in sight.lanes.as_deref()? {
        if let Some(subject) = target.subject(lane.tenant, &lane.model_name) {
            subjects.entry(subject).or_default().add(lane);
        }
    }
    let windows = conditions.iter().filter_map(|condition| match condition {
        Condition::FailureRateAbove { window, .. } => Some(window),
        Condition::PendingAbove(_) | Condition::OldestAbove(_) => None,
    });
    for (place, window) in windows.enumerate() {
        for lane in sight.calls.get(window)?.as_deref()? {
            if let Some(subject) = target.subject(lane.tenant, &lane.model_name) {
                let sums = &mut subjects.entry(subject).or_default().calls;
                sums.resize(sums.len().max(place + 1), (0, 0));
                sums[place].0 += lane.calls;
                sums[place].1 += lane.failures;
            }
        }
    }
    Some(subjects)
}

impl Counted {
    fn add(&mut self, lane: &LaneSight) {
        self.pending += lane.pending;
        self.oldest = [self.oldest, lane.oldest].into_iter().flatten().min();
    }
}

/// One for each condition where all of them hold.
fn causes(conditions: &[Condition], counted: &Counted, sight: &Sight) -> Option<Vec<Cause>> {
    let mut windows = counted.calls.iter();
    conditions
        .iter()
        .map(|condition| match condition {
            Condition::PendingAbove(above) => {
                let (tasks, above) = (counted.pending, *above);
                (tasks > above).then_some(Cause::Pending { tasks, above })
            }
            Condition::OldestAbove(above) => {
                let waited = (sight.at - counted.oldest?).to_std().ok()?;
                let cause = Cause::Oldest { seconds: seconds(waited), above_seconds: seconds(*above) };
                (waited > *above).then_some(cause)
            }
            Condition::FailureRateAbove { rate: above, window, min_calls } => {
                let (calls, failures) = windows.next().copied().unwrap_or_default();
                if calls == 0 || calls < *min_calls {
                    return None;
                }
                #[expect(clippy::cast_precision_loss, reason = "a rate of counts")]
                let rate = failures as f64 / calls as f64;
                let window_seconds = seconds(*window);
                (rate > *above).then_some(Cause::FailureRate { rate, above: *above, calls, window_seconds })
            }
        })
        .collect()
}

fn lost_nodes(nodes: &[super::sight::NodeSight], sight: &Sight) -> Vec<Finding> {
    let is_lost = |node: &&super::sight::NodeSight| {
        node.missing > 0 || (sight.at - node.lost_at).to_std().is_ok_and(|age| age < NODE_LINGERS)
    };
    let finding = |node: &super::sight::NodeSight| Finding {
        subject: Subject::Node(node.name.clone()),
        causes: vec![Cause::NodeLost { nodes: node.missing.max(1), at: node.lost_at }],
    };
    nodes.iter().filter(is_lost).map(finding).collect()
}

fn down(watched: &[Dependency], sight: &Sight) -> Vec<Finding> {
    let is_down = |dependency: &&Dependency| sight.dependencies.contains(&(**dependency, false));
    let finding = |dependency: &Dependency| Finding {
        subject: Subject::Dependency(*dependency),
        causes: vec![Cause::DependencyDown],
    };
    watched.iter().filter(is_down).map(finding).collect()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// For people who look at the configuration.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): ", self.name, self.severity.word())?;
        match &self.watch {
            Watch::Queues(target, conditions) => {
                let conditions: Vec<String> = conditions.iter().map(Condition::to_string).collect();
                write!(f, "{target}: {}", conditions.join(" and "))?;
            }
            Watch::Nodes => f.write_str("a node is lost")?,
            Watch::Dependencies(watched) => {
                let words: Vec<&str> = watched.iter().map(|dependency| dependency.word()).collect();
                write!(f, "{} does not answer", words.join(" or "))?;
            }
        }
        if self.hold.is_zero() { Ok(()) } else { write!(f, ", for {}", humantime::format_duration(self.hold)) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Lane(None, None) => f.write_str("each lane"),
            Target::Lane(Some(tenant), None) => write!(f, "each lane of tenant {tenant}"),
            Target::Lane(None, Some(name)) => write!(f, "each lane of model {name}"),
            Target::Lane(Some(tenant), Some(name)) => write!(f, "tenant {tenant}'s lane of model {name}"),
            Target::Model(None) => f.write_str("each model"),
            Target::Model(Some(name)) => write!(f, "model {name}"),
            Target::Tenant(None) => f.write_str("each tenant"),
            Target::Tenant(Some(tenant)) => write!(f, "tenant {tenant}"),
            Target::All => f.write_str("all lanes together"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::PendingAbove(above) => write!(f, "more than {above} tasks wait"),
            Condition::OldestAbove(above) => {
                write!(f, "the oldest has waited for more than {}", humantime::format_duration(*above))
            }
            Condition::FailureRateAbove { rate, window, min_calls } => {
                let window = humantime::format_duration(*window);
                write!(f, "more than {rate} of at least {min_calls} calls in {window} failed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use chrono::{DateTime, TimeDelta, Utc};

    use super::{
        super::sight::{CallSight, NodeSight},
        *,
    };

    const WINDOW: Duration = Duration::from_secs(600);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap()
    }

    fn lane(tenant: i64, model_name: &str, pending: i64, waited: i64) -> LaneSight {
        let oldest = Some(now() - TimeDelta::seconds(waited));
        LaneSight { tenant: TenantId(tenant), model_name: model_name.into(), pending, oldest }
    }

    fn calls(tenant: i64, model_name: &str, calls: i64, failures: i64) -> CallSight {
        CallSight { tenant: TenantId(tenant), model_name: model_name.into(), calls, failures }
    }

    fn sight() -> Sight {
        Sight {
            at: now(),
            lanes: Some(vec![lane(7, "tts", 120, 400), lane(7, "ocr", 10, 5), lane(8, "tts", 200, 10)]),
            calls: HashMap::from([(WINDOW, Some(vec![calls(7, "tts", 100, 30), calls(9, "llm", 4, 4)]))]),
            nodes: None,
            dependencies: vec![(Dependency::Redis, false), (Dependency::Storage, true)],
        }
    }

    fn rule(watch: Watch) -> Rule {
        Rule { name: "r".into(), severity: Severity::Warning, hold: Duration::ZERO, watch }
    }

    fn broken(target: Target, conditions: Vec<Condition>) -> Vec<String> {
        let findings = rule(Watch::Queues(target, conditions)).judge(&sight()).unwrap();
        findings.iter().map(|finding| finding.subject.to_string()).collect()
    }

    #[test]
    fn lanes_are_judged_one_by_one_and_the_longest_comes_first() {
        let pending = |above| vec![Condition::PendingAbove(above)];
        assert_eq!(broken(Target::Lane(None, None), pending(100)), ["lane/8/tts", "lane/7/tts"]);
        assert_eq!(broken(Target::Lane(Some(TenantId(7)), None), pending(9)), ["lane/7/tts", "lane/7/ocr"]);
        assert_eq!(broken(Target::Lane(None, Some("ocr".into())), pending(9)), ["lane/7/ocr"]);
        assert_eq!(broken(Target::Lane(None, None), pending(200)), [""; 0], "above is not at");
    }

    #[test]
    fn models_tenants_and_all_are_judged_by_their_sums() {
        let pending = |above| vec![Condition::PendingAbove(above)];
        assert_eq!(broken(Target::Model(None), pending(300)), ["model/tts"]);
        assert_eq!(broken(Target::Tenant(None), pending(125)), ["tenant/8", "tenant/7"]);
        assert_eq!(broken(Target::Tenant(Some(TenantId(7))), pending(125)), ["tenant/7"]);
        assert_eq!(broken(Target::All, pending(329)), ["all"]);
        let oldest = vec![Condition::OldestAbove(Duration::from_secs(300))];
        assert_eq!(broken(Target::All, oldest.clone()), ["all"]);
        assert_eq!(broken(Target::Model(None), oldest), ["model/tts"]);
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let both = vec![Condition::PendingAbove(100), Condition::OldestAbove(Duration::from_secs(300))];
        assert_eq!(broken(Target::Lane(None, None), both.clone()), ["lane/7/tts"]);
        let found = rule(Watch::Queues(Target::Lane(None, None), both)).judge(&sight()).unwrap();
        let oldest = Cause::Oldest { seconds: 400, above_seconds: 300 };
        assert_eq!(found[0].causes, [Cause::Pending { tasks: 120, above: 100 }, oldest]);
    }

    #[test]
    fn few_calls_say_nothing_about_failures() {
        let rate = |rate, min_calls| vec![Condition::FailureRateAbove { rate, window: WINDOW, min_calls }];
        assert_eq!(broken(Target::Lane(None, None), rate(0.2, 5)), ["lane/7/tts"]);
        assert_eq!(broken(Target::Lane(None, None), rate(0.2, 4)), ["lane/7/tts", "lane/9/llm"]);
        assert_eq!(broken(Target::Lane(None, None), rate(0.3, 5)), [""; 0]);
        assert_eq!(broken(Target::All, rate(0.3, 1)), ["all"]);
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_judged() {
        let blind = Sight { at: now(), ..Sight::default() };
        let pending = rule(Watch::Queues(Target::All, vec![Condition::PendingAbove(1)]));
        assert_eq!(pending.judge(&blind), None);
        let rate = Condition::FailureRateAbove { rate: 0.1, window: WINDOW, min_calls: 1 };
        let rate = rule(Watch::Queues(Target::All, vec![rate]));
        assert_eq!(rate.judge(&Sight { lanes: Some(Vec::new()), ..blind.clone() }), None);
        assert_eq!(rate.windows().collect::<Vec<_>>(), [WINDOW]);
        assert_eq!(rule(Watch::Nodes).judge(&blind), None);
    }

    #[test]
    fn a_node_is_lost_while_nobody_took_its_place_and_for_a_moment_anyway() {
        let node = |name: &str, missing, ago| NodeSight {
            name: name.into(),
            missing,
            lost_at: now() - TimeDelta::seconds(ago),
        };
        let nodes = Some(vec![node("gone", 2, 900), node("back", 0, 900), node("just back", 0, 10)]);
        let found = rule(Watch::Nodes).judge(&Sight { nodes, ..sight() }).unwrap();
        let subjects: Vec<String> = found.iter().map(|finding| finding.subject.to_string()).collect();
        assert_eq!(subjects, ["node/gone", "node/just back"]);
        assert!(matches!(found[0].causes[0], Cause::NodeLost { nodes: 2, .. }));
        assert!(matches!(found[1].causes[0], Cause::NodeLost { nodes: 1, .. }));
    }

    #[test]
    fn only_watched_dependencies_are_told_of() {
        let found = rule(Watch::Dependencies(Dependency::ALL.to_vec())).judge(&sight()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, Subject::Dependency(Dependency::Redis));
        let storage = rule(Watch::Dependencies(vec![Dependency::Storage]));
        assert_eq!(storage.judge(&sight()), Some(Vec::new()));
    }

    #[test]
    fn a_rule_reads_as_a_sentence() {
        let conditions = vec![
            Condition::PendingAbove(100),
            Condition::OldestAbove(Duration::from_secs(300)),
            Condition::FailureRateAbove { rate: 0.2, window: WINDOW, min_calls: 20 },
        ];
        let target = Target::Lane(Some(TenantId(7)), Some("tts".into()));
        let rule = Rule { hold: Duration::from_secs(120), ..rule(Watch::Queues(target, conditions)) };
        assert_eq!(
            rule.to_string(),
            "\"r\" (warning): tenant 7's lane of model tts: more than 100 tasks wait and the oldest has waited for \
             more than 5m and more than 0.2 of at least 20 calls in 10m failed, for 2m"
        );
    }
}
