//! What an alert reads like, in English and Chinese: the subject of a mail, its text, its HTML.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use url::Url;

use crate::{
    alert::{Cause, News, Notice, Severity, SubjectView},
    config::Language,
};

/// Most alerts that a summary lists by name.
const MOST_LISTED: usize = 20;

/// How letters are written.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Their language.
    pub(super) language: Language,
    /// Where their times are.
    pub(super) zone: Tz,
    /// How the service is reached.
    pub(super) service: Option<Url>,
    /// How often an alert that lasts is told again.
    pub(super) remind_every: Option<Duration>,
}

/// A letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    /// One line.
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// What stands in a letter, whatever it looks like.
struct Sheet {
    subject: String,
    headline: String,
    /// What is wrong, one sentence a line.
    points: Vec<String>,
    /// Label and value.
    facts: Vec<(&'static str, String)>,
    closing: String,
}

impl Frame {
    /// English, in UTC.
    pub(super) fn english() -> Frame {
        Frame { language: Language::English, zone: Tz::UTC, service: None, remind_every: None }
    }

    /// A letter about one thing.
    pub(super) fn one(&self, notice: &Notice) -> Letter {
        let points = notice.causes.iter().map(|cause| self.cause(cause)).collect();
        let facts = vec![
            (self.say("Rule", "规则"), notice.rule.clone()),
            (self.say("Severity", "级别"), self.severity(notice.severity).to_owned()),
            (self.say("Since", "起始时间"), self.time(notice.since)),
            (self.say("Now", "状态"), self.state(notice)),
        ];
        self.letter(&Sheet {
            subject: format!("[{}] {}", self.tag(notice), self.sentence(notice)),
            headline: match notice.news {
                News::Test => self.sentence(notice),
                News::Began | News::Reminded | News::Ended => self.subject_at_length(&notice.subject),
            },
            points,
            facts,
            closing: self.closing(notice.news),
        })
    }

    /// A letter about many, in the order in which they are given.
    pub(super) fn many(&self, notices: &[&Notice]) -> Letter {
        let worst = notices.iter().map(|notice| notice.severity).min().unwrap_or(Severity::Info);
        let things = self.things(notices);
        let mut points: Vec<String> = notices
            .iter()
            .take(MOST_LISTED)
            .map(|notice| format!("[{}] {}", self.tag(notice), self.sentence(notice)))
            .collect();
        if let Some(rest) = notices.get(MOST_LISTED..).filter(|rest| !rest.is_empty()) {
            let rest = self.things(rest);
            points.push(match self.language {
                Language::English => format!("and {rest}"),
                Language::Chinese => format!("以及{rest}"),
            });
        }
        let headline = match self.language {
            Language::English => format!("alerts about {things}"),
            Language::Chinese => format!("{things}的告警"),
        };
        self.letter(&Sheet {
            subject: format!("[{}] {headline}", self.severity(worst)),
            headline,
            points,
            facts: Vec::new(),
            closing: self
                .say("They are told together, because there are so many.", "告警较多，合并为一封发送。")
                .to_owned(),
        })
    }

    /// `tts of tenant 7: 1,204 tasks are waiting (more than 1,000)`
    pub(super) fn sentence(&self, notice: &Notice) -> String {
        let about = self.subject_in_short(&notice.subject);
        if notice.news == News::Test {
            return self.say("this is a test, nothing is wrong", "这是一条测试消息，一切正常").to_owned();
        }
        let causes: Vec<String> = notice.causes.iter().map(|cause| self.cause(cause)).collect();
        match self.language {
            Language::English => format!("{about}: {}", causes.join("; ")),
            Language::Chinese => format!("{about}：{}", causes.join("；")),
        }
    }

