//! The dashboard: files that were built from `ui/` and lie in the program, compressed.
//!
//! Its pages are all one file, `index.html`, whatever the path below `/ui` says; what a page shows it asks of the API, with the reader's key.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    REFERRER_POLICY, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::read::GzDecoder;

/// Name and gzip of every file; empty where the program was built without a dashboard.
static BUILT: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/ui.rs"));

/// Nothing from elsewhere, and no script or style that is written into a page. Charts are saved by way of `data:` and `blob:` images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page without a dashboard has its few styles in itself.
const PLAIN_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
const PAGE: &str = "index.html";
/// What the build names by its content, and so never changes.
const HASHED: &str = "assets/";
const TYPES: [(&str, &str); 6] = [
    (".html", "text/html; charset=utf-8"),
    (".js", "text/javascript; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".svg", "image/svg+xml"),
    (".woff2", "font/woff2"),
    (".txt", "text/plain; charset=utf-8"),
];

/// The files by name, with a tag of their content.
static FILES: LazyLock<HashMap<&str, File>> = LazyLock::new(|| files(BUILT));

struct File {
    name: &'static str,
    gzip: &'static [u8],
    tag: HeaderValue,
}

fn files(built: &'static [(&str, &[u8])]) -> HashMap<&'static str, File> {
    let file = |&(name, gzip): &(&'static str, &'static [u8])| {
        let tag = format!("\"{}\"", &blake3::hash(gzip).to_hex()[..32]);
        // Hexadecimal digits in quotes are a header's value.
        let tag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        (name, File { name, gzip, tag })
    };
    built.iter().map(file).collect()
}

/// The paths of the dashboard, beside `/`.
pub const PATHS: [&str; 3] = ["/ui", "/ui/", "/ui/{*path}"];

pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let [bare, slash, below] = PATHS;
    Router::new()
        .route(bare, get(async |headers: HeaderMap| answer(&FILES, "", &headers)))
        .route(slash, get(async |headers: HeaderMap| answer(&FILES, "", &headers)))
        .route(below, get(async |Path(path): Path<String>, headers: HeaderMap| answer(&FILES, &path, &headers)))
}

/// The first page.
pub fn home(headers: &HeaderMap) -> Response {
    answer(&FILES, "", headers)
}

/// A file of the dashboard, or its page for every path that is one of its own.
fn answer(files: &HashMap<&str, File>, path: &str, headers: &HeaderMap) -> Response {
    let Some(page) = files.get(PAGE) else { return without(path) };
    match files.get(path) {
        Some(file) => send(file, headers),
        // A page that was loaded before an update asks for files that are gone: a page in their place would be no script.
        None if path.starts_with(HASHED) => StatusCode::NOT_FOUND.into_response(),
        None => send(page, headers),
    }
}

fn send(file: &File, headers: &HeaderMap) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fixed = file.name.starts_with(HASHED);
    let known = text(IF_NONE_MATCH).split(',').any(|tag| file.tag == tag.trim().trim_start_matches("W/"));
    let packed = takes_gzip(text(ACCEPT_ENCODING));
    let mut response = match (known, packed) {
        (true, _) => StatusCode::NOT_MODIFIED.into_response(),
        (false, true) => Body::from(Bytes::from_static(file.gzip)).into_response(),
        (false, false) => Body::from(unpacked(file.gzip)).into_response(),
    };
    let kind = TYPES.iter().find(|(end, _)| file.name.ends_with(end)).map_or("application/octet-stream", |(_, kind)| kind);
    let own = response.headers_mut();
    own.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    own.insert(ETAG, file.tag.clone());
    own.insert(VARY, HeaderValue::from_static("accept-encoding"));
    own.insert(CACHE_CONTROL, HeaderValue::from_static(if fixed { "public, max-age=31536000, immutable" } else { "no-cache" }));
    own.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    own.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if packed && !known {
        own.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether a list such as `gzip, br;q=0.5` takes gzip.
fn takes_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|item| {
        let (name, rest) = item.split_once(';').unwrap_or((item, ""));
        let weight = rest.trim().strip_prefix("q=").and_then(|q| q.parse().ok()).unwrap_or(1.0);
        matches!(name.trim(), "gzip" | "*") && weight > 0.0
    })
}

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // What the build compressed comes out again.
    let _ = GzDecoder::new(gzip).read_to_end(&mut plain);
    plain
}

/// How to get the dashboard into the program.
fn without(path: &str) -> Response {
    let status = if path.is_empty() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, PLAIN_POLICY), (CACHE_CONTROL, "no-cache")];
    (status, headers, include_str!("home.html")).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::body::to_bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(text: &str) -> &'static [u8] {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap().leak()
    }

    fn built() -> HashMap<&'static str, File> {
        let all = vec![("index.html", packed("the page")), ("assets/a-1.js", packed("a script")), ("favicon.svg", packed("<svg/>"))];
        files(all.leak())
    }

    /// Status, body and a header of an answer to a client that takes no gzip.
    async fn asked(files: &HashMap<&str, File>, path: &str, header: HeaderName) -> (u16, String, String) {
        let response = answer(files, path, &HeaderMap::new());
        let value = response.headers().get(header).map(|value| value.to_str().unwrap().to_string()).unwrap_or_default();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned(), value)
    }

    #[tokio::test]
    async fn every_path_of_the_dashboard_is_its_page_but_a_file_that_is_gone() {
        let files = built();
        for path in ["", "decisions", "decisions/loan-17", "models/a/b/c", "favicon.ico"] {
            let (status, body, cache) = asked(&files, path, CACHE_CONTROL).await;
            assert_eq!((status, body.as_str(), cache.as_str()), (200, "the page", "no-cache"), "{path}");
        }
        let (status, body, cache) = asked(&files, "assets/a-1.js", CACHE_CONTROL).await;
        assert_eq!((status, body.as_str(), cache.as_str()), (200, "a script", "public, max-age=31536000, immutable"));
        assert_eq!(asked(&files, "assets/a-0.js", CACHE_CONTROL).await.0, 404);
        assert_eq!(asked(&files, "favicon.svg", CONTENT_TYPE).await.2, "image/svg+xml");
        let policy = asked(&files, "", CONTENT_SECURITY_POLICY).await.2;
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }

    #[tokio::test]
    async fn without_a_dashboard_the_first_page_says_how_to_get_it() {
        let (status, body, _) = asked(&HashMap::new(), "", CONTENT_TYPE).await;
        assert!(status == 200 && body.contains("npm run build"), "{body}");
        assert_eq!(asked(&HashMap::new(), "decisions", CONTENT_TYPE).await.0, 404);
    }

    #[test]
    fn who_takes_gzip_gets_it_as_it_lies_and_who_has_it_gets_nothing() {
        let files = built();
        for (accepted, expected) in
            [("gzip, br", true), ("br, *", true), ("gzip;q=0.5", true), ("gzip;q=0", false), ("br", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            let response = answer(&files, "", &headers);
            assert_eq!(response.headers().contains_key(CONTENT_ENCODING), expected, "{accepted}");
        }
        let tag = files["index.html"].tag.clone();
        assert_eq!(answer(&files, "", &HeaderMap::from_iter([(IF_NONE_MATCH, tag)])).status(), StatusCode::NOT_MODIFIED);
        let other = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"another\""))]);
        assert_eq!(answer(&files, "", &other).status(), StatusCode::OK);
    }
}
