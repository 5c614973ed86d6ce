//! The keys that tokens are verified with, each for one algorithm.

use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;

use super::Refusal;

/// The algorithms, by their names in a token's header.
const ALGORITHMS: [(&str, Algorithm); 3] =
    [("HS256", Algorithm::HS256), ("RS256", Algorithm::RS256), ("ES256", Algorithm::ES256)];

/// Shortest shared secret in bytes, as long as the hash (RFC 7518 §3.2).
const MIN_SECRET: usize = 32;

/// Shortest modulus of an RSA key in bytes: 2048 bits.
const MIN_MODULUS: usize = 256;

/// Bytes of a point of P-256, uncompressed.
const P256_POINT: usize = 65;

/// Most keys of a set: each of them may have to be tried.
const MAX_KEYS: usize = 32;

/// What tokens are verified with.
#[derive(Clone, Default)]
pub struct KeySet(Vec<Key>);

/// One key.
#[derive(Clone)]
pub(super) struct Key {
    /// `kid`, where it has one.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (key.id.as_deref().unwrap_or("-"), key.algorithm))).finish()
    }
}

impl KeySet {
    /// A shared secret, for HS256.
    ///
    /// # Errors
    /// Where it is too short to be one.
    pub fn from_secret(secret: &str) -> Result<KeySet, String> {
        if secret.len() < MIN_SECRET {
            return Err(format!("at least {MIN_SECRET} bytes; `openssl rand -base64 32` makes some"));
        }
        let key = DecodingKey::from_secret(secret.as_bytes());
        Ok(KeySet(vec![Key { id: None, algorithm: Algorithm::HS256, key }]))
    }

    /// A public key in PEM: RSA for RS256, P-256 for ES256.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn from_pem(pem: &str) -> Result<KeySet, String> {
        let accepted = || "a PEM file with one public key: RSA of at least 2048 bits, or P-256".to_owned();
        if pem.contains("PRIVATE KEY") {
            return Err(format!("{}; this is a private key, which does not belong here", accepted()));
        }
        let rsa = DecodingKey::from_rsa_pem(pem.as_bytes()).map(|key| (Algorithm::RS256, key));
        let (algorithm, key) = rsa
            .or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()).map(|key| (Algorithm::ES256, key)))
            .map_err(|_| accepted())?;
        let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        let fits = if algorithm == Algorithm::RS256 { length > MIN_MODULUS } else { length == P256_POINT };
        if fits { Ok(KeySet(vec![Key { id: None, algorithm, key }])) } else { Err(accepted()) }
    }

    /// The keys of a JWKS document that can verify RS256 and ES256; others are left out.
    ///
    /// # Errors
    /// Where it is no such document, or none of its keys is of use.
    pub fn from_jwks(json: &[u8]) -> Result<KeySet, String> {
        let accepted = "a JWKS document with public keys: RSA of at least 2048 bits, or P-256";
        let document: Jwks = serde_json::from_slice(json).map_err(|_| accepted.to_owned())?;
        let read = |key: Value| serde_json::from_value::<Jwk>(key).ok().and_then(Key::of);
        let keys: Vec<Key> = document.keys.into_iter().filter_map(read).take(MAX_KEYS).collect();
        if keys.is_empty() { Err(format!("{accepted}; there is no such key in it")) } else { Ok(KeySet(keys)) }
    }

    /// The keys that may have signed a token whose header says that.
    pub(super) fn fitting<'a>(
        &'a self,
        alg: &str,
        id: Option<&'a str>,
    ) -> Result<impl Iterator<Item = &'a Key> + 'a, Refusal> {
        let known = ALGORITHMS.into_iter().find(|(name, _)| *name == alg);
        let (_, algorithm) = known.ok_or_else(|| {
            Refusal::Invalid("is signed in a way that is not accepted; HS256, RS256 and ES256 are".to_owned())
        })?;
        let is_meant = move |key: &&Key| {
            let named = key.id.as_deref().zip(id);
            key.algorithm == algorithm && named.is_none_or(|(ours, theirs)| ours == theirs)
        };
        Ok(self.0.iter().filter(is_meant))
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Key> {
        let (algorithm, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, DecodingKey::from_rsa_components(&jwk.n?, &jwk.e?).ok()?),
            ("EC", Some("P-256")) => (Algorithm::ES256, DecodingKey::from_ec_components(&jwk.x?, &jwk.y?).ok()?),
            // A shared secret has no place in a document of public keys.
            _ => return None,
        };
        let fits = match key.kind() {
            jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= MIN_MODULUS,
            jsonwebtoken::DecodingKeyKind::SecretOrDer(point) => point.len() == P256_POINT,
        };
        let for_this = |(name, known): (&str, Algorithm)| known == algorithm && jwk.alg.as_deref() == Some(name);
        let is_meant = jwk.alg.is_none() || ALGORITHMS.into_iter().any(for_this);
        let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
        (fits && is_meant && signs).then_some(Key { id: jwk.kid, algorithm, key })
    }

    /// True where that is the signature of that message. A HMAC is compared in constant time.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm).unwrap_or(false)
    }
}

