//! Encryption at rest of what must not be read from a database dump: AES-256-GCM with a random nonce
//! in front of the sealed text.
//!
//! A sealed text is `sealed:v2:<id of the key>:<base64>`, so that keys can be changed while the
//! service runs: new texts are sealed under `secrets.key`, old ones are opened under whichever key
//! they name. `sealed:v1:<base64>`, which names none, is opened under any that fits. Whatever begins
//! otherwise was stored in clear.
//!
//! From the same keys come those of [`Signer`].

mod signer;

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
    hkdf::Prk,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

pub use self::signer::Signer;

/// What a sealed text begins with that names its key.
const SEALED: &str = "sealed:v2:";

/// What a sealed text begins with that names no key.
const SEALED_V1: &str = "sealed:v1:";

/// Bytes of a key's hash that are its id: enough to tell a handful of keys apart, and nothing to
/// find a key by.
const ID_BYTES: usize = 4;

/// Seals and opens texts; without a key it leaves them as they are.
#[derive(Clone, Default)]
pub struct Vault {
    current: Option<Arc<SealingKey>>,
    /// Keys that only open.
    others: Vec<Arc<SealingKey>>,
}

struct SealingKey {
    id: String,
    key: RandomizedNonceKey,
    /// What signing keys are derived from.
    prk: Prk,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.current {
            Some(key) => write!(f, "Vault(key {}, {} others)", key.id, self.others.len()),
            None => f.write_str("Vault(no key)"),
        }
    }
}

/// A sealed text that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "a stored secret cannot be decrypted; secrets.key or secrets.previousKeys must have the key it was sealed with"
)]
pub struct Unreadable;

/// A text that cannot be sealed; it must not be stored.
#[derive(Debug, thiserror::Error)]
#[error("a secret could not be encrypted and was not stored")]
pub struct Unsealed;

/// What a stored text has to become under the current key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resealed {
    /// It stays: sealed under the current key, or empty.
    Current,
    /// This replaces it.
    Changed(String),
    /// None of the keys opens it.
    Unreadable,
}

impl Vault {
    /// A vault with that key, 32 bytes.
    pub fn new(key: &[u8; 32]) -> Vault {
        Vault { current: SealingKey::new(key).map(Arc::new), others: Vec::new() }
    }

    /// The same vault, which also opens what was sealed under these keys.
    #[must_use]
    pub fn with_previous<'a>(mut self, keys: impl IntoIterator<Item = &'a [u8; 32]>) -> Vault {
        self.others.extend(keys.into_iter().filter_map(SealingKey::new).map(Arc::new));
        self
    }

    /// True where texts are sealed at all.
    pub fn has_key(&self) -> bool {
        self.current.is_some()
    }

    /// The text as it may be stored. Empty stays empty.
    ///
    /// # Errors
    /// Where the cipher refuses, such as without random numbers.
    pub fn seal(&self, text: &str) -> Result<String, Unsealed> {
        match &self.current {
            Some(key) if !text.is_empty() => key.seal(text),
            Some(_) | None => Ok(text.to_owned()),
        }
    }

    /// The text that was stored.
    ///
    /// # Errors
    /// Where it is sealed and its key is missing.
    pub fn open(&self, stored: &str) -> Result<String, Unreadable> {
        if let Some(encoded) = stored.strip_prefix(SEALED_V1) {
            return self.keys().find_map(|key| key.open(encoded, b"")).ok_or(Unreadable);
        }
        let Some(named) = stored.strip_prefix(SEALED) else {
            return Ok(stored.to_owned());
        };
        let (id, encoded) = named.split_once(':').ok_or(Unreadable)?;
        self.keys().filter(|key| key.id == id).find_map(|key| key.open(encoded, id.as_bytes())).ok_or(Unreadable)
    }

    /// What a stored text has to become under the current key.
    ///
    /// # Errors
    /// Where the cipher refuses.
    pub fn reseal(&self, stored: &str) -> Result<Resealed, Unsealed> {
        let is_current = |key: &Arc<SealingKey>| {
            let named = stored.strip_prefix(SEALED).and_then(|named| named.strip_prefix(key.id.as_str()));
            named.is_some_and(|rest| rest.starts_with(':'))
        };
        if stored.is_empty() || self.current.as_ref().is_none_or(is_current) {
            return Ok(Resealed::Current);
        }
        match self.open(stored) {
            Ok(text) => Ok(Resealed::Changed(self.seal(&text)?)),
            Err(Unreadable) => Ok(Resealed::Unreadable),
        }
    }

    /// What signs for that purpose; `None` without a key.
    pub fn signer(&self, purpose: &str) -> Option<Signer> {
        let current = self.current.as_ref()?;
        Signer::new(&current.prk, self.others.iter().map(|key| &key.prk), purpose)
    }

    fn keys(&self) -> impl Iterator<Item = &Arc<SealingKey>> {
        self.current.iter().chain(&self.others)
    }
}