    /// `37 more lanes`, or `35 more lanes, 2 more nodes`
    fn things(&self, notices: &[&Notice]) -> String {
        const TARGETS: [(&str, &str, &str, &str); 6] = [
            ("lane", "lane", "lanes", "条队列"),
            ("model", "model", "models", "个模型"),
            ("tenant", "tenant", "tenants", "个租户"),
            ("all", "total", "totals", "项总量"),
            ("node", "node", "nodes", "个节点"),
            ("dependency", "dependency", "dependencies", "个依赖服务"),
        ];
        let counted = TARGETS.into_iter().filter_map(|(target, one, many, chinese)| {
            let count = notices.iter().filter(|notice| notice.subject.target == target).count();
            let english = || format!("{} more {}", grouped(count as u64), if count == 1 { one } else { many });
            (count > 0).then(|| match self.language {
                Language::English => english(),
                Language::Chinese => format!("另外 {} {chinese}", grouped(count as u64)),
            })
        });
        counted.collect::<Vec<_>>().join(self.say(", ", "、"))
    }

    fn say<'a>(&self, english: &'a str, chinese: &'a str) -> &'a str {
        match self.language {
            Language::English => english,
            Language::Chinese => chinese,
        }
    }

    fn severity(&self, severity: Severity) -> &'static str {
        match (self.language, severity) {
            (Language::English, severity) => severity.word(),
            (Language::Chinese, Severity::Critical) => "严重",
            (Language::Chinese, Severity::Warning) => "警告",
            (Language::Chinese, Severity::Info) => "提示",
        }
    }

    /// What stands in front of a subject.
    fn tag(&self, notice: &Notice) -> String {
        let severity = self.severity(notice.severity);
        match (notice.news, self.language) {
            (News::Began, _) => severity.to_owned(),
            (News::Reminded, Language::English) => format!("still {severity}"),
            (News::Reminded, Language::Chinese) => format!("{severity}，仍在持续"),
            (News::Ended, _) => self.say("over", "已恢复").to_owned(),
            (News::Test, _) => self.say("test", "测试").to_owned(),
        }
    }

    fn subject_in_short(&self, subject: &SubjectView) -> String {
        let [tenant, model, name] =
            [&subject.tenant_id, &subject.model_name, &subject.name].map(|part| part.as_deref().unwrap_or_default());
        match (self.language, subject.target.as_str()) {
            (Language::English, "lane") => format!("{model} of tenant {tenant}"),
            (Language::Chinese, "lane") => format!("租户 {tenant} 的模型 {model}"),
            (Language::English, "model") => format!("model {model}"),
            (Language::Chinese, "model") => format!("模型 {model}"),
            (Language::English, "tenant") => format!("tenant {tenant}"),
            (Language::Chinese, "tenant") => format!("租户 {tenant}"),
            (Language::English, "node") => format!("node {name}"),
            (Language::Chinese, "node") => format!("节点 {name}"),
            (_, "dependency") => self.dependency(name),
            _ => self.say("all queues", "全部队列").to_owned(),
        }
    }

    fn subject_at_length(&self, subject: &SubjectView) -> String {
        let short = self.subject_in_short(subject);
        match (self.language, subject.target.as_str()) {
            (Language::English, "lane") => format!("The queue for {short}"),
            (Language::Chinese, "lane") => format!("{short} 的队列"),
            (Language::English, "model" | "tenant") => format!("All queues of {short}"),
            (Language::Chinese, "model" | "tenant") => format!("{short} 的全部队列"),
            _ => {
                let mut letters = short.chars();
                letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
            }
        }
    }

    fn dependency(&self, name: &str) -> String {
        match name {
            "database" => self.say("the database", "数据库").to_owned(),
            "redis" => "Redis".to_owned(),
            "storage" => self.say("the object storage", "对象存储").to_owned(),
            other => other.to_owned(),
        }
    }

