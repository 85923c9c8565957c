//! The pages and the documentation, out of the binary.
//!
//! How: what `ui/` builds and the pages of `docs/` are embedded. A path that is no file is a view of the pages, so
//! `index.html` answers it.
//! Invariants: only embedded files are served, so no path reaches the disk; every answer carries the strict headers.

use crate::api::{Api, Problem};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(RustEmbed)]
#[folder = "../../ui/dist"]
#[allow_missing = true]
struct Pages;

#[derive(RustEmbed)]
#[folder = "../../docs"]
#[include = "*.md"]
#[include = "guides/*.md"]
struct Docs;

const NOT_BUILT: &str = "<!doctype html><html lang=en><title>Selvedge</title><body><h1>The pages are not in this \
    binary</h1><p>It was built without them. <code>make build</code> builds both; the API is at \
    <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>.";

/// Everything a page may do: nothing but talk to the hub it came from.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
];

/// Adds the strict headers to every answer.
pub(crate) async fn strict(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("woff2") => "font/woff2",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// A page, one of its files, or the word that there is no such thing.
pub(crate) async fn page(request: Request) -> Response {
    let path = request.uri().path();
    if request.method() != Method::GET && request.method() != Method::HEAD || path.starts_with("/api/") {
        return Problem::new(StatusCode::NOT_FOUND, "no such page; /api/v1/openapi.json lists them")
            .into_response();
    }
    let file = path.trim_start_matches('/');
    if let Some(found) = Pages::get(file).filter(|_| !file.is_empty()) {
        // Names under assets/ change with their content.
        let cache =
            if file.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        let headers = [(header::CONTENT_TYPE, media_type(file)), (header::CACHE_CONTROL, cache)];
        return (headers, found.data.into_owned()).into_response();
    }
    if file.starts_with("assets/") {
        return Problem::new(StatusCode::NOT_FOUND, "no such file").into_response();
    }
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    match Pages::get("index.html") {
        Some(index) => (headers, index.data.into_owned()).into_response(),
        None => (StatusCode::NOT_FOUND, headers, NOT_BUILT).into_response(),
    }
}

/// One page of the documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocEntry {
    /// Where it is, such as guides/loss.md.
    pub path: String,
    /// Its title.
    pub title: String,
}

/// A page of the documentation with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocView {
    /// Where it is.
    pub path: String,
    /// Its title.
    pub title: String,
    /// Its text, Markdown.
    pub markdown: String,
}

fn doc(path: &str) -> Option<DocView> {
    let markdown = String::from_utf8_lossy(&Docs::get(path)?.data).into_owned();
    let title = markdown.lines().find_map(|l| l.strip_prefix("# ")).unwrap_or(path).to_owned();
    Some(DocView { path: path.to_owned(), title, markdown })
}

/// The pages of the documentation.
#[utoipa::path(get, path = "/api/v1/docs/index", responses((status = 200, body = Vec<DocEntry>)))]
pub(crate) async fn docs(State(api): State<Api>) -> Json<Vec<DocEntry>> {
    api.metrics.requests.inc();
    let mut all: Vec<DocEntry> =
        Docs::iter().filter_map(|p| doc(&p)).map(|d| DocEntry { path: d.path, title: d.title }).collect();
    all.sort_by_key(|d| (d.path.contains('/'), d.path != "README.md", d.path.clone()));
    Json(all)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DocQuery {
    /// Where it is, such as guides/loss.md.
    path: String,
}

/// One page of the documentation.
#[utoipa::path(get, path = "/api/v1/docs/page", params(DocQuery),
    responses((status = 200, body = DocView), (status = 404, description = "there is none of that name")))]
pub(crate) async fn doc_page(
    State(api): State<Api>,
    query: Result<Query<DocQuery>, QueryRejection>,
) -> Result<Json<DocView>, Problem> {
    api.metrics.requests.inc();
    let Query(DocQuery { path }) = query?;
    let missing = || {
        let error = format!("there is no page {path:?}; /api/v1/docs/index lists them");
        Problem::new(StatusCode::NOT_FOUND, error)
    };
    doc(&path).map(Json).ok_or_else(missing)
}
