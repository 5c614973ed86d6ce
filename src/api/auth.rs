//! From a request to a [`Caller`]: first who it is and whether it may call this route, from the
//! headers alone and before a byte of the body is read; then for which tenant it acts, from what was
//! sent. Handlers take [`Acting`] and see only the last, so none of them can forget a check.

mod jwt;
mod token;

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};

use tokio_util::sync::CancellationToken;

use self::{jwt::Jwts, token::Tokens};
use super::{audit::Notes, error::ApiError, reception::Received, request::Sent};
use crate::{caller::Caller, config::Auth, store::Store, task::TenantId};

/// Who the gateway (or, in mode `anonymous`, the caller itself) says is calling.
pub(crate) const USER_INFO: HeaderName = HeaderName::from_static("x-user-info");
/// How the gateway proves that it is the gateway.
const GATEWAY_SECRET: HeaderName = HeaderName::from_static("x-gateway-secret");

/// Longest token in bytes: providers that list every group of a user come to a few thousand.
const MAX_TOKEN: usize = 16 << 10;

/// Finds out who is calling, as `auth.mode` says; cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Mode>);

/// One for each `auth.mode`.
#[cfg_attr(test, derive(Clone))]
enum Mode {
    Anonymous,
    Gateway { secret: Option<String> },
    Token(Tokens),
    Jwt(Jwts),
}

/// The caller, for handlers: its tenant is the one it acts for.
#[derive(Debug, Clone)]
pub(crate) struct Acting(pub(crate) Caller);

/// Whose things a listing over tenants shows: one tenant's, or everybody's (`None`) to an admin who
/// names none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown(pub(crate) Option<TenantId>);

/// The caller as it acts for the tenant that the request names, if it names one.
///
/// # Errors
/// 403 where it may not, and those of [`Sent::named_tenant`].
pub(crate) fn act(caller: &Caller, sent: &Sent, notes: &Notes) -> Result<(Acting, Shown), ApiError> {
    let named = sent.named_tenant()?;
    // Noted only now: from here on it is known to be JSON, which the log's column insists on.
    notes.request(|| sent.bytes());
    let acting = caller.acting_for(named)?;
    notes.tenant(acting.tenant);
    let shown = if acting.is_admin() { named } else { Some(acting.tenant) };
    Ok((Acting(acting), Shown(shown)))
}

impl Gate {
    /// The gate that the configuration asks for.
    ///
    /// # Errors
    /// What cannot be set up, in words.
    pub fn open(auth: &Auth, store: &Store) -> Result<Gate, String> {
        Ok(Gate(Arc::new(match auth {
            Auth::Anonymous => Mode::Anonymous,
            Auth::Gateway { secret } => Mode::Gateway { secret: secret.clone() },
            Auth::Token => Mode::Token(Tokens::new(store.clone())),
            Auth::Jwt { rules, keys } => Mode::Jwt(Jwts::new(rules, keys)?),
        })))
    }

    /// Keeps what is known of an identity provider fresh until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        match self.0.as_ref() {
            Mode::Anonymous | Mode::Gateway { .. } | Mode::Token(_) => stop.cancelled().await,
            Mode::Jwt(jwts) => jwts.run(stop).await,
        }
    }

    /// A gate for tests of what lies behind it.
    #[cfg(test)]
    pub(super) fn gateway() -> Gate {
        Gate(Arc::new(Mode::Gateway { secret: None }))
    }

    /// Who is calling.
    ///
    /// # Errors
    /// 401 where that is unknown, 503 where it cannot be found out now.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        match self.0.as_ref() {
            Mode::Anonymous => Ok(user_info(headers)?.unwrap_or_else(Caller::anonymous)),
            Mode::Gateway { secret } => {
                if let Some(secret) = secret {
                    check_gateway(secret, headers)?;
                }
                user_info(headers)?
                    .ok_or_else(|| ApiError::unauthenticated("X-User-Info is missing; call through the gateway"))
            }
            Mode::Token(tokens) => tokens.caller(bearer(headers)?).await,
            Mode::Jwt(jwts) => jwts.caller(bearer(headers)?).await,
        }
    }
}

/// Whether the caller shows exactly that token.
///
/// # Errors
/// 401 where it does not.
pub(super) fn check_bearer(token: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    verify_slices_are_equal(token.as_bytes(), bearer(headers)?.as_bytes())
        .map_err(|_| ApiError::bad_token("the token is not the one of metrics.token"))
}

