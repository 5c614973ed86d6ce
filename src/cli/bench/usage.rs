//! What a measurement costs: processor time of each process that takes part, bytes and
//! transactions written by Postgres, and what strangers on this machine took meanwhile.
//!
//! Processor time comes from `/proc`, so it is known on Linux, and for servers on this machine.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use crate::{
    clock,
    store::bench::{Scratch, Written},
};

/// Ticks a second in `/proc`: 100 on every Linux that a program can meet.
const TICKS: f64 = 100.0;

/// How long Redis may take to say how it does.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom to ask.
pub(super) struct Meter<'a> {
    pub(super) service: Option<u32>,
    pub(super) model: Option<u32>,
    pub(super) database: Option<&'a Scratch>,
    pub(super) redis: Option<&'a Url>,
}

/// Where every counter stands; seconds of processor time.
pub(super) struct Reading {
    at: Instant,
    service: Option<f64>,
    model: Option<f64>,
    client: Option<f64>,
    postgres: Option<f64>,
    redis: Option<f64>,
    busy: Option<f64>,
    written: Option<Written>,
}

/// What was used between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) took: Duration,
    service: Option<f64>,
    model: Option<f64>,
    client: Option<f64>,
    postgres: Option<f64>,
    redis: Option<f64>,
    busy: Option<f64>,
    wal_bytes: Option<f64>,
    transactions: Option<f64>,
}

/// What one task costs, and what others did meanwhile.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cost {
    /// Milliseconds of processor time for each task.
    pub(super) service_ms: Option<f64>,
    pub(super) postgres_ms: Option<f64>,
    pub(super) redis_ms: Option<f64>,
    pub(super) model_ms: Option<f64>,
    pub(super) client_ms: Option<f64>,
    /// Bytes of write-ahead log for each task.
    pub(super) wal_bytes: Option<f64>,
    /// Transactions that wrote something, for each task.
    pub(super) commits: Option<f64>,
    /// Cores that processes took which have no part in this.
    pub(super) foreign_cores: Option<f64>,
}

impl Meter<'_> {
    /// Reads every counter that can be read.
    pub(super) async fn read(&self) -> Reading {
        let (mut postgres, mut written) = (None, None);
        if let Some(database) = self.database {
            // What cannot be read is shown as unknown; the measurement itself goes on.
            written = database.written().await.ok().flatten();
            if let (Ok(Some(process)), Ok(strangers)) = (database.a_process().await, database.strangers().await) {
                postgres = server_seconds(process, &strangers.into_iter().collect());
            }
        }
        let redis = match self.redis {
            Some(url) => redis_seconds(url).await,
            None => None,
        };
        Reading {
            at: clock::tick(),
            service: self.service.and_then(|id| Process::read(&id.to_string())).map(|process| process.own()),
            model: self.model.and_then(|id| Process::read(&id.to_string())).map(|process| process.own()),
            client: Process::read("self").map(|process| process.own()),
            postgres,
            redis,
            busy: busy_seconds(),
            written,
        }
    }
}

impl Reading {
    /// The difference to an earlier reading.
    pub(super) fn since(&self, before: &Reading) -> Used {
        let between = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0));
        let written =
            |of: fn(&Written) -> i64| Some((of(self.written.as_ref()?) - of(before.written.as_ref()?)).max(0) as f64);
        Used {
            took: self.at - before.at,
            service: between(self.service, before.service),
            model: between(self.model, before.model),
            client: between(self.client, before.client),
            postgres: between(self.postgres, before.postgres),
            redis: between(self.redis, before.redis),
            busy: between(self.busy, before.busy),
            wal_bytes: written(|written| written.wal_bytes),
            transactions: written(|written| written.transactions),
        }
    }
}

impl Used {
    /// Together with what was used at another time; unknown where one of them is.
    pub(super) fn and(&self, other: &Used) -> Used {
        let sum = |of: fn(&Used) -> Option<f64>| Some(of(self)? + of(other)?);
        Used {
            took: self.took + other.took,
            service: sum(|used| used.service),
            model: sum(|used| used.model),
            client: sum(|used| used.client),
            postgres: sum(|used| used.postgres),
            redis: sum(|used| used.redis),
            busy: sum(|used| used.busy),
            wal_bytes: sum(|used| used.wal_bytes),
            transactions: sum(|used| used.transactions),
        }
    }