/// Identity providers of tests, with keys made on the spot.
#[cfg(test)]
pub(super) mod signing {
    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rand::SystemRandom,
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair},
    };
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    /// One of them.
    pub(in crate::jwt) struct Signer {
        algorithm: Algorithm,
        key: EncodingKey,
        /// JWKS of the public key, or the secret.
        public: String,
    }

    impl Signer {
        pub(in crate::jwt) const SECRET: &str = "a shared secret of more than 32 bytes";

        pub(in crate::jwt) fn secret() -> Signer {
            let key = EncodingKey::from_secret(Signer::SECRET.as_bytes());
            Signer { algorithm: Algorithm::HS256, key, public: Signer::SECRET.to_owned() }
        }

        pub(in crate::jwt) fn of_each_algorithm() -> [Signer; 3] {
            [Signer::secret(), Signer::rsa(), Signer::ec()]
        }

        pub(in crate::jwt) fn rsa() -> Signer {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
            let public = pair.public_key();
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let jwk = json!({ "kty": "RSA", "kid": "rsa-1", "use": "sig", "alg": "RS256",
                "n": text(public.modulus().big_endian_without_leading_zero()),
                "e": text(public.exponent().big_endian_without_leading_zero()) });
            let key = EncodingKey::from_rsa_pem(pem(pkcs8.as_ref()).as_bytes()).unwrap();
            Signer { algorithm: Algorithm::RS256, key, public: json!({ "keys": [jwk] }).to_string() }
        }

        pub(in crate::jwt) fn ec() -> Signer {
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
            let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let jwk = json!({ "kty": "EC", "kid": "ec-1", "crv": "P-256", "x": text(x), "y": text(y) });
            let key = EncodingKey::from_ec_der(pkcs8.as_ref());
            Signer { algorithm: Algorithm::ES256, key, public: json!({ "keys": [jwk] }).to_string() }
        }

        pub(in crate::jwt) fn keys(&self) -> KeySet {
            match self.algorithm {
                Algorithm::HS256 => KeySet::from_secret(&self.public).unwrap(),
                _ => KeySet::from_jwks(self.public.as_bytes()).unwrap(),
            }
        }

        pub(in crate::jwt) fn public(&self) -> &str {
            &self.public
        }

        pub(in crate::jwt) fn id(&self) -> &'static str {
            if self.algorithm == Algorithm::RS256 { "rsa-1" } else { "ec-1" }
        }

        pub(in crate::jwt) fn token(&self, claims: &Value) -> String {
            let mut header = Header::new(self.algorithm);
            header.kid = Some(self.id().to_owned());
            encode(&header, claims, &self.key).unwrap()
        }
    }

    fn pem(pkcs8: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{signing::Signer, *};

    /// A public key that nobody has the other half of.
    const P256: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjA4vQYXzRk/bQn9q9hOtqjPNqcAm\n\
        wCnm3wdUT7VClyUyVKHRXoEJL8ySSkOJzE3UnohVIBkUhyPO6EwFqv4NoQ==\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_is_for_one_algorithm() {
        let keys = KeySet::from_pem(P256).unwrap();
        assert_eq!(keys.fitting("ES256", Some("any")).unwrap().count(), 1);
        assert_eq!(keys.fitting("HS256", None).unwrap().count(), 0);
        assert!(keys.fitting("none", None).is_err() && keys.fitting("HS384", None).is_err());
        assert_eq!(KeySet::from_secret(Signer::SECRET).unwrap().fitting("RS256", None).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(KeySet::from_secret("short").unwrap_err().contains("32 bytes"));
        for pem in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert!(KeySet::from_pem(pem).unwrap_err().contains("public key"), "{pem}");
        }
        let private = P256.replace("PUBLIC", "PRIVATE");
        assert!(KeySet::from_pem(&private).unwrap_err().contains("does not belong here"));
        for jwks in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA"},5]}"#] {
            assert!(KeySet::from_jwks(jwks.as_bytes()).unwrap_err().contains("JWKS"), "{jwks}");
        }
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        let document: Value = serde_json::from_str(Signer::ec().public()).unwrap();
        let with = |name: &str, value: &str| {
            let mut document = document.clone();
            document["keys"][0][name] = json!(value);
            KeySet::from_jwks(document.to_string().as_bytes()).is_ok()
        };
        assert!(with("use", "sig") && with("alg", "ES256"));
        for (name, value) in [("use", "enc"), ("alg", "ES384"), ("alg", "HS256"), ("crv", "P-384"), ("x", "AAAA")] {
            assert!(!with(name, value), "{name} {value}");
        }
    }
}
