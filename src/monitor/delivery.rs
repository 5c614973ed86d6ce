//! Telling: what is to be said through a channel, how much of it at once, and when it is tried again.
//!
//! Never a flood: in a row at most [`MOST_SINGLE`] messages, and [`PER_HOUR`] an hour; whatever there is
//! besides goes into one summary. That holds for many alerts at once as for those that gathered while
//! a mail server was away.

use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Monitor,
    mail::Mailer,
    text::{Frame, Letter},
    webhook::Hook,
};
use crate::{
    alert::{Channel, News, Notice, Severity},
    clock,
    config::Config,
    store::{StoreError, alerts::Claimed},
};

/// Most messages in a row, the summary included.
const MOST_SINGLE: u32 = 10;

/// Messages per hour after that.
const PER_HOUR: u32 = 60;

/// Most alerts that a summary for programs lists.
const MOST_IN_SUMMARY: usize = 100;

/// Most that is told at once.
const BATCH: i64 = 500;

/// How long nobody else tries what this process has taken: longer than [`MOST_SINGLE`] messages take
/// through a channel that fails.
const HOLD: Duration = Duration::from_secs(120);

/// After so many failures in a row the channel is left alone for a while.
const MOST_FAILURES: u32 = 2;

/// What could not be told for so long is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(86_400);

/// How often is looked for what is due to be tried again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Most characters of an error that are kept.
const MAX_ERROR: usize = 300;

/// The ways to tell operators.
pub struct Channels {
    mail: Option<Mailer>,
    hook: Option<Hook>,
    frame: Frame,
}

/// How many messages a channel may send now.
struct Allowance {
    messages: f64,
    at: Instant,
}

/// A channel as its deliveries know it.
struct Line {
    channel: Channel,
    allowance: Allowance,
    failing: bool,
}

impl Channels {
    /// The channels of a configuration.
    ///
    /// # Errors
    /// Where one cannot be set up, with the key that it is about.
    pub fn open(config: &Config) -> Result<Channels, String> {
        let monitor = &config.monitor;
        let mail = monitor.email.as_ref().map(Mailer::new).transpose();
        let hook = monitor.webhook.as_ref().map(|webhook| Hook::new(webhook, &config.egress)).transpose();
        let frame = Frame {
            language: monitor.language,
            zone: config.stat_zone,
            service: config.server.public_url.clone(),
            remind_every: monitor.remind_every,
        };
        Ok(Channels {
            mail: mail.map_err(|error| format!("monitor.email: {error}"))?,
            hook: hook.map_err(|error| format!("monitor.webhook: {error}"))?,
            frame,
        })
    }

    /// Those that are set up, besides the log.
    pub fn set_up(&self) -> Vec<Channel> {
        let mail = self.mail.is_some().then_some(Channel::Email);
        let hook = self.hook.is_some().then_some(Channel::Webhook);
        mail.into_iter().chain(hook).collect()
    }

    /// Where a channel leads, for people; `None` where it is not set up.
    pub fn described(&self, channel: Channel) -> Option<String> {
        match channel {
            Channel::Email => self.mail.as_ref().map(Mailer::described),
            Channel::Webhook => self.hook.as_ref().map(Hook::described),
        }
    }

    /// Sends one message about these, and returns what the other side said.
    ///
    /// # Errors
    /// Why it was not sent, without secrets.
    pub async fn send(&self, channel: Channel, notices: &[&Notice]) -> Result<String, String> {
        let Some(first) = notices.first() else { return Ok("there is nothing to say".to_owned()) };
        let id = id(first, notices.len());
        let none = || Err(format!("monitor.{} is not set", channel.word()));
        match channel {
            Channel::Email => match &self.mail {
                Some(mail) => mail.send(&self.letter(notices), &id).await,
                None => none(),
            },
            Channel::Webhook => match &self.hook {
                Some(hook) => hook.send(self.json(notices), &id).await,
                None => none(),
            },
        }
    }

