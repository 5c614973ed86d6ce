//! `consul://service/path`, and `consul+https://` for services with TLS, as the URL of an instance.
//!
//! What the agent says is believed for [`TTL`], which costs one request to a neighbour for each
//! service in use. A blocking query would hear of changes a little sooner, for a connection and a task
//! of this process for each service; callers of a busy model could not tell the difference.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moka::future::Cache;
use reqwest::Method;
use serde::Deserialize;
use tracing::{info, warn};
use url::Url;

use super::{Agent, Trouble, body};
use crate::{clock, config};

/// How long an answer is believed, and how long one that did not come is not asked for again.
const TTL: Duration = Duration::from_secs(1);

/// Services that are remembered; those that were not asked for longest are forgotten first.
const CAPACITY: u64 = 10_000;

/// How long a service is remembered that nobody asks for.
const IDLE: Duration = Duration::from_secs(3600);

/// Most instances of one service.
const MAX_INSTANCES: usize = 1000;

/// What finds instances of services; cheap to clone, and to have without Consul.
#[derive(Clone, Default)]
pub struct Services(Option<Arc<Directory>>);

struct Directory {
    agent: Agent,
    known: Cache<String, Arc<Service>>,
    /// The agent did not answer the last time, which is logged when it begins.
    away: AtomicBool,
}

/// One service, as far as it is known.
#[derive(Default)]
struct Service {
    turn: AtomicUsize,
    seen: Mutex<Seen>,
    /// Held by the one who asks the agent.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Seen {
    asked_at: Option<Instant>,
    /// What the agent said last; kept while it is away.
    instances: Option<Arc<[Instance]>>,
}

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Instance {
    host: String,
    port: u16,
}

/// Why there is nothing to connect to; worth another try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoInstance {
    /// This service does not know of any Consul.
    #[error("URLs that begin with consul need consul.address in the configuration of this service")]
    NoConsul,
    /// No instance passes its checks.
    #[error("no healthy instance of {0}")]
    NoneHealthy(String),
    /// Nobody can say.
    #[error("no instance of {0} is known, because Consul does not answer")]
    Unknown(String),
    /// What is registered makes no URL.
    #[error("the instance of {0} that Consul knows has no usable address")]
    Unusable(String),
}

/// One entry of `/v1/health/service/:service`, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: NodePart,
    service: ServicePart,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodePart {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServicePart {
    /// Empty: the node's.
    #[serde(default)]
    address: String,
    port: u16,
}

/// Whether a URL names a service instead of a host.
pub fn names_a_service(url: &Url) -> bool {
    scheme(url).is_some()
}

/// What an instance is called with.
fn scheme(url: &Url) -> Option<&'static str> {
    match url.scheme() {
        "consul" => Some("http"),
        "consul+https" => Some("https"),
        _ => None,
    }
}

impl Services {
    /// What that agent knows; nothing without one.
    ///
    /// # Errors
    /// Where no HTTP client can be made on this machine.
    pub fn open(config: Option<&config::Consul>) -> Result<Services, String> {
        let Some(config) = config else { return Ok(Services::default()) };
        let known = Cache::builder().max_capacity(CAPACITY).time_to_idle(IDLE).build();
        Ok(Services(Some(Arc::new(Directory { agent: Agent::new(config)?, known, away: AtomicBool::new(false) }))))
    }

    /// The URL of a healthy instance, each in its turn, where the URL names a service; any other URL as it is.
    ///
    /// # Errors
    /// See [`NoInstance`].
    pub async fn resolve(&self, url: &Url) -> Result<Url, NoInstance> {
        let Some(scheme) = scheme(url) else { return Ok(url.clone()) };
        let directory = self.0.as_ref().ok_or(NoInstance::NoConsul)?;
        let name = url.host_str().unwrap_or_default();
        let service = directory.known.get_with_by_ref(name, async { Arc::default() }).await;
        let instances = directory.instances(name, &service).await?;
        let turn = service.turn.fetch_add(1, Ordering::Relaxed);
        let instance = instances.get(turn % instances.len().max(1));
        let instance = instance.ok_or_else(|| NoInstance::NoneHealthy(name.to_owned()))?;
        instance.url(scheme, url).ok_or_else(|| NoInstance::Unusable(name.to_owned()))
    }

    /// The URLs of all healthy instances.
    ///
    /// # Errors
    /// See [`NoInstance`].
    pub async fn all(&self, url: &Url) -> Result<Vec<Url>, NoInstance> {
        let Some(scheme) = scheme(url) else { return Ok(vec![url.clone()]) };
        let directory = self.0.as_ref().ok_or(NoInstance::NoConsul)?;
        let name = url.host_str().unwrap_or_default();
        let service = directory.known.get_with_by_ref(name, async { Arc::default() }).await;
        let instances = directory.instances(name, &service).await?;
        Ok(instances.iter().filter_map(|instance| instance.url(scheme, url)).collect())
    }
}

