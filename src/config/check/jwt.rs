//! Mode `jwt`: exactly one source of keys, which is read here, and where claims are.

use std::fs;

use super::{http_url, optional, refuse};
use crate::{
    config::{Auth, ConfigError, JwtKeys, raw::RawJwt},
    jwt::{Claim, KeySet, Rules},
};

/// Largest file of keys in bytes.
const MAX_KEY_FILE: u64 = 1 << 20;

/// The four sources of keys.
const SOURCES: &str = "auth.jwt.secret, auth.jwt.publicKeyFile, auth.jwt.jwksFile, auth.jwt.jwksUrl";

pub(super) fn check(raw: &RawJwt) -> Result<Auth, ConfigError> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let claim = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Claim::new);
    let required = |key: &str, text: &str| claim(text).ok_or_else(|| refuse(key, text, "the name of a claim"));
    let rules = Rules {
        issuer: text(&raw.issuer),
        audience: text(&raw.audience),
        tenant: required("auth.jwt.tenantClaim", &raw.tenant_claim)?,
        user: required("auth.jwt.userClaim", &raw.user_claim)?,
        admin: claim(&raw.admin_claim),
        scope: claim(&raw.scope_claim),
    };
    Ok(Auth::Jwt { rules: Box::new(rules), keys: keys(raw)? })
}

fn keys(raw: &RawJwt) -> Result<JwtKeys, ConfigError> {
    let sources = [
        optional("auth.jwt.secret", &raw.secret, |key, text| {
            KeySet::from_secret(text).map(JwtKeys::Fixed).map_err(|accepted| refuse(key, text, &accepted))
        })?,
        optional("auth.jwt.publicKeyFile", &raw.public_key_file, |key, path| from_file(key, path, KeySet::from_pem))?,
        optional("auth.jwt.jwksFile", &raw.jwks_file, |key, path| {
            from_file(key, path, |text| KeySet::from_jwks(text.as_bytes()))
        })?,
        optional("auth.jwt.jwksUrl", &raw.jwks_url, http_url)?.map(JwtKeys::Published),
    ];
    let mut given = sources.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(keys), None) => Ok(keys),
        (first, _) => {
            let found = if first.is_some() { "more than one" } else { "none" };
            let message = format!("mode jwt needs exactly one source of keys and {found} is set; set one of {SOURCES}");
            Err(ConfigError { key: "auth.jwt".into(), message })
        }
    }
}

fn from_file(
    key: &str,
    path: &str,
    parse: impl FnOnce(&str) -> Result<KeySet, String>,
) -> Result<JwtKeys, ConfigError> {
    let failed = |message: String| ConfigError { key: key.to_owned(), message: format!("{path:?} {message}") };
    let size = fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?.len();
    if size > MAX_KEY_FILE {
        return Err(failed(format!("is larger than {MAX_KEY_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    parse(&text).map(JwtKeys::Fixed).map_err(|accepted| failed(format!("cannot be used; accepted: {accepted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut RawJwt)) -> String {
        let mut raw = RawJwt::default();
        change(&mut raw);
        check(&raw).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn keys_come_from_exactly_one_source() {
        let none = refused(|_| {});
        assert!(none.starts_with("auth.jwt: ") && none.contains("none is set"), "{none}");
        let two = refused(|raw| {
            raw.secret = "x".repeat(32);
            raw.jwks_url = "https://id.example/keys".into();
        });
        assert!(two.contains("more than one") && two.contains("auth.jwt.publicKeyFile"), "{two}");
        let url = RawJwt { jwks_url: "https://id.example/keys".into(), ..RawJwt::default() };
        assert!(matches!(check(&url).unwrap(), Auth::Jwt { keys: JwtKeys::Published(_), .. }));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let short = refused(|raw| raw.secret = "geheim".into());
        assert!(short.starts_with("auth.jwt.secret: ****") && short.contains("32 bytes"), "{short}");
        assert!(refused(|raw| raw.jwks_url = "id.example".into()).starts_with("auth.jwt.jwksUrl: "));
        assert!(refused(|raw| raw.tenant_claim = String::new()).starts_with("auth.jwt.tenantClaim: "));
        let missing = refused(|raw| raw.public_key_file = "/nowhere/key.pem".into());
        assert!(missing.starts_with("auth.jwt.publicKeyFile: \"/nowhere/key.pem\" cannot be read"), "{missing}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        fs::write(&file, "{}").unwrap();
        let path = file.to_string_lossy().into_owned();
        assert!(refused(|raw| raw.jwks_file = path.clone()).contains("JWKS document"));
        assert!(refused(|raw| raw.public_key_file = path).contains("PEM file"));
    }
}
