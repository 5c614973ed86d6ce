//! `telemetry`: where traces are sent.

use super::{http_url, optional, refuse, required};
use crate::{
    config::{Collector, ConfigError, Telemetry, raw::RawTelemetry},
    model::headers::Headers,
};

/// Where OTLP wants traces posted (OTLP/HTTP request).
const TRACES: &str = "v1/traces";

pub(super) fn check(raw: &RawTelemetry) -> Result<Telemetry, ConfigError> {
    let headers = headers("telemetry.otlpHeaders", &raw.otlp_headers)?;
    let collector = optional("telemetry.otlpEndpoint", &raw.otlp_endpoint, |key, text| {
        let mut url = http_url(key, text)?;
        let path = url.path().trim_end_matches('/');
        if !path.ends_with(TRACES) {
            url.set_path(&format!("{path}/{TRACES}"));
        }
        Ok(Collector { url, headers })
    })?;
    let service_name = required("telemetry.serviceName", &raw.service_name, "the name of this service in traces")?;
    if !(0.0..=1.0).contains(&raw.sample_ratio) {
        return Err(refuse("telemetry.sampleRatio", raw.sample_ratio, "0.0 to 1.0"));
    }
    Ok(Telemetry { collector, service_name: service_name.to_owned(), sample_ratio: raw.sample_ratio })
}

fn headers(key: &str, text: &str) -> Result<Headers, ConfigError> {
    Headers::parse(text).map_err(|problem| ConfigError {
        key: key.to_owned(),
        message: format!("{problem}; accepted: Key:Value,Key2:Value2"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(endpoint: &str) -> Result<String, String> {
        let raw = RawTelemetry { otlp_endpoint: endpoint.into(), ..RawTelemetry::default() };
        check(&raw).map(|telemetry| telemetry.collector.unwrap().url.into()).map_err(|error| error.key)
    }

    #[test]
    fn a_collector_is_named_by_its_base_or_by_the_url_for_traces() {
        assert_eq!(collector("http://jaeger:4318").unwrap(), "http://jaeger:4318/v1/traces");
        assert_eq!(collector("http://jaeger:4318/").unwrap(), "http://jaeger:4318/v1/traces");
        assert_eq!(collector("https://c.example.com/otlp/").unwrap(), "https://c.example.com/otlp/v1/traces");
        assert_eq!(collector("http://jaeger:4318/v1/traces").unwrap(), "http://jaeger:4318/v1/traces");
        assert_eq!(collector("jaeger:4318"), Err("telemetry.otlpEndpoint".to_owned()));
        assert!(check(&RawTelemetry::default()).unwrap().collector.is_none());
    }

    #[test]
    fn a_ratio_is_a_share_and_headers_are_pairs() {
        for ratio in [-0.1, 1.1, f64::NAN] {
            let raw = RawTelemetry { sample_ratio: ratio, ..RawTelemetry::default() };
            assert_eq!(check(&raw).unwrap_err().key, "telemetry.sampleRatio", "{ratio}");
        }
        let raw = RawTelemetry { otlp_headers: "geheim".into(), ..RawTelemetry::default() };
        let error = check(&raw).unwrap_err();
        assert_eq!(error.key, "telemetry.otlpHeaders");
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
}
