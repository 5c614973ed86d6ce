//! What the process uses, under the names that every exporter has for it. Read from `/proc`; where
//! there is none, nothing is shown.

use std::fs;

use prometheus::{Counter, IntGauge, Registry};

/// Registers what can be read at this moment.
pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    let gauge = |name: &str, help: &str, value: Option<u64>| -> prometheus::Result<()> {
        let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else { return Ok(()) };
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    let stat = Stat::read();
    if let Some(stat) = &stat {
        let cpu = Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?;
        cpu.inc_by(stat.cpu_seconds);
        registry.register(Box::new(cpu))?;
    }
    let of = |value: fn(&Stat) -> u64| stat.as_ref().map(value);
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", of(|stat| stat.resident))?;
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", of(|stat| stat.virtual_size))?;
    gauge("process_threads", "Number of OS threads in the process.", of(|stat| stat.threads))?;
    gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        started(stat.as_ref()),
    )?;
    gauge("process_open_fds", "Number of open file descriptors.", open_files())?;
    gauge("process_max_fds", "Maximum number of open file descriptors.", most_files())
}

/// What `/proc/self/stat` says.
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Seconds after the start of the machine.
    started: u64,
    virtual_size: u64,
    resident: u64,
}

impl Stat {
    /// See `proc_pid_stat(5)`; fields are counted from 1 there, and from 3 behind the program's name,
    /// which may have spaces and parentheses in it.
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks as f64,
            threads: field(20)?,
            started: field(22)? / ticks,
            virtual_size: field(23)?,
            resident: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }
}

fn started(stat: Option<&Stat>) -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<u64>().ok()? + stat?.started)
}

fn open_files() -> Option<u64> {
    // One of them reads the folder.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn most_files() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}
