//! The web dashboard at `/`: a page with its scripts and styles, embedded in the binary.
//!
//! This module only hands files out. What the page shows it asks of the public API, as whoever looks
//! at it and with that caller's rights, so there is nothing to protect here but the page itself: it
//! may load and call this service, show results from their storage, and nothing else.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};
use url::{Origin, Url};

use crate::{
    api::ApiError,
    config::{OssKind, S3},
};

/// The page itself; every other file is below `/assets/`.
const PAGE: &str = "index.html";

/// Files are asked for again at every visit and answered "not modified": after an update no browser
/// mixes old scripts with new ones.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

#[derive(RustEmbed)]
#[folder = "src/dashboard/assets"]
struct Assets;

/// A route for the page, and one for the files that it loads.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(storage: &OssKind) -> Router<S> {
    let policy = policy(storage);
    let of_files = policy.clone();
    let file = async move |at: Uri, asked: HeaderMap| answer(named(&at), &of_files, &asked);
    Router::new()
        .route("/", get(async move |asked: HeaderMap| answer(PAGE, &policy, &asked)))
        // One route, so that the metrics of routes do not grow with the number of files.
        .route("/assets/{*name}", get(file))
}

/// The name of the file that is asked for.
fn named(at: &Uri) -> &str {
    at.path().strip_prefix("/assets/").unwrap_or_default()
}

/// The file, or that the browser has it already.
fn answer(name: &str, policy: &HeaderValue, asked: &HeaderMap) -> Response {
    let Some(file) = Assets::get(name) else {
        return ApiError::no_such_route().into_response();
    };
    let tag = tag(&file);
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| is_among(&tag, tags));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { Body::from(file.data).into_response() };
    let headers = response.headers_mut();
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, REVALIDATE);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    for (name, value) in PROTECTION {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What every answer says besides its policy.
const PROTECTION: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // For browsers that do not know `frame-ancestors`.
    (header::X_FRAME_OPTIONS, "DENY"),
    // The URL of a result must not learn where it was looked at.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What the page may load, and from where: itself, and results from where they are stored.
fn policy(storage: &OssKind) -> HeaderValue {
    let results: String = origins(storage).into_iter().map(|origin| format!(" {origin}")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{results}; \
         img-src 'self'{results}; media-src 'self'{results}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    // An origin has no characters that a header could not carry.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
}

/// Where results come from, other than this service.
fn origins(storage: &OssKind) -> Vec<String> {
    let urls = match storage {
        OssKind::Fs { .. } => Vec::new(),
        // The file service may name another host in its answers; those results can be opened, not shown.
        OssKind::Http { url, .. } => vec![url.clone()],
        OssKind::S3(store) => buckets(store),
    };
    let mut origins: Vec<String> =
        urls.iter().map(Url::origin).filter(Origin::is_tuple).map(|origin| origin.ascii_serialization()).collect();
    origins.sort();
    origins.dedup();
    origins
}

/// Where a bucket's objects can be fetched: its public URL, or where presigned URLs lead.
fn buckets(store: &S3) -> Vec<Url> {
    if let Some(url) = &store.public_url {
        return vec![url.clone()];
    }
    let Some(endpoint) = &store.endpoint else {
        let hosts = [format!("https://s3.{}.amazonaws.com", store.region), aws_bucket(store)];
        return hosts.iter().filter_map(|host| host.parse().ok()).collect();
    };
    let mut bucket = endpoint.clone();
    if let (true, Some(host)) = (store.virtual_hosted, endpoint.host_str()) {
        // A host that cannot have a name in front, such as an address, stays as it is.
        bucket.set_host(Some(&format!("{}.{host}", store.bucket))).ok();
    }
    vec![bucket]
}

fn aws_bucket(store: &S3) -> String {
    format!("https://{}.s3.{}.amazonaws.com", store.bucket, store.region)
}

/// The file's content, as a tag.
fn tag(file: &EmbeddedFile) -> String {
    let digits: String = file.metadata.sha256_hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

fn is_among(tag: &str, tags: &HeaderValue) -> bool {
    let tags = tags.to_str().unwrap_or_default();
    tags.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|other| other == tag || other == "*")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn s3(endpoint: Option<&str>, virtual_hosted: bool, public_url: Option<&str>) -> OssKind {
        OssKind::S3(S3 {
            endpoint: endpoint.map(|url| url.parse().unwrap()),
            region: "eu-1".into(),
            bucket: "results".into(),
            access_key: String::new(),
            secret_key: String::new(),
            virtual_hosted,
            public_url: public_url.map(|url| url.parse().unwrap()),
            presign_for: Duration::ZERO,
        })
    }

    #[test]
    fn results_may_come_from_their_storage_and_from_nowhere_else() {
        let http =
            OssKind::Http { url: "https://files.example.com:8443/upload?x=1".parse().unwrap(), url_pointer: None };
        for (storage, expected) in [
            (OssKind::Fs { path: "oss".into(), url_ttl: None, packs: true }, vec![]),
            (http, vec!["https://files.example.com:8443"]),
            (s3(Some("http://10.0.0.1:9000"), false, None), vec!["http://10.0.0.1:9000"]),
            (s3(Some("https://s3.example.com"), true, None), vec!["https://results.s3.example.com"]),
            (
                s3(Some("http://10.0.0.1:9000"), false, Some("https://cdn.example.com/r")),
                vec!["https://cdn.example.com"],
            ),
            (s3(None, false, None), vec!["https://results.s3.eu-1.amazonaws.com", "https://s3.eu-1.amazonaws.com"]),
        ] {
            assert_eq!(origins(&storage), expected);
            let policy = policy(&storage);
            let policy = policy.to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
            assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_not_sent_it_again() {
        let policy = policy(&OssKind::Fs { path: "oss".into(), url_ttl: None, packs: true });
        let fresh = answer(PAGE, &policy, &HeaderMap::new());
        assert_eq!(fresh.status(), StatusCode::OK);
        assert_eq!(fresh.headers()["content-type"], "text/html; charset=utf-8");
        let tag = fresh.headers()["etag"].to_str().unwrap().to_owned();
        for (asked, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, asked.parse().unwrap());
            let response = answer(PAGE, &policy, &headers);
            assert_eq!(response.status(), status, "{asked}");
            assert_eq!(response.headers()["etag"], tag);
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        }
    }
}
