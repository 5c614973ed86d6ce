//! The interactive documentation: one page that reads `/openapi.json` and loads nothing else, from
//! nowhere. Its only script and style are the ones that this program was built with, and the browser
//! is told so by their digests.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

const PAGE: &str = include_str!("docs.html");

/// What the page may load and run.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source("script"),
        source("style")
    );
    // Without a policy that can be sent the page may load nothing at all.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// This document, to read and to try out
#[utoipa::path(get, path = "/docs", tag = "tools", responses(
    (status = 200, description = "A page", content_type = "text/html", body = String),
))]
pub(crate) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

/// The digest of what stands between the tags, as a source of the policy.
fn source(tag: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, content(tag).as_bytes())))
}

fn content(tag: &str) -> &'static str {
    let begin = PAGE.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    begin.split_once(&format!("</{tag}>")).map_or("", |(content, _)| content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_loads_nothing() {
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag}");
            assert!(content(tag).len() > 1000, "{tag}");
        }
        for outside in
            ["http://", "https://", "//cdn", " src=", "@import", "url(", "innerHTML", " style=", " onclick", " onload"]
        {
            let markup = PAGE.replace(content("script"), "");
            let place = if outside == "innerHTML" { PAGE } else { &markup };
            assert!(!place.contains(outside), "{outside}");
        }
        assert!(!content("script").contains("://"), "the script names no other host");
    }

    #[test]
    fn the_policy_names_the_digests_of_both() {
        let policy = POLICY.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
    }
}
