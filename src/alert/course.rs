//! The course of alerts: what a round's findings make of the open alerts of one rule. The picture is
//! in the module above.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    Alert, AlertId, News,
    rules::{Finding, Rule},
};

/// Most open alerts of one rule. Whatever breaks it besides is counted, not kept: nobody reads more,
/// and a rule that is too strict must not fill the database.
pub const MOST_OPEN: usize = 500;

/// What becomes of an alert.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is new, and its number still to be given.
    Open(Alert, Option<News>),
    /// It goes on as this.
    Change(Alert, Option<News>),
    /// It was gone before it had lasted for long enough to be told of.
    Forget(Alert),
}

/// What a round makes of a rule's alerts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// In the order of the findings; those that are gone come last.
    pub steps: Vec<Step>,
    /// Findings that are not kept, because so many are.
    pub beyond: usize,
}

/// Leads the open alerts of a rule on.
pub fn lead(
    rule: &Rule,
    open: Vec<Alert>,
    findings: Vec<Finding>,
    remind_every: Option<Duration>,
    now: DateTime<Utc>,
) -> Course {
    let mut course = Course::default();
    let mut kept = open.len();
    let mut open: HashMap<String, Alert> = open.into_iter().map(|alert| (alert.subject.to_string(), alert)).collect();
    for finding in findings {
        let step = match open.remove(&finding.subject.to_string()) {
            Some(alert) => still_holds(rule, alert, finding, remind_every, now),
            None if kept < MOST_OPEN => {
                kept += 1;
                Some(begins_to_hold(rule, finding, now))
            }
            None => {
                course.beyond += 1;
                None
            }
        };
        course.steps.extend(step);
    }
    let mut gone: Vec<Alert> = open.into_values().collect();
    gone.sort_by_key(|alert| alert.id);
    course.steps.extend(gone.into_iter().filter_map(|alert| no_longer_holds(rule, alert, now)));
    course
}

fn begins_to_hold(rule: &Rule, finding: Finding, now: DateTime<Utc>) -> Step {
    let begins = rule.hold.is_zero();
    let at_once = begins.then_some(now);
    let alert = Alert {
        id: AlertId(0),
        version: 0,
        rule: rule.name.clone(),
        subject: finding.subject,
        severity: rule.severity,
        since: now,
        began_at: at_once,
        clear_since: None,
        told_at: at_once,
        ended_at: None,
        causes: finding.causes,
    };
    Step::Open(alert, begins.then_some(News::Began))
}

fn still_holds(
    rule: &Rule,
    alert: Alert,
    finding: Finding,
    remind_every: Option<Duration>,
    now: DateTime<Utc>,
) -> Option<Step> {
    let told = |alert: Alert| Alert { causes: finding.causes, told_at: Some(now), clear_since: None, ..alert };
    if alert.began_at.is_none() {
        let begins = || Step::Change(told(Alert { began_at: Some(now), ..alert.clone() }), Some(News::Began));
        return has_passed(rule.hold, alert.since, now).then(begins);
    }
    let is_due = |every| has_passed(every, alert.told_at.unwrap_or(alert.since), now);
    if remind_every.is_some_and(is_due) {
        return Some(Step::Change(told(alert), Some(News::Reminded)));
    }
    // It was gone for a moment only.
    alert.clear_since.is_some().then_some(Step::Change(Alert { clear_since: None, ..alert }, None))
}

fn no_longer_holds(rule: &Rule, alert: Alert, now: DateTime<Utc>) -> Option<Step> {
    if alert.began_at.is_none() {
        return Some(Step::Forget(alert));
    }
    let clear_since = alert.clear_since.unwrap_or(now);
    if has_passed(rule.hold, clear_since, now) {
        let ended = Alert { clear_since: Some(clear_since), told_at: Some(now), ended_at: Some(now), ..alert };
        return Some(Step::Change(ended, Some(News::Ended)));
    }
    alert.clear_since.is_none().then_some(Step::Change(Alert { clear_since: Some(now), ..alert }, None))
}

