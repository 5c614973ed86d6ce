//! From a request to a [`Caller`]: first who it is, from the headers alone and before a byte of the
//! body is read; then for which tenant it acts, from what was sent. Handlers take [`Acting`] and see
//! only the latter, so none of them can forget the check.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};

use super::{audit::Notes, error::ApiError, reception::Received, request::Sent};
use crate::{caller::Caller, config::Auth, task::TenantId};

/// Who the gateway (or, in mode `anonymous`, the caller itself) says is calling.
pub(crate) const USER_INFO: HeaderName = HeaderName::from_static("x-user-info");
/// How the gateway proves that it is the gateway.
const GATEWAY_SECRET: HeaderName = HeaderName::from_static("x-gateway-secret");

/// The caller, for handlers: its tenant is the one it acts for.
#[derive(Debug, Clone)]
pub(crate) struct Acting(pub(crate) Caller);

/// The tenant that the request itself named, if it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedTenant(pub(crate) Option<TenantId>);

/// The caller as it acts for the tenant that the request names, if it names one.
///
/// # Errors
/// 403 where it may not, and those of [`Sent::named_tenant`].
pub(crate) fn act(caller: &Caller, sent: &Sent, notes: &Notes) -> Result<(Acting, NamedTenant), ApiError> {
    let named = sent.named_tenant()?;
    // Noted only now: from here on it is known to be JSON, which the log's column insists on.
    notes.request(|| sent.bytes());
    let acting = caller.acting_for(named)?;
    notes.tenant(acting.tenant);
    Ok((Acting(acting), NamedTenant(named)))
}

/// Who is calling: one arm for each mode.
///
/// # Errors
/// 401 where that is unknown.
pub(crate) fn caller(mode: &Auth, headers: &HeaderMap) -> Result<Caller, ApiError> {
    match mode {
        Auth::Anonymous => Ok(user_info(headers)?.unwrap_or_else(Caller::anonymous)),
        Auth::Gateway { secret } => {
            if let Some(secret) = secret {
                check_gateway(secret, headers)?;
            }
            user_info(headers)?
                .ok_or_else(|| ApiError::unauthenticated("X-User-Info is missing; call through the gateway"))
        }
    }
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

impl<S: Sync> FromRequestParts<S> for NamedTenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<NamedTenant, ApiError> {
        Received::of(parts).map(|received| received.named)
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

    fn user(mode: &Auth, pairs: &[(&'static str, &str)]) -> Result<String, Kind> {
        caller(mode, &headers(pairs)).map(|caller| caller.user).map_err(|error| error.kind())
    }

    #[test]
    fn anonymous_believes_user_info_where_there_is_one() {
        assert_eq!(user(&Auth::Anonymous, &[]), Ok("anonymous".into()));
        assert_eq!(user(&Auth::Anonymous, &[("x-user-info", ANN)]), Ok("ann".into()));
        assert_eq!(user(&Auth::Anonymous, &[("x-user-info", "?")]), Err(Kind::Unauthenticated));
    }

    #[test]
    fn a_gateway_must_say_who_is_calling() {
        let gateway = Auth::Gateway { secret: None };
        assert_eq!(user(&gateway, &[("x-user-info", ANN)]), Ok("ann".into()));
        assert_eq!(user(&gateway, &[]), Err(Kind::Unauthenticated));
        assert_eq!(user(&gateway, &[("x-user-info", "{}")]), Err(Kind::Unauthenticated));
        assert_eq!(user(&gateway, &[("x-user-info", ANN), ("x-user-info", ANN)]), Err(Kind::Unauthenticated));
    }

    #[test]
    fn a_gateway_with_a_secret_must_know_it() {
        let gateway = Auth::Gateway { secret: Some("s3cret".into()) };
        assert_eq!(user(&gateway, &[("x-user-info", ANN), ("x-gateway-secret", "s3cret")]), Ok("ann".into()));
        for wrong in ["", "s3cre", "s3crets", "S3cret"] {
            let sent = [("x-user-info", ANN), ("x-gateway-secret", wrong)];
            assert_eq!(user(&gateway, &sent), Err(Kind::Unauthenticated), "{wrong}");
        }
        assert_eq!(user(&gateway, &[("x-user-info", ANN)]), Err(Kind::Unauthenticated));
    }

    #[test]
    fn a_name_in_utf8_is_read_from_a_plain_header() {
        let info = r#"{"tenantId":7,"userName":"Jürgen 王"}"#;
        assert_eq!(user(&Auth::Anonymous, &[("x-user-info", info)]), Ok("Jürgen 王".into()));
    }
}
