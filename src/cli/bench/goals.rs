//! What is to be reached on two cores with Postgres (fsync on), Redis, model and client on the same
//! machine, and what the best other queue reached on such a machine.

use super::{
    report::{Figure, Report, Sample, median},
    table::{aligned, number},
};

/// What a goal looks at in the report.
type Look = fn(&Report) -> Option<f64>;

/// One row of the table.
struct Goal {
    what: &'static str,
    peer: &'static str,
    /// In words, and as a limit.
    goal: &'static str,
    limit: Limit,
    look: Look,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

const GOALS: [Goal; 17] = [
    Goal {
        what: "createTask over HTTP, 64 connections, per second",
        peer: "5,600 (BullMQ, not fsynced), 1,108 on Postgres",
        goal: "≥ 12,000",
        limit: Limit::AtLeast(12_000.0),
        look: |report| Some(find(report, "enqueue", "64 connections")?.median()),
    },
    Goal {
        what: "the same, p99 in ms",
        peer: "28.4",
        goal: "≤ 25",
        limit: Limit::AtMost(25.0),
        look: |report| p99(find(report, "enqueue", "64 connections")?),
    },
    Goal {
        what: "end to end, small answer, fs, tasks per second",
        peer: "10,220 storing no result, 5,753 storing one per batch",
        goal: "≥ 8,000",
        limit: Limit::AtLeast(8_000.0),
        look: |report| Some(find(report, "drain", "100 B, fs")?.median()),
    },
    Goal {
        what: "the same, ms of processor time per task, service and servers",
        peer: "0.10 storing no result, 0.20",
        goal: "≤ 0.2",
        limit: Limit::AtMost(0.2),
        look: |report| find(report, "drain", "100 B, fs")?.median_of(own_ms),
    },
    Goal {
        what: "the same with http storage, tasks per second",
        peer: "—",
        goal: "≥ 5,000",
        limit: Limit::AtLeast(5_000.0),
        look: |report| Some(find(report, "drain", "100 B, http")?.median()),
    },
    Goal {
        what: "createTask → model, idle, p50 in ms",
        peer: "1.2",
        goal: "≤ 1",
        limit: Limit::AtMost(1.0),
        look: |report| Some(find(report, "latency", "createTask answered")?.median()),
    },
    Goal {
        what: "the same, p99 in ms",
        peer: "8.5",
        goal: "≤ 8",
        limit: Limit::AtMost(8.0),
        look: |report| p99(find(report, "latency", "createTask answered")?),
    },
    Goal {
        what: "another tenant's task behind a full tenant, p99 in ms",
        peer: "3,283",
        goal: "≤ 20",
        limit: Limit::AtMost(20.0),
        look: |report| p99(find(report, "fairness", "answered → called")?),
    },
    Goal {
        what: "drain rate, most rows against fewest",
        peer: "0.75 to 1",
        goal: "≥ 0.95",
        limit: Limit::AtLeast(0.95),
        look: |report| most_against_fewest(report, "drain"),
    },
    Goal {
        what: "createTask rate, most rows against fewest",
        peer: "about 1",
        goal: "≥ 0.95",
        limit: Limit::AtLeast(0.95),
        look: |report| most_against_fewest(report, "createTask"),
    },
    Goal {
        what: "rate with vacuum held back, against free",
        peer: "0.15",
        goal: "≥ 0.6",
        limit: Limit::AtLeast(0.6),
        look: |report| {
            let held = find(report, "vacuum", "created and drained, vacuum held back")?.median();
            Some(held / find(report, "vacuum", "created and drained, vacuum free")?.median())
        },
    },
    Goal {
        what: "commits per task at full load, createTask and end to end",
        peer: "3",
        goal: "≤ 0.05",
        limit: Limit::AtMost(0.05),
        look: |report| whole_life(report, |sample| sample.cost.commits),
    },
    Goal {
        what: "bytes of WAL per task, createTask and end to end",
        peer: "1,350 to 1,600",
        goal: "≤ 1,600",
        limit: Limit::AtMost(1_600.0),
        look: |report| whole_life(report, |sample| sample.cost.wal_bytes),
    },
    Goal {
        what: "Jain's index of tenants on a shared model",
        peer: "—",
        goal: "≥ 0.95",
        limit: Limit::AtLeast(0.95),
        look: |report| Some(find(report, "fairness", "Jain's index")?.median()),
    },
    Goal {
        what: "resident memory, idle, MiB",
        peer: "100 and more",
        goal: "≤ 40",
        limit: Limit::AtMost(40.0),
        look: |report| Some(find(report, "memory", "idle")?.median()),
    },
    Goal {
        what: "resident memory, 10,000 calls in flight, MiB",
        peer: "—",
        goal: "≤ 300",
        limit: Limit::AtMost(300.0),
        look: |report| Some(find(report, "memory", "10000 calls")?.median()),
    },
    Goal {
        what: "more resident memory while 1 GiB passes through, MiB",
        peer: "—",
        goal: "≤ 64",
        limit: Limit::AtMost(64.0),
        look: |report| Some(find(report, "memory", "more while an answer of 1024 MiB")?.median()),
    },
];

/// What the embedded database is to reach instead.
const EMBEDDED: [Goal; 2] = [
    Goal {
        what: "embedded: createTask over HTTP, 64 connections, per second",
        peer: "85 to 150",
        goal: "≥ 8,000",
        limit: Limit::AtLeast(8_000.0),
        look: |report| Some(find(report, "enqueue", "64 connections")?.median()),
    },
    Goal {
        what: "embedded: end to end, small answer, fs, tasks per second",
        peer: "125 to 165",
        goal: "≥ 4,000",
        limit: Limit::AtLeast(4_000.0),
        look: |report| Some(find(report, "drain", "100 B, fs")?.median()),
    },
];

/// The table of goals, as far as they were measured.
pub(super) fn render(report: &Report) -> String {
    let embedded = report.settings.contains_key("database.sqlite_version");
    let goals = GOALS.iter().filter(|goal| !embedded || !EMBEDDED.iter().any(|other| other.what.ends_with(goal.what)));
    let mut rows = vec![["goals", "best other", "goal", "measured", ""].map(str::to_owned).to_vec()];
    for goal in goals.chain(EMBEDDED.iter().filter(|_| embedded)) {
        let Some(value) = (goal.look)(report) else { continue };
        let verdict = if goal.limit.holds(value) { "met" } else { "missed" };
        let cells = [goal.what, goal.peer, goal.goal, &number(value), verdict];
        rows.push(cells.map(str::to_owned).to_vec());
    }
    aligned(&rows)
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtLeast(least) => value >= least,
            Limit::AtMost(most) => value <= most,
        }
    }
}

