//! `consul`: how this node is found, and how it finds others.

use url::{Host, Url};

use super::{header_text, http_url, optional, refuse};
use crate::config::{ConfigError, Consul, ServiceAddress, raw::RawConsul};

/// Most characters of a service's name.
const MAX_NAME: usize = 64;

pub(super) fn check(raw: &RawConsul) -> Result<Option<Consul>, ConfigError> {
    let token = optional("consul.token", &raw.token, header_text)?;
    let service_name = service_name("consul.serviceName", &raw.service_name)?;
    let service_address = optional("consul.serviceAddress", &raw.service_address, service_address)?;
    let address = optional("consul.address", &raw.address, http_url)?;
    Ok(address.map(|address| Consul { address, token, service_name, service_address }))
}

/// As it can be asked for by DNS too.
fn service_name(key: &str, text: &str) -> Result<String, ConfigError> {
    let usable =
        (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match usable {
        true => Ok(text.to_owned()),
        false => Err(refuse(key, text, "1 to 64 letters, digits and hyphens")),
    }
}

fn service_address(key: &str, text: &str) -> Result<ServiceAddress, ConfigError> {
    let refused = || refuse(key, text, "a host or host:port, such as node-1.lan, 10.0.0.5:8080 or [fd00::5]:8080");
    // The port of a scheme that has none by itself is the one that is written.
    let url = Url::parse(&format!("tcp://{text}")).map_err(|_| refused())?;
    let bare = url.path().is_empty() && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Domain(_)) | None => return Err(refused()),
    };
    if bare { Ok(ServiceAddress { host, port: url.port() }) } else { Err(refused()) }
}

/// Where the file service is: at a URL, or at any instance of a service.
pub(super) fn url_or_service(key: &str, text: &str, has_consul: bool) -> Result<Url, ConfigError> {
    let service = ["consul://", "consul+https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = service else { return http_url(key, text) };
    if !has_consul {
        return Err(refuse(key, text, "consul.address must be set for such a URL; else an absolute http(s) URL"));
    }
    // Judged like the URL that it becomes, and Consul knows the port.
    http_url(key, &format!("http://{rest}"))?;
    let usable = |url: &Url| url.port().is_none() && url.host_str().is_some_and(|name| !name.is_empty());
    Url::parse(text).ok().filter(usable).ok_or_else(|| refuse(key, text, "consul://service/path, without a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_at_a_host_with_or_without_a_port() {
        let read = |text: &str| {
            let raw =
                RawConsul { service_address: text.into(), address: "http://c:8500".into(), ..RawConsul::default() };
            check(&raw).map(|consul| consul.unwrap().service_address).map_err(|error| error.key)
        };
        let at = |host: &str, port| Ok(Some(ServiceAddress { host: host.into(), port }));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("node-1.lan"), at("node-1.lan", None));
        assert_eq!(read("10.0.0.5:80"), at("10.0.0.5", Some(80)));
        assert_eq!(read("[fd00::5]:8080"), at("fd00::5", Some(8080)));
        for wrong in ["http://a", "a/b", "a:b", ":80", "user@host", "a b"] {
            assert_eq!(read(wrong), Err("consul.serviceAddress".to_owned()), "{wrong}");
        }
    }

    #[test]
    fn an_agent_is_named_by_its_url_and_a_service_by_a_plain_name() {
        assert!(check(&RawConsul::default()).unwrap().is_none());
        let wrong = RawConsul { address: "127.0.0.1:8500".into(), ..RawConsul::default() };
        assert_eq!(check(&wrong).unwrap_err().key, "consul.address");
        let wrong = RawConsul { service_name: "a/b".into(), ..RawConsul::default() };
        assert_eq!(check(&wrong).unwrap_err().key, "consul.serviceName");
    }

    #[test]
    fn a_file_service_is_found_through_consul_where_there_is_one() {
        let read = |text: &str, has_consul| url_or_service("oss.url", text, has_consul).map(String::from);
        assert_eq!(read("consul://files/up", true).unwrap(), "consul://files/up");
        assert_eq!(read("consul+https://files/up", true).unwrap(), "consul+https://files/up");
        assert_eq!(read("http://files/up", false).unwrap(), "http://files/up");
        assert!(read("consul://files/up", false).unwrap_err().to_string().contains("consul.address"));
        for wrong in ["consul://files:80/up", "consul:///up", "consul://files/up?key=1"] {
            assert!(read(wrong, true).is_err(), "{wrong}");
        }
    }
}
