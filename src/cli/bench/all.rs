//! `all`: every measurement once through, within a quarter of an hour on two cores, and the table of
//! goals.

use std::time::Duration;

use super::{Kind, backlog, drain, enqueue, fairness, latency, memory, pickup, report::Report, stage::Bed};

/// Rows that are compared; ten million take an hour of their own.
const ROWS: [u64; 2] = [10_000, 1_000_000];

/// Lanes that they are in.
const LANES: [u64; 1] = [100];

/// How long an old transaction holds vacuum back.
const HELD: Duration = Duration::from_secs(60);

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    enqueue::measure(bed, report).await?;
    drain::measure(bed, report).await?;
    if bed.options.storage == Kind::Fs && bed.options.url.is_none() {
        drain::with(bed, report, &bed.options.answers[..1], Kind::Http).await?;
    }
    latency::measure(bed, report).await?;
    fairness::measure(bed, report).await?;
    pickup::measure(bed, report).await?;
    if bed.options.url.is_none() {
        memory::measure(bed, report).await?;
        backlog::sweep(bed, report, &ROWS, &LANES).await?;
        backlog::hold(bed, report, HELD).await?;
    }
    Ok(())
}
