//! What is legal and still likely to be a mistake: settings that do not fit together.

use std::net::IpAddr;

use url::{Host, Url};

use super::{Auth, Config, Database, Email, JwtKeys, MailTls, OssKind};

impl Config {
    /// One sentence for each such pair of settings.
    pub fn warnings(&self) -> Vec<String> {
        let loopback = self.server.address.ip().is_loopback();
        let postgres = matches!(self.database, Database::Postgres { .. });
        let fs = matches!(self.oss.kind, OssKind::Fs { .. });
        let mut found = Vec::new();
        let mut warn = |applies: bool, text: &str| {
            if applies {
                found.push(text.to_owned());
            }
        };
        warn(
            matches!(self.auth, Auth::Anonymous) && !loopback,
            "auth.mode is anonymous beyond loopback: everyone who reaches this service is an admin",
        );
        warn(
            matches!(self.auth, Auth::Gateway { secret: None }) && !loopback,
            "auth.gatewaySecret is not set: whoever reaches this service past the gateway can claim to be any tenant",
        );
        let (unchecked, in_clear) = match &self.auth {
            Auth::Jwt { rules, keys } => (
                rules.issuer.is_none() || rules.audience.is_none(),
                matches!(keys, JwtKeys::Published(url) if url.scheme() == "http" && !is_loopback(url)),
            ),
            Auth::Anonymous | Auth::Gateway { .. } | Auth::Token => (false, false),
        };
        warn(
            unchecked,
            "auth.jwt.issuer or auth.jwt.audience is not set: tokens that the identity provider made for another \
             service are accepted",
        );
        warn(
            in_clear,
            "auth.jwt.jwksUrl begins with http: whoever is in between can make tokens of any tenant; use https",
        );
        warn(
            !matches!(self.auth, Auth::Anonymous) && postgres && !self.vault.has_key(),
            "secrets.key is not set: the API keys of models are stored in clear",
        );
        warn(
            postgres && self.redis.is_none(),
            "redis.url is not set: nodes hear of each other's tasks only by polling, and limits are held by the \
             database's count alone",
        );
        warn(
            !postgres && self.redis.is_some(),
            "redis.url is set with an embedded database: it has one process, which needs no Redis",
        );
        warn(
            postgres && fs,
            "oss.kind is fs with a database that several nodes can share: all of them need the same oss.path",
        );
        warn(
            fs && self.server.public_url.is_none() && !loopback,
            "server.publicUrl is not set: the URLs of results begin with server.address, which callers elsewhere \
             may not reach",
        );
        warn(
            !self.worker.enabled && !self.cleaner.enabled,
            "worker.enabled and cleaner.enabled are false: this node only answers the API, others must do the work",
        );
        warn(
            !postgres && !self.worker.enabled,
            "worker.enabled is false with an embedded database: no other process can run its tasks",
        );
        warn(
            !postgres && !self.cleaner.enabled,
            "cleaner.enabled is false with an embedded database: no retry will become due and nothing be purged",
        );
        warn(
            !postgres && !self.maintenance.enabled,
            "maintenance.enabled is false with an embedded database: nobody deletes old rows of the operation log",
        );
        warn(
            matches!(self.oss.kind, OssKind::Http { .. }) && self.oss.delete_on_purge,
            "oss.deleteOnPurge is true with oss.kind http: a file service cannot be asked to delete",
        );
        warn(
            self.consul
                .as_ref()
                .is_some_and(|consul| consul.service_address.is_none() && !is_loopback(&consul.address))
                && (loopback || self.server.address.ip().is_unspecified()),
            "consul.serviceAddress is not set, consul.address is on another machine, and server.address is none that it \
             could reach: this node's check will fail",
        );
        warn(
            !self.monitor.rules.is_empty() && self.monitor.email.is_none() && self.monitor.webhook.is_none(),
            "monitor.rules are set, but neither monitor.email nor monitor.webhook: alerts only show in the log",
        );
        warn(
            self.monitor.rules.is_empty() && (self.monitor.email.is_some() || self.monitor.webhook.is_some()),
            "monitor.email or monitor.webhook is set, but monitor.rules is empty: nobody will be told of anything",
        );
        let tells_the_password = |email: &Email| {
            let is_here = email.host == "localhost" || email.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
            email.tls == MailTls::None && email.login.is_some() && !is_here
        };
        warn(
            self.monitor.email.as_ref().is_some_and(tells_the_password),
            "monitor.email.tls is none: the password goes to the mail server in clear; use starttls or tls",
        );
        found
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{check::check, raw::RawConfig};

    fn warnings(change: impl FnOnce(&mut RawConfig)) -> Vec<String> {
        let mut raw = RawConfig::default();
        change(&mut raw);
        check(&raw).unwrap().warnings()
    }

    /// Those settings earn exactly these warnings, known by their first words.
    fn warned(beginnings: &[&str], change: impl FnOnce(&mut RawConfig)) {
        let warnings = warnings(change);
        assert_eq!(warnings.len(), beginnings.len(), "{warnings:#?}");
        for (warning, beginning) in warnings.iter().zip(beginnings) {
            assert!(warning.starts_with(beginning), "{warning}");
        }
    }

    /// Two nodes as they should be: no warning.
    fn production(raw: &mut RawConfig) {
        raw.server.address = "0.0.0.0:8080".into();
        raw.auth.mode = "gateway".into();
        raw.auth.gateway_secret = "secret".into();
        raw.secrets.key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into();
        raw.database.url = "postgres://app@db/app".into();
        raw.redis.url = "redis://redis:6379".into();
        raw.oss.kind = "s3".into();
        raw.oss.bucket = "models".into();
        raw.oss.access_key = "id".into();
        raw.oss.secret_key = "secret".into();
    }

    #[test]
    fn neither_the_defaults_nor_production_are_warned_of() {
        warned(&[], |_| {});
        warned(&[], production);
    }

    #[test]
    fn anonymous_beyond_loopback_is_warned_of() {
        warned(&["auth.mode is anonymous"], |raw| {
            raw.server.address = "0.0.0.0:8080".into();
            raw.server.public_url = "http://models.example".into();
            raw.auth.allow_insecure = true;
        });
    }

    #[test]
    fn a_node_that_consul_cannot_check_is_warned_of() {
        let far = |raw: &mut RawConfig| {
            production(raw);
            raw.consul.address = "http://consul.lan:8500".into();
        };
        warned(&["consul.serviceAddress is not set"], far);
        warned(&[], |raw| {
            far(raw);
            raw.consul.service_address = "node-1.lan".into();
        });
    }

    #[test]
    fn a_gateway_without_secret_is_warned_of() {
        warned(&["auth.gatewaySecret is not set"], |raw| {
            production(raw);
            raw.auth.gateway_secret.clear();
        });
    }

    #[test]
    fn tokens_that_anyone_could_have_made_are_warned_of() {
        let jwt = |raw: &mut RawConfig| {
            production(raw);
            raw.auth.mode = "jwt".into();
            raw.auth.jwt.jwks_url = "https://id.example/keys".into();
            raw.auth.jwt.issuer = "https://id.example".into();
            raw.auth.jwt.audience = "asynch".into();
        };
        warned(&[], jwt);
        warned(&["auth.jwt.issuer or auth.jwt.audience"], |raw| {
            jwt(raw);
            raw.auth.jwt.audience.clear();
        });
        warned(&["auth.jwt.jwksUrl begins with http"], |raw| {
            jwt(raw);
            raw.auth.jwt.jwks_url = "http://id.example/keys".into();
        });
    }

    #[test]
    fn api_keys_in_clear_are_warned_of() {
        warned(&["secrets.key is not set"], |raw| {
            production(raw);
            raw.secrets.key.clear();
        });
    }

    #[test]
    fn postgres_without_redis_is_warned_of() {
        warned(&["redis.url is not set"], |raw| {
            production(raw);
            raw.redis.url.clear();
        });
    }

    #[test]
    fn redis_without_postgres_is_warned_of() {
        warned(&["redis.url is set with an embedded database"], |raw| raw.redis.url = "redis://localhost".into());
    }

    #[test]
    fn a_folder_for_several_nodes_is_warned_of() {
        warned(&["oss.kind is fs"], |raw| {
            production(raw);
            raw.oss.kind = "fs".into();
            raw.server.public_url = "http://models.example".into();
        });
    }

    #[test]
    fn results_that_nobody_can_reach_are_warned_of() {
        warned(&["oss.kind is fs", "server.publicUrl is not set"], |raw| {
            production(raw);
            raw.oss.kind = "fs".into();
        });
    }

    #[test]
    fn an_embedded_database_without_maintenance_is_warned_of() {
        warned(&["maintenance.enabled is false"], |raw| raw.maintenance.enabled = false);
    }

    #[test]
    fn a_node_without_work_is_warned_of() {
        warned(&["worker.enabled and cleaner.enabled are false"], |raw| {
            production(raw);
            raw.worker.enabled = false;
            raw.cleaner.enabled = false;
        });
    }

    #[test]
    fn an_embedded_service_that_does_half_its_work_is_warned_of() {
        warned(&["worker.enabled is false with an embedded"], |raw| raw.worker.enabled = false);
        warned(&["cleaner.enabled is false with an embedded"], |raw| raw.cleaner.enabled = false);
    }

    #[test]
    fn deletions_that_cannot_be_done_are_warned_of() {
        warned(&["oss.deleteOnPurge is true"], |raw| {
            raw.oss.kind = "http".into();
            raw.oss.url = "http://files.example/upload".into();
            raw.oss.delete_on_purge = true;
        });
    }

    fn mail(raw: &mut RawConfig) {
        raw.monitor.email.host = "mail.example".into();
        raw.monitor.email.from = "a@example.com".into();
        raw.monitor.email.to = "b@example.com".into();
    }

    #[test]
    fn rules_without_a_channel_and_channels_without_a_rule_are_warned_of() {
        let rule = serde_json::json!({ "name": "lost", "nodeLost": true }).as_object().unwrap().clone();
        warned(&["monitor.rules are set, but"], |raw| raw.monitor.rules = vec![rule.clone()]);
        warned(&["monitor.email or monitor.webhook is set, but"], mail);
        warned(&[], |raw| {
            mail(raw);
            raw.monitor.rules = vec![rule];
        });
    }

    #[test]
    fn a_password_in_clear_is_warned_of() {
        let login = |raw: &mut RawConfig| {
            mail(raw);
            raw.monitor.email.user = "a".into();
            raw.monitor.email.password = "b".into();
        };
        warned(&["monitor.email or monitor.webhook is set, but"], login);
        warned(&["monitor.email or monitor.webhook is set, but", "monitor.email.tls is none"], |raw| {
            login(raw);
            raw.monitor.email.tls = "none".into();
        });
        warned(&["monitor.email or monitor.webhook is set, but"], |raw| {
            login(raw);
            raw.monitor.email.tls = "none".into();
            raw.monitor.email.host = "127.0.0.1".into();
        });
    }
}