fn find<'a>(report: &'a Report, bench: &str, case: &str) -> Option<&'a Figure> {
    report.figures.iter().find(|figure| figure.bench == bench && figure.case.starts_with(case))
}

fn p99(figure: &Figure) -> Option<f64> {
    figure.median_of(|sample| Some(sample.latency?.p99))
}

/// Without the client, which belongs to somebody else, and the model.
fn own_ms(sample: &Sample) -> Option<f64> {
    let cost = &sample.cost;
    Some(cost.service_ms? + cost.postgres_ms.unwrap_or_default() + cost.redis_ms.unwrap_or_default())
}

fn whole_life(report: &Report, of: fn(&Sample) -> Option<f64>) -> Option<f64> {
    let enqueue = find(report, "enqueue", "64 connections")?.median_of(of)?;
    Some(enqueue + find(report, "drain", "100 B, fs")?.median_of(of)?)
}

/// The worst of all numbers of lanes. Round by round, for only what was measured within the same
/// minute can be compared.
fn most_against_fewest(report: &Report, what: &str) -> Option<f64> {
    let of = |figure: &&Figure| figure.bench == "backlog" && figure.series == what;
    let figures: Vec<&Figure> = report.figures.iter().filter(of).collect();
    let ratio = |lanes: u64| {
        let of_lanes = figures.iter().filter_map(|figure| Some((figure.at?, *figure)));
        let mut of_lanes: Vec<_> = of_lanes.filter(|(at, _)| at.lanes == lanes).collect();
        of_lanes.sort_by_key(|(at, _)| at.rows);
        let ((fewest, few), (most, many)) = (of_lanes.first()?, of_lanes.last()?);
        if fewest.rows == most.rows {
            return None;
        }
        let rounds = many.samples.iter().zip(&few.samples);
        median(rounds.map(|(many, few)| many.value / few.value).collect())
    };
    figures.iter().filter_map(|figure| ratio(figure.at?.lanes)).min_by(f64::total_cmp)
}
