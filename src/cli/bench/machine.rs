//! The machine that a figure belongs to.

use std::{fs, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::clock;

/// Writes that are timed.
const SYNCS: usize = 50;

/// As much as the smallest commit writes.
const BLOCK: [u8; 8192] = [7; 8192];

/// What is known of it; what is not is empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) kernel: String,
    /// Median time to write 8 kB to the disk that is measured and to have it there.
    pub(super) sync_ms: Option<f64>,
}

impl Machine {
    /// Looks, and times the disk of `folder`.
    pub(super) fn look(folder: &Path) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        Machine {
            processor: after(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.and_then(|text| Some(text.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            sync_ms: sync_ms(folder).ok(),
        }
    }
}

fn sync_ms(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("sync");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = clock::tick();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[SYNCS / 2])
}
