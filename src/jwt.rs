//! JSON Web Tokens of an identity provider: their signature, their claims, and the caller they
//! describe. No I/O: keys and time are handed in.
//!
//! A key knows the one algorithm it is for, and a token must be signed with just that, so that no
//! token can pass off a public key as a shared secret, or do without a signature.

mod keys;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

pub use self::keys::KeySet;
use crate::caller::{self, Caller, Scope, Scopes};

/// How far the clocks of provider and service may be apart, in seconds.
pub const LEEWAY: i64 = 10;

/// What a token must say, and where it says it.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What `iss` must be; `None` = anything.
    pub issuer: Option<String>,
    /// What `aud` must be or contain; `None` = anything.
    pub audience: Option<String>,
    /// Where the tenant is.
    pub tenant: Claim,
    /// Where the user is.
    pub user: Claim,
    /// Where it says `true` for an admin; `None` = nowhere.
    pub admin: Option<Claim>,
    /// Where the scopes are; `None` = every caller has all scopes of a tenant.
    pub scope: Option<Claim>,
}

/// The place of a claim: its name, or a way to it through objects (`a.b`, `/a/b`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim(String);

/// What a token was found to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who is calling.
    pub caller: Caller,
    /// When the token stops to be good, leeway included.
    pub until: DateTime<Utc>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names a key that is not among ours; there may be newer ones.
    #[error("is signed with a key that is not known here")]
    UnknownKey,
    /// Anything else. The words follow "the token", and never repeat it.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Claim {
    /// A claim of that name or under that path.
    pub fn new(place: impl Into<String>) -> Claim {
        Claim(place.into())
    }

    /// The value. A name with dots in it comes before a path: providers name claims by URLs.
    fn of<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = claims.get(&self.0) {
            return Some(value);
        }
        let unescaped = |step: &str| step.replace("~1", "/").replace("~0", "~");
        let mut steps: Box<dyn Iterator<Item = String>> = match self.0.strip_prefix('/') {
            Some(pointer) => Box::new(pointer.split('/').map(unescaped)),
            None => Box::new(self.0.split('.').map(str::to_owned)),
        };
        let first = claims.get(&steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(&step))
    }
}

impl Rules {
    /// Who is calling with that token, at that moment.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub fn verify(&self, token: &str, keys: &KeySet, now: DateTime<Utc>) -> Result<Verified, Refusal> {
        let payload = signed_payload(token, keys)?;
        let claims: Map<String, Value> = decoded(payload)?;
        let until = self.check(&claims, now)?;
        Ok(Verified { caller: self.caller(&claims)?, until })
    }

    /// Times, issuer and audience; returns when it expires.
    fn check(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
        let time = |name: &str| claims.get(name).map(|value| moment(value).ok_or_else(|| invalid(not_a_time(name))));
        let expires = time("exp").transpose()?.ok_or_else(|| invalid("has no exp, so it would never expire"))?;
        let until = expires.saturating_add(LEEWAY);
        if now.timestamp() >= until {
            return Err(invalid("is expired"));
        }
        if time("nbf").transpose()?.is_some_and(|begins| now.timestamp().saturating_add(LEEWAY) < begins) {
            return Err(invalid("is not valid yet"));
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(invalid("is not of the configured issuer"));
        }
        if let Some(audience) = &self.audience
            && !words(claims.get("aud"), |text| vec![text]).contains(&audience.as_str())
        {
            return Err(invalid("is not for this service: its aud is another"));
        }
        Ok(DateTime::from_timestamp(until, 0).unwrap_or(DateTime::<Utc>::MAX_UTC))
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Refusal> {
        let lacks = |claim: &Claim, what: &str| invalid(format!("has no claim {} that is {what}", claim.0));
        let tenant = caller::tenant(self.tenant.of(claims)).ok_or_else(|| lacks(&self.tenant, "a 64-bit number"))?;
        let user = caller::user(self.user.of(claims)).filter(|user| caller::is_name(user));
        let user = user.ok_or_else(|| lacks(&self.user, "a name of 1 to 64 characters"))?;
        let scopes = match &self.scope {
            Some(claim) => Scopes::among(words(claim.of(claims), |text| text.split_whitespace().collect())),
            None => Scopes::TENANT,
        };
        let admin = self.admin.as_ref().and_then(|claim| claim.of(claims)) == Some(&Value::Bool(true));
        Ok(Caller { tenant, user, scopes: if admin { scopes.with(Scope::Admin) } else { scopes } })
    }
}

