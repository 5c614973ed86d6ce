//! Bodies as the operation log may keep them: without secrets, and not too long.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::model::headers::{Headers, MASK};

/// Most bytes of a body that is kept; of a longer one only its size is.
pub(super) const MAX_BODY: usize = 64 << 10;

/// The field whose value is a model's headers.
const API_KEY: &str = "apikey";

/// Fields whose values are never kept, in lower case without `-` and `_`.
const SECRETS: [&str; 13] = [
    API_KEY,
    "authorization",
    "password",
    "passwd",
    "secret",
    "clientsecret",
    "token",
    "accesstoken",
    "refreshtoken",
    "xapikey",
    "xuserinfo",
    "cookie",
    "setcookie",
];

/// A body as it may be kept: JSON text whose secrets are masked, at any depth. `None` where there
/// was no body; a note of its size where it is too long or not JSON.
pub fn masked_json(body: &[u8]) -> Option<String> {
    if body.is_empty() {
        return None;
    }
    if body.len() > MAX_BODY {
        return Some(truncated(body.len()));
    }
    Some(readable(body).unwrap_or_else(|| format!(r#"{{"unreadable":true,"bytes":{}}}"#, body.len())))
}

/// The usual body has no secrets: it is looked through once and kept to the letter.
fn readable(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    if !has_secret(text).ok()? {
        return Some(text.to_owned());
    }
    // The parser refuses what is nested deeper than 128, which bounds the recursion below.
    let mut json = serde_json::from_str::<Value>(text).ok()?;
    mask(&mut json);
    Some(json.to_string())
}

/// Whether any field, at any depth, is called like a secret.
fn has_secret(text: &str) -> serde_json::Result<bool> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = Search.deserialize(&mut reader)?;
    reader.end()?;
    Ok(found)
}

pub(super) fn truncated(bytes: usize) -> String {
    format!(r#"{{"truncated":true,"bytes":{bytes}}}"#)
}

fn mask(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match secret_called(key) {
                    Some(secret) => *value = masked(secret, value),
                    None => mask(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is shown in place of a secret: `null` says that there was none, and a model's headers show
/// their names as everywhere.
fn masked(secret: &str, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(written) if secret == API_KEY => Value::from(masked_headers(written)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => Value::from(MASK),
    }
}

fn masked_headers(written: &str) -> String {
    let Ok(headers) = Headers::parse(written) else {
        return MASK.to_owned();
    };
    // A bare key that ends in base64 padding reads like a header's name without a value.
    let all_have_values = headers.pairs().all(|(_, value)| value.bytes().any(|byte| byte.is_ascii_alphanumeric()));
    if all_have_values { headers.masked() } else { MASK.to_owned() }
}

fn secret_called(key: &str) -> Option<&'static str> {
    SECRETS.into_iter().find(|secret| is_spelling_of(key, secret))
}

/// True of `apiKey`, `API_KEY` and `Api-Key` for `apikey`.
fn is_spelling_of(key: &str, secret: &str) -> bool {
    let letters = key.bytes().filter(|byte| !matches!(byte, b'-' | b'_'));
    letters.map(|byte| byte.to_ascii_lowercase()).eq(secret.bytes())
}

/// Reads any JSON and says whether a field in it is called like a secret.
#[derive(Clone, Copy)]
struct Search;

/// Reads the name of a field and says whether it is that of a secret.
struct Name;

impl<'de> DeserializeSeed<'de> for Search {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(inside) = values.next_element_seed(self)? {
            found |= inside;
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(is_secret) = fields.next_key_seed(Name)? {
            found |= fields.next_value_seed(self)? || is_secret;
        }
        Ok(found)
    }
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(secret_called(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(body: &str) -> String {
        masked_json(body.as_bytes()).unwrap()
    }

    #[test]
    fn secrets_are_masked_in_every_spelling_and_at_every_depth() {
        for key in ["password", "PASSWORD", "client_secret", "Access-Token", "refreshToken", "X-User-Info", "Cookie"] {
            let body = format!(r#"{{"a":[{{"{key}":"hunter2"}}]}}"#);
            assert_eq!(masked(&body), format!(r#"{{"a":[{{"{key}":"****"}}]}}"#));
        }
        let depth = 120;
        let body = format!(r#"{}{{"token":"hunter2"}}{}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(!masked(&body).contains("hunter2") && masked(&body).contains("****"));
    }

    #[test]
    fn a_secret_of_any_type_is_masked_and_null_stays() {
        assert_eq!(
            masked(r#"{"secret":{"a":"x"},"token":["x"],"passwd":1,"cookie":null}"#),
            r#"{"secret":"****","token":"****","passwd":"****","cookie":null}"#
        );
    }

    #[test]
    fn what_only_resembles_a_secret_is_kept() {
        let body = r#"{"max_tokens":5,"secrets":[1],"tokenizer":"bpe"}"#;
        assert_eq!(masked(body), body);
    }

    #[test]
    fn headers_of_a_model_show_their_names() {
        assert_eq!(
            masked(r#"{"apiKey":"Authorization:Bearer k,X-A=b"}"#),
            r#"{"apiKey":"Authorization:****,X-A:****"}"#
        );
        for bare in ["sk-123456", "c2VjcmV0Cg==", "bad\\nkey:x"] {
            assert_eq!(masked(&format!(r#"{{"api_key":"{bare}"}}"#)), r#"{"api_key":"****"}"#);
        }
        assert_eq!(masked(r#"{"apiKey":["k"]}"#), r#"{"apiKey":"****"}"#);
    }

    #[test]
    fn of_what_cannot_be_kept_only_the_size_is() {
        assert_eq!(masked_json(b""), None);
        let long = format!("\"{}\"", "x".repeat(MAX_BODY));
        assert_eq!(masked(&long), format!(r#"{{"truncated":true,"bytes":{}}}"#, long.len()));
        assert_eq!(masked_json(b"password=hunter2").unwrap(), r#"{"unreadable":true,"bytes":16}"#);
        assert_eq!(masked_json(b"\xff\xfe").unwrap(), r#"{"unreadable":true,"bytes":2}"#);
        let deep = "[".repeat(30_000);
        assert_eq!(masked(&deep), r#"{"unreadable":true,"bytes":30000}"#);
    }

    #[test]
    fn what_has_no_secrets_is_kept_to_the_letter() {
        let body = r#" {"b": 1.0,  "a": [1e2, null, true, {"\u0061": "token"}], "b": "\u0000"} "#;
        assert_eq!(masked(body), body);
        assert_eq!(masked(r#"{"\u0074oken":"hunter2"}"#), r#"{"token":"****"}"#);
    }
}