    /// Divided by the tasks it was used for.
    pub(super) fn per_task(&self, tasks: u64) -> Cost {
        let tasks = tasks.max(1) as f64;
        let each = |seconds: Option<f64>| Some(seconds? * 1000.0 / tasks);
        let ours: f64 = [self.service, self.model, self.client, self.postgres, self.redis].into_iter().flatten().sum();
        Cost {
            service_ms: each(self.service),
            postgres_ms: each(self.postgres),
            redis_ms: each(self.redis),
            model_ms: each(self.model),
            client_ms: each(self.client),
            wal_bytes: self.wal_bytes.map(|bytes| bytes / tasks),
            commits: self.transactions.map(|transactions| transactions / tasks),
            foreign_cores: self.busy.map(|busy| ((busy - ours) / self.took.as_secs_f64()).max(0.0)),
        }
    }
}

/// A line of `/proc/<id>/stat`, as far as it is needed; ticks.
struct Process {
    name: String,
    parent: i32,
    time: u64,
    /// Of children that have ended.
    ended: u64,
}

impl Process {
    fn read(id: &str) -> Option<Process> {
        Process::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// The name is in brackets and may itself hold brackets and blanks.
    fn parse(line: &str) -> Option<Process> {
        let (name, rest) = (line.split_once('(')?.1.rsplit_once(')')?.0, line.rsplit_once(')')?.1);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Process {
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            time: ticks(11)? + ticks(12)?,
            ended: ticks(13)? + ticks(14)?,
        })
    }

    fn own(&self) -> f64 {
        self.time as f64 / TICKS
    }
}

/// All of the Postgres server that one of our connections belongs to: its first process with what
/// has ended, and everyone who runs below it but the strangers. `None` where it is elsewhere.
fn server_seconds(connection: i32, strangers: &HashSet<i32>) -> Option<f64> {
    let backend = Process::read(&connection.to_string()).filter(|process| process.name.starts_with("postgres"))?;
    let first = Process::read(&backend.parent.to_string())?;
    let mut ticks = first.time + first.ended;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        match Process::read(&id.to_string()) {
            Some(process) if process.parent == backend.parent && !strangers.contains(&id) => ticks += process.time,
            Some(_) | None => {}
        }
    }
    Some(ticks as f64 / TICKS)
}

/// Processor time of the whole machine that was not idle.
fn busy_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq; what comes behind is counted in these, or stolen.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum();
    Some(busy as f64 / TICKS)
}

/// What Redis says of itself.
async fn redis_seconds(url: &Url) -> Option<f64> {
    tokio::time::timeout(REDIS_TIMEOUT, redis_info(url)).await.ok().flatten()
}

async fn redis_info(url: &Url) -> Option<f64> {
    if url.scheme() != "redis" {
        return None;
    }
    let mut stream = TcpStream::connect((url.host_str()?, url.port().unwrap_or(6379))).await.ok()?;
    let login = match (url.username(), url.password()) {
        (_, None) => String::new(),
        ("", Some(password)) => format!("AUTH {password}\r\n"),
        (user, Some(password)) => format!("AUTH {user} {password}\r\n"),
    };
    stream.write_all(format!("{login}INFO cpu\r\nQUIT\r\n").as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let seconds = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    Some(seconds("used_cpu_sys:")? + seconds("used_cpu_user:")?)
}

/// Resident memory of a process in bytes.
pub(super) fn resident_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let line = "7 (postgres: a (b) c) S 3 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 5 6 7";
        let process = Process::parse(line).unwrap();
        assert_eq!((process.name.as_str(), process.parent), ("postgres: a (b) c", 3));
        assert_eq!((process.time, process.ended), (23, 27));
    }

    #[test]
    fn this_process_and_this_machine_can_be_read() {
        assert!(Process::read("self").is_some() && busy_seconds().is_some());
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn what_cannot_be_read_costs_nothing_that_is_known() {
        let reading = |service, at| Reading {
            at,
            service,
            model: None,
            client: None,
            postgres: None,
            redis: None,
            busy: Some(service.unwrap_or_default() + 1.0),
            written: None,
        };
        let began = clock::tick();
        let before = reading(Some(1.0), began);
        let cost = reading(Some(3.0), began + Duration::from_secs(2)).since(&before).per_task(1000);
        assert_eq!(cost.service_ms, Some(2.0));
        assert_eq!(cost.postgres_ms, None);
        assert_eq!(cost.foreign_cores, Some(0.0));
    }
}
