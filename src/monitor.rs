//! The monitor: looks every so often whether a rule is broken, and tells operators when that begins,
//! while it lasts, and when it ends. What becomes of an alert is decided in [`crate::alert`].
//!
//! One node at a time has the turn, checks and tells. Every change of an alert is written together
//! with what is to be told of it; telling is a loop of its own, so a mail server that is away delays
//! mails and nothing else. A dead database cannot keep alerts: whoever had the turn last tells of it
//! from memory.

mod delivery;
mod look;
mod mail;
mod outage;
mod text;
mod webhook;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::delivery::Channels;
use self::outage::Outage;
use crate::{
    alert::{Alert, News, Notice, Severity, Subject, course, rules::Rule},
    census::CensusTaker,
    clock,
    config::Config,
    periodic::{Pace, Swept},
    permits::Permits,
    storage::Storage,
    store::{Store, StoreError},
    turn::{Held, Turn},
};

/// What the turn is called.
const DUTY: &str = "monitor";

/// How often a node that has not got the turn asks for it.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Alerts of rules that nobody has had in force for so long are ended without a word.
const UNSEEN: Duration = Duration::from_secs(3600);

/// How long alerts that ended are kept, and how often older ones are looked for.
const KEPT: Duration = Duration::from_secs(90 * 86_400);
const PURGED_EVERY: Duration = Duration::from_secs(3600);

/// What it looks at and keeps its alerts in.
pub struct Parts {
    /// Alerts, nodes, calls.
    pub store: Store,
    /// Queues.
    pub census: CensusTaker,
    /// Whether Redis answers.
    pub permits: Permits,
    /// Whether the storage answers.
    pub storage: Storage,
}

/// The monitor of this process.
pub struct Monitor {
    parts: Parts,
    rules: Vec<Rule>,
    interval: Duration,
    remind_every: Option<Duration>,
    channels: Channels,
    /// Something is new: one loop for each channel waits for that.
    news: watch::Sender<()>,
}

/// What rounds remember of those before.
#[derive(Default)]
struct Rounds {
    /// Rules that more subjects break than are kept.
    crowded: HashSet<String>,
    purged: Option<Instant>,
}

impl Monitor {
    /// Builds it; nothing runs yet.
    ///
    /// # Errors
    /// Where a channel cannot be set up, with the key that it is about.
    pub fn new(parts: Parts, config: &Config) -> Result<Monitor, String> {
        Ok(Monitor {
            parts,
            rules: config.monitor.rules.clone(),
            interval: config.monitor.interval,
            remind_every: config.monitor.remind_every,
            channels: Channels::open(config)?,
            news: watch::Sender::default(),
        })
    }

    /// Checks and tells until `stop`, whenever this node has the turn.
    pub async fn run(self, stop: CancellationToken) {
        if self.rules.is_empty() {
            return stop.cancelled().await;
        }
        let mut outage = Outage::default();
        while !stop.is_cancelled() {
            match Turn::take(&self.parts.store, DUTY).await {
                Ok(Some(turn)) => {
                    outage.over(&self).await;
                    outage.take_charge();
                    self.hold(turn, &mut outage, &stop).await;
                }
                Ok(None) => {
                    outage.over(&self).await;
                    outage.leave_to_others();
                }
                Err(_) => outage.goes_on(&self).await,
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.interval.min(ASK_EVERY)) => {}
            }
        }
    }

    /// Checks and tells while it has the turn.
    async fn hold(&self, mut turn: Turn, outage: &mut Outage, stop: &CancellationToken) {
        let work = Box::pin(async { tokio::join!(self.check(outage, stop), self.deliver(stop)) });
        match turn.during(work).await {
            Held::Throughout(_) => turn.give_back().await,
            Held::Lost => warn!("the monitor lost its turn; another node may be checking by now"),
        }
    }

    async fn check(&self, outage: &mut Outage, stop: &CancellationToken) {
        let mut rounds = Rounds::default();
        let mut pace = Pace::new("monitor", self.interval);
        while pace.wait(stop).await {
            let outcome = self.round(&mut rounds).await;
            match &outcome {
                Ok(()) => outage.over(self).await,
                Err(StoreError::Unavailable(_)) => outage.goes_on(self).await,
                Err(StoreError::Broken(_)) => {}
            }
            pace.ticked(outcome.map(|()| Swept::All));
        }
    }

    /// One look at everything, and what it makes of the alerts.
    async fn round(&self, rounds: &mut Rounds) -> Result<(), StoreError> {
        let store = &self.parts.store;
        let sight = look::look(&self.parts, &self.rules).await?;
        let open = store.open_alerts().await?;
        if !open.is_empty() {
            let names: Vec<&str> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
            store.alerts_seen(&names, clock::now() - UNSEEN).await?;
        }
        let mut by_rule: HashMap<String, Vec<Alert>> = HashMap::new();
        for alert in open {
            by_rule.entry(alert.rule.clone()).or_default().push(alert);
        }
        let mut steps = Vec::new();
        for rule in &self.rules {
            let Some(findings) = rule.judge(&sight) else { continue };
            let open = by_rule.remove(&rule.name).unwrap_or_default();
            let course = course::lead(rule, open, findings, self.remind_every, sight.at);
            rounds.crowd(rule, course.beyond);
            steps.extend(course.steps);
        }
        if !steps.is_empty() {
            let told = store.apply_alerts(&steps, &self.channels.set_up()).await?;
            told.iter().for_each(|notice| self.channels.log(notice));
            if !told.is_empty() {
                self.news.send_replace(());
            }
        }
        rounds.purge(store).await
    }
}

impl Rounds {
    /// Says when more subjects begin to break a rule than are kept, and when that is over.
    fn crowd(&mut self, rule: &Rule, beyond: usize) {
        if beyond > 0 && self.crowded.insert(rule.name.clone()) {
            warn!(rule = rule.name, beyond, "the rule has {} alerts and more that are not kept", course::MOST_OPEN);
        } else if beyond == 0 && self.crowded.remove(&rule.name) {
            info!(rule = rule.name, "every alert of the rule is kept again");
        }
    }

    async fn purge(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.purged.is_none_or(|purged| purged.elapsed() >= PURGED_EVERY) {
            while store.purge_alerts(clock::now() - KEPT).await? > 0 {}
            self.purged = Some(clock::tick());
        }
        Ok(())
    }
}

/// What is wrong, in a sentence.
pub fn in_english(notice: &Notice) -> String {
    text::Frame::english().sentence(notice)
}

/// A notice of nothing, to see whether it arrives.
pub fn test_notice() -> Notice {
    let at = clock::now();
    Notice {
        alert_id: 0,
        news: News::Test,
        rule: "test".to_owned(),
        severity: Severity::Info,
        subject: Subject::All.view(),
        causes: Vec::new(),
        since: at,
        at,
    }
}
