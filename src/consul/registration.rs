//! This node in Consul's list of services.
//!
//! The check is the agent's own request of `/readyz`, not a TTL that this process renews: it finds
//! what callers would find, a full disk or a lost database as well as a listener that hangs, while
//! whatever renews a TTL may be the one thing that still works. It needs an address that the agent
//! reaches, which is the one that callers reach.

use std::{net::SocketAddr, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, Trouble};
use crate::{clock, config};

/// How often the agent is asked whether it still knows this node: it forgets when it restarts
/// without its data.
const LOOK: Duration = Duration::from_secs(5);

/// How often the agent checks this node, as Consul writes durations, and how long that may take.
const CHECK: (&str, &str) = ("5s", "4s");

/// A node that fails its checks for this long is gone for good.
const FORGET_AFTER: &str = "1h";

/// See the module.
pub struct Registration {
    agent: Agent,
    /// The same after every restart, so that a node which died is not there twice.
    id: String,
    service: Value,
    /// The agent took it once.
    registered: bool,
    failing: bool,
}

impl Registration {
    /// Of a node that listens at `address`; nothing is sent yet.
    ///
    /// # Errors
    /// Where no HTTP client can be made on this machine.
    pub fn new(config: &config::Consul, address: SocketAddr, tls: bool) -> Result<Registration, String> {
        let named = config.service_address.as_ref();
        let port = named.and_then(|named| named.port).unwrap_or(address.port());
        // Without an address of our own the service has that of its agent, on the same machine.
        let host = named.map(|named| named.host.clone());
        let host = host.or_else(|| (!address.ip().is_unspecified()).then(|| address.ip().to_string()));
        let checked = host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        let checked = if checked.contains(':') { format!("[{checked}]") } else { checked };
        let scheme = if tls { "https" } else { "http" };
        let id = format!("{}-{}-{port}", config.service_name, host.as_deref().unwrap_or("local"));
        let service = json!({
            "ID": id,
            "Name": config.service_name,
            "Address": host.unwrap_or_default(),
            "Port": port,
            "Meta": { "version": env!("CARGO_PKG_VERSION"), "scheme": scheme },
            "Check": {
                "Name": "readyz",
                "HTTP": format!("{scheme}://{checked}:{port}/readyz"),
                // The agent may not know the name that the certificate is for, and sends no secrets.
                "TLSSkipVerify": tls,
                "Interval": CHECK.0,
                "Timeout": CHECK.1,
                "DeregisterCriticalServiceAfter": FORGET_AFTER,
            },
        });
        Ok(Registration { agent: Agent::new(config)?, id, service, registered: false, failing: false })
    }

    /// Keeps it registered until `stop`, and then takes it out of the list.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let kept = self.keep().await;
            self.tell(kept);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(clock::jittered(LOOK)) => {}
            }
        }
        if let Err(error) = self.deregister().await {
            warn!(%error, service = self.id, "cannot take this node off Consul's list, its check will fail instead");
        }
    }

    /// Registers it where the agent does not know it; true where that was needed.
    async fn keep(&mut self) -> Result<bool, Trouble> {
        let look = self.agent.request(Method::GET, &["agent", "service", &self.id]);
        // At first always: what an earlier version said of this node may be out of date.
        if self.registered && self.agent.answer(look).await?.is_some() {
            return Ok(false);
        }
        let register = self.agent.request(Method::PUT, &["agent", "service", "register"]);
        let register = register.query(&[("replace-existing-checks", "true")]).json(&self.service);
        self.agent.answer(register).await?.ok_or(Trouble::Refused(reqwest::StatusCode::NOT_FOUND))?;
        self.registered = true;
        Ok(true)
    }

    fn tell(&mut self, kept: Result<bool, Trouble>) {
        match kept {
            Ok(newly) => {
                if newly || self.failing {
                    info!(service = self.id, "registered with Consul");
                }
                self.failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(%error, service = self.id, "cannot register with Consul, trying again");
                }
            }
        }
    }

    async fn deregister(&self) -> Result<(), Trouble> {
        let request = self.agent.request(Method::PUT, &["agent", "service", "deregister", &self.id]);
        self.agent.answer(request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::config::ServiceAddress;

    fn registered(named: Option<(&str, Option<u16>)>, address: &str, tls: bool) -> Value {
        let config = config::Consul {
            address: Url::parse("http://127.0.0.1:8500").unwrap(),
            token: None,
            service_name: "asynch".into(),
            service_address: named.map(|(host, port)| ServiceAddress { host: host.into(), port }),
        };
        Registration::new(&config, address.parse().unwrap(), tls).unwrap().service
    }

    #[test]
    fn a_node_is_checked_where_callers_reach_it() {
        let check = |service: &Value| service["Check"]["HTTP"].as_str().unwrap().to_owned();
        let own = registered(None, "10.0.0.5:8080", false);
        assert_eq!((&own["Address"], &own["Port"]), (&json!("10.0.0.5"), &json!(8080)));
        assert_eq!((check(&own).as_str(), &own["ID"]), ("http://10.0.0.5:8080/readyz", &json!("asynch-10.0.0.5-8080")));
        let named = registered(Some(("node-1.lan", Some(443))), "0.0.0.0:8080", true);
        assert_eq!((&named["Address"], &named["Port"]), (&json!("node-1.lan"), &json!(443)));
        assert_eq!(check(&named), "https://node-1.lan:443/readyz");
        assert_eq!(check(&registered(Some(("fd00::5", None)), "[::]:8080", false)), "http://[fd00::5]:8080/readyz");
        let beside = registered(None, "0.0.0.0:8080", false);
        assert_eq!((&beside["Address"], check(&beside).as_str()), (&json!(""), "http://127.0.0.1:8080/readyz"));
    }
}
