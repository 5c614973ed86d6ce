//! What operators are told of: the rules, what a round of checks saw, and the course of an alert from
//! the first sign to the end. Values in, values out: `monitor` looks, keeps and tells.
//!
//! ```text
//! quiet ── holds ──▶ pending ── held for `for` ──▶ firing ── gone for `for` ──▶ ended
//!                       └── gone ──▶ quiet            └── reminders
//! ```
//!
//! An alert is one rule about one subject. There is at most one open alert for each such pair, so a
//! condition that lasts is told once when it begins and once when it ends.

pub mod course;
pub mod rules;
pub mod sight;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::task::TenantId;

/// Number of an alert in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertId(pub i64);

/// How bad it is. The order is that in which alerts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Wakes somebody up.
    Critical,
    /// Somebody looks at it today.
    Warning,
    /// Good to know.
    Info,
}

/// What an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One tenant's queue for one model.
    Lane(TenantId, String),
    /// The queues of all tenants for models of one name.
    Model(String),
    /// All queues of one tenant.
    Tenant(TenantId),
    /// All queues.
    All,
    /// Nodes of one name.
    Node(String),
    /// Something that the service needs.
    Dependency(Dependency),
}

/// What the service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The durable memory.
    Database,
    /// Permits and wake-ups.
    Redis,
    /// Where results end up.
    Storage,
}

/// One condition of a rule, and the value that broke it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "condition", rename_all = "camelCase")]
#[schema(as = AlertCause)]
pub enum Cause {
    /// Tasks that wait.
    Pending {
        /// How many there are.
        tasks: i64,
        /// More than this were too many.
        above: i64,
    },
    /// The oldest task that waits for capacity.
    Oldest {
        /// How long it has waited.
        seconds: i64,
        /// Longer than this was too long.
        #[serde(rename = "aboveSeconds")]
        above_seconds: i64,
    },
    /// Calls that failed.
    FailureRate {
        /// Failed calls of all calls, 0 to 1.
        rate: f64,
        /// More than this was too much.
        above: f64,
        /// All calls in the window.
        calls: i64,
        /// How far back was looked.
        #[serde(rename = "windowSeconds")]
        window_seconds: i64,
    },
    /// Nodes that went without a word.
    NodeLost {
        /// How many of that name.
        nodes: i64,
        /// When the last one was declared dead.
        #[serde(with = "millis")]
        at: DateTime<Utc>,
    },
    /// Something that the service needs does not answer.
    DependencyDown,
}

/// An open alert as it is kept: pending until it has begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its number.
    pub id: AlertId,
    /// How often it was changed: the fence of the next change.
    pub version: i32,
    /// Name of the rule.
    pub rule: String,
    /// What it is about.
    pub subject: Subject,
    /// How bad it is.
    pub severity: Severity,
    /// Since when the rule's conditions hold.
    pub since: DateTime<Utc>,
    /// When it began; `None` while the conditions have not held for long enough.
    pub began_at: Option<DateTime<Utc>>,
    /// Since when they no longer hold, where that is not long enough yet.
    pub clear_since: Option<DateTime<Utc>>,
    /// When it was told of last.
    pub told_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What broke the rule when it was told of last.
    pub causes: Vec<Cause>,
}

/// What is told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// It began.
    Began,
    /// It lasts.
    Reminded,
    /// It is over.
    Ended,
    /// There is none: somebody wants to see whether the channels work.
    Test,
}

/// How it is told, besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// By mail.
    Email,
    /// To a program.
    Webhook,
}

/// One thing to tell, complete: rules may change before it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Number of the alert.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub alert_id: i64,
    /// What happened.
    pub news: News,
    /// Name of the rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    #[serde(flatten)]
    pub subject: SubjectView,
    /// What broke the rule.
    pub causes: Vec<Cause>,
    /// Since when its conditions hold.
    #[serde(with = "millis")]
    pub since: DateTime<Utc>,
    /// When it happened.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
}

/// A subject as machines read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectView {
    /// `lane`, `model`, `tenant`, `all`, `node` or `dependency`.
    pub target: String,
    /// Tenant of a lane, or the tenant.
    pub tenant_id: Option<String>,
    /// Model of a lane, or the model.
    pub model_name: Option<String>,
    /// Name of the node or dependency.
    pub name: Option<String>,
}

impl Severity {
    /// All of them, worst first.
    pub const ALL: [Severity; 3] = [Severity::Critical, Severity::Warning, Severity::Info];

    /// The word in configuration, database and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.word() == word)
    }
}

impl Dependency {
    /// All of them.
    pub const ALL: [Dependency; 3] = [Dependency::Database, Dependency::Redis, Dependency::Storage];

    /// The word in configuration, database and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Dependency::Database => "database",
            Dependency::Redis => "redis",
            Dependency::Storage => "storage",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Dependency> {
        Dependency::ALL.into_iter().find(|dependency| dependency.word() == word)
    }
}

impl News {
    /// The word in the database and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            News::Began => "began",
            News::Reminded => "reminded",
            News::Ended => "ended",
            News::Test => "test",
        }
    }
}

impl Channel {
    /// The word in configuration and database.
    pub const fn word(self) -> &'static str {
        match self {
            Channel::Email => "email",
            Channel::Webhook => "webhook",
        }
    }
}