    /// Logs one, always in English.
    pub fn log(&self, notice: &Notice) {
        let english = Frame { zone: self.frame.zone, ..Frame::english() };
        let (news, severity, rule) = (notice.news.word(), notice.severity.word(), &notice.rule);
        let (tenant_id, model_name) = (&notice.subject.tenant_id, &notice.subject.model_name);
        let sentence = english.sentence(notice);
        macro_rules! say {
            ($level:ident) => {
                $level!(
                    alert = news,
                    severity,
                    rule,
                    alert_id = notice.alert_id,
                    target = notice.subject.target,
                    tenant_id,
                    model_name,
                    "alert {news}: {sentence}"
                )
            };
        }
        match (notice.news, notice.severity) {
            (News::Ended | News::Test, _) | (_, Severity::Info) => say!(info),
            (News::Began | News::Reminded, Severity::Warning) => say!(warn),
            (News::Began | News::Reminded, Severity::Critical) => say!(error),
        }
    }

    fn letter(&self, notices: &[&Notice]) -> Letter {
        match notices {
            [one] => self.frame.one(one),
            many => self.frame.many(many),
        }
    }

    /// As programs read it: `type`, `timestamp`, `data`.
    fn json(&self, notices: &[&Notice]) -> String {
        let data = |notice: &Notice| {
            let mut data = json!(notice);
            data["message"] = self.frame.sentence(notice).into();
            data
        };
        let timestamp = clock::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let (kind, data) = match notices {
            [one] => (one.news.word(), data(one)),
            many => {
                let alerts: Vec<_> = many.iter().take(MOST_IN_SUMMARY).map(|notice| data(notice)).collect();
                let more = many.len() - alerts.len();
                ("summary", json!({ "alerts": alerts, "more": more }))
            }
        };
        json!({ "type": format!("alert.{kind}"), "timestamp": timestamp, "data": data }).to_string()
    }
}

impl Monitor {
    /// Tells what is to be told until `stop`.
    pub(super) async fn deliver(&self, stop: &CancellationToken) {
        let lines = self.channels.set_up().into_iter().map(|channel| self.tell(channel, stop));
        futures::future::join_all(lines).await;
        // Without a channel it must not end before its sibling does.
        stop.cancelled().await;
    }

