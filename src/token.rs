//! API tokens: how they look, and what is known of one.
//!
//! A token is `ma_` and 48 characters: 32 random bytes and their checksum, in URL-safe base64. The
//! prefix lets people and secret scanners recognise one, the checksum tells a typo from a stranger
//! without a question to the database.
//!
//! Only the SHA-256 of a token is stored. A slow, salted hash protects secrets that people think up;
//! of 256 random bits nobody can try enough, and a fast one can be computed for every request.

use std::fmt;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};

use crate::{
    caller::{Caller, Scopes},
    task::TenantId,
};

/// What every token begins with.
const PREFIX: &str = "ma_";

/// Random bytes of a token.
const SECRET_BYTES: usize = 32;

/// The number of a token, for lists and to revoke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(pub i64);

/// What is stored of a token itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; digest::SHA256_OUTPUT_LEN]);

/// A token as it is known to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub id: TokenId,
    /// The tenant that calls with it.
    pub tenant: TenantId,
    /// The user that calls with it.
    pub user: String,
    /// What may be done with it.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops to work; `None` = never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was used last, to within an hour.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The text of the token made of these random bytes.
pub fn text_of(secret: &[u8; SECRET_BYTES]) -> String {
    let checksum = crc32fast::hash(secret).to_be_bytes();
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([secret.as_slice(), &checksum].concat()))
}

impl TokenHash {
    /// The hash of that text, `None` where it is no token of ours.
    pub fn of(text: &str) -> Option<TokenHash> {
        let mut bytes = [0; SECRET_BYTES + 4];
        let written = URL_SAFE_NO_PAD.decode_slice(text.strip_prefix(PREFIX)?, &mut bytes).ok()?;
        let (secret, checksum) = bytes.split_at_checked(SECRET_BYTES)?;
        if written != bytes.len() || checksum != crc32fast::hash(secret).to_be_bytes() {
            return None;
        }
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        hash.as_ref().try_into().ok().map(TokenHash)
    }

    /// As it is stored.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

impl Token {
    /// True where it may be used at that moment.
    pub fn works(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Who calls with it.
    pub fn caller(&self) -> Caller {
        Caller { tenant: self.tenant, user: self.user.clone(), scopes: self.scopes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_by_its_beginning_and_its_checksum() {
        let text = text_of(&[7; 32]);
        assert!(text.starts_with("ma_") && text.len() == 51, "{text}");
        let hash = TokenHash::of(&text).unwrap();
        assert_eq!(hash.hex().len(), 64);
        assert_ne!(hash, TokenHash::of(&text_of(&[8; 32])).unwrap());
        let typo = text.replacen("BwcH", "BwcI", 1);
        let longer = format!("{text}AAAA");
        for other in [typo.as_str(), &longer, &text[..50], &text[3..], "ma_", "", "ma_é"] {
            assert_eq!(TokenHash::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_token_works_until_it_expires_or_is_revoked() {
        let at = |seconds| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap();
        let token = Token {
            id: TokenId(1),
            tenant: TenantId(7),
            user: "ci".into(),
            scopes: Scopes::TENANT,
            created_at: at(0),
            expires_at: Some(at(100)),
            last_used_at: None,
            revoked_at: None,
        };
        assert!(token.works(at(99)) && !token.works(at(100)));
        assert!(!Token { revoked_at: Some(at(5)), ..token.clone() }.works(at(10)));
        assert!(Token { expires_at: None, ..token }.works(at(i32::MAX.into())));
    }
}
