//! `token`: make, list and revoke API tokens. Works beside a running service.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;

use crate::{
    caller::{Scopes, is_name},
    clock,
    config::{Auth, Config},
    store::{Store, tokens::Revoked},
    task::TenantId,
    token::{Token, TokenHash, TokenId, text_of},
};

/// Longest life of a token that has an end.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Tokens read at once.
const PAGE: i64 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it; it is shown this once only
    Create {
        /// The tenant that calls with it
        #[arg(long, value_name = "ID", allow_negative_numbers = true)]
        tenant: i64,
        /// The user that calls with it, `creator` of what it makes
        #[arg(long, value_name = "NAME", value_parser = user)]
        user: String,
        /// Divided by commas: task:write, task:read, model:write, stat:read; admin has them all and may
        /// name any tenant
        #[arg(long, value_parser = Scopes::parse)]
        scopes: Scopes,
        /// How long it works, such as 12h or 30d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = life)]
        expires: Option<Duration>,
    },
    /// List tokens; the tokens themselves are not stored
    List {
        /// Those of one tenant only
        #[arg(long, value_name = "ID", allow_negative_numbers = true)]
        tenant: Option<i64>,
    },
    /// End a token for good, within 2 s on every node
    Revoke {
        /// Its id, as list shows it
        #[arg(value_name = "ID")]
        id: i64,
    },
}

pub(super) async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    let store = Store::administer(&config.database, config.vault.clone()).await?;
    let outcome = match command {
        Command::Create { tenant, user, scopes, expires } => {
            create(&store, TenantId(tenant), &user, scopes, expires, &config.auth).await
        }
        Command::List { tenant } => list(&store, tenant.map(TenantId)).await,
        Command::Revoke { id } => revoke(&store, TokenId(id)).await,
    };
    store.close().await;
    outcome
}

async fn create(
    store: &Store,
    tenant: TenantId,
    user: &str,
    scopes: Scopes,
    expires: Option<Duration>,
    auth: &Auth,
) -> anyhow::Result<()> {
    let text = text_of(&clock::secret().context("the system has no random numbers")?);
    let hash = TokenHash::of(&text).context("the new token cannot be read")?;
    let expires_at = expires.map(|life| clock::now() + life);
    let id = store.create_token(hash, tenant, user, scopes, expires_at).await?;
    // Only the token goes to stdout, so that a script can take it from there.
    let until = expires_at.map_or_else(|| "until it is revoked".to_owned(), |end| format!("until {}", moment(end)));
    eprintln!("token {} of tenant {tenant}, user {user}, {scopes}: works {until}; it is not shown again", id.0);
    if !matches!(auth, Auth::Token) {
        eprintln!("warning: auth.mode is not token here, and the service accepts tokens in that mode only");
    }
    super::print(&format!("{text}\n"))
}

async fn list(store: &Store, tenant: Option<TenantId>) -> anyhow::Result<()> {
    let now = clock::now();
    let mut after = TokenId(i64::MIN);
    super::print(&row(["id", "tenant", "state", "created", "expires", "used", "scopes", "user"]))?;
    loop {
        let tokens = store.list_tokens(tenant, after, PAGE).await?;
        let mut text = String::new();
        for token in &tokens {
            text.write_str(&shown(token, now))?;
        }
        super::print(&text)?;
        match tokens.last() {
            Some(last) => after = last.id,
            None => return Ok(()),
        }
    }
}

async fn revoke(store: &Store, id: TokenId) -> anyhow::Result<()> {
    match store.revoke_token(id).await? {
        Revoked::Done => super::print(&format!("token {} is revoked\n", id.0)),
        Revoked::Already => super::print(&format!("token {} was revoked before\n", id.0)),
        Revoked::NotFound => bail!("there is no token {}; `model-asynch token list` shows those there are", id.0),
    }
}

fn shown(token: &Token, now: DateTime<Utc>) -> String {
    let state = match (token.revoked_at, token.works(now)) {
        (Some(_), _) => "revoked",
        (None, true) => "works",
        (None, false) => "expired",
    };
    let time = |at: Option<DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), moment);
    row([
        &token.id.0.to_string(),
        &token.tenant.to_string(),
        state,
        &moment(token.created_at),
        &time(token.expires_at),
        &time(token.last_used_at),
        &token.scopes.to_string(),
        &token.user,
    ])
}

fn row([id, tenant, state, created, expires, used, scopes, user]: [&str; 8]) -> String {
    format!("{id:>6}  {tenant:>8}  {state:<7}  {created:<20}  {expires:<20}  {used:<20}  {scopes:<30}  {user}\n")
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn user(name: &str) -> Result<String, String> {
    let accepted = || "accepted: 1 to 64 characters without control characters".to_owned();
    if is_name(name) && !name.trim().is_empty() { Ok(name.to_owned()) } else { Err(accepted()) }
}

fn life(text: &str) -> Result<Duration, String> {
    let fits = |life: &Duration| (Duration::from_secs(1)..=LONGEST).contains(life);
    let accepted = || "accepted: a duration with a unit, such as 12h or 30d".to_owned();
    humantime::parse_duration(text).ok().filter(fits).ok_or_else(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_is_made_of_is_checked() {
        assert_eq!(life("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for text in ["", "30", "0s", "1000years", "soon"] {
            assert!(life(text).unwrap_err().contains("30d"), "{text}");
        }
        assert_eq!(user("ci").as_deref(), Ok("ci"));
        for name in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert!(user(name).is_err(), "{name:?}");
        }
    }
}