    fn cause(&self, cause: &Cause) -> String {
        let english = self.language == Language::English;
        match cause {
            Cause::Pending { tasks, above } => {
                let wait = if *tasks == 1 { "task is" } else { "tasks are" };
                let (tasks, above) = (grouped(tasks.unsigned_abs()), grouped(above.unsigned_abs()));
                if english {
                    format!("{tasks} {wait} waiting (more than {above})")
                } else {
                    format!("有 {tasks} 个任务在等待（上限 {above}）")
                }
            }
            Cause::Oldest { seconds, above_seconds } => {
                let (waited, above) = (self.seconds(*seconds), self.seconds(*above_seconds));
                if english {
                    format!("the oldest task has been waiting for {waited} (longer than {above})")
                } else {
                    format!("最早的任务已等待 {waited}（上限 {above}）")
                }
            }
            Cause::FailureRate { rate, above, calls, window_seconds } => {
                let (rate, above) = (percent(*rate), percent(*above));
                let (calls, window) = (grouped(calls.unsigned_abs()), self.seconds(*window_seconds));
                if english {
                    format!("{rate} of {calls} calls within {window} failed (more than {above})")
                } else {
                    format!("{window}内 {calls} 次调用有 {rate} 失败（上限 {above}）")
                }
            }
            Cause::NodeLost { nodes, at } => {
                let at = self.time(*at);
                match (english, nodes) {
                    (true, 1) => format!("went without a word; declared dead at {at}, its tasks went to others"),
                    (true, nodes) => format!("{nodes} of that name went without a word, the last at {at}"),
                    (false, 1) => format!("失联，于 {at} 判定为故障，其任务已交给其他节点"),
                    (false, nodes) => format!("同名的 {nodes} 个节点失联，最近一次在 {at}"),
                }
            }
            Cause::DependencyDown => self.say("does not answer", "无法访问").to_owned(),
        }
    }

    fn state(&self, notice: &Notice) -> String {
        let lasted = self.seconds((notice.at - notice.since).num_seconds().max(0));
        match (notice.news, self.language) {
            (News::Began, Language::English) => format!("began ({})", self.time(notice.at)),
            (News::Began, Language::Chinese) => format!("开始（{}）", self.time(notice.at)),
            (News::Reminded, Language::English) => format!("has lasted for {lasted}"),
            (News::Reminded, Language::Chinese) => format!("已持续 {lasted}"),
            (News::Ended, Language::English) => format!("over since {}, after {lasted}", self.time(notice.at)),
            (News::Ended, Language::Chinese) => format!("已于 {} 恢复，共持续 {lasted}", self.time(notice.at)),
            (News::Test, _) => self.say("a test", "测试").to_owned(),
        }
    }

    fn closing(&self, news: News) -> String {
        match (news, self.remind_every, self.language) {
            (News::Began | News::Reminded, Some(every), Language::English) => {
                format!("You are told when it is over, and every {} until then.", self.duration(every))
            }
            (News::Began | News::Reminded, Some(every), Language::Chinese) => {
                format!("恢复时会再通知；在此之前每 {}提醒一次。", self.duration(every))
            }
            (News::Began | News::Reminded, None, _) => {
                self.say("You are told when it is over.", "恢复时会再通知。").to_owned()
            }
            (News::Ended, ..) => self.say("This was what had been wrong.", "以上为故障期间的情况。").to_owned(),
            (News::Test, ..) => self
                .say("Somebody asked for it with `model-asynch alert test`.", "由命令 model-asynch alert test 发送。")
                .to_owned(),
        }
    }

    fn time(&self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.zone).format("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    fn duration(&self, duration: Duration) -> String {
        self.seconds(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
    }

    /// The two greatest units: `2h 5m`.
    fn seconds(&self, seconds: i64) -> String {
        const UNITS: [(i64, &str, &str); 4] =
            [(86_400, "d", " 天"), (3600, "h", " 小时"), (60, "m", " 分"), (1, "s", " 秒")];
        let mut rest = seconds.max(0);
        let mut parts = Vec::new();
        for (length, english, chinese) in UNITS {
            if rest >= length && parts.len() < 2 {
                parts.push(format!("{}{}", rest / length, self.say(english, chinese)));
            }
            rest %= length;
        }
        if parts.is_empty() { format!("0{}", self.say("s", " 秒")) } else { parts.join(" ") }
    }

    fn letter(&self, sheet: &Sheet) -> Letter {
        let service = self.service.as_ref().map(|url| url.as_str());
        Letter { subject: sheet.subject.clone(), text: sheet.text(service), html: sheet.html(service) }
    }
}

impl Sheet {
    fn text(&self, service: Option<&str>) -> String {
        let mut text = format!("{}\n\n", self.headline);
        for point in &self.points {
            text.push_str(&format!("  * {point}\n"));
        }
        text.push('\n');
        for (label, value) in &self.facts {
            text.push_str(&format!("{label}: {value}\n"));
        }
        text.push_str(&format!("\n{}\n", self.closing));
        if let Some(service) = service {
            text.push_str(&format!("{service}\n"));
        }
        text
    }

