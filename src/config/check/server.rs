//! `server` and `limits`: where it listens, and what callers may use up.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    num::NonZeroU32,
    time::Duration,
};

use super::{HOUR, SECOND, duration, http_url, integer, missing, optional, refuse};
use crate::config::{
    ConfigError, Limits, Server, TlsFiles,
    raw::{RawLimits, RawServer},
};

const ADDRESS: &str = "host:port, such as 127.0.0.1:8080 or 0.0.0.0:8080";

pub(super) fn server(raw: &RawServer) -> Result<Server, ConfigError> {
    Ok(Server {
        address: address(&raw.address)?,
        public_url: optional("server.publicUrl", &raw.public_url, http_url)?,
        tls: tls(raw)?,
        max_body_bytes: integer("server.maxBodyBytes", raw.max_body_bytes, 1024..=1 << 30)?,
        shutdown_grace: duration("server.shutdownGrace", &raw.shutdown_grace, Duration::ZERO..=HOUR)?,
    })
}

fn tls(raw: &RawServer) -> Result<Option<TlsFiles>, ConfigError> {
    match (raw.tls_cert_file.as_str(), raw.tls_key_file.as_str()) {
        ("", "") => Ok(None),
        ("", _) => Err(missing("server.tlsCertFile", "a PEM file with the certificate of server.tlsKeyFile")),
        (_, "") => Err(missing("server.tlsKeyFile", "a PEM file with the private key of server.tlsCertFile")),
        (certificate, key) => Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() })),
    }
}

pub(super) fn limits(raw: &RawLimits) -> Result<Limits, ConfigError> {
    Ok(Limits {
        requests_per_second: NonZeroU32::new(integer(
            "limits.requestsPerSecond",
            raw.requests_per_second,
            0..=1_000_000,
        )?),
        connections: integer("limits.connections", raw.connections, 1..=1_000_000)?,
        header_bytes: integer("limits.headerBytes", raw.header_bytes, 8192..=1 << 20)?,
        header_time: duration("limits.headerTimeout", &raw.header_timeout, SECOND..=HOUR)?,
    })
}

/// A name is resolved once, here. IPv4 comes first, so that `localhost` is where callers look.
fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let found = text.to_socket_addrs().ok().and_then(|found| found.min_by_key(SocketAddr::is_ipv6));
    found.ok_or_else(|| refuse("server.address", text, ADDRESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(checked: Result<T, ConfigError>) -> String {
        checked.map(|_| ()).unwrap_err().key
    }

    #[test]
    fn a_certificate_and_its_key_come_together() {
        let tls = |cert: &str, key: &str| {
            tls(&RawServer { tls_cert_file: cert.into(), tls_key_file: key.into(), ..RawServer::default() })
        };
        assert!(tls("", "").unwrap().is_none());
        assert!(tls("cert.pem", "key.pem").unwrap().is_some());
        assert_eq!(refused(tls("cert.pem", "")), "server.tlsKeyFile");
        assert_eq!(refused(tls("", "key.pem")), "server.tlsCertFile");
    }

    #[test]
    fn limits_have_bounds_and_no_requests_a_second_is_no_limit() {
        let with = |change: fn(&mut RawLimits)| {
            let mut raw = RawLimits::default();
            change(&mut raw);
            limits(&raw)
        };
        assert_eq!(with(|_| {}).unwrap().requests_per_second, None);
        assert_eq!(with(|raw| raw.requests_per_second = 5).unwrap().requests_per_second, NonZeroU32::new(5));
        assert_eq!(refused(with(|raw| raw.requests_per_second = -1)), "limits.requestsPerSecond");
        assert_eq!(refused(with(|raw| raw.connections = 0)), "limits.connections");
        assert_eq!(refused(with(|raw| raw.header_bytes = 100)), "limits.headerBytes");
        assert_eq!(refused(with(|raw| raw.header_timeout = "10".into())), "limits.headerTimeout");
    }
}
