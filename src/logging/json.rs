//! An event as one JSON object. The fields of the spans around it lie on top, beside its own: a
//! query by `task_id` finds every line of a task, whichever part of the service wrote it.

use std::fmt::{self, Debug};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer, time::FormatTime},
    registry::LookupSpan,
};

use super::Milliseconds;

/// The format; spans must be formatted by `JsonFields`.
pub(super) struct Json;

/// The fields of an event.
struct Fields(Map<String, Value>);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        for span in context.event_scope().into_iter().flat_map(|spans| spans.from_root()) {
            if let Some(written) = span.extensions().get::<FormattedFields<N>>() {
                fields.0.extend(serde_json::from_str::<Map<String, Value>>(written).unwrap_or_default());
            }
        }
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let metadata = event.metadata();
        // By hand, so that what people look for comes first.
        write!(to, r#"{{"timestamp":""#)?;
        Milliseconds.format_time(&mut to)?;
        write!(to, r#"","level":"{}","message":{message},"target":"{}""#, metadata.level(), metadata.target())?;
        for (name, value) in &fields.0 {
            write!(to, ",{}:{value}", Value::from(name.as_str()))?;
        }
        writeln!(to, "}}")
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