    fn html(&self, service: Option<&str>) -> String {
        let mut html = format!(
            "<!doctype html><html><head><meta charset=\"utf-8\"></head>\
             <body style=\"font:15px/1.5 sans-serif;color:#1a1a1a\"><h2 style=\"font-size:18px\">{}</h2><ul>",
            escaped(&self.headline)
        );
        for point in &self.points {
            html.push_str(&format!("<li>{}</li>", escaped(point)));
        }
        html.push_str("</ul><table>");
        for (label, value) in &self.facts {
            let cell = "<td style=\"padding-right:1em";
            html.push_str(&format!("<tr>{cell};color:#666\">{label}</td>{cell}\">{}</td></tr>", escaped(value)));
        }
        html.push_str(&format!("</table><p style=\"color:#666\">{}</p>", escaped(&self.closing)));
        if let Some(service) = service {
            let url = escaped(service);
            html.push_str(&format!("<p><a href=\"{url}\">{url}</a></p>"));
        }
        html.push_str("</body></html>");
        html
    }
}

/// `1,204`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `34%`, `0.5%`
fn percent(rate: f64) -> String {
    let tenths = (rate * 1000.0).round() / 10.0;
    format!("{tenths}%")
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::{Dependency, Subject},
        task::TenantId,
    };

    fn frame(language: Language) -> Frame {
        let service = Url::parse("https://models.example/").ok();
        Frame { language, zone: Tz::Asia__Shanghai, service, remind_every: Some(Duration::from_secs(14_400)) }
    }

    fn notice(news: News, subject: &Subject, causes: Vec<Cause>) -> Notice {
        let since = DateTime::from_timestamp(1_795_312_800, 0).unwrap();
        Notice {
            alert_id: 1,
            news,
            rule: "slow <tts>".into(),
            severity: Severity::Critical,
            subject: subject.view(),
            causes,
            since,
            at: since + chrono::TimeDelta::seconds(7505),
        }
    }

    fn slow(news: News) -> Notice {
        let causes = vec![
            Cause::Pending { tasks: 1_204_000, above: 1000 },
            Cause::Oldest { seconds: 750, above_seconds: 300 },
            Cause::FailureRate { rate: 0.3449, above: 0.2, calls: 56, window_seconds: 600 },
        ];
        notice(news, &Subject::Lane(TenantId(7), "tts".into()), causes)
    }

    #[test]
    fn a_letter_in_english_says_what_is_wrong_and_since_when() {
        let letter = frame(Language::English).one(&slow(News::Began));
        assert_eq!(
            letter.subject,
            "[critical] tts of tenant 7: 1,204,000 tasks are waiting (more than 1,000); the oldest task has been \
             waiting for 12m 30s (longer than 5m); 34.5% of 56 calls within 10m failed (more than 20%)"
        );
        assert_eq!(
            letter.text,
            "The queue for tts of tenant 7\n\n  * 1,204,000 tasks are waiting (more than 1,000)\n  * the oldest task \
             has been waiting for 12m 30s (longer than 5m)\n  * 34.5% of 56 calls within 10m failed (more than \
             20%)\n\nRule: slow <tts>\nSeverity: critical\nSince: 2026-11-22 10:00:00 CST\nNow: began (2026-11-22 \
             12:05:05 CST)\n\nYou are told when it is over, and every 4h until then.\nhttps://models.example/\n"
        );
        assert!(letter.html.contains("slow &lt;tts&gt;") && !letter.html.contains("<tts>"), "{}", letter.html);
        let reminder = frame(Language::English).one(&slow(News::Reminded));
        assert!(reminder.subject.starts_with("[still critical] tts of tenant 7: "), "{}", reminder.subject);
        assert!(reminder.text.contains("Now: has lasted for 2h 5m\n"), "{}", reminder.text);
        let end = frame(Language::English).one(&slow(News::Ended));
        assert!(end.subject.starts_with("[over] tts of tenant 7: "), "{}", end.subject);
        assert!(end.text.contains("over since 2026-11-22 12:05:05 CST, after 2h 5m"), "{}", end.text);
    }