impl Subject {
    /// What kind of thing it is: the word of a rule's target, `node` or `dependency`.
    pub const fn target(&self) -> &'static str {
        match self {
            Subject::Lane(..) => "lane",
            Subject::Model(_) => "model",
            Subject::Tenant(_) => "tenant",
            Subject::All => "all",
            Subject::Node(_) => "node",
            Subject::Dependency(_) => "dependency",
        }
    }

    /// The tenant whose business it is too; `None` = the operators' alone.
    pub const fn tenant(&self) -> Option<TenantId> {
        match self {
            Subject::Lane(tenant, _) | Subject::Tenant(tenant) => Some(*tenant),
            Subject::Model(_) | Subject::All | Subject::Node(_) | Subject::Dependency(_) => None,
        }
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Subject> {
        if text == "all" {
            return Some(Subject::All);
        }
        let (target, rest) = text.split_once('/')?;
        let tenant = |digits: &str| digits.parse().ok().map(TenantId);
        match target {
            "lane" => {
                let (digits, model_name) = rest.split_once('/')?;
                Some(Subject::Lane(tenant(digits)?, model_name.to_owned()))
            }
            "model" => Some(Subject::Model(rest.to_owned())),
            "tenant" => tenant(rest).map(Subject::Tenant),
            "node" => Some(Subject::Node(rest.to_owned())),
            "dependency" => Dependency::parse(rest).map(Subject::Dependency),
            _ => None,
        }
    }

    /// As machines read it.
    pub fn view(&self) -> SubjectView {
        let model_name = match self {
            Subject::Lane(_, model_name) | Subject::Model(model_name) => Some(model_name.clone()),
            Subject::Tenant(_) | Subject::All | Subject::Node(_) | Subject::Dependency(_) => None,
        };
        let name = match self {
            Subject::Node(name) => Some(name.clone()),
            Subject::Dependency(dependency) => Some(dependency.word().to_owned()),
            Subject::Lane(..) | Subject::Model(_) | Subject::Tenant(_) | Subject::All => None,
        };
        let tenant_id = self.tenant().map(|tenant| tenant.to_string());
        SubjectView { target: self.target().to_owned(), tenant_id, model_name, name }
    }
}

/// The one spelling of it in the database: `lane/7/tts`, `node/gpu-1`, `all`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target();
        match self {
            Subject::Lane(tenant, model_name) => write!(f, "{target}/{tenant}/{model_name}"),
            Subject::Model(name) | Subject::Node(name) => write!(f, "{target}/{name}"),
            Subject::Tenant(tenant) => write!(f, "{target}/{tenant}"),
            Subject::All => f.write_str(target),
            Subject::Dependency(dependency) => write!(f, "{target}/{}", dependency.word()),
        }
    }
}

impl Alert {
    /// What is to be told of it.
    pub fn notice(&self, news: News, at: DateTime<Utc>) -> Notice {
        Notice {
            alert_id: self.id.0,
            news,
            rule: self.rule.clone(),
            severity: self.severity,
            subject: self.subject.view(),
            causes: self.causes.clone(),
            since: self.since,
            at,
        }
    }
}

/// 64-bit ids are texts in JSON.
fn as_text<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Times are RFC 3339 with milliseconds in JSON.
mod millis {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        DateTime::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_reads_back_from_its_one_spelling() {
        for (subject, text) in [
            (Subject::Lane(TenantId(-7), "a/b tts".into()), "lane/-7/a/b tts"),
            (Subject::Model("tts".into()), "model/tts"),
            (Subject::Tenant(TenantId(7)), "tenant/7"),
            (Subject::All, "all"),
            (Subject::Node("gpu-1/x".into()), "node/gpu-1/x"),
            (Subject::Dependency(Dependency::Redis), "dependency/redis"),
        ] {
            assert_eq!(subject.to_string(), text);
            assert_eq!(Subject::parse(text), Some(subject));
        }
        for text in ["", "lane", "lane/7", "lane/x/tts", "tenant/", "dependency/mail", "some/thing"] {
            assert_eq!(Subject::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_notice_reads_back_from_its_json() {
        let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let alert = Alert {
            id: AlertId(1 << 60),
            version: 0,
            rule: "slow".into(),
            subject: Subject::Lane(TenantId(7), "tts".into()),
            severity: Severity::Warning,
            since: at,
            began_at: Some(at),
            clear_since: None,
            told_at: None,
            ended_at: None,
            causes: vec![
                Cause::Oldest { seconds: 301, above_seconds: 300 },
                Cause::NodeLost { nodes: 1, at },
                Cause::DependencyDown,
            ],
        };
        let notice = alert.notice(News::Began, at);
        let json = serde_json::to_value(&notice).unwrap();
        assert_eq!((&json["alertId"], &json["tenantId"]), (&"1152921504606846976".into(), &"7".into()));
        assert_eq!((&json["target"], &json["news"]), (&"lane".into(), &"began".into()));
        assert_eq!(json["causes"][0], serde_json::json!({"condition": "oldest", "seconds": 301, "aboveSeconds": 300}));
        assert_eq!(serde_json::from_value::<Notice>(json).unwrap(), notice);
    }
}