/// The payload of a token whose signature is right.
fn signed_payload<'a>(token: &'a str, keys: &KeySet) -> Result<&'a str, Refusal> {
    let parts = token.rsplit_once('.').and_then(|(message, signature)| {
        let (header, payload) = message.split_once('.')?;
        Some((message, header, payload, signature)).filter(|_| !payload.contains('.'))
    });
    let (message, header, payload, signature) = parts.ok_or_else(|| invalid("is no JSON Web Token"))?;
    let header: Header = decoded(header)?;
    if header.crit.is_some() {
        return Err(invalid("asks for an extension (crit) that is not known here"));
    }
    let mut fitting = keys.fitting(&header.alg, header.kid.as_deref())?.peekable();
    if fitting.peek().is_none() {
        return Err(Refusal::UnknownKey);
    }
    if fitting.any(|key| key.verifies(message, signature)) {
        Ok(payload)
    } else {
        Err(invalid("has a wrong signature"))
    }
}

fn decoded<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(|| invalid("is no JSON Web Token"))
}

/// Seconds since 1970, fractions left out.
fn moment(value: &Value) -> Option<i64> {
    // A fraction is allowed; one beyond all times is cut to the last of them.
    #[expect(clippy::cast_possible_truncation, reason = "a float that is too large becomes the largest integer")]
    let whole = |seconds: f64| seconds as i64;
    value.as_i64().or_else(|| value.as_f64().map(whole))
}

