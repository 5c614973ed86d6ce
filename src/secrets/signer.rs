//! Signatures on what the service hands out and wants to know again.

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, Prk, Salt},
    hmac,
};

/// Signs under the current key, and knows what was signed under those before it.
pub struct Signer {
    current: hmac::Key,
    /// Keys that only recognise.
    others: Vec<hmac::Key>,
}

impl Signer {
    /// `None` where the cipher library refuses to derive the keys.
    pub(super) fn new<'a>(current: &Prk, others: impl Iterator<Item = &'a Prk>, purpose: &str) -> Option<Signer> {
        let others = others.map(|key| derived(key, purpose)).collect::<Option<_>>()?;
        Some(Signer { current: derived(current, purpose)?, others })
    }

    /// HMAC-SHA256 of the text, in hex.
    pub fn sign(&self, text: &str) -> String {
        let signature = hmac::sign(&self.current, text.as_bytes());
        signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether one of the keys has signed the text. Takes as long for a signature that is nearly
    /// right as for any other.
    pub fn knows(&self, text: &str, signature: &str) -> bool {
        let Some(signature) = unhex(signature) else { return false };
        let mut keys = std::iter::once(&self.current).chain(&self.others);
        keys.any(|key| hmac::verify(key, text.as_bytes(), &signature).is_ok())
    }
}

/// What HKDF calls the extraction; one is made for every key, whatever it then signs.
pub(super) fn extracted(key: &[u8; 32]) -> Prk {
    Salt::new(HKDF_SHA256, b"model-asynch signatures").extract(key)
}

/// A key of its own for every purpose: a signature made for one is worth nothing to another, and
/// none says anything about the key that seals.
fn derived(key: &Prk, purpose: &str) -> Option<hmac::Key> {
    let info = [purpose.as_bytes()];
    key.expand(&info, hmac::HMAC_SHA256).ok().map(hmac::Key::from)
}

/// The 32 bytes of a signature. Only lower-case digits, so that it has one spelling.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = pair.map(digit);
        *byte = high? << 4 | low?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::secrets::Vault;

    #[test]
    fn a_signature_is_known_for_its_text_and_purpose_only() {
        let vault = Vault::new(&[7; 32]);
        let signer = vault.signer("files").unwrap();
        let signature = signer.sign("a");
        assert_eq!(signature.len(), 64);
        assert!(vault.signer("files").unwrap().knows("a", &signature), "whoever has the key knows it");
        assert!(!signer.knows("b", &signature));
        assert!(!vault.signer("other").unwrap().knows("a", &signature));
        assert!(!Vault::new(&[8; 32]).signer("files").unwrap().knows("a", &signature));
        assert!(Vault::default().signer("files").is_none());
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let signer = Vault::new(&[7; 32]).signer("files").unwrap();
        let signature = signer.sign("a");
        let wrong = ["", "0", &signature[1..], &format!("{signature}0"), &signature.to_uppercase(), &"é".repeat(32)];
        for wrong in wrong {
            assert!(!signer.knows("a", wrong), "{wrong}");
        }
        for place in 0..signature.len() {
            let mut digits = signature.clone().into_bytes();
            digits[place] = if digits[place] == b'0' { b'1' } else { b'0' };
            assert!(!signer.knows("a", &String::from_utf8(digits).unwrap()), "digit {place}");
        }
    }

    #[test]
    fn what_an_older_key_signed_is_known_until_that_key_is_gone() {
        let old = Vault::new(&[7; 32]).signer("files").unwrap().sign("a");
        let new = Vault::new(&[8; 32]);
        assert!(new.clone().with_previous([&[7; 32]]).signer("files").unwrap().knows("a", &old));
        assert!(!new.signer("files").unwrap().knows("a", &old));
    }
}
