//! Encryption at rest of what must not be read from a database dump: AES-256-GCM under
//! `secrets.key`, with a random nonce in front of the sealed text.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a sealed text begins with; anything else is plain.
const SEALED: &str = "sealed:v1:";

/// Seals and opens texts; without a key it leaves them as they are.
#[derive(Clone, Default)]
pub struct Vault {
    key: Option<std::sync::Arc<RandomizedNonceKey>>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.key.is_some() { "Vault(key)" } else { "Vault(no key)" })
    }
}

/// A sealed text that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("a stored secret cannot be decrypted; secrets.key must be the key it was written with")]
pub struct Unreadable;

/// A text that cannot be sealed; it must not be stored.
#[derive(Debug, thiserror::Error)]
#[error("a secret could not be encrypted and was not stored")]
pub struct Unsealed;

impl Vault {
    /// A vault with that key, 32 bytes.
    pub fn new(key: &[u8; 32]) -> Vault {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok();
        Vault { key: key.map(std::sync::Arc::new) }
    }

    /// True where texts are sealed at all.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The text as it may be stored. Empty stays empty.
    ///
    /// # Errors
    /// Where the cipher refuses, such as without random numbers.
    pub fn seal(&self, text: &str) -> Result<String, Unsealed> {
        let Some(key) = self.key.as_ref().filter(|_| !text.is_empty()) else {
            return Ok(text.to_owned());
        };
        let mut sealed = text.as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut sealed).map_err(|_| Unsealed)?;
        Ok(format!("{SEALED}{}", STANDARD.encode([nonce.as_ref().as_slice(), &sealed].concat())))
    }

    /// The text that was stored.
    ///
    /// # Errors
    /// Where it is sealed and the key is missing or another one.
    pub fn open(&self, stored: &str) -> Result<String, Unreadable> {
        let Some(encoded) = stored.strip_prefix(SEALED) else {
            return Ok(stored.to_owned());
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| Unreadable)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(Unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unreadable)?;
        let key = self.key.as_ref().ok_or(Unreadable)?;
        let mut sealed = sealed.to_vec();
        let plain = key.open_in_place(nonce, Aad::empty(), &mut sealed).map_err(|_| Unreadable)?;
        String::from_utf8(plain.to_vec()).map_err(|_| Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_the_same_key_only() {
        let vault = Vault::new(&[7; 32]);
        let sealed = vault.seal("A:secret").unwrap();
        assert!(sealed.starts_with(SEALED) && !sealed.contains("secret"));
        assert_ne!(sealed, vault.seal("A:secret").unwrap(), "the nonce is fresh");
        assert_eq!(vault.open(&sealed).unwrap(), "A:secret");
        assert!(Vault::new(&[8; 32]).open(&sealed).is_err());
        assert!(Vault::default().open(&sealed).is_err());
        assert!(vault.open("sealed:v1:AAAA").is_err());
    }

    #[test]
    fn plain_texts_stay_readable_when_a_key_is_set_later() {
        assert_eq!(Vault::default().seal("A:b").unwrap(), "A:b");
        assert_eq!(Vault::new(&[7; 32]).open("A:b").unwrap(), "A:b");
        assert_eq!(Vault::new(&[7; 32]).seal("").unwrap(), "");
    }
}
