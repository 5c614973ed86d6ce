//! Where models may be called: which hosts and addresses this service connects to for a tenant.
//!
//! Whoever registers a model chooses where this service connects to from inside its network.
//! Without a check a tenant could reach what only this machine can: a cloud's metadata service,
//! databases, the neighbours' models. A URL is checked when it is saved, for a clear answer, and
//! again when the connection is made, on the very address that is dialled: a name may have got
//! another address meanwhile.
//!
//! What holds, in this order: addresses that are never models ([`forbidden`]); `egress.deny`;
//! `egress.allow`; `egress.otherwise` for what neither names.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tower_service::Service;
use tracing::warn;
use url::{Host, Url};

/// One entry of `egress.allow` or `egress.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Addresses: `10.0.0.0/8`, `10.1.2.3`, `fd00::/8`.
    Net(IpNet),
    /// A host by its name, in lower case: `models.example.com`.
    Host(String),
    /// Hosts below a name: `.example.com`, written as `*.example.com`.
    Below(String),
}

/// What holds for addresses that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// They may be called.
    All,
    /// They may be called unless they are private: of this machine, a local network, or reserved.
    Public,
    /// They may not be called.
    None,
}

/// The rules; cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    otherwise: Otherwise,
}

/// A host that models may not have. Says no address: a name's address is nobody's business who
/// cannot resolve it himself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} {reason}")]
pub struct Denied {
    host: String,
    reason: &'static str,
}

/// Why a name has no address to dial.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The name cannot be resolved.
    #[error("the host name cannot be resolved: {0}")]
    Unresolved(#[from] std::io::Error),
    /// It has only addresses that may not be called.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl Rule {
    /// Reads a rule as written in the configuration.
    pub fn parse(text: &str) -> Option<Rule> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Rule::Net(net.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Rule::Net(address.into()));
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = match Host::parse(name).ok().filter(|_| !name.contains('*'))? {
            Host::Domain(name) => plain(&name),
            Host::Ipv4(_) | Host::Ipv6(_) => return None,
        };
        match below {
            // The root alone is nobody's host.
            _ if name.is_empty() => None,
            true => Some(Rule::Below(format!(".{name}"))),
            false => Some(Rule::Host(name)),
        }
    }

    fn names(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Rule::Net(net) => net.contains(&address),
            Rule::Host(name) => host == name,
            Rule::Below(suffix) => host.ends_with(suffix.as_str()),
        }
    }
}

impl Egress {
    /// Rules in force.
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>, otherwise: Otherwise) -> Egress {
        Egress { rules: Arc::new(Rules { allow, deny, otherwise }) }
    }

    /// Checks a URL as far as that is possible without connecting: its address, or those that its
    /// name has now. A name without an address is fine, its model may start later.
    ///
    /// # Errors
    /// Where a connection would be refused as things are.
    pub async fn check_url(&self, url: &Url) -> Result<(), Denied> {
        self.check_literal(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        match self.resolve(name).await {
            Err(Unreachable::Denied(denied)) => Err(denied),
            Ok(_) | Err(Unreachable::Unresolved(_)) => Ok(()),
        }
    }

    /// Checks the address in a URL that has no name to resolve.
    ///
    /// # Errors
    /// Where it may not be called.
    pub fn check_literal(&self, url: &Url) -> Result<(), Denied> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(&address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.check(&address.to_string(), address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// The addresses of a name that may be dialled (port 0), and no others.
    ///
    /// # Errors
    /// Where it has none at all, or none that may be called.
    pub async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, Unreachable> {
        let host = plain(name);
        let mut denied = None;
        let mut allowed = Vec::new();
        for found in tokio::net::lookup_host((name, 0)).await? {
            match self.check(&host, found.ip()) {
                Ok(()) => allowed.push(found),
                Err(refused) => {
                    warn!(host, address = %found.ip(), "a model's address is not among those that may be called");
                    denied = Some(refused);
                }
            }
        }
        match denied {
            Some(denied) if allowed.is_empty() => Err(denied.into()),
            Some(_) | None => Ok(allowed),
        }
    }

    /// Whether a host may be called at an address.
    fn check(&self, host: &str, address: IpAddr) -> Result<(), Denied> {
        let Rules { allow, deny, otherwise } = &*self.rules;
        let denied = |reason| Err(Denied { host: host.to_owned(), reason });
        let address = dialled(address);
        if forbidden(address) {
            return denied("has an address that is never a model's (a cloud's metadata service, or not one machine)");
        }
        if deny.iter().any(|rule| rule.names(host, address)) {
            return denied("may not be called; the operator's egress.deny names it");
        }
        if allow.iter().any(|rule| rule.names(host, address)) {
            return Ok(());
        }
        match otherwise {
            Otherwise::All => Ok(()),
            Otherwise::Public if !is_private(address) => Ok(()),
            Otherwise::Public => denied("is in a private network; the operator can add it to egress.allow"),
            Otherwise::None => denied("may not be called; the operator can add it to egress.allow"),
        }
    }
}

/// For clients that are to connect to what may be called only: names lead to such addresses, and to
/// no others. What has no name to resolve is for [`Egress::check_literal`].
impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let addresses: Addrs = Box::new(Egress::resolve(&egress, name.as_str()).await?.into_iter());
            Ok(addresses)
        })
    }
}

