//! Results that storage `fs` keeps, served to whoever has the URL: its unguessable part is the key,
//! and where URLs run out, its signature.

mod shelf;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tower_http::services::ServeDir;

use self::shelf::Shelf;
use super::{ApiState, error::ApiError};
use crate::{spool::file_type, storage::fs::FsStorage, task::TaskId};

/// What every path begins with.
const PREFIX: &str = "/file";

/// A model may answer with anything, a page with scripts too; a browser must not run it as ours.
const NO_SCRIPTS: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");

/// Fetch a result
///
/// Takes `Range` and `If-Modified-Since`. The URL comes as `ossFile`; it needs no authentication. Where
/// `oss.urlTtlSeconds` is set it is signed and runs out, and the task has a fresh one at every look.
#[utoipa::path(get, path = "/file/{key}", tag = "files",
    params(
        ("key" = String, Path, description = "As in ossFile"),
        ("expires" = Option<i64>, Query, description = "Unix seconds when the URL runs out, as in ossFile"),
        ("signature" = Option<String>, Query, description = "As in ossFile"),
    ),
    responses(
        (status = 200, description = "The result", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range asked for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "Not modified since"),
        (status = 404, description = "No such file, or a URL that has run out or was changed"),
        (status = 416, description = "The Range asked for lies outside the file"),
    )
)]
pub(crate) async fn file(State(api): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let storage = api.storage.served().ok_or_else(ApiError::no_such_file)?;
    // Not 403: whoever has no good URL is not told which files there are.
    if !storage.opens(key(&request), request.uri().query().unwrap_or_default()) {
        return Err(ApiError::no_such_file());
    }
    serve(storage, request).await
}

/// The object's key as the caller wrote it. A signed one has nothing that could be written otherwise.
fn key(request: &Request) -> &str {
    request.uri().path().strip_prefix(PREFIX).and_then(|path| path.strip_prefix('/')).unwrap_or_default()
}

async fn serve(storage: &FsStorage, mut request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    // Names with a dot in front are files that storage is still writing.
    if path.split('/').any(|part| part.starts_with('.') || part.starts_with("%2e") || part.starts_with("%2E")) {
        return Err(ApiError::no_such_file());
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| ApiError::no_such_file())?;
    // A result never changes under its URL, so this condition always holds.
    request.headers_mut().remove(header::IF_UNMODIFIED_SINCE);

    let mut files = ServeDir::with_backend("", Shelf(storage.clone()))
        .append_index_html_on_directories(false)
        .redirect_to_trailing_slash(false);
    let served = files.try_call(request).await;
    let mut response = served.map_err(|error| unreadable(&error))?.map(Body::new);
    match response.status() {
        StatusCode::NOT_FOUND => return Err(ApiError::no_such_file()),
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(outside(&response)),
        _ => {}
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, NO_SCRIPTS);
    let content_type = file_type::content_type(extension(&name));
    // An answer without content has no type either.
    if let Some(sent) = headers.get_mut(header::CONTENT_TYPE) {
        *sent = HeaderValue::from_static(content_type);
        headers.insert(header::CONTENT_DISPOSITION, disposition(&name, content_type));
    }
    Ok(response)
}

/// Whether a browser shows the file or saves it, under the name of its task.
fn disposition(name: &str, content_type: &str) -> HeaderValue {
    let how = if is_shown(content_type) { "inline" } else { "attachment" };
    let named = task(name).and_then(|task| {
        let extension = Some(extension(name)).filter(|extension| file_type::is_extension(extension))?;
        HeaderValue::try_from(format!("{how}; filename=\"{task}.{extension}\"")).ok()
    });
    // A file that somebody else put there.
    named.unwrap_or(HeaderValue::from_static(how))
}

/// Types that a browser shows without running anything in them. Not PDF: browsers show that in a viewer
/// of theirs, which refuses what comes with a sandbox.
fn is_shown(content_type: &str) -> bool {
    match content_type {
        "image/svg+xml" => false,
        "text/plain" | "application/json" => true,
        other => ["image/", "audio/", "video/"].iter().any(|kind| other.starts_with(kind)),
    }
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The task that a name begins with: 36 characters, before attempt and token.
fn task(name: &str) -> Option<TaskId> {
    name.get(..36)?.parse().ok()
}

fn unreadable(error: &std::io::Error) -> ApiError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput => ApiError::no_such_file(),
        _ => ApiError::internal(format!("cannot read a result: {error}")),
    }
}

