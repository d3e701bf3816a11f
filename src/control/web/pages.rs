//! The paths of the web server and what they answer.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::config::web::{MetricNames, WebSettings};
use crate::control::api;
use crate::control::api::{PAGE, PAGE_POLICY, SharedDashboard, Standing};
use crate::control::history::Range;
use crate::control::monitor::Monitor;
use crate::control::web::exposition::CONTENT_TYPE;
use crate::control::web::{dnsdist, json, prometheus};

/// What all pages are made of.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) monitor: Arc<Monitor>,
    pub(super) settings: Arc<WebSettings>,
    /// What the dashboard has remembered.
    pub(super) dashboard: SharedDashboard,
}

/// The headers of every answer, unless `customHeaders` replaces them.
const HEADERS: [(&str, &str); 5] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "deny"),
    ("X-Permitted-Cross-Domain-Policies", "none"),
    ("X-XSS-Protection", "1; mode=block"),
    ("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'"),
];

/// The paths.
pub(super) fn router(site: Site) -> Router {
    let api = "/api/v1/servers/localhost";
    Router::new()
        .route("/", get(index))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/jsonstat", get(statistics))
        .route(api, get(|State(site): State<Site>| async move { answer(&json::localhost(&site.monitor.figures())) }))
        .route(
            &format!("{api}/statistics"),
            get(|State(site): State<Site>| async move { answer(&json::statistic_items(&site.monitor.figures())) }),
        )
        .route(&format!("{api}/pool"), get(pool))
        .route(
            &format!("{api}/config"),
            get(|State(site): State<Site>| async move { answer(&json::settings(&site.monitor.figures())) }),
        )
        .route(
            &format!("{api}/config/allow-from"),
            get(|State(site): State<Site>| async move { answer(&json::allow_from(&site.monitor.figures())) }),
        )
        .route("/api/v2/overview", get(overview))
        .route("/api/v2/history", get(history))
        .route("/api/v2/top", get(top))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .with_state(site)
}

/// Sets the headers that every answer has.
pub(super) fn dress(response: &mut Response, settings: &WebSettings) {
    let own = HEADERS.iter().map(|(name, value)| (*name, *value));
    let custom = settings.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // A page may have its own policy, which only the configuration replaces.
    let own = own.filter(|(name, _)| !response.headers().contains_key(*name)).collect::<Vec<_>>();
    for (name, value) in own.into_iter().chain(custom) {
        // The configuration has checked both.
        let Ok(name) = name.parse::<header::HeaderName>() else { continue };
        match HeaderValue::from_str(value) {
            Ok(_) if value.is_empty() => _ = response.headers_mut().remove(name),
            Ok(value) => _ = response.headers_mut().insert(name, value),
            Err(_) => {}
        }
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// The answer to who may not see this.
pub(super) fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"dnslob\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
}

/// Whether a request of this method has a body that is of use.
pub(super) fn takes_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn answer(value: &Value) -> Response {
    let body = Body::from(Bytes::from(value.to_string()));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn ready(State(site): State<Site>) -> Response {
    if site.monitor.is_ready() {
        "ready\n".into_response()
    } else if site.monitor.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    let figures = site.monitor.figures();
    let page = match site.settings.names {
        MetricNames::Dnslob => prometheus::page(&figures),
        MetricNames::Dnsdist => dnsdist::page(&figures),
    };
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response()
}

async fn statistics(State(site): State<Site>, uri: Uri) -> Response {
    match argument(&uri, "command").as_deref() {
        Some("stats") => answer(&json::statistics(&site.monitor.figures())),
        // There are no dynamic blocks.
        Some("dynblocklist" | "ebpfblocklist") => answer(&json!({})),
        _ => {
            (StatusCode::NOT_FOUND, "command is one of stats, dynblocklist, ebpfblocklist\n").into_response()
        }
    }
}

async fn pool(State(site): State<Site>, uri: Uri) -> Response {
    let Some(name) = argument(&uri, "name") else {
        return (StatusCode::BAD_REQUEST, "name= is missing\n").into_response();
    };
    match json::pool_named(&site.monitor.figures(), &name) {
        Some(pool) => answer(&pool),
        None => (StatusCode::NOT_FOUND, "no such pool\n").into_response(),
    }
}

async fn index() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY.as_str()),
    ];
    (headers, PAGE.as_str()).into_response()
}

async fn overview(State(site): State<Site>) -> Response {
    let monitor = &site.monitor;
    let standing = Standing {
        started: monitor.started_unix(),
        ready: monitor.is_ready(),
        draining: monitor.is_draining(),
    };
    let figures = monitor.figures();
    answer(&site.dashboard.lock().overview(&figures, standing))
}

async fn history(State(site): State<Site>, uri: Uri) -> Response {
    let number = |name| argument(&uri, name).map(|text| text.parse::<u64>());
    let range = number("range").and_then(Result::ok).and_then(Range::of_seconds);
    match (range, number("from").transpose()) {
        (Some(range), Ok(from)) => answer(&site.dashboard.lock().history(range, from.unwrap_or_default())),
        (None, _) => (StatusCode::BAD_REQUEST, "range is one of 300, 3600, 86400\n").into_response(),
        (_, Err(_)) => (StatusCode::BAD_REQUEST, "from is the number of a sample\n").into_response(),
    }
}

async fn top(State(site): State<Site>, uri: Uri) -> Response {
    let request = match api::top::request(|name| argument(&uri, name)) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let list = site.monitor.traffic().and_then(|traffic| traffic.top(request.clone()));
    match list {
        Ok(list) => answer(&api::top::answer(&request, &list)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Returns an argument of the query string, decoded.
fn argument(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_decoded() {
        let of = |text: &str| argument(&text.parse().expect("a URI"), "name");
        assert_eq!(of("/x?name=a%20b+c%C3%A9&other=1").as_deref(), Some("a b cé"));
        assert_eq!((of("/x?name=").as_deref(), of("/x?name").as_deref()), (Some(""), Some("")));
        assert_eq!(
            (of("/x"), of("/x?other=name"), of("/x?name=%"), of("/x?name=%FF")),
            (None, None, None, None)
        );
    }

    #[test]
    fn headers_of_the_configuration_replace_and_remove() {
        let headers = [("X-Frame-Options", ""), ("x-xss-protection", "0"), ("X-Custom", "yes")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut response = "".into_response();
        dress(&mut response, &WebSettings { headers, ..WebSettings::default() });
        let value = |name: &str| response.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(value("x-frame-options"), None);
        assert_eq!(value("x-xss-protection").as_deref(), Some("0"));
        assert_eq!(value("x-custom").as_deref(), Some("yes"));
        assert_eq!(value("x-content-type-options").as_deref(), Some("nosniff"));
    }
}
