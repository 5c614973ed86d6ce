//! `maintenance` and `tenants`.

use std::collections::BTreeMap;

use super::{super::raw::RawPlan, integer, refuse, zone};
use crate::{
    config::{
        ConfigError, Maintenance,
        raw::{RawConfig, RawMaintenance},
    },
    job::schedule::Schedule,
    tenant::{InForce, MAX_PLAN, Plans, TERMS, Terms},
};

/// Most days that anything may be kept for, but for ever.
const MOST_DAYS: i64 = 36_500;

pub(super) fn check(raw: &RawMaintenance) -> Result<Maintenance, ConfigError> {
    let zone = zone("maintenance.retention.timezone", &raw.retention.timezone)?;
    Ok(Maintenance {
        enabled: raw.enabled,
        retention: schedule("maintenance.retention.schedule", &raw.retention.schedule, zone)?,
        run_days: integer("maintenance.retention.runDays", raw.retention.run_days, 0..=MOST_DAYS)?,
    })
}

pub(super) fn plans(raw: &RawConfig) -> Result<Plans, ConfigError> {
    let retention = &raw.maintenance.retention;
    let default = InForce {
        requests_per_second: integer("limits.requestsPerSecond", raw.limits.requests_per_second, 0..=1_000_000)?,
        max_concurrency: 0,
        keep_results: integer("maintenance.retention.keepResults", retention.keep_results, 0..=i64::from(i32::MAX))?,
        op_log_days: integer("maintenance.retention.opLogDays", retention.op_log_days, 0..=MOST_DAYS)?,
    };
    let mut named = BTreeMap::new();
    for (name, plan) in &raw.tenants.plans {
        named.insert(name.clone(), terms(name, plan)?);
    }
    Ok(Plans { default, named })
}

fn schedule(key: &str, text: &str, zone: chrono_tz::Tz) -> Result<Option<Schedule>, ConfigError> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    Schedule::parse(text, zone).map(Some).map_err(|problem| {
        let accepted = "off, or a cron expression such as 0 3 * * * (minute hour day month weekday)";
        refuse(key, text, &format!("{accepted}; this one is none: {problem}"))
    })
}

fn terms(name: &str, raw: &RawPlan) -> Result<Terms, ConfigError> {
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty() || name.len() > MAX_PLAN || !name.chars().all(is_name) {
        let accepted = format!("names of 1 to {MAX_PLAN} lower-case letters, digits and dashes");
        return Err(refuse("tenants.plans", name, &accepted));
    }
    let mut terms = Terms::default();
    let written = [raw.requests_per_second, raw.max_concurrency, raw.keep_results, raw.op_log_days];
    for ((number, written), term) in terms.numbers().into_iter().zip(written).zip(TERMS) {
        let key = format!("tenants.plans.{name}.{}", term.name);
        *number = written.map(|written| integer(&key, written, 0..=i64::from(term.most))).transpose()?;
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::check;

    fn refused(change: impl FnOnce(&mut RawConfig)) -> String {
        let mut raw = RawConfig::default();
        change(&mut raw);
        check(&raw).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_schedule_is_a_cron_expression_in_a_zone_or_off() {
        let mut raw = RawConfig::default();
        raw.maintenance.retention.timezone = "Asia/Shanghai".into();
        let schedule = check(&raw).unwrap().maintenance.retention.unwrap();
        assert_eq!(schedule.to_string(), "0 3 * * * Asia/Shanghai");
        raw.maintenance.retention.schedule = "Off".into();
        assert!(check(&raw).unwrap().maintenance.retention.is_none());
        let message = refused(|raw| raw.maintenance.retention.schedule = "daily".into());
        assert!(message.starts_with("maintenance.retention.schedule: \"daily\" cannot be used"), "{message}");
        let message = refused(|raw| raw.maintenance.retention.timezone = "Asia/Shangha".into());
        assert!(message.ends_with("did you mean Asia/Shanghai?"), "{message}");
    }

    #[test]
    fn plans_have_names_and_numbers() {
        let mut raw = RawConfig::default();
        raw.limits.requests_per_second = 5;
        let gold = RawPlan { max_concurrency: Some(9), ..RawPlan::default() };
        raw.tenants.plans.insert("gold".into(), gold.clone());
        let plans = check(&raw).unwrap().plans;
        assert_eq!(plans.named["gold"], Terms { max_concurrency: Some(9), ..Terms::default() });
        let default = InForce { requests_per_second: 5, max_concurrency: 0, keep_results: 20_000, op_log_days: 90 };
        assert_eq!(plans.default, default);
        for name in ["", "Gold", "a b", "a.b"] {
            let gold = gold.clone();
            let message = refused(|raw| raw.tenants.plans.extend([(name.into(), gold)]));
            assert!(message.starts_with("tenants.plans: "), "{message}");
        }
        let wrong = RawPlan { keep_results: Some(-1), ..gold };
        let message = refused(|raw| raw.tenants.plans.extend([("gold".into(), wrong)]));
        assert!(message.starts_with("tenants.plans.gold.keepResults: -1 cannot be used"), "{message}");
    }
}