/// The token in `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    const MISSING: &str = "send the header Authorization: Bearer <token>";
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| ApiError::no_token(MISSING))?;
    if values.next().is_some() {
        return Err(ApiError::bad_token("Authorization is there more than once"));
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(ApiError::no_token(MISSING));
    }
    if token.len() > MAX_TOKEN {
        return Err(ApiError::bad_token(format!("the token is over {MAX_TOKEN} bytes")));
    }
    Ok(token)
}

fn check_gateway(secret: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let sent = headers.get(GATEWAY_SECRET).map(HeaderValue::as_bytes).unwrap_or_default();
    verify_slices_are_equal(secret.as_bytes(), sent)
        .map_err(|_| ApiError::unauthenticated("X-Gateway-Secret is missing or wrong; call through the gateway"))
}

/// The caller that `X-User-Info` describes, `None` without that header.
fn user_info(headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let mut values = headers.get_all(USER_INFO).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // With two of them, one is not the gateway's, and there is no telling which.
    if values.next().is_some() {
        return Err(ApiError::unauthenticated("X-User-Info is there more than once"));
    }
    // Plain JSON in a header may have names in UTF-8, which `to_str` would refuse.
    let text =
        std::str::from_utf8(value.as_bytes()).map_err(|_| ApiError::unauthenticated("X-User-Info is not UTF-8"))?;
    Caller::from_user_info(text).map(Some).map_err(|lack| ApiError::unauthenticated(format!("X-User-Info {lack}")))
}

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Acting, ApiError> {
        Received::of(parts).map(|received| received.acting.clone())
    }
}

impl<S: Sync> FromRequestParts<S> for Shown {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Shown, ApiError> {
        Received::of(parts).map(|received| received.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Kind;

    const ANN: &str = r#"{"tenantId":"7","userName":"ann"}"#;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    async fn user(mode: &Mode, pairs: &[(&'static str, &str)]) -> Result<String, Kind> {
        let caller = Gate(Arc::new(mode.clone())).caller(&headers(pairs)).await;
        caller.map(|caller| caller.user).map_err(|error| error.kind())
    }

    #[test]
    fn a_token_is_sent_once_under_its_scheme() {
        let sent = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("authorization", value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned).map_err(|error| error.kind())
        };
        for value in ["Bearer abc", "bearer  abc", "BEARER abc "] {
            assert_eq!(sent(&[value]).as_deref(), Ok("abc"), "{value}");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN + 1));
        for values in [&[][..], &[""], &["abc"], &["Bearer"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(sent(values), Err(Kind::Unauthenticated), "{values:?}");
        }
        assert_eq!(sent(&[&long]), Err(Kind::Unauthenticated));
    }

    #[tokio::test]
    async fn anonymous_believes_user_info_where_there_is_one() {
        assert_eq!(user(&Mode::Anonymous, &[]).await, Ok("anonymous".into()));
        assert_eq!(user(&Mode::Anonymous, &[("x-user-info", ANN)]).await, Ok("ann".into()));
        assert_eq!(user(&Mode::Anonymous, &[("x-user-info", "?")]).await, Err(Kind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_gateway_must_say_who_is_calling() {
        let gateway = Mode::Gateway { secret: None };
        assert_eq!(user(&gateway, &[("x-user-info", ANN)]).await, Ok("ann".into()));
        assert_eq!(user(&gateway, &[]).await, Err(Kind::Unauthenticated));
        assert_eq!(user(&gateway, &[("x-user-info", "{}")]).await, Err(Kind::Unauthenticated));
        assert_eq!(user(&gateway, &[("x-user-info", ANN), ("x-user-info", ANN)]).await, Err(Kind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_gateway_with_a_secret_must_know_it() {
        let gateway = Mode::Gateway { secret: Some("s3cret".into()) };
        assert_eq!(user(&gateway, &[("x-user-info", ANN), ("x-gateway-secret", "s3cret")]).await, Ok("ann".into()));
        for wrong in ["", "s3cre", "s3crets", "S3cret"] {
            let sent = [("x-user-info", ANN), ("x-gateway-secret", wrong)];
            assert_eq!(user(&gateway, &sent).await, Err(Kind::Unauthenticated), "{wrong}");
        }
        assert_eq!(user(&gateway, &[("x-user-info", ANN)]).await, Err(Kind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_name_in_utf8_is_read_from_a_plain_header() {
        let info = r#"{"tenantId":7,"userName":"Jürgen 王"}"#;
        assert_eq!(user(&Mode::Anonymous, &[("x-user-info", info)]).await, Ok("Jürgen 王".into()));
    }
}
