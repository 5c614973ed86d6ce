//! A database that is away, told from memory: alerts cannot be kept then.
//!
//! Whoever had the turn last tells of it, through the channels directly. When the database is back the
//! alert is written down as one that is open; the next round finds that all is well and ends it like
//! any other.

use chrono::{DateTime, Utc};
use tracing::warn;

use super::Monitor;
use crate::{
    alert::{
        Alert, AlertId, Cause, Channel, Dependency, News, Subject,
        course::Step,
        rules::{Rule, Watch},
    },
    clock,
};

/// What the process remembers.
#[derive(Default)]
pub(super) struct Outage {
    /// This process had the turn last.
    in_charge: bool,
    since: Option<DateTime<Utc>>,
    begun: Vec<Begun>,
}

/// An alert that is not written down yet.
struct Begun {
    alert: Alert,
    /// Who is still to be told.
    untold: Vec<Channel>,
}

impl Outage {
    /// This process has the turn.
    pub(super) fn take_charge(&mut self) {
        self.in_charge = true;
    }

    /// Another process has it.
    pub(super) fn leave_to_others(&mut self) {
        self.in_charge = false;
    }

    /// The database did not answer just now: begins what is due, and tells who is untold.
    pub(super) async fn goes_on(&mut self, monitor: &Monitor) {
        if !self.in_charge {
            return;
        }
        let now = clock::now();
        let since = *self.since.get_or_insert(now);
        for rule in monitor.rules.iter().filter(|rule| is_about_the_database(rule)) {
            let has_held = (now - since).to_std().unwrap_or_default() >= rule.hold;
            if has_held && !self.begun.iter().any(|begun| begun.alert.rule == rule.name) {
                let alert = begun(rule, since, now);
                monitor.channels.log(&alert.notice(News::Began, now));
                self.begun.push(Begun { alert, untold: monitor.channels.set_up() });
            }
        }
        for begun in &mut self.begun {
            let notice = begun.alert.notice(News::Began, begun.alert.began_at.unwrap_or(since));
            let mut untold = Vec::new();
            for channel in std::mem::take(&mut begun.untold) {
                if let Err(error) = monitor.channels.send(channel, &[&notice]).await {
                    warn!(channel = channel.word(), error, "could not tell that the database is away, trying again");
                    untold.push(channel);
                }
            }
            begun.untold = untold;
        }
    }

    /// The database answers: what had begun is written down. Channels that could not be told get it as
    /// the usual news.
    pub(super) async fn over(&mut self, monitor: &Monitor) {
        self.since = None;
        let mut unwritten = Vec::new();
        for begun in self.begun.drain(..) {
            let news = (!begun.untold.is_empty()).then_some(News::Began);
            let step = Step::Open(begun.alert.clone(), news);
            if let Err(error) = monitor.parts.store.apply_alerts(&[step], &begun.untold).await {
                warn!(%error, "could not write down that the database was away, trying again");
                unwritten.push(begun);
            }
        }
        self.begun = unwritten;
    }
}

fn is_about_the_database(rule: &Rule) -> bool {
    matches!(&rule.watch, Watch::Dependencies(watched) if watched.contains(&Dependency::Database))
}

fn begun(rule: &Rule, since: DateTime<Utc>, now: DateTime<Utc>) -> Alert {
    Alert {
        id: AlertId(0),
        version: 0,
        rule: rule.name.clone(),
        subject: Subject::Dependency(Dependency::Database),
        severity: rule.severity,
        since,
        began_at: Some(now),
        clear_since: None,
        told_at: Some(now),
        ended_at: None,
        causes: vec![Cause::DependencyDown],
    }
}
