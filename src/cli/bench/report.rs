//! What was measured, with the machine and the settings it was measured on. This is the JSON file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    load::Latency,
    machine::Machine,
    profile::{Profile, Shares},
    stage::{Bed, shown},
    usage::{Cost, Used},
    yardstick::{self, Yardstick},
};
use crate::clock;

/// Names of the yardsticks among the figures.
pub(super) const YARDSTICK: &str = "yardstick";

/// One run of `bench`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) version: String,
    /// `release` or `debug`: only the former says anything.
    pub(super) build: String,
    pub(super) began: String,
    pub(super) machine: Machine,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) figures: Vec<Figure>,
    /// What was profiled, and shares of the service's processor time in percent.
    #[serde(default)]
    pub(super) profiles: Vec<(String, Shares)>,
    #[serde(skip)]
    pub(super) json: Option<PathBuf>,
}

/// One number, taken in several rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    /// The measurement, such as `drain`.
    pub(super) bench: String,
    /// What is looked at while rows and lanes change; empty where they do not.
    #[serde(default)]
    pub(super) series: String,
    #[serde(default)]
    pub(super) at: Option<At>,
    /// Under which conditions.
    pub(super) case: String,
    /// What the values are: `/s`, `ms`, `MiB`, or nothing for a bare number.
    pub(super) unit: String,
    pub(super) samples: Vec<Sample>,
}

/// How much is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    pub(super) rows: u64,
    pub(super) lanes: u64,
}

/// One round.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    /// In the figure's unit.
    pub(super) value: f64,
    /// Tasks (or requests) it is about.
    pub(super) tasks: u64,
    /// How long that took.
    pub(super) seconds: f64,
    pub(super) latency: Option<Latency>,
    pub(super) cost: Cost,
    /// Rates: divided by the round's single-row inserts a second.
    pub(super) to_inserts: Option<f64>,
    /// Rates: divided by the round's bare HTTP requests a second.
    pub(super) to_http: Option<f64>,
}

impl Sample {
    /// Tasks a second, while `used` was used.
    pub(super) fn rate(tasks: u64, used: &Used) -> Sample {
        Sample::rate_over(tasks, used.took, used)
    }

    /// Tasks a second over a time of their own.
    pub(super) fn rate_over(tasks: u64, took: Duration, used: &Used) -> Sample {
        let seconds = took.as_secs_f64();
        let value = tasks as f64 / seconds.max(f64::MIN_POSITIVE);
        Sample { value, tasks, seconds, latency: None, cost: used.per_task(tasks), to_inserts: None, to_http: None }
    }

    /// A value that is no rate.
    pub(super) fn plain(value: f64, tasks: u64) -> Sample {
        Sample { value, tasks, seconds: 0.0, latency: None, cost: Cost::default(), to_inserts: None, to_http: None }
    }

    pub(super) fn with_latency(self, latency: Latency) -> Sample {
        Sample { latency: Some(latency), ..self }
    }

    pub(super) fn compared_with(self, yardstick: &Yardstick) -> Sample {
        Sample {
            to_inserts: yardstick.inserts.map(|inserts| self.value / inserts),
            to_http: Some(self.value / yardstick.http),
            ..self
        }
    }
}

impl Figure {
    /// The middle one of the values; the smaller of two.
    pub(super) fn median(&self) -> f64 {
        self.median_of(|sample| Some(sample.value)).unwrap_or_default()
    }

    /// The middle of what the samples have of something.
    pub(super) fn median_of(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(of).collect())
    }

    /// The smallest and the largest value.
    pub(super) fn spread(&self) -> (f64, f64) {
        let values = self.samples.iter().map(|sample| sample.value);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
    }
}

/// The middle one; the smaller of two.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Report {
    /// An empty one, with what is known before anything is measured.
    pub(super) async fn begin(bed: &Bed) -> anyhow::Result<Report> {
        let options = &bed.options;
        let mut settings = BTreeMap::from([
            ("storage".to_owned(), options.storage.name().to_owned()),
            ("worker.concurrency".to_owned(), options.concurrency.to_string()),
            ("rounds".to_owned(), options.rounds.to_string()),
            ("seconds".to_owned(), options.seconds.to_string()),
            ("redis".to_owned(), options.redis.as_ref().map_or_else(|| "none".to_owned(), shown)),
        ]);
        match &options.url {
            Some(url) => {
                settings.insert("service".to_owned(), url.clone());
            }
            None => {
                let (database, _) = bed.database(bed.folder()).await?;
                let found = database.settings().await;
                database.remove().await?;
                settings.extend(found?.into_iter().map(|(name, value)| (format!("database.{name}"), value)));
            }
        }
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            began: clock::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            machine: Machine::look(bed.folder()),
            settings,
            figures: Vec::new(),
            profiles: Vec::new(),
            json: options.json.clone(),
        })
    }

    /// Adds a sample to its figure.
    pub(super) fn add(&mut self, bench: &str, case: &str, unit: &str, sample: Sample) {
        self.add_at(bench, "", case, unit, None, sample);
    }

    /// Adds a profile.
    pub(super) fn add_profile(&mut self, of: &str, profile: Profile) {
        self.profiles.push((format!("{of}: our functions with what they call"), profile.stages));
        self.profiles.push((format!("{of}: functions by themselves"), profile.functions));
    }

    /// Adds a sample to its figure, one of a series.
    pub(super) fn add_at(&mut self, bench: &str, series: &str, case: &str, unit: &str, at: Option<At>, sample: Sample) {
        let found = self.figures.iter_mut().find(|figure| figure.bench == bench && figure.case == case);
        match found {
            Some(figure) => figure.samples.push(sample),
            None => self.figures.push(Figure {
                bench: bench.to_owned(),
                series: series.to_owned(),
                at,
                case: case.to_owned(),
                unit: unit.to_owned(),
                samples: vec![sample],
            }),
        }
    }

    /// Takes the yardsticks of a round.
    pub(super) async fn yardstick(&mut self, bed: &Bed) -> anyhow::Result<Yardstick> {
        super::tell("the yardsticks");
        let taken = yardstick::take(bed).await?;
        if let Some(inserts) = taken.inserts {
            self.add(YARDSTICK, "single-row inserts, 8 clients", "/s", inserts);
        }
        self.add(YARDSTICK, "bare HTTP to the no-op model, 64 connections", "/s", taken.http);
        Ok(taken.yardstick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_smaller_of_two() {
        let figure = |values: &[f64]| Figure {
            bench: String::new(),
            series: String::new(),
            at: None,
            case: String::new(),
            unit: String::new(),
            samples: values.iter().map(|&value| Sample::plain(value, 1)).collect(),
        };
        assert_eq!(figure(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(figure(&[3.0, 1.0]).median(), 1.0);
        assert_eq!(figure(&[3.0, 1.0, 2.0]).spread(), (1.0, 3.0));
        assert_eq!(figure(&[]).median(), 0.0);
    }
}
