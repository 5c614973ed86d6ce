//! Who is calling: tenant, user, and what it may do.

mod scope;

use base64::Engine as _;
use serde_json::{Map, Value};

pub use self::scope::{Scope, Scopes};
use crate::task::TenantId;

/// Most characters of a user's name, as wide as the column `creator`.
pub const MAX_USER: usize = 64;

/// A known caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant whose things it sees. For an admin that named another tenant: that one.
    pub tenant: TenantId,
    /// Its name, as `creator` of what it makes.
    pub user: String,
    /// What it may do.
    pub scopes: Scopes,
}

/// A caller that is not an admin named a tenant that is not its own.
#[derive(Debug, PartialEq, Eq)]
pub struct ForeignTenant;

impl Caller {
    /// Mode `anonymous`: tenant 0, admin.
    pub fn anonymous() -> Caller {
        Caller { tenant: TenantId(0), user: "anonymous".to_owned(), scopes: Scopes::ADMIN }
    }

    /// True where it may name any tenant.
    pub fn is_admin(&self) -> bool {
        self.scopes.allow(Scope::Admin)
    }

    /// This caller, acting for `tenant` where the request named one.
    ///
    /// # Errors
    /// Where it may not.
    pub fn acting_for(&self, tenant: Option<TenantId>) -> Result<Caller, ForeignTenant> {
        match tenant {
            Some(tenant) if tenant != self.tenant && !self.is_admin() => Err(ForeignTenant),
            Some(tenant) => Ok(Caller { tenant, ..self.clone() }),
            None => Ok(self.clone()),
        }
    }

    /// This caller as an `X-User-Info`, for services that trust ours to know who is calling.
    pub fn user_info(&self) -> String {
        serde_json::json!({ "tenantId": self.tenant.0.to_string(), "userName": self.user }).to_string()
    }

    /// Reads `X-User-Info`: a JSON object, plain, percent-encoded or base64 (either alphabet).
    ///
    /// # Errors
    /// Says what the header lacks, without repeating it.
    pub fn from_user_info(header: &str) -> Result<Caller, &'static str> {
        let info = object(header).ok_or("is not a JSON object, plain, percent-encoded or base64")?;
        let tenant = tenant(info.get("tenantId")).ok_or("has no tenantId that is a 64-bit number")?;
        let user = ["userName", "userId"].into_iter().find_map(|key| user(info.get(key)));
        let user = user.ok_or("has neither userName nor userId")?;
        if !is_name(&user) {
            return Err("has a user name that is over 64 characters or has control characters");
        }
        let admin = info.get("admin") == Some(&Value::Bool(true));
        Ok(Caller { tenant, user, scopes: if admin { Scopes::ADMIN } else { Scopes::TENANT } })
    }
}

/// A tenant as JSON: a 64-bit number, or a text of its digits.
pub(crate) fn tenant(value: Option<&Value>) -> Option<TenantId> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
    .map(TenantId)
}

/// A user as JSON: a text that is not empty, or a number.
pub(crate) fn user(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(name) if !name.is_empty() => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What fits the column `creator` and a line of a log.
pub fn is_name(user: &str) -> bool {
    !user.is_empty() && user.chars().count() <= MAX_USER && !user.chars().any(char::is_control)
}

fn object(header: &str) -> Option<Map<String, Value>> {
    let header = header.trim();
    let parse = |text: &[u8]| serde_json::from_slice(text).ok();
    if header.starts_with('{') {
        return parse(header.as_bytes());
    }
    if header.starts_with("%7B") || header.starts_with("%7b") {
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(header).collect();
        return parse(&decoded);
    }
    let unpadded = header.trim_end_matches('=');
    [base64::engine::general_purpose::STANDARD_NO_PAD, base64::engine::general_purpose::URL_SAFE_NO_PAD]
        .iter()
        .find_map(|alphabet| alphabet.decode(unpadded).ok())
        .and_then(|decoded| parse(&decoded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ann() -> Caller {
        Caller { tenant: TenantId(7), user: "ann".into(), scopes: Scopes::TENANT }
    }

    #[test]
    fn user_info_is_read_in_three_spellings() {
        let json = r#"{"tenantId":"7","userName":"ann"}"#;
        let base64 = base64::engine::general_purpose::STANDARD.encode(json);
        let percent = "%7B%22tenantId%22%3A7%2C%22userName%22%3A%22ann%22%7D";
        for header in [json, base64.as_str(), base64.trim_end_matches('='), percent] {
            assert_eq!(Caller::from_user_info(header), Ok(ann()), "{header}");
        }
    }

    #[test]
    fn the_user_id_stands_in_for_a_name_and_admin_must_be_true() {
        let caller = Caller::from_user_info(r#"{"tenantId":7,"userId":42,"admin":"true"}"#).unwrap();
        assert_eq!((caller.user.as_str(), caller.is_admin()), ("42", false));
        assert!(Caller::from_user_info(r#"{"tenantId":7,"userId":1,"admin":true}"#).unwrap().is_admin());
    }

    #[test]
    fn what_does_not_say_who_is_refused() {
        let long = format!(r#"{{"tenantId":1,"userName":"{}"}}"#, "x".repeat(65));
        for header in [
            "",
            "ann",
            "[]",
            "{}",
            r#"{"tenantId":7}"#,
            r#"{"userName":"ann"}"#,
            r#"{"tenantId":1.5,"userName":"a"}"#,
            r#"{"tenantId":"99999999999999999999","userName":"a"}"#,
            r#"{"tenantId":7,"userName":""}"#,
            "%7B%22",
            "e30=",
            &long,
        ] {
            assert!(Caller::from_user_info(header).is_err(), "{header}");
        }
    }

    #[test]
    fn only_an_admin_acts_for_another_tenant() {
        assert_eq!(ann().acting_for(Some(TenantId(8))), Err(ForeignTenant));
        assert_eq!(ann().acting_for(Some(TenantId(7))), Ok(ann()));
        assert_eq!(ann().acting_for(None), Ok(ann()));
        assert_eq!(Caller::anonymous().acting_for(Some(TenantId(8))).unwrap().tenant, TenantId(8));
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd_to_be_read_or_refused(
            header in prop_oneof![any::<String>(), "[{%7B\"A-Za-z0-9+/=_-]{0,80}"],
        ) {
            if let Ok(caller) = Caller::from_user_info(&header) {
                prop_assert!(is_name(&caller.user));
            }
        }

        #[test]
        fn a_caller_is_the_same_in_every_spelling(tenant: i64, name: String, admin: bool) {
            let info = serde_json::json!({ "tenantId": tenant.to_string(), "userName": name, "admin": admin });
            let json = info.to_string();
            let plain = Caller::from_user_info(&json);
            let percent = percent_encoding::utf8_percent_encode(&json, percent_encoding::NON_ALPHANUMERIC).to_string();
            let standard = base64::engine::general_purpose::STANDARD.encode(&json);
            let url_safe = base64::engine::general_purpose::URL_SAFE.encode(&json);
            for header in [percent, standard, url_safe] {
                prop_assert_eq!(&Caller::from_user_info(&header), &plain, "{}", header);
            }
            prop_assert_eq!(plain.is_ok(), is_name(&name));
            if let Ok(caller) = plain {
                prop_assert_eq!((caller.tenant.0, caller.user.as_str()), (tenant, name.as_str()));
                prop_assert_eq!(caller.is_admin(), admin);
                let passed_on = Caller::from_user_info(&caller.user_info()).unwrap();
                prop_assert_eq!((passed_on.tenant, passed_on.user), (caller.tenant, caller.user));
            }
        }
    }
}
