//! The report as a person reads it.

use std::fmt::Write as _;

use super::{
    load::Latency,
    report::{Figure, Report, Sample},
};

/// What a column shows of a figure.
type Cell = fn(&Figure) -> Option<String>;

const COLUMNS: [(&str, Cell); 15] = [
    ("median", |figure| Some(value(figure.median(), &figure.unit))),
    ("spread", |figure| (figure.samples.len() > 1).then(|| spread(figure))),
    ("p50 ms", |figure| latency(figure, |latency| latency.p50)),
    ("p95 ms", |figure| latency(figure, |latency| latency.p95)),
    ("p99 ms", |figure| latency(figure, |latency| latency.p99)),
    ("service", |figure| millis(figure, |sample| sample.cost.service_ms)),
    ("postgres", |figure| millis(figure, |sample| sample.cost.postgres_ms)),
    ("redis", |figure| millis(figure, |sample| sample.cost.redis_ms)),
    ("model", |figure| millis(figure, |sample| sample.cost.model_ms)),
    ("client", |figure| millis(figure, |sample| sample.cost.client_ms)),
    ("WAL B", |figure| Some(format!("{:.0}", figure.median_of(|sample| sample.cost.wal_bytes)?))),
    ("commits", |figure| Some(format!("{:.4}", figure.median_of(|sample| sample.cost.commits)?))),
    ("foreign", |figure| Some(format!("{:.2}", figure.median_of(|sample| sample.cost.foreign_cores)?))),
    ("×inserts", |figure| Some(format!("{:.2}", figure.median_of(|sample| sample.to_inserts)?))),
    ("×http", |figure| Some(format!("{:.3}", figure.median_of(|sample| sample.to_http)?))),
];

/// The whole report; `colours` for a terminal.
pub(super) fn render(report: &Report, colours: bool) -> String {
    let mut text = head(report);
    let mut benches: Vec<&str> = Vec::new();
    for figure in &report.figures {
        if !benches.contains(&figure.bench.as_str()) {
            benches.push(&figure.bench);
        }
    }
    for bench in benches {
        let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.bench == bench).collect();
        let (bold, plain) = if colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        // Writing to a text cannot fail.
        writeln!(text, "\n{bold}{bench}{plain}").ok();
        text.push_str(&section(&figures));
    }
    for (of, shares) in &report.profiles {
        writeln!(text, "\n{of}, % of the service's processor time").ok();
        for (name, share) in shares {
            writeln!(text, "  {share:>6.2}  {name}").ok();
        }
    }
    text.push_str(
        "\nservice, postgres, redis, model, client: ms of processor time per task. WAL and commits per task, of the \
         whole server.\nforeign: cores that strangers on this machine took. ×inserts, ×http: ratio to the yardsticks \
         of the same round.\n",
    );
    text
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let memory = machine.memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
    let sync = machine.sync_ms.map_or_else(String::new, |ms| format!(", {ms:.2} ms to sync 8 kB"));
    let mut text = format!(
        "model-asynch {} ({} build), {}\n{} × {}{memory}, Linux {}{sync}\n",
        report.version, report.build, report.began, machine.cores, machine.processor, machine.kernel
    );
    let settings: Vec<String> = report.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    text.push_str(&settings.join(", "));
    text.push('\n');
    if report.build == "debug" {
        text.push_str("This is a debug build: its figures say nothing. Measure with cargo build --release.\n");
    }
    text
}

/// One measurement's figures, with the columns that any of them fills.
fn section(figures: &[&Figure]) -> String {
    let columns: Vec<&(&str, Cell)> =
        COLUMNS.iter().filter(|(_, cell)| figures.iter().any(|figure| cell(figure).is_some())).collect();
    let mut rows: Vec<Vec<String>> =
        vec![std::iter::once(String::new()).chain(columns.iter().map(|(name, _)| (*name).to_owned())).collect()];
    for figure in figures {
        let cells = columns.iter().map(|(_, cell)| cell(figure).unwrap_or_else(|| "-".to_owned()));
        rows.push(std::iter::once(figure.case.clone()).chain(cells).collect());
    }
    aligned(&rows)
}

/// The first column to the left, all others to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            match column {
                0 => write!(line, "  {cell:<width$}", width = widths[0]).ok(),
                _ => write!(line, "  {cell:>width$}", width = widths[column]).ok(),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number as long as it is precise.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_once('.').map_or((plain.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or_else(|| grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

/// A number with its unit.
pub(super) fn value(value: f64, unit: &str) -> String {
    let blank = if unit.is_empty() || unit.starts_with('/') { "" } else { " " };
    format!("{}{blank}{unit}", number(value))
}

fn spread(figure: &Figure) -> String {
    let (least, most) = figure.spread();
    format!("{}–{}", number(least), number(most))
}

fn latency(figure: &Figure, of: impl Fn(&Latency) -> f64) -> Option<String> {
    Some(format!("{:.2}", figure.median_of(|sample| sample.latency.as_ref().map(&of))?))
}

fn millis(figure: &Figure, of: impl Fn(&Sample) -> Option<f64>) -> Option<String> {
    Some(format!("{:.3}", figure.median_of(of)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_are_precise() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(12.345), "12.3");
        assert_eq!(number(0.0456), "0.046");
        assert_eq!(number(-123.4), "-123");
        assert_eq!(value(3.0, "/s"), "3.00/s");
        assert_eq!(value(3.0, "MiB"), "3.00 MiB");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        assert_eq!(aligned(&rows), "  a     10\n  long   9\n");
    }
}
