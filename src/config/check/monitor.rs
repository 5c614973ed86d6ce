//! `monitor`: what operators are told of, and how.
//!
//! A rule is a section of its own:
//!
//! | key | what it is |
//! | --- | --- |
//! | `name` | required, unique |
//! | `severity` | `critical`, `warning` (default) or `info` |
//! | `for` | how long it must hold before it begins, and be gone before it ends; default `0s` |
//! | `target` | `lane` (default), `model`, `tenant` or `all` |
//! | `tenant`, `model` | which one; all of them where it does not say |
//! | `pendingAbove` | more tasks wait |
//! | `oldestAboveSeconds` | the oldest task has waited for longer |
//! | `failureRateAbove` | a greater part of the calls failed, 0 to 1 |
//! | `failureWindow`, `failureMinCalls` | within that time (default `10m`), of at least so many (default 20) |
//! | `nodeLost` | `true`: a node went without a word |
//! | `dependencyDown` | `database`, `redis`, `storage`, or a list of them |

use std::{collections::HashSet, fs, ops::RangeInclusive, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::message::{Mailbox, Mailboxes};
use serde_json::{Map, Value};
use url::Host;

use super::{HOUR, HTTP_URL, SECOND, duration, http_url, integer, missing, nearest, optional, refuse, required};
use crate::{
    alert::{
        Dependency, Severity,
        rules::{Condition, Rule, Target, Watch},
    },
    config::{
        ConfigError, Email, Language, MailTls, Monitor, Webhook,
        keys::within,
        raw::{RawEmail, RawMonitor, RawWebhook},
    },
    egress::Egress,
    model::MAX_NAME,
    task::TenantId,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Most rules: each is judged in every round.
const MOST_RULES: usize = 100;

/// Most characters of a rule's name, as wide as the column.
const MAX_RULE_NAME: usize = 64;

/// Most recipients of a mail.
const MOST_RECIPIENTS: usize = 50;

/// What certificates in PEM begin with.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The keys of a rule.
const KEYS: [&str; 13] = [
    "name",
    "severity",
    "for",
    "target",
    "tenant",
    "model",
    "pendingAbove",
    "oldestAboveSeconds",
    "failureRateAbove",
    "failureWindow",
    "failureMinCalls",
    "nodeLost",
    "dependencyDown",
];

/// The keys that are conditions: what a rule is about.
const CONDITIONS: &str = "pendingAbove, oldestAboveSeconds, failureRateAbove, nodeLost, dependencyDown";

/// The keys that only mean something for queues.
const OF_QUEUES: [&str; 8] = [
    "target",
    "tenant",
    "model",
    "pendingAbove",
    "oldestAboveSeconds",
    "failureRateAbove",
    "failureWindow",
    "failureMinCalls",
];

pub(super) fn check(raw: &RawMonitor, egress: &Egress) -> Result<Monitor, ConfigError> {
    Ok(Monitor {
        interval: duration("monitor.interval", &raw.interval, Duration::from_millis(100)..=HOUR)?,
        rules: rules(&raw.rules)?,
        remind_every: remind_every(&raw.remind_every)?,
        language: match raw.language.as_str() {
            "en" => Language::English,
            "zh" => Language::Chinese,
            other => return Err(refuse("monitor.language", other, "en, zh")),
        },
        email: email(&raw.email)?,
        webhook: webhook(&raw.webhook, egress)?,
    })
}

fn remind_every(text: &str) -> Result<Option<Duration>, ConfigError> {
    match text.eq_ignore_ascii_case("off") {
        true => Ok(None),
        false => duration("monitor.remindEvery", text, SECOND..=30 * DAY)
            .map(Some)
            .map_err(|error| ConfigError { message: format!("{}, or off", error.message), ..error }),
    }
}

// --- rules ---------------------------------------------------------------------------------------

fn rules(written: &[Map<String, Value>]) -> Result<Vec<Rule>, ConfigError> {
    if written.len() > MOST_RULES {
        let message = format!("has {} rules; at most {MOST_RULES} are accepted", written.len());
        return Err(ConfigError { key: "monitor.rules".into(), message });
    }
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for (place, keys) in written.iter().enumerate() {
        let written = Written { path: format!("monitor.rules[{place}]"), keys };
        let rule = written.rule()?;
        if !names.insert(rule.name.clone()) {
            return Err(refuse(&written.at("name"), rule.name, "a name that no other rule has"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// A rule as written.
struct Written<'a> {
    /// `monitor.rules[0]`.
    path: String,
    keys: &'a Map<String, Value>,
}

impl Written<'_> {
    fn rule(&self) -> Result<Rule, ConfigError> {
        for key in self.keys.keys() {
            if !KEYS.contains(&key.as_str()) {
                let near = nearest(key, KEYS).map(|near| format!("did you mean {}?", self.at(near)));
                let message = near.unwrap_or_else(|| format!("accepted: {}", KEYS.join(", ")));
                return Err(ConfigError { key: self.at(key), message: format!("unknown key; {message}") });
            }
        }
        let is_name = |name: &str| (1..=MAX_RULE_NAME).contains(&name.chars().count()) && is_one_line(name);
        let name = self.text("name", is_name, &format!("a name of 1 to {MAX_RULE_NAME} characters on one line"))?;
        let name = name.ok_or_else(|| missing(&self.at("name"), "a name that no other rule has"))?;
        let severity = self.word("severity", "critical, warning, info", Severity::parse)?;
        Ok(Rule {
            name: name.to_owned(),
            severity: severity.unwrap_or(Severity::Warning),
            hold: self.duration("for", Duration::ZERO..=DAY)?.unwrap_or_default(),
            watch: self.watch()?,
        })
    }

    fn watch(&self) -> Result<Watch, ConfigError> {
        let conditions = self.conditions()?;
        let nodes = match self.value("nodeLost") {
            None => false,
            Some(Value::Bool(true)) => true,
            Some(other) => return Err(refuse(&self.at("nodeLost"), other.clone(), "true")),
        };
        let dependencies = self.dependencies()?;
        let kinds = usize::from(!conditions.is_empty()) + usize::from(nodes) + usize::from(dependencies.is_some());
        if kinds == 0 {
            return Err(ConfigError {
                key: self.path.clone(),
                message: format!("has no condition; accepted: {CONDITIONS}"),
            });
        }
        if kinds == 1 && !conditions.is_empty() {
            return Ok(Watch::Queues(self.target()?, conditions));
        }
        let alone = if nodes { "nodeLost" } else { "dependencyDown" };
        let others = OF_QUEUES.into_iter().chain((nodes && dependencies.is_some()).then_some("dependencyDown"));
        for key in others {
            if self.value(key).is_some() && !(key == "target" && self.value(key) == Some(&"all".into())) {
                let message =
                    format!("does not go with {alone}, which is about no queue; make a rule of its own of it");
                return Err(ConfigError { key: self.at(key), message });
            }
        }
        Ok(dependencies.map_or(Watch::Nodes, Watch::Dependencies))
    }

    fn conditions(&self) -> Result<Vec<Condition>, ConfigError> {
        let mut found = Vec::new();
        found.extend(self.integer("pendingAbove", 0..=1_000_000_000)?.map(Condition::PendingAbove));
        let oldest = self.integer("oldestAboveSeconds", 0..=365 * 86_400)?;
        found.extend(oldest.map(|seconds| Condition::OldestAbove(Duration::from_secs(seconds.unsigned_abs()))));
        let window = self.duration("failureWindow", Duration::from_secs(60)..=DAY)?;
        let min_calls = self.integer("failureMinCalls", 1..=1_000_000_000)?;
        match self.rate("failureRateAbove")? {
            Some(rate) => found.push(Condition::FailureRateAbove {
                rate,
                window: window.unwrap_or(Duration::from_secs(600)),
                min_calls: min_calls.unwrap_or(20),
            }),
            None if window.is_some() || min_calls.is_some() => {
                let message =
                    "the part of the calls that may fail, 0 to 1, because failureWindow or failureMinCalls is set";
                return Err(missing(&self.at("failureRateAbove"), message));
            }
            None => {}
        }
        Ok(found)
    }

    fn target(&self) -> Result<Target, ConfigError> {
        let tenant = self.tenant()?;
        let is_model = |name: &str| (1..=MAX_NAME).contains(&name.chars().count()) && is_one_line(name);
        let model = self.text("model", is_model, "the name of a model")?.map(str::to_owned);
        let target = self.text("target", |_| true, "lane, model, tenant, all")?.unwrap_or("lane");
        let foreign = |key: &str| {
            let message = format!("does not go with target {target:?}; leave it out, or make the target lane");
            Err(ConfigError { key: self.at(key), message })
        };
        match target {
            "lane" => Ok(Target::Lane(tenant, model)),
            "model" if tenant.is_some() => foreign("tenant"),
            "model" => Ok(Target::Model(model)),
            "tenant" if model.is_some() => foreign("model"),
            "tenant" => Ok(Target::Tenant(tenant)),
            "all" if tenant.is_some() => foreign("tenant"),
            "all" if model.is_some() => foreign("model"),
            "all" => Ok(Target::All),
            other => Err(refuse(&self.at("target"), other, "lane, model, tenant, all")),
        }
    }

    fn tenant(&self) -> Result<Option<TenantId>, ConfigError> {
        let Some(value) = self.value("tenant") else { return Ok(None) };
        let tenant = crate::caller::tenant(Some(value));
        tenant.map(Some).ok_or_else(|| refuse(&self.at("tenant"), value.clone(), "the number of a tenant"))
    }

    fn dependencies(&self) -> Result<Option<Vec<Dependency>>, ConfigError> {
        let Some(value) = self.value("dependencyDown") else { return Ok(None) };
        let refused =
            || refuse(&self.at("dependencyDown"), value.clone(), "database, redis, storage, or a list of them");
        let words = match value {
            Value::Array(words) if !words.is_empty() => words.as_slice(),
            Value::Array(_) => return Err(refused()),
            one => std::slice::from_ref(one),
        };
        let mut found = Vec::new();
        for word in words {
            let dependency = word.as_str().and_then(Dependency::parse).ok_or_else(refused)?;
            if !found.contains(&dependency) {
                found.push(dependency);
            }
        }
        Ok(Some(found))
    }

    /// The path of one of its keys.
    fn at(&self, key: &str) -> String {
        within(&self.path, key)
    }

    /// A key without a value means the default, as everywhere.
    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str, fits: impl Fn(&str) -> bool, accepted: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = value.as_str().filter(|text| fits(text));
        text.map(Some).ok_or_else(|| refuse(&self.at(key), value.clone(), accepted))
    }

    fn word<T>(&self, key: &str, accepted: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let text = self.text(key, |text| parse(text).is_some(), accepted)?;
        Ok(text.and_then(parse))
    }

    fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_i64() {
            Some(number) => integer(&self.at(key), number, range).map(Some),
            None => Err(refuse(&self.at(key), value.clone(), &format!("{} to {}", range.start(), range.end()))),
        }
    }

    fn rate(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let rate = value.as_f64().filter(|rate| (0.0..1.0).contains(rate));
        let accepted = "a number from 0 to below 1; 0.2 is every fifth call";
        rate.map(Some).ok_or_else(|| refuse(&self.at(key), value.clone(), accepted))
    }

    fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_str() {
            Some(text) => duration(&self.at(key), text, range).map(Some),
            None => Err(refuse(&self.at(key), value.clone(), "a duration with a unit, such as 500ms, 5s or 15m")),
        }
    }
}

/// What fits a line of a log and the subject of a mail.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

// --- channels ------------------------------------------------------------------------------------

fn email(raw: &RawEmail) -> Result<Option<Email>, ConfigError> {
    let tls = match raw.tls.as_str() {
        "none" => MailTls::None,
        "starttls" => MailTls::StartTls,
        "tls" => MailTls::Tls,
        other => return Err(refuse("monitor.email.tls", other, "starttls, tls, none")),
    };
    let port: u16 = integer("monitor.email.port", raw.port, 0..=65_535)?;
    let authorities = optional("monitor.email.caFile", &raw.ca_file, authorities)?;
    if raw.host.is_empty() {
        let set = [("from", &raw.from), ("to", &raw.to), ("user", &raw.user), ("password", &raw.password)];
        return match set.into_iter().find(|(_, value)| !value.is_empty()) {
            Some((key, _)) => {
                Err(missing("monitor.email.host", &format!("an SMTP server, because monitor.email.{key} is set")))
            }
            None => Ok(None),
        };
    }
    let host = Host::parse(raw.host.trim_start_matches('[').trim_end_matches(']'))
        .map(|_| raw.host.clone())
        .or_else(|_| raw.host.parse::<std::net::Ipv6Addr>().map(|_| raw.host.clone()))
        .map_err(|_| refuse("monitor.email.host", raw.host.as_str(), "the name or address of an SMTP server"))?;
    let login = match (raw.user.is_empty(), raw.password.is_empty()) {
        (true, true) => None,
        (false, false) => Some((raw.user.clone(), raw.password.clone())),
        (false, true) => return Err(missing("monitor.email.password", "the password of monitor.email.user")),
        (true, false) => return Err(missing("monitor.email.user", "who logs in with monitor.email.password")),
    };
    let one = "an address, such as alerts@example.com or Alerts <alerts@example.com>";
    let from = required("monitor.email.from", &raw.from, one)?;
    let from = Mailbox::from_str(from).map_err(|_| refuse("monitor.email.from", from, one))?;
    let some = format!("1 to {MOST_RECIPIENTS} addresses, divided by commas");
    let to = required("monitor.email.to", &raw.to, &some)?;
    let to = Mailboxes::from_str(to).ok().map(Vec::<Mailbox>::from);
    let to = to.filter(|to| (1..=MOST_RECIPIENTS).contains(&to.len()));
    let to = to.ok_or_else(|| refuse("monitor.email.to", raw.to.as_str(), &some))?;
    let port = match (port, tls) {
        (0, MailTls::None) => 25,
        (0, MailTls::StartTls) => 587,
        (0, MailTls::Tls) => 465,
        (port, _) => port,
    };
    Ok(Some(Email { host, port, tls, authorities, login, from, to }))
}

fn authorities(key: &str, path: &str) -> Result<Vec<u8>, ConfigError> {
    let accepted = "a PEM file with certificates of authorities";
    let pem = fs::read(path).map_err(|error| ConfigError {
        key: key.to_owned(),
        message: format!("{path:?} cannot be read: {error}; accepted: {accepted}"),
    })?;
    // The reader takes a file without any for one that is fine.
    let is_pem = pem.windows(BEGIN.len()).any(|part| part == BEGIN);
    let has_certificates = is_pem && lettre::transport::smtp::client::Certificate::from_pem(&pem).is_ok();
    if has_certificates { Ok(pem) } else { Err(refuse(key, path, accepted)) }
}

fn webhook(raw: &RawWebhook, egress: &Egress) -> Result<Option<Webhook>, ConfigError> {
    let Some(url) = optional("monitor.webhook.url", &raw.url, http_url)? else {
        return match raw.secret.is_empty() {
            true => Ok(None),
            false => Err(missing("monitor.webhook.url", HTTP_URL)),
        };
    };
    egress.check_literal(&url).map_err(|denied| ConfigError {
        key: "monitor.webhook.url".into(),
        message: format!("cannot be used: {denied}"),
    })?;
    let accepted = "whsec_ and 24 to 64 random bytes in base64; `echo whsec_$(openssl rand -base64 32)` makes one";
    let secret = required("monitor.webhook.secret", &raw.secret, accepted)?;
    let secret = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let secret = secret.filter(|secret| (24..=64).contains(&secret.len()));
    let secret = secret.ok_or_else(|| refuse("monitor.webhook.secret", raw.secret.as_str(), accepted))?;
    Ok(Some(Webhook { url, secret }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::egress::Otherwise;

    fn with(change: impl FnOnce(&mut RawMonitor)) -> Result<Monitor, String> {
        let mut raw = RawMonitor::default();
        change(&mut raw);
        let egress = Egress::new(Vec::new(), Vec::new(), Otherwise::Public);
        check(&raw, &egress).map_err(|error| error.to_string())
    }

    fn rule(keys: Value) -> Result<Rule, String> {
        let Value::Object(keys) = keys else { panic!("not a rule: {keys}") };
        with(|raw| raw.rules = vec![keys]).map(|monitor| monitor.rules[0].clone())
    }

    #[test]
    fn a_rule_says_what_it_is_about() {
        let shown = |keys: Value| rule(keys).unwrap().to_string();
        assert_eq!(
            shown(json!({ "name": "slow", "pendingAbove": 100 })),
            "\"slow\" (warning): each lane: more than 100 tasks wait"
        );
        let one = json!({
            "name": "tts", "target": "lane", "tenant": "7", "model": "tts", "oldestAboveSeconds": 300,
            "failureRateAbove": 0.25, "for": "2m", "severity": "critical"
        });
        assert_eq!(
            shown(one),
            "\"tts\" (critical): tenant 7's lane of model tts: the oldest has waited for more than 5m and more than \
             0.25 of at least 20 calls in 10m failed, for 2m"
        );
        assert_eq!(shown(json!({ "name": "n", "nodeLost": true, "target": "all" })), "\"n\" (warning): a node is lost");
        let down = json!({ "name": "d", "dependencyDown": ["redis", "storage", "redis"] });
        assert_eq!(shown(down), "\"d\" (warning): redis or storage does not answer");
        let all = json!({ "name": "a", "target": "all", "pendingAbove": 0, "model": null });
        assert_eq!(shown(all), "\"a\" (warning): all lanes together: more than 0 tasks wait");
    }

    #[test]
    fn every_mistake_in_a_rule_names_its_key() {
        for (keys, message) in [
            (json!({}), "monitor.rules[0].name: is required"),
            (json!({ "name": "" }), "monitor.rules[0].name: \"\" cannot be used"),
            (json!({ "name": "a\nb" }), "monitor.rules[0].name: "),
            (json!({ "name": 7 }), "monitor.rules[0].name: 7 cannot be used"),
            (json!({ "name": "r" }), "monitor.rules[0]: has no condition; accepted: pendingAbove"),
            (json!({ "name": "r", "nodeLost": false }), "monitor.rules[0].nodeLost: false cannot be used"),
            (
                json!({ "name": "r", "pendingAbov": 1 }),
                "monitor.rules[0].pendingAbov: unknown key; did you mean monitor.rules[0].pendingAbove?",
            ),
            (json!({ "name": "r", "zzz": 1 }), "monitor.rules[0].zzz: unknown key; accepted: name, severity"),
            (json!({ "name": "r", "pendingAbove": -1 }), "monitor.rules[0].pendingAbove: -1 cannot be used"),
            (json!({ "name": "r", "pendingAbove": "many" }), "monitor.rules[0].pendingAbove: \"many\""),
            (json!({ "name": "r", "oldestAboveSeconds": 1.5 }), "monitor.rules[0].oldestAboveSeconds: 1.5"),
            (json!({ "name": "r", "failureRateAbove": 1 }), "monitor.rules[0].failureRateAbove: 1 cannot"),
            (json!({ "name": "r", "failureRateAbove": "20%" }), "monitor.rules[0].failureRateAbove: \"20%\""),
            (
                json!({ "name": "r", "pendingAbove": 1, "failureWindow": "5m" }),
                "monitor.rules[0].failureRateAbove: is required",
            ),
            (
                json!({ "name": "r", "failureRateAbove": 0.1, "failureWindow": "5" }),
                "monitor.rules[0].failureWindow: \"5\"",
            ),
            (
                json!({ "name": "r", "failureRateAbove": 0.1, "failureMinCalls": 0 }),
                "monitor.rules[0].failureMinCalls: 0 ",
            ),
            (json!({ "name": "r", "pendingAbove": 1, "for": 60 }), "monitor.rules[0].for: 60 cannot be used"),
            (json!({ "name": "r", "pendingAbove": 1, "for": "2days" }), "monitor.rules[0].for: \"2days\""),
            (json!({ "name": "r", "pendingAbove": 1, "severity": "bad" }), "monitor.rules[0].severity: \"bad\""),
            (json!({ "name": "r", "pendingAbove": 1, "target": "queue" }), "monitor.rules[0].target: \"queue\""),
            (json!({ "name": "r", "pendingAbove": 1, "tenant": "x" }), "monitor.rules[0].tenant: \"x\""),
            (
                json!({ "name": "r", "pendingAbove": 1, "target": "all", "model": "tts" }),
                "monitor.rules[0].model: does not go with target \"all\"",
            ),
            (
                json!({ "name": "r", "pendingAbove": 1, "target": "model", "tenant": 7 }),
                "monitor.rules[0].tenant: does not go with target \"model\"",
            ),
            (
                json!({ "name": "r", "nodeLost": true, "pendingAbove": 1 }),
                "monitor.rules[0].pendingAbove: does not go with nodeLost",
            ),
            (
                json!({ "name": "r", "nodeLost": true, "dependencyDown": "redis" }),
                "monitor.rules[0].dependencyDown: does not go with nodeLost",
            ),
            (
                json!({ "name": "r", "dependencyDown": "redis", "model": "tts" }),
                "monitor.rules[0].model: does not go with dependencyDown",
            ),
            (json!({ "name": "r", "dependencyDown": "mail" }), "monitor.rules[0].dependencyDown: \"mail\""),
            (json!({ "name": "r", "dependencyDown": [] }), "monitor.rules[0].dependencyDown: []"),
        ] {
            let error = rule(keys.clone()).unwrap_err();
            assert!(error.starts_with(message), "{keys}: {error}");
        }
        let named = |name: &str| json!({ "name": name, "nodeLost": true }).as_object().unwrap().clone();
        let error = with(|raw| raw.rules = vec![named("a"), named("b"), named("a")]).unwrap_err();
        assert!(error.starts_with("monitor.rules[2].name: \"a\" cannot be used"), "{error}");
        let error = with(|raw| raw.rules = (0..101).map(|n| named(&n.to_string())).collect()).unwrap_err();
        assert!(error.starts_with("monitor.rules: has 101 rules"), "{error}");
    }

    #[test]
    fn reminders_can_be_off() {
        let every = |text: &str| with(|raw| raw.remind_every = text.into()).map(|monitor| monitor.remind_every);
        assert_eq!(every("off"), Ok(None));
        assert_eq!(every("30m"), Ok(Some(Duration::from_secs(1800))));
        for wrong in ["", "0s", "never"] {
            let error = every(wrong).unwrap_err();
            assert!(error.starts_with("monitor.remindEvery: ") && error.ends_with(", or off"), "{error}");
        }
    }

    fn mail(change: impl FnOnce(&mut RawEmail)) -> Result<Option<Email>, String> {
        with(|raw| {
            raw.email.host = "mail.example".into();
            raw.email.from = "Alerts <alerts@example.com>".into();
            raw.email.to = "ann@example.com, \"Bo, B\" <bo@example.com>".into();
            change(&mut raw.email);
        })
        .map(|monitor| monitor.email)
    }

    #[test]
    fn mail_needs_a_server_a_sender_and_recipients() {
        let sent = mail(|_| {}).unwrap().unwrap();
        assert_eq!((sent.port, sent.tls, sent.to.len()), (587, MailTls::StartTls, 2));
        assert_eq!(mail(|raw| raw.tls = "tls".into()).unwrap().unwrap().port, 465);
        assert_eq!(mail(|raw| raw.tls = "none".into()).unwrap().unwrap().port, 25);
        assert_eq!(mail(|raw| raw.port = 2525).unwrap().unwrap().port, 2525);
        type Change = fn(&mut RawEmail);
        let wrong: [(&str, Change); 9] = [
            ("monitor.email.host: is required", |raw| raw.host.clear()),
            ("monitor.email.host: \"a b\"", |raw| raw.host = "a b".into()),
            ("monitor.email.from: is required", |raw| raw.from.clear()),
            ("monitor.email.from: \"alerts\"", |raw| raw.from = "alerts".into()),
            ("monitor.email.to: is required", |raw| raw.to.clear()),
            ("monitor.email.to: \"a@b.c; d\"", |raw| raw.to = "a@b.c; d".into()),
            ("monitor.email.tls: \"ssl\"", |raw| raw.tls = "ssl".into()),
            ("monitor.email.password: is required", |raw| raw.user = "ann".into()),
            ("monitor.email.caFile: \"/nowhere\" cannot be read", |raw| raw.ca_file = "/nowhere".into()),
        ];
        for (message, change) in wrong {
            let error = mail(change).map(|_| ()).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let error = mail(|raw| raw.password = "geheim".into()).map(|_| ()).unwrap_err();
        assert!(error.starts_with("monitor.email.user: is required") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn a_webhook_is_signed_and_goes_where_it_may() {
        let webhook = |url: &str, secret: &str| {
            with(|raw| raw.webhook = RawWebhook { url: url.into(), secret: secret.into() }).map(|it| it.webhook)
        };
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(webhook("https://hook.example/x", secret).unwrap().unwrap().secret.len(), 24);
        assert!(webhook("", "").unwrap().is_none());
        for (url, secret, message) in [
            ("hook.example", secret, "monitor.webhook.url: \"****\" cannot be used"),
            ("", secret, "monitor.webhook.url: is required"),
            ("http://127.0.0.1/x", secret, "monitor.webhook.url: cannot be used: 127.0.0.1 is in a private network"),
            ("http://169.254.169.254/", secret, "monitor.webhook.url: cannot be used"),
            ("https://hook.example", "", "monitor.webhook.secret: is required"),
            ("https://hook.example", "geheim", "monitor.webhook.secret: **** cannot be used"),
            ("https://hook.example", "whsec_BwcH", "monitor.webhook.secret: **** cannot be used"),
        ] {
            let error = webhook(url, secret).map(|_| ()).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
