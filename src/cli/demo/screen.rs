//! What the demo shows: one line an event, plain text, colours on a terminal only.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use super::{client::Call, story::Stage};

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

/// Characters of a task's id that are shown: the last ones, which are random. The first ones are
/// the time, the same for all tasks here.
const SHORT_ID: usize = 8;

/// Longest remark in characters, so that a line stays a line.
const REMARK: usize = 90;

/// The terminal, or whatever takes its place.
pub(super) struct Screen {
    terminal: bool,
    colours: bool,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = io::stdout().is_terminal();
        Screen { terminal, colours: terminal && wanted }
    }

    pub(super) fn title(&self) {
        self.line("model-asynch demo: real models, everything in a temporary folder\n");
    }

    /// A part that takes some seconds; its line takes the place of this one.
    pub(super) fn loading(&self, name: &str) {
        if self.terminal {
            crate::cli::print(&format!("  {name:<9} loading ...\r")).ok();
        }
    }

    /// A part that is up.
    pub(super) fn part(&self, name: &str, what: &str, place: &str) {
        self.line(&format!("  {name:<9} {what:<34} {place}"));
    }

    /// The beginning of a new section.
    pub(super) fn section(&self, title: &str) {
        self.line(&format!("\n{}\n", self.paint(BOLD, title)));
    }

    /// What has become of a task, that long after the first one was created.
    pub(super) fn change(&self, after: Duration, task_id: &str, model: &str, stage: Stage, remark: &str) {
        let (word, colour) = match stage {
            Stage::Queued => ("queued", DIM),
            Stage::Running => ("running", DIM),
            Stage::Resting { .. } => ("retry", YELLOW),
            Stage::Succeeded => ("succeeded", GREEN),
            Stage::Failed => ("failed", RED),
        };
        let seconds = format!("{:6.2} s", after.as_secs_f64());
        let word = self.paint(colour, &format!("{word:<9}"));
        let line = format!("{seconds}  {}  {model:<8}  {word}  {}", short(task_id), cut(remark));
        self.line(line.trim_end());
    }

    /// A result that was fetched; `preview` is its text, where it is one.
    pub(super) fn result(&self, task_id: &str, file_type: &str, bytes: u64, url: &str, preview: Option<&str>) {
        self.line(&format!("  {}  {file_type:<4}  {:>7}  {url}", short(task_id), size(bytes)));
        if let Some(preview) = preview {
            self.line(&format!("  {:SHORT_ID$}  {}", "", self.paint(DIM, &cut(preview))));
        }
    }

    /// The last word: all is well.
    pub(super) fn verdict(&self, text: &str) {
        self.line(&format!("\n{}", self.paint(GREEN, text)));
    }

    /// Calls, to be copied into a shell.
    pub(super) fn calls(&self, calls: &[Call], service: &str) {
        self.section("The calls, to be copied:");
        for call in calls {
            self.line(&format!("  {}", call.curl(service)));
        }
    }

    /// What can be done as long as the service is up.
    pub(super) fn hints(&self, service: &str) {
        self.section("Everything stays up until Ctrl-C. Look around:");
        self.line(&format!("  {service}/      the dashboard, in a browser"));
        self.line(&format!("  {service}/docs  every call, to be read and tried"));
        self.line(&format!("  curl -s {service}/readyz"));
        let page = serde_json::json!({ "page": { "pageNum": 1, "pageSize": 10 } });
        for path in ["/task/listTask", "/model/listModel", "/stat/listModelStat", "/opLog/listOpLog"] {
            self.line(&format!("  {}", Call::new(path, page.clone()).curl(service)));
        }
    }

    /// The end, where nothing stays up.
    pub(super) fn farewell(&self) {
        self.line("\nAll of it is gone now; with --stay it stays up for these calls and for your own.");
    }

    fn line(&self, text: &str) {
        // There is nobody to tell where standard output is gone; the exit code says the rest.
        crate::cli::print(&format!("{text}\n")).ok();
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A size for people, in powers of ten.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn short(task_id: &str) -> &str {
    task_id.get(task_id.len().saturating_sub(SHORT_ID)..).unwrap_or(task_id)
}

/// One line, not too long.
fn cut(remark: &str) -> String {
    let words = remark.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(REMARK) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([0, 999, 1_000, 61_484, 2_345_678].map(size), ["0 B", "999 B", "1 kB", "61 kB", "2.3 MB"]);
    }

    #[test]
    fn a_remark_stays_on_its_line() {
        assert_eq!(cut("a\nb   c"), "a b c");
        assert_eq!(cut(&"ü".repeat(REMARK)), "ü".repeat(REMARK));
        assert_eq!(cut(&"ü".repeat(REMARK + 1)), "ü".repeat(REMARK) + "...");
    }

    #[test]
    fn an_id_is_known_by_its_end() {
        assert_eq!(short("019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d"), "7f0f1c2d");
        assert_eq!(short("abc"), "abc");
    }
}