    async fn tell(&self, channel: Channel, stop: &CancellationToken) {
        let mut news = self.news.subscribe();
        let mut line = Line { channel, allowance: Allowance::full(clock::tick()), failing: false };
        loop {
            if let Err(error) = self.tell_what_is_due(&mut line).await {
                warn!(channel = channel.word(), %error, "could not see what is to be told, trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = news.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn tell_what_is_due(&self, line: &mut Line) -> Result<(), StoreError> {
        let store = &self.parts.store;
        let due = store.claim_news(line.channel, HOLD, BATCH).await?;
        let now = clock::now();
        let is_too_old = |claimed: &Claimed| (now - claimed.created_at).to_std().is_ok_and(|age| age > GIVEN_UP_AFTER);
        let (given_up, mut due): (Vec<Claimed>, Vec<Claimed>) = due.into_iter().partition(is_too_old);
        if !given_up.is_empty() {
            let count = given_up.len();
            error!(channel = line.channel.word(), count, "could not tell of alerts for a day, they are given up");
            store.news_sent(&ids(&given_up)).await?;
        }
        if due.is_empty() {
            return Ok(());
        }
        // The worst go first and on their own.
        due.sort_by_key(|claimed| claimed.notice.severity);
        let singles = line.allowance.singles(due.len(), clock::tick());
        let Some(singles) = singles else {
            let wait = TimeDelta::seconds(i64::from(3600 / PER_HOUR));
            let later: Vec<_> = due.iter().map(|claimed| (claimed.id, now + wait)).collect();
            return store.news_failed(&later, "held back, because there were so many").await;
        };
        let (single, together) = due.split_at(singles);
        let messages = single.iter().map(std::slice::from_ref).chain((!together.is_empty()).then_some(together));
        let mut failures = 0;
        let mut failed: Vec<&Claimed> = Vec::new();
        let mut last_error = String::new();
        for message in messages {
            if failures >= MOST_FAILURES {
                failed.extend(message);
                continue;
            }
            line.allowance.take();
            let notices: Vec<&Notice> = message.iter().map(|claimed| &claimed.notice).collect();
            match self.channels.send(line.channel, &notices).await {
                Ok(_) => {
                    failures = 0;
                    store.news_sent(&ids(message)).await?;
                }
                Err(error) => {
                    failures += 1;
                    failed.extend(message);
                    last_error = error.chars().take(MAX_ERROR).collect();
                }
            }
        }
        line.note(&last_error);
        if failed.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let retries: Vec<_> = failed.iter().map(|claimed| (claimed.id, now + backoff(claimed.tries))).collect();
        store.news_failed(&retries, &last_error).await
    }
}

impl Line {
    /// Logs an outage when it begins and when it is over.
    fn note(&mut self, error: &str) {
        let fails = !error.is_empty();
        if fails && !self.failing {
            warn!(channel = self.channel.word(), error, "could not tell of an alert, trying again for a day");
        } else if !fails && self.failing {
            info!(channel = self.channel.word(), "alerts are told again");
        }
        self.failing = fails;
    }
}

impl Allowance {
    fn full(now: Instant) -> Allowance {
        Allowance { messages: f64::from(MOST_SINGLE), at: now }
    }

    /// Of so many notices, how many go on their own while the rest goes into a summary; `None` where
    /// nothing may be sent now.
    fn singles(&mut self, notices: usize, now: Instant) -> Option<usize> {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(PER_HOUR) / 3600.0;
        self.messages = (self.messages + earned).min(f64::from(MOST_SINGLE));
        self.at = now;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to MOST_SINGLE")]
        let messages = self.messages as usize;
        match messages {
            0 => None,
            messages if notices <= messages => Some(notices),
            messages => Some(messages - 1),
        }
    }

    fn take(&mut self) {
        self.messages = (self.messages - 1.0).max(0.0);
    }
}

fn ids(claimed: &[Claimed]) -> Vec<i64> {
    claimed.iter().map(|claimed| claimed.id).collect()
}

/// What tells a message from every other, the same for each try.
fn id(first: &Notice, notices: usize) -> String {
    format!("alert_{}_{}_{}_{notices}", first.alert_id, first.news.word(), first.at.timestamp_micros())
}

/// 5 s, 10 s, 20 s … 10 min.
fn backoff(tries: i32) -> Duration {
    let doublings = tries.clamp(1, 8).unsigned_abs() - 1;
    Duration::from_secs(5 << doublings).min(Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_told_one_by_one_and_many_in_a_summary() {
        let start = clock::tick();
        let mut allowance = Allowance::full(start);
        assert_eq!(allowance.singles(3, start), Some(3));
        assert_eq!(allowance.singles(10, start), Some(10));
        assert_eq!(allowance.singles(47, start), Some(9), "and one about the other 38");
        (0..9).for_each(|_| allowance.take());
        assert_eq!(allowance.singles(5, start), Some(0), "one is left: for a summary");
        assert_eq!(allowance.singles(1, start), Some(1));
        allowance.take();
        assert_eq!(allowance.singles(1, start), None);
        assert_eq!(allowance.singles(1, start + Duration::from_secs(61)), Some(1), "one a minute");
        assert_eq!(allowance.singles(100, start + Duration::from_secs(86_400)), Some(9), "they do not pile up");
    }

    #[test]
    fn what_cannot_be_told_is_tried_less_and_less_often() {
        let waits: Vec<u64> = [1, 2, 3, 8, 100].map(|tries| backoff(tries).as_secs()).to_vec();
        assert_eq!(waits, [5, 10, 20, 600, 600]);
        assert_eq!(backoff(0), Duration::from_secs(5));
    }
}