/// The same for hyper's own client.
impl Service<dns::Name> for Egress {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        let egress = self.clone();
        Box::pin(async move { Ok(Egress::resolve(&egress, name.as_str()).await?.into_iter()) })
    }
}

/// As names are compared: lower case, without the dot of the root.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The address that is reached in the end: the IPv4 address inside of an IPv6 one (mapped; NAT64,
/// RFC 6052; 6to4, RFC 3056).
fn dialled(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    if let Some(four) = six.to_ipv4_mapped() {
        return four.into();
    }
    let octets = six.octets();
    let four = |at: usize| IpAddr::from([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    match six.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => four(12),
        [0x2002, ..] => four(2),
        _ => address,
    }
}

/// Never a model: metadata services of clouds (link-local ones and those of Azure, Alibaba, Oracle
/// and AWS over IPv6), no address, many machines at once.
fn forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let metadata =
                [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
            four.octets()[0] == 0
                || four.is_link_local()
                || four.is_multicast()
                || four.is_broadcast()
                || metadata.contains(&four)
        }
        IpAddr::V6(six) => {
            let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            six.is_unspecified() || six.is_multicast() || six.is_unicast_link_local() || six == metadata
        }
    }
}

/// This machine, a local network, or reserved (IANA's special-purpose address registries).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, _] = four.octets();
            four.is_loopback()
                || four.is_private()
                || four.is_documentation()
                || (a == 100 && b & 0xc0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xfe == 18)
                || a >= 240
        }
        IpAddr::V6(six) => {
            let [a, b, ..] = six.segments();
            six.is_loopback()
                || six.is_unique_local()
                // Site-local, deprecated; IPv4-compatible; documentation; discard.
                || a & 0xffc0 == 0xfec0
                || six.segments()[..6] == [0; 6]
                || (a == 0x2001 && b == 0xdb8)
                || a == 0x100
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &[&str]) -> Vec<Rule> {
        text.iter().map(|rule| Rule::parse(rule).unwrap()).collect()
    }

    fn egress(allow: &[&str], deny: &[&str], otherwise: Otherwise) -> Egress {
        Egress::new(rules(allow), rules(deny), otherwise)
    }

    fn may(egress: &Egress, host: &str, address: &str) -> bool {
        egress.check(host, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_are_never_called() {
        let everything = ["0.0.0.0/0", "::/0", "metadata.google.internal"];
        let open = egress(&everything, &[], Otherwise::All);
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(!may(&open, "metadata.google.internal", address), "{address}");
        }
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        let public = egress(&[], &[], Otherwise::Public);
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::7f00:1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(!may(&public, "h", address), "{address}");
        }
        for address in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(may(&public, "h", address), "{address}");
        }
    }

    #[test]
    fn deny_goes_before_allow_and_allow_before_the_rest() {
        let rules = egress(
            &["10.0.0.0/8", "*.models.example.com", "gpu"],
            &["10.0.0.5", "bad.models.example.com"],
            Otherwise::Public,
        );
        assert!(may(&rules, "h", "10.1.2.3"));
        assert!(!may(&rules, "h", "10.0.0.5"));
        assert!(may(&rules, "a.models.example.com", "192.168.0.1"));
        assert!(!may(&rules, "models.example.com", "192.168.0.1"));
        assert!(!may(&rules, "evilmodels.example.com", "192.168.0.1"));
        assert!(!may(&rules, "bad.models.example.com", "8.8.8.8"));
        assert!(may(&rules, "gpu", "192.168.0.1") && !may(&rules, "gpu", "10.0.0.5"));
        assert!(may(&rules, "h", "8.8.8.8"));
        let closed = egress(&["gpu"], &[], Otherwise::None);
        assert!(may(&closed, "gpu", "8.8.8.8") && !may(&closed, "h", "8.8.8.8"));
    }

    #[test]
    fn a_rule_is_an_address_a_net_or_a_name() {
        assert_eq!(Rule::parse("10.1.2.3/8"), Rule::parse("10.0.0.0/8"));
        assert_eq!(Rule::parse("10.1.2.3"), Rule::parse("10.1.2.3/32"));
        assert_eq!(Rule::parse("GPU.Example.com."), Some(Rule::Host("gpu.example.com".into())));
        assert_eq!(Rule::parse("*.example.com"), Some(Rule::Below(".example.com".into())));
        for text in ["", ".", "*", "*.", "*..", "10.0.0.0/40", "http://a", "a b", "*.10.0.0.1", "a/8"] {
            assert_eq!(Rule::parse(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_url_is_checked_by_what_it_leads_to() {
        let public = egress(&[], &[], Otherwise::Public);
        for url in ["http://127.0.0.1:9/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/", "http://localhost/"]
        {
            let denied = public.check_url(&Url::parse(url).unwrap()).await.unwrap_err();
            assert!(denied.to_string().contains("egress.allow"), "{denied}");
        }
        assert!(public.check_url(&Url::parse("http://nowhere.invalid/").unwrap()).await.is_ok());
        let local = egress(&["localhost"], &[], Otherwise::Public);
        assert!(!local.resolve("localhost").await.unwrap().is_empty());
        assert!(matches!(public.resolve("localhost").await, Err(Unreachable::Denied(_))));
        assert!(matches!(public.resolve("nowhere.invalid").await, Err(Unreachable::Unresolved(_))));
    }

    proptest! {
        #[test]
        fn whatever_is_read_as_a_name_reads_back_as_the_same_rule(
            text in prop_oneof![any::<String>(), r"(\*\.)?[A-Za-z0-9.\-/:%]{0,24}"],
        ) {
            match Rule::parse(&text) {
                Some(Rule::Host(name)) => prop_assert_eq!(Rule::parse(&name), Some(Rule::Host(name))),
                Some(Rule::Below(suffix)) => {
                    prop_assert!(suffix.starts_with('.') && suffix.len() > 1, "{suffix:?} would name every host");
                    prop_assert_eq!(Rule::parse(&format!("*{suffix}")), Some(Rule::Below(suffix)));
                }
                Some(Rule::Net(net)) => prop_assert_eq!(Rule::parse(&net.to_string()), Some(Rule::Net(net))),
                None => {}
            }
        }

        #[test]
        fn an_address_inside_another_is_judged_like_itself(four: std::net::Ipv4Addr) {
            let public = egress(&[], &[], Otherwise::Public);
            let [a, b, c, d] = four.octets();
            let nat64 = format!("64:ff9b::{a:02x}{b:02x}:{c:02x}{d:02x}");
            let relay = format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1");
            for six in [format!("::ffff:{four}"), nat64, relay] {
                prop_assert_eq!(may(&public, "h", &six), may(&public, "h", &four.to_string()), "{}", six);
            }
        }
    }
}
