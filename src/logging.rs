//! Where log lines go and what they look like: one line an event on standard output, text for
//! people or JSON for machines.

mod json;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic,
};

use chrono::SecondsFormat;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{
        self, MakeWriter,
        format::{JsonFields, Writer},
        time::FormatTime,
    },
    util::SubscriberInitExt,
};

use crate::{
    clock,
    config::{ConfigError, Log, LogFormat},
    log_level,
};

/// Parts of other projects that talk too much; `log.level` may name them to hear more.
const QUIET: &str =
    "sqlx=warn,hyper=warn,hyper_util=warn,h2=warn,reqwest=warn,rustls=warn,tower=warn,object_store=warn";

/// What overrides `log.level`, for one run.
const RUST_LOG: &str = "RUST_LOG";

/// Starts logging for the whole process, panics included. A second call changes nothing.
///
/// # Errors
/// `RUST_LOG` that cannot be read.
pub fn init(log: &Log) -> Result<(), ConfigError> {
    let stdout_is_terminal = io::stdout().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !stdout_is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let colours = stdout_is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let rust_log = std::env::var(RUST_LOG).ok().filter(|directives| !directives.is_empty());
    let current = rust_log.clone().unwrap_or_else(|| log.level.clone());
    let (subscriber, reload) = subscriber(json, colours, filter(log, rust_log)?, io::stdout);
    if subscriber.try_init().is_ok() {
        log_panics();
        log_level::install(current, Box::new(move |level| reload(parsed(&quieted(level)).map_err(|e| e.to_string())?)));
    }
    Ok(())
}

fn filter(log: &Log, rust_log: Option<String>) -> Result<EnvFilter, ConfigError> {
    let (key, directives) = match rust_log {
        Some(directives) => (RUST_LOG, directives),
        None => ("log.level", quieted(&log.level)),
    };
    parsed(&directives).map_err(|error| ConfigError {
        key: key.to_owned(),
        message: format!("{directives:?} cannot be used: {error}"),
    })
}

/// The directives, with other projects' parts quiet unless they name them.
fn quieted(level: &str) -> String {
    format!("{QUIET},{level}")
}

fn parsed(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(directives)
}

type Logs = Box<dyn Subscriber + Send + Sync>;
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// What takes the events, and how its filter is changed.
fn subscriber<W>(json: bool, colours: bool, filter: EnvFilter, out: W) -> (Logs, Reload)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let base = fmt::fmt().with_env_filter(filter).with_timer(Milliseconds).with_ansi(colours).with_writer(OneLine(out));
    if json {
        let json = base.fmt_fields(JsonFields::new()).event_format(json::Json).with_filter_reloading();
        let handle = json.reload_handle();
        return (Box::new(json.finish()), Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())));
    }
    let text = base.with_filter_reloading();
    let handle = text.reload_handle();
    (Box::new(text.finish()), Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
}

/// A panic is an event like any other, so that it is found where the other lines are.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(backtrace, "panicked, which is a bug: {panic}");
    }));
}

/// `2026-11-22T03:36:00.123Z`
struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(to, "{}", clock::now().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Keeps an event on its line: what a model or caller sent may contain line breaks, and must not
/// look like lines of ours.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> OneLine<W::Writer> {
        OneLine(self.0.make_writer())
    }
}

impl<W: Write> Write for OneLine<W> {
    /// The formatter writes each event whole, with one line break at its end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        if !line.contains(&b'\n') && !line.contains(&b'\r') {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = Vec::with_capacity(event.len() + 16);
        for byte in line {
            match byte {
                b'\n' => escaped.extend(b"\\n"),
                b'\r' => escaped.extend(b"\\r"),
                other => escaped.push(*other),
            }
        }
        escaped.push(b'\n');
        self.0.write_all(&escaped)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    /// What was logged while `events` ran.
    fn logged(json: bool, level: &str, events: impl FnOnce()) -> Vec<String> {
        logged_with(json, level, |_| events())
    }

    fn logged_with(json: bool, level: &str, events: impl FnOnce(&Reload)) -> Vec<String> {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let log = Log { format: LogFormat::Auto, level: level.to_owned() };
        let memory = Arc::clone(&buffer);
        let filter = filter(&log, None).unwrap();
        let (subscriber, reload) = subscriber(json, false, filter, move || Memory(Arc::clone(&memory)));
        tracing::subscriber::with_default(subscriber, || events(&reload));
        let text = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_has_message_and_fields_on_top_and_utc_milliseconds() {
        let lines = logged(true, "info", || tracing::warn!(task_id = "t1", attempt = 2, "model answered 503"));
        let event: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!((&event["level"], &event["message"]), (&"WARN".into(), &"model answered 503".into()));
        assert_eq!((&event["task_id"], &event["attempt"]), (&"t1".into(), &2.into()));
        let time = event["timestamp"].as_str().unwrap();
        assert_eq!((time.len(), &time[19..20], &time[23..]), (24, ".", "Z"), "{time}");
    }

    #[test]
    fn json_has_the_fields_of_the_spans_on_top_too() {
        let lines = logged(true, "info", || {
            let _task = tracing::info_span!("task", task_id = "t1", attempt = %2, rest = 5).entered();
            let _inner = tracing::info_span!("upload", rest = true).entered();
            tracing::info!(attempt = 3, share = 0.5, "a \"quoted\" word");
        });
        let event: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&event["task_id"], &event["rest"]), (&"t1".into(), &true.into()));
        assert_eq!((&event["attempt"], &event["share"]), (&3.into(), &0.5.into()), "the event's own has the last word");
        assert_eq!(event["message"], "a \"quoted\" word");
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        for json in [false, true] {
            let lines = logged(json, "info", || tracing::info!(error = "a\nb", "first\r\nsecond"));
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("first\\r\\nsecond"), "{lines:?}");
        }
    }

    #[test]
    fn noisy_parts_are_quiet_unless_the_level_names_them() {
        let noise = || {
            tracing::info!(target: "sqlx::query", "SELECT 1");
            tracing::debug!("ours");
        };
        assert_eq!(logged(false, "debug", noise).len(), 1);
        assert_eq!(logged(false, "debug,sqlx=debug", noise).len(), 2);
        assert_eq!(logged(false, "info", noise).len(), 0);
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        for json in [false, true] {
            let lines = logged_with(json, "info", |reload| {
                let said = || tracing::debug!("a detail");
                said();
                reload(parsed(&quieted("debug")).unwrap()).unwrap();
                said();
                tracing::info!(target: "sqlx::query", "SELECT 1");
                reload(parsed(&quieted("off")).unwrap()).unwrap();
                tracing::error!("nobody hears it");
            });
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("a detail"), "{lines:?}");
        }
    }

    #[test]
    fn rust_log_overrides_the_level() {
        let log = Log { format: LogFormat::Auto, level: "info".to_owned() };
        assert_eq!(filter(&log, Some("sqlx=trace".to_owned())).unwrap().to_string(), "sqlx=trace");
        let error = filter(&log, Some("a=b=c".to_owned())).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("RUST_LOG: \"a=b=c\" cannot be used: "), "{error}");
    }
}