/// Keeps the header that tells how long the file is.
fn outside(response: &Response) -> Response {
    let length = response.headers().get(header::CONTENT_RANGE).cloned();
    let mut refusal = ApiError::range_outside_file().into_response();
    if let Some(length) = length {
        refusal.headers_mut().insert(header::CONTENT_RANGE, length);
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::error::Kind,
        config::{OssKind, check::check, raw::RawConfig},
        consul::Services,
        storage::Storage,
    };

    async fn get(path: &str, range: Option<&str>) -> Result<Response, Kind> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("served/7")).unwrap();
        std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
        std::fs::write(folder.path().join("served/7/a.txt"), "0123456789").unwrap();
        std::fs::write(folder.path().join("served/7/.b.txt"), "half").unwrap();
        std::fs::write(folder.path().join("served/7/0123456789abcdef.pack"), "others' results").unwrap();
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        if let Some(range) = range {
            request.headers_mut().insert(header::RANGE, range.parse().unwrap());
        }
        let mut config = check(&RawConfig::default()).unwrap();
        config.oss.kind = OssKind::Fs { path: folder.path().join("served"), url_ttl: None, packs: true };
        let storage = Storage::open(&config, &"http://localhost".parse().unwrap(), &Services::default()).unwrap();
        serve(storage.served().unwrap(), request).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_file_has_its_type_and_cannot_act_in_a_browser() {
        let response = get("/file/7/a.txt", None).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert!(response.headers().contains_key("content-security-policy"));
        assert_eq!(response.headers()["content-disposition"], "inline");
    }

    #[test]
    fn only_what_a_browser_cannot_run_is_shown_and_everything_has_its_tasks_name() {
        const TASK: &str = "019aa9b1-7c00-7000-8000-000000000001";
        let disposition = |extension: &str| {
            let name = format!("{TASK}-2-00112233445566778899aabbccddeeff.{extension}");
            disposition(&name, file_type::content_type(extension)).to_str().unwrap().to_owned()
        };
        for shown in ["png", "jpg", "webp", "wav", "mp3", "opus", "mp4", "webm", "txt", "json"] {
            assert_eq!(disposition(shown), format!("inline; filename=\"{TASK}.{shown}\""));
        }
        for saved in ["pdf", "html", "xhtml", "svg", "svgz", "xml", "md", "js", "css", "swf", "zip", "bin", "unheardof"]
        {
            assert_eq!(disposition(saved), format!("attachment; filename=\"{TASK}.{saved}\""));
        }
        for (foreign, how) in [("a.png", "inline"), ("a", "attachment"), (&format!("{TASK}.p\"ng"), "attachment")] {
            let content_type = file_type::content_type(extension(foreign));
            assert_eq!(super::disposition(foreign, content_type), how, "{foreign}");
        }
    }

    #[tokio::test]
    async fn a_range_is_served_and_one_outside_is_refused() {
        let response = get("/file/7/a.txt", Some("bytes=2-4")).await.unwrap();
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(axum::body::to_bytes(response.into_body(), 10).await.unwrap(), "234");
        let response = get("/file/7/a.txt", Some("bytes=20-")).await.unwrap();
        assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(response.headers()["content-range"], "bytes */10");
    }

    #[tokio::test]
    async fn nothing_but_finished_files_below_the_folder_is_served() {
        for path in [
            "/file/7",
            "/file/7/",
            "/file/8/a.txt",
            "/file/7/a.txt/x",
            "/file/7/.b.txt",
            "/file/7/%2eb.txt",
            "/file/../secret.txt",
            "/file/7/../../secret.txt",
            "/file/7/%2e%2e/%2e%2e/secret.txt",
            "/file/7/..%2f..%2fsecret.txt",
            "/file//etc/passwd",
            "/file/7/a.txt%00",
            "/file/7/0123456789abcdef.pack",
            "/file/7/0123456789abcde%66.pack",
            "/file/7/0123456789abcdef.pack/",
            "/file/7/0123456789abcdef.pack/.",
            "/file/7/0123456789abcdef.pack/0",
            "/file/7/0123456789abcdef.pack/0/a.txt",
        ] {
            assert_eq!(get(path, None).await.map(|response| response.status()), Err(Kind::NotFound), "{path}");
        }
    }
}