/// A claim that is a text or a list of texts.
fn words<'a>(value: Option<&'a Value>, divided: impl Fn(&'a str) -> Vec<&'a str>) -> Vec<&'a str> {
    match value {
        Some(Value::String(text)) => divided(text),
        Some(Value::Array(entries)) => entries.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn not_a_time(name: &str) -> String {
    format!("has an {name} that is no number of seconds")
}

fn invalid(words: impl Into<String>) -> Refusal {
    Refusal::Invalid(words.into())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, encode};
    use serde_json::json;

    use super::{keys::signing::Signer, *};
    use crate::task::TenantId;

    const NOW: i64 = 1_800_000_000;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn rules() -> Rules {
        Rules {
            issuer: Some("https://id.example".into()),
            audience: Some("asynch".into()),
            tenant: Claim::new("tenantId"),
            user: Claim::new("sub"),
            admin: Some(Claim::new("admin")),
            scope: Some(Claim::new("scope")),
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example", "aud": ["other", "asynch"], "exp": NOW + 60,
            "tenantId": "7", "sub": "ann", "scope": "openid task:read"
        })
    }

    fn changed(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn verified(signer: &Signer, claims: &Value) -> Result<Verified, Refusal> {
        rules().verify(&signer.token(claims), &signer.keys(), now())
    }

    #[test]
    fn a_token_of_each_algorithm_says_who_is_calling() {
        for signer in Signer::of_each_algorithm() {
            let verified = verified(&signer, &claims()).unwrap();
            let scopes = Scopes::default().with(Scope::TaskRead);
            assert_eq!(verified.caller, Caller { tenant: TenantId(7), user: "ann".into(), scopes });
            assert_eq!(verified.until.timestamp(), NOW + 60 + LEEWAY);
        }
    }

    #[test]
    fn times_issuer_and_audience_are_checked() {
        let signer = Signer::secret();
        for (name, value, words) in [
            ("exp", json!(NOW - LEEWAY), "expired"),
            ("exp", json!("soon"), "no number"),
            ("exp", Value::Null, "no number"),
            ("exp", json!(-1e300), "expired"),
            ("nbf", json!(NOW + LEEWAY + 1), "not valid yet"),
            ("nbf", json!("x"), "no number"),
            ("iss", json!("https://id.example/"), "issuer"),
            ("iss", Value::Null, "issuer"),
            ("aud", json!("asynch2"), "aud"),
            ("aud", json!(["other"]), "aud"),
            ("aud", Value::Null, "aud"),
            ("tenantId", json!("seven"), "tenantId"),
            ("tenantId", json!(1.5), "tenantId"),
            ("sub", json!(""), "sub"),
            ("sub", json!("x".repeat(65)), "sub"),
            ("sub", json!("a\nb"), "sub"),
        ] {
            let refusal = verified(&signer, &changed(name, value.clone())).unwrap_err();
            assert!(refusal.to_string().contains(words), "{name} {value}: {refusal}");
        }
        let mut endless = claims();
        endless.as_object_mut().unwrap().remove("exp");
        assert!(verified(&signer, &endless).unwrap_err().to_string().contains("never expire"));
        for (name, value) in [
            ("exp", json!(NOW - LEEWAY + 1)),
            ("exp", json!(1e300)),
            ("nbf", json!(NOW + LEEWAY)),
            ("aud", json!("asynch")),
        ] {
            assert!(verified(&signer, &changed(name, value.clone())).is_ok(), "{name} {value}");
        }
    }

    #[test]
    fn claims_are_found_by_name_by_dots_and_by_pointer() {
        let claims = json!({ "https://e.x/a.b": 1, "a": { "b": { "c": 2 } }, "a.b": 3, "x/y": { "~": 4 } });
        let claims = claims.as_object().unwrap();
        for (place, value) in [("https://e.x/a.b", 1), ("a.b.c", 2), ("/a/b/c", 2), ("a.b", 3), ("/x~1y/~0", 4)] {
            assert_eq!(Claim::new(place).of(claims), Some(&json!(value)), "{place}");
        }
        for place in ["", "/", "a.c", "/a/b/d", "a.b.c.d"] {
            assert_eq!(Claim::new(place).of(claims), None, "{place}");
        }
    }

    #[test]
    fn scopes_come_as_a_text_or_a_list_and_an_admin_by_its_claim() {
        let signer = Signer::secret();
        let scopes = |claims: &Value| verified(&signer, claims).unwrap().caller.scopes.to_string();
        assert_eq!(scopes(&changed("scope", json!(["stat:read", "admin", 5]))), "stat:read,admin");
        assert_eq!(scopes(&changed("scope", json!("task:write  task:read"))), "task:write,task:read");
        assert_eq!(scopes(&changed("scope", Value::Null)), "");
        assert_eq!(scopes(&changed("admin", json!(true))), "task:read,admin");
        assert_eq!(scopes(&changed("admin", json!("true"))), "task:read");
        let every = Rules { scope: None, ..rules() };
        let caller = every.verify(&signer.token(&claims()), &signer.keys(), now()).unwrap().caller;
        assert_eq!(caller.scopes, Scopes::TENANT);
    }

    #[test]
    fn no_token_chooses_its_algorithm() {
        let [hmac, rsa, ec] = Signer::of_each_algorithm();
        // A public key is known to everyone; as a shared secret it would sign anything.
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some(rsa.id().to_owned());
        for public in [&rsa, &ec] {
            let forged = encode(&header, &claims(), &EncodingKey::from_secret(public.public().as_bytes())).unwrap();
            assert!(rules().verify(&forged, &public.keys(), now()).is_err());
        }
        let unsigned = |alg: &str| {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            format!("{}.{}.", part(&json!({ "alg": alg })), part(&claims()))
        };
        for signer in [&hmac, &rsa, &ec] {
            for alg in ["none", "None", "HS256", "RS256", "ES256", "HS512", ""] {
                assert!(rules().verify(&unsigned(alg), &signer.keys(), now()).is_err(), "{alg}");
            }
            let token = signer.token(&claims());
            let (message, signature) = token.rsplit_once('.').unwrap();
            let other = signer.token(&changed("sub", json!("bob")));
            let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
            for broken in [format!("{message}."), swapped, format!("{token}."), format!("x.{token}"), String::new()] {
                assert!(rules().verify(&broken, &signer.keys(), now()).is_err(), "{broken}");
            }
        }
        assert!(rules().verify(&hmac.token(&claims()), &ec.keys(), now()).is_err());
    }

    #[test]
    fn an_extension_that_must_be_understood_is_refused() {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "HS256", "crit": ["b64"] })), part(&claims()));
        let key = EncodingKey::from_secret(Signer::SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let refusal = rules().verify(&format!("{message}.{signature}"), &Signer::secret().keys(), now()).unwrap_err();
        assert!(refusal.to_string().contains("crit"), "{refusal}");
    }

    #[test]
    fn a_key_that_is_not_there_is_told_from_a_wrong_signature() {
        let [_, rsa, ec] = Signer::of_each_algorithm();
        let token = rsa.token(&claims());
        assert_eq!(rules().verify(&token, &ec.keys(), now()), Err(Refusal::UnknownKey));
        assert_eq!(rules().verify(&token, &KeySet::default(), now()), Err(Refusal::UnknownKey));
    }
}