/// Clocks of nodes differ: what lies ahead has not passed, unless nothing is waited for.
fn has_passed(wait: Duration, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    wait.is_zero() || (now - since).to_std().is_ok_and(|passed| passed >= wait)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::{
        super::{
            Cause, Severity, Subject,
            rules::{Condition, Target, Watch},
        },
        *,
    };
    use crate::task::TenantId;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::seconds(second)
    }

    fn finding(tasks: i64) -> Finding {
        let subject = Subject::Lane(TenantId(7), "tts".into());
        Finding { subject, causes: vec![Cause::Pending { tasks, above: 10 }] }
    }

    /// A rule, its open alerts as a database would keep them, and what was told.
    struct Play {
        rule: Rule,
        open: Vec<Alert>,
        told: Vec<(i64, News)>,
    }

    impl Play {
        fn of(hold: Duration) -> Play {
            let watch = Watch::Queues(Target::Lane(None, None), vec![Condition::PendingAbove(10)]);
            let rule = Rule { name: "slow".into(), severity: Severity::Warning, hold, watch };
            Play { rule, open: Vec::new(), told: Vec::new() }
        }

        fn round(&mut self, second: i64, findings: Vec<Finding>) -> usize {
            let course = lead(&self.rule, self.open.clone(), findings, Some(MINUTE * 10), at(second));
            for step in course.steps {
                let news = match step {
                    Step::Open(alert, news) => {
                        self.open.push(Alert { id: AlertId(self.open.len() as i64 + 1), ..alert });
                        news
                    }
                    Step::Change(alert, news) => {
                        self.open.retain(|open| open.id != alert.id);
                        self.open.extend(Some(alert).filter(|alert| alert.ended_at.is_none()));
                        news
                    }
                    Step::Forget(alert) => {
                        self.open.retain(|open| open.id != alert.id);
                        None
                    }
                };
                self.told.extend(news.map(|news| (second, news)));
            }
            course.beyond
        }
    }

    #[test]
    fn an_alert_begins_once_reminds_and_ends_once() {
        let mut play = Play::of(Duration::ZERO);
        for second in [0, 30, 60, 599, 600, 630, 1200] {
            play.round(second, vec![finding(20 + second)]);
        }
        assert_eq!(play.open[0].causes, [Cause::Pending { tasks: 1220, above: 10 }], "as it was told of last");
        for second in [1230, 1260, 1290] {
            play.round(second, Vec::new());
        }
        let told = [(0, News::Began), (600, News::Reminded), (1200, News::Reminded), (1230, News::Ended)];
        assert_eq!(play.told, told);
        play.round(1300, vec![finding(11)]);
        assert_eq!(play.told.last(), Some(&(1300, News::Began)), "what comes again begins again");
    }

    #[test]
    fn a_condition_must_hold_for_a_while_before_it_is_told() {
        let mut play = Play::of(MINUTE);
        play.round(0, vec![finding(20)]);
        play.round(30, vec![finding(20)]);
        play.round(45, Vec::new());
        assert!(play.open.is_empty() && play.told.is_empty(), "it was over before");
        for second in [50, 80, 109, 110] {
            play.round(second, vec![finding(20)]);
        }
        assert_eq!(play.told, [(110, News::Began)]);
        assert_eq!(play.open[0].since, at(50));
    }

    #[test]
    fn an_alert_that_flaps_is_one_alert() {
        let mut play = Play::of(MINUTE);
        for second in [0, 60] {
            play.round(second, vec![finding(20)]);
        }
        for second in (90..=600).step_by(30) {
            let holds = second % 60 == 0;
            play.round(second, if holds { vec![finding(20)] } else { Vec::new() });
        }
        assert_eq!(play.told, [(60, News::Began)]);
        play.round(630, Vec::new());
        play.round(689, Vec::new());
        assert_eq!(play.told.len(), 1);
        play.round(690, Vec::new());
        assert_eq!(play.told[1..], [(690, News::Ended)]);
    }

    #[test]
    fn nobody_is_reminded_who_does_not_want_to_be() {
        let play = Play::of(Duration::ZERO);
        let opened = lead(&play.rule, Vec::new(), vec![finding(20)], None, at(0)).steps;
        let [Step::Open(alert, Some(News::Began))] = &opened[..] else { panic!("{opened:?}") };
        let course = lead(&play.rule, vec![alert.clone()], vec![finding(20)], None, at(1_000_000));
        assert_eq!(course, Course::default());
    }

    #[test]
    fn a_rule_that_everything_breaks_keeps_a_bounded_number_of_alerts() {
        let mut play = Play::of(Duration::ZERO);
        let lanes = |count: i64| -> Vec<Finding> {
            let lane = |tenant| Finding { subject: Subject::Tenant(TenantId(tenant)), ..finding(20) };
            (0..count).map(lane).collect()
        };
        assert_eq!(play.round(0, lanes(600)), 100);
        assert_eq!((play.open.len(), play.told.len()), (MOST_OPEN, MOST_OPEN));
        assert_eq!(play.round(30, lanes(600)), 100);
        assert_eq!(play.told.len(), MOST_OPEN, "those that are kept stay the same");
        play.round(60, lanes(400));
        assert_eq!((play.open.len(), play.told.len()), (400, MOST_OPEN + 100));
    }

    #[test]
    fn a_clock_that_is_behind_neither_begins_nor_ends_anything_early() {
        let mut play = Play::of(MINUTE);
        play.round(1000, vec![finding(20)]);
        play.round(0, vec![finding(20)]);
        assert!(play.told.is_empty());
    }
}
