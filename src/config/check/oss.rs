//! `oss`: where results are stored.

use std::time::Duration;

use super::{
    HOUR, HTTP_URL, SECOND, consul::url_or_service, duration, folder, http_url, missing, optional, refuse, required,
    seconds,
};
use crate::{
    config::{ConfigError, Oss, OssKind, S3, raw::RawOss},
    secrets::Vault,
};

const OSS_KINDS: &str = "fs, s3, http";

pub(super) fn check(raw: &RawOss, vault: &Vault, has_consul: bool) -> Result<Oss, ConfigError> {
    let kind = match raw.kind.as_str() {
        "fs" => {
            OssKind::Fs { path: folder("oss.path", &raw.path)?, url_ttl: signed_for(raw, vault)?, packs: raw.packs }
        }
        "s3" => OssKind::S3(s3(raw)?),
        "http" => OssKind::Http {
            url: url_or_service("oss.url", required("oss.url", &raw.url, HTTP_URL)?, has_consul)?,
            url_pointer: optional("oss.urlPointer", &raw.url_pointer, pointer)?,
        },
        other => return Err(refuse("oss.kind", other, OSS_KINDS)),
    };
    Ok(Oss {
        kind,
        retry_for: seconds("oss.retryForSeconds", raw.retry_for_seconds, 0..=365 * 86_400)?,
        timeout: duration("oss.timeout", &raw.timeout, SECOND..=24 * HOUR)?,
        delete_on_purge: raw.delete_on_purge,
    })
}

/// What the key is needed for is only told by the other setting, so the complaint names both.
fn signed_for(raw: &RawOss, vault: &Vault) -> Result<Option<Duration>, ConfigError> {
    match url_ttl(raw)? {
        Some(_) if !vault.has_key() => Err(missing(
            "secrets.key",
            "base64 of exactly 32 bytes to sign URLs with, because oss.urlTtlSeconds lets them run out; \
             `openssl rand -base64 32` makes one",
        )),
        ttl => Ok(ttl),
    }
}

fn url_ttl(raw: &RawOss) -> Result<Option<Duration>, ConfigError> {
    let ttl = seconds("oss.urlTtlSeconds", raw.url_ttl_seconds, 0..=7 * 86_400)?;
    Ok(Some(ttl).filter(|ttl| !ttl.is_zero()))
}

fn s3(raw: &RawOss) -> Result<S3, ConfigError> {
    let bucket = required("oss.bucket", &raw.bucket, "the name of a bucket")?;
    if bucket.contains(['/', ':', '?', '#', ' ']) {
        return Err(refuse("oss.bucket", bucket, "the name of a bucket, without its URL"));
    }
    Ok(S3 {
        endpoint: optional("oss.endpoint", &raw.endpoint, http_url)?,
        region: required("oss.region", &raw.region, "a region, such as us-east-1")?.to_owned(),
        bucket: bucket.to_owned(),
        access_key: required("oss.accessKey", &raw.access_key, "the access key id for kind s3")?.to_owned(),
        secret_key: required("oss.secretKey", &raw.secret_key, "the secret key for kind s3")?.to_owned(),
        virtual_hosted: raw.virtual_hosted,
        public_url: optional("oss.publicUrl", &raw.public_url, http_url)?,
        // Seven days are the most that S3 signs for.
        presign_for: url_ttl(raw)?.unwrap_or(HOUR),
    })
}

fn pointer(key: &str, text: &str) -> Result<String, ConfigError> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(refuse(key, text, "a JSON pointer, such as /data/link")),
    }
}