impl SealingKey {
    fn new(bytes: &[u8; 32]) -> Option<SealingKey> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()?;
        let hash = digest::digest(&digest::SHA256, &[b"model-asynch key id".as_slice(), bytes].concat());
        let id = hash.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Some(SealingKey { id, key, prk: signer::extracted(bytes) })
    }

    fn seal(&self, text: &str) -> Result<String, Unsealed> {
        let mut sealed = text.as_bytes().to_vec();
        let aad = Aad::from(self.id.as_bytes());
        let nonce = self.key.seal_in_place_append_tag(aad, &mut sealed).map_err(|_| Unsealed)?;
        let encoded = STANDARD.encode([nonce.as_ref().as_slice(), &sealed].concat());
        Ok(format!("{SEALED}{}:{encoded}", self.id))
    }

    fn open(&self, encoded: &str, aad: &[u8]) -> Option<String> {
        let bytes = STANDARD.decode(encoded).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(aad), &mut sealed).ok()?;
        String::from_utf8(plain.to_vec()).ok()
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
        for broken in ["sealed:v2:AAAA", "sealed:v2:", "sealed:v1:AAAA", "sealed:v1:"] {
            assert!(vault.open(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_text_sealed_before_keys_had_ids_is_still_read() {
        // The words "A:secret" as the version before this one sealed them under 32 sevens.
        let sealed = "sealed:v1:AAECAwQFBgcICQoLWbuaFX57vD3h9WJU1OBuM6sK4mgA3IlQ";
        let plain = Vault::new(&[7; 32]).open(sealed).unwrap();
        assert_eq!(plain, "A:secret");
        assert_eq!(Vault::new(&[8; 32]).with_previous([&[7; 32]]).open(sealed).unwrap(), "A:secret");
        assert!(Vault::new(&[8; 32]).open(sealed).is_err());
    }

    #[test]
    fn plain_texts_stay_readable_when_a_key_is_set_later() {
        assert_eq!(Vault::default().seal("A:b").unwrap(), "A:b");
        assert_eq!(Vault::new(&[7; 32]).open("A:b").unwrap(), "A:b");
        assert_eq!(Vault::new(&[7; 32]).seal("").unwrap(), "");
    }

    #[test]
    fn whatever_is_not_under_the_current_key_is_sealed_anew() {
        let old = Vault::new(&[7; 32]);
        let new = Vault::new(&[8; 32]).with_previous([&[7; 32]]);
        let sealed = old.seal("A:secret").unwrap();
        for stored in [sealed.as_str(), "A:secret"] {
            let Resealed::Changed(resealed) = new.reseal(stored).unwrap() else { panic!("{stored} stayed") };
            assert_eq!(Vault::new(&[8; 32]).open(&resealed).unwrap(), "A:secret");
            assert_eq!(new.reseal(&resealed).unwrap(), Resealed::Current);
        }
        assert_eq!(new.reseal("").unwrap(), Resealed::Current);
        assert_eq!(Vault::new(&[8; 32]).reseal(&sealed).unwrap(), Resealed::Unreadable);
        assert_eq!(Vault::default().reseal("A:secret").unwrap(), Resealed::Current);
    }
}