    #[test]
    fn a_letter_in_chinese_says_the_same() {
        let letter = frame(Language::Chinese).one(&slow(News::Began));
        assert_eq!(
            letter.subject,
            "[严重] 租户 7 的模型 tts：有 1,204,000 个任务在等待（上限 1,000）；最早的任务已等待 12 分 30 秒（上限 5 分）；\
             10 分内 56 次调用有 34.5% 失败（上限 20%）"
        );
        assert!(letter.text.starts_with("租户 7 的模型 tts 的队列\n"), "{}", letter.text);
        assert!(
            letter.text.contains("规则: slow <tts>\n级别: 严重\n起始时间: 2026-11-22 10:00:00 CST\n"),
            "{}",
            letter.text
        );
        assert!(letter.text.contains("恢复时会再通知；在此之前每 4 小时提醒一次。"), "{}", letter.text);
        let end = frame(Language::Chinese).one(&slow(News::Ended));
        assert!(end.subject.starts_with("[已恢复] 租户 7"), "{}", end.subject);
        assert!(end.text.contains("已于 2026-11-22 12:05:05 CST 恢复，共持续 2 小时 5 分"), "{}", end.text);
    }

    #[test]
    fn nodes_and_dependencies_have_sentences_of_their_own() {
        let english = frame(Language::English);
        let at = DateTime::from_timestamp(1_795_312_800, 0).unwrap();
        let lost = notice(News::Began, &Subject::Node("gpu-1".into()), vec![Cause::NodeLost { nodes: 1, at }]);
        assert_eq!(
            english.one(&lost).subject,
            "[critical] node gpu-1: went without a word; declared dead at 2026-11-22 10:00:00 CST, its tasks went to others"
        );
        let down = notice(News::Began, &Subject::Dependency(Dependency::Database), vec![Cause::DependencyDown]);
        assert_eq!(english.one(&down).subject, "[critical] the database: does not answer");
        assert!(english.one(&down).text.starts_with("The database\n"));
        assert_eq!(frame(Language::Chinese).one(&down).subject, "[严重] 数据库：无法访问");
    }

    #[test]
    fn a_summary_names_some_and_counts_the_rest() {
        let lane = |n: i64| {
            notice(News::Began, &Subject::Lane(TenantId(n), "tts".into()), vec![Cause::Pending { tasks: 9, above: 1 }])
        };
        let mut notices: Vec<Notice> = (0..57).map(lane).collect();
        let letter = frame(Language::English).many(&notices.iter().collect::<Vec<_>>());
        assert_eq!(letter.subject, "[critical] alerts about 57 more lanes");
        assert!(letter.text.contains("  * [critical] tts of tenant 19: 9 tasks"), "{}", letter.text);
        assert!(letter.text.contains("  * and 37 more lanes\n"), "{}", letter.text);
        assert!(!letter.text.contains("tenant 20:"), "{}", letter.text);
        notices.push(notice(News::Ended, &Subject::Node("n".into()), Vec::new()));
        let letter = frame(Language::Chinese).many(&notices.iter().collect::<Vec<_>>());
        assert_eq!(letter.subject, "[严重] 另外 57 条队列、另外 1 个节点的告警");
    }

    #[test]
    fn a_test_says_that_it_is_one() {
        let test = notice(News::Test, &Subject::All, Vec::new());
        assert_eq!(frame(Language::English).one(&test).subject, "[test] this is a test, nothing is wrong");
        assert_eq!(frame(Language::Chinese).one(&test).subject, "[测试] 这是一条测试消息，一切正常");
    }

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.2, 0.0051, 1.0].map(percent), ["20%", "0.5%", "100%"]);
        let english = frame(Language::English);
        assert_eq!([0, 59, 61, 3600, 90_061].map(|s| english.seconds(s)), ["0s", "59s", "1m 1s", "1h", "1d 1h"]);
    }
}