impl Directory {
    /// The healthy instances: by the agent's word, or its last one where it does not answer.
    async fn instances(&self, name: &str, service: &Service) -> Result<Arc<[Instance]>, NoInstance> {
        let unknown = || NoInstance::Unknown(name.to_owned());
        if let Some(fresh) = service.fresh() {
            return fresh.ok_or_else(unknown);
        }
        let _asking = match (service.asking.try_lock(), service.last()) {
            (Ok(asking), _) => asking,
            // Another one asks already; nobody waits who has something to go on with.
            (Err(_), Some(last)) => return Ok(last),
            (Err(_), None) => service.asking.lock().await,
        };
        if let Some(fresh) = service.fresh() {
            return fresh.ok_or_else(unknown);
        }
        let found = self.healthy(name).await;
        self.tell(found.as_ref().err());
        service.saw(found.ok());
        service.last().ok_or_else(unknown)
    }

    async fn healthy(&self, name: &str) -> Result<Arc<[Instance]>, Trouble> {
        let request = self.agent.request(Method::GET, &["health", "service", name]).query(&[("passing", "true")]);
        let Some(answer) = self.agent.answer(request).await? else { return Ok(Arc::default()) };
        read(&body(answer).await?)
    }

    fn tell(&self, trouble: Option<&Trouble>) {
        let was_away = self.away.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(error) if !was_away => {
                warn!(%error, "cannot ask Consul for instances, going on with those that are known");
            }
            None if was_away => info!("Consul tells of instances again"),
            Some(_) | None => {}
        }
    }
}

impl Service {
    /// What is known, where it is not worth asking again; an inner `None` where that is nothing.
    fn fresh(&self) -> Option<Option<Arc<[Instance]>>> {
        let seen = self.lock();
        seen.asked_at.filter(|asked_at| asked_at.elapsed() < TTL).map(|_| seen.instances.clone())
    }

    fn last(&self) -> Option<Arc<[Instance]>> {
        self.lock().instances.clone()
    }

    fn saw(&self, found: Option<Arc<[Instance]>>) {
        let mut seen = self.lock();
        seen.asked_at = Some(clock::tick());
        if found.is_some() {
            seen.instances = found;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instance {
    /// The service's URL with this instance in its place.
    fn url(&self, scheme: &str, service: &Url) -> Option<Url> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let query = service.query().map(|query| format!("?{query}")).unwrap_or_default();
        let url = Url::parse(&format!("{scheme}://{host}:{}{}{query}", self.port, service.path())).ok()?;
        // What somebody registered as an address must not be read as anything else.
        (url.username().is_empty() && url.port_or_known_default() == Some(self.port) && url.fragment().is_none())
            .then_some(url)
    }
}

fn read(body: &[u8]) -> Result<Arc<[Instance]>, Trouble> {
    let entries: Vec<Entry> = serde_json::from_slice(body).map_err(|error| Trouble::Unreadable(error.to_string()))?;
    let instance = |entry: Entry| {
        let host = if entry.service.address.is_empty() { entry.node.address } else { entry.service.address };
        Instance { host, port: entry.service.port }
    };
    Ok(entries.into_iter().take(MAX_INSTANCES).map(instance).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, service: &str) -> Option<String> {
        let service = Url::parse(service).unwrap();
        Instance { host: host.into(), port: 9000 }.url(scheme(&service)?, &service).map(Into::into)
    }

    #[test]
    fn a_service_becomes_one_of_its_instances_with_path_and_query() {
        assert_eq!(url("10.0.0.5", "consul://tts/v1/run?a=1").unwrap(), "http://10.0.0.5:9000/v1/run?a=1");
        assert_eq!(url("fd00::5", "consul+https://tts").unwrap(), "https://[fd00::5]:9000/");
        assert_eq!(url("gpu-1.lan", "consul://tts/a%20b").unwrap(), "http://gpu-1.lan:9000/a%20b");
        for odd in ["", "a/b", "user@host", "a:b@c", "h#", "h?x"] {
            assert_eq!(url(odd, "consul://tts/"), None, "{odd:?}");
        }
        assert!(!names_a_service(&Url::parse("http://consul/").unwrap()));
    }

    #[test]
    fn an_instance_without_an_address_has_that_of_its_node() {
        let body = br#"[{"Node":{"Address":"10.0.0.9","More":1},"Service":{"Address":"","Port":80},"Checks":[]},
                        {"Node":{"Address":"10.0.0.9"},"Service":{"Address":"10.0.0.5","Port":81}}]"#;
        let hosts: Vec<(String, u16)> = read(body).unwrap().iter().map(|i| (i.host.clone(), i.port)).collect();
        assert_eq!(hosts, [("10.0.0.9".to_owned(), 80), ("10.0.0.5".to_owned(), 81)]);
        assert!(read(b"rpc error").is_err());
    }

    #[tokio::test]
    async fn without_consul_a_service_is_refused_and_any_other_url_is_left_alone() {
        let none = Services::default();
        let plain = Url::parse("http://m/x").unwrap();
        assert_eq!(none.resolve(&plain).await, Ok(plain));
        assert_eq!(none.resolve(&Url::parse("consul://tts/x").unwrap()).await, Err(NoInstance::NoConsul));
    }
}
