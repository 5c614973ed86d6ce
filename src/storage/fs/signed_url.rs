//! URLs of results that run out: `?expires=<unix seconds>&signature=<hex>`.
//!
//! The signature is over the object's key and the moment, so neither can be changed, and every node
//! with the same `secrets.key` knows it. The moment is compared on the clock of the node that is
//! asked: a clock that is wrong makes URLs live longer or shorter by as much.

use std::time::Duration;

use chrono::{DateTime, Utc};
use url::form_urlencoded;

use crate::secrets::{Signer, Vault};

/// What the key that signs is derived for.
const PURPOSE: &str = "file urls, version 1";

/// URLs made within this part of their life are the same, so that caches have some use of them.
const STEPS: i64 = 8;

/// Makes such URLs and knows them again.
pub(super) struct SignedUrls {
    signer: Signer,
    /// Seconds.
    ttl: i64,
}

impl SignedUrls {
    /// `None` where the vault has no key.
    pub(super) fn new(vault: &Vault, ttl: Duration) -> Option<SignedUrls> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        Some(SignedUrls { signer: vault.signer(PURPOSE)?, ttl })
    }

    /// The query that opens the object for at least `ttl` from `now`, and at most an eighth (or a
    /// second) longer.
    pub(super) fn query(&self, key: &str, now: DateTime<Utc>) -> String {
        let step = (self.ttl / STEPS).max(1);
        // Up to the next second, and then to the next step.
        let least = now.timestamp().saturating_add(self.ttl).saturating_add(1);
        let expires = least.saturating_add(step - 1).div_euclid(step).saturating_mul(step);
        format!("expires={expires}&signature={}", self.signer.sign(&signed(key, expires)))
    }

    /// Whether that query opens the object now. Other parameters, which proxies and people add, do
    /// not matter.
    pub(super) fn opens(&self, key: &str, query: &str, now: DateTime<Utc>) -> bool {
        let value = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value)
        };
        let expires = value("expires").and_then(|expires| expires.parse::<i64>().ok());
        let (Some(expires), Some(signature)) = (expires, value("signature")) else { return false };
        self.signer.knows(&signed(key, expires), &signature) && now.timestamp() < expires
    }
}

fn signed(key: &str, expires: i64) -> String {
    format!("{expires}\n{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "7/20251122/a-1-b.wav";

    fn urls(ttl: u64) -> SignedUrls {
        SignedUrls::new(&Vault::new(&[7; 32]), Duration::from_secs(ttl)).unwrap()
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn a_url_opens_for_its_time_and_not_much_longer() {
        for (ttl, slack) in [(1, 1), (60, 7), (3600, 450), (604_800, 75_600)] {
            for begin in [0, 1, 499, 999, 1_000, 123_456] {
                let urls = urls(ttl);
                let query = urls.query(KEY, at(begin));
                let ttl = i64::try_from(ttl).unwrap() * 1000;
                assert!(urls.opens(KEY, &query, at(begin)) && urls.opens(KEY, &query, at(begin + ttl)), "{ttl}");
                assert!(!urls.opens(KEY, &query, at(begin + ttl + slack * 1000)), "{ttl} from {begin}");
            }
        }
    }

    #[test]
    fn urls_made_soon_after_one_another_are_the_same() {
        let urls = urls(3600);
        let made: std::collections::BTreeSet<_> = (0..450).map(|second| urls.query(KEY, at(second * 1000))).collect();
        assert!(made.len() <= 2, "{made:?}");
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let urls = urls(60);
        let query = urls.query(KEY, at(0));
        let (expires, signature) = query.split_once('&').unwrap();
        assert!(urls.opens(KEY, &format!("download=1&{query}&x=%ff"), at(0)));
        assert!(!urls.opens("7/20251122/a-2-b.wav", &query, at(0)));
        let later = format!("{expires}0&{signature}");
        for wrong in ["", expires, signature, &later, &format!("{query}0"), &format!("expires=9&{query}")] {
            assert!(!urls.opens(KEY, wrong, at(0)), "{wrong}");
        }
    }
}
