//! `healthcheck`: ask a running service whether it is ready, for container engines.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};

use crate::config::Config;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most bytes of an answer that are shown.
const MAX_SHOWN: usize = 500;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to ask [default: /readyz at the configured server.address]
    #[arg(long)]
    url: Option<String>,
}

pub(super) async fn run(args: Args, config: impl FnOnce() -> anyhow::Result<Config>) -> anyhow::Result<()> {
    // A proxy is for the way out, and this is the way in.
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    let (url, client) = match args.url {
        Some(url) => (url, client),
        None => {
            // As text: a configuration error has an exit code of its own, which would say "reserved" here.
            let server = config().map_err(|error| anyhow!("{error:#}"))?.server;
            // The certificate names the service as callers know it, and nothing secret is sent.
            (ready_url(server.address, server.tls.is_some()), client.tls_danger_accept_invalid_certs(true))
        }
    };
    let client = client.build().context("cannot ask")?;
    let unreachable = || format!("not ready: no answer from {url}");
    let mut answer = client.get(&url).send().await.with_context(unreachable)?;
    let status = answer.status();
    let mut body = Vec::new();
    while body.len() < MAX_SHOWN
        && let Some(chunk) = answer.chunk().await.with_context(unreachable)?
    {
        body.extend(chunk);
    }
    body.truncate(MAX_SHOWN);
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&body).split_whitespace().collect::<Vec<_>>().join(" ");
        bail!("not ready: {url} answers {status} {reason}");
    }
    super::print("ready\n")
}

/// Where a service that listens there is asked from the same machine.
fn ready_url(mut listens: SocketAddr, tls: bool) -> String {
    if listens.ip().is_unspecified() {
        listens.set_ip(match listens.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{}://{listens}/readyz", if tls { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_every_address_is_asked_on_loopback() {
        let url = |address: &str| ready_url(address.parse().unwrap(), false);
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080/readyz");
        assert_eq!(url("[::]:8080"), "http://[::1]:8080/readyz");
        assert_eq!(url("10.1.2.3:80"), "http://10.1.2.3:80/readyz");
        assert_eq!(ready_url("0.0.0.0:443".parse().unwrap(), true), "https://127.0.0.1:443/readyz");
    }
}
