//! The paths of the web server and what they answer.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::config::web::{MetricNames, WebSettings};
use crate::control::api::{PAGE, PAGE_POLICY};
use crate::control::web::exposition::Format;
use crate::control::web::rest::{self, refusal};
use crate::control::web::site::{Site, argument};
use crate::control::web::{dnsdist, json, own, prometheus};
use crate::stats::top::{Filter, GrepRequest, ROWS_MAX};

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
        .route(&format!("{api}/rings"), get(rings))
        .route(
            &format!("{api}/config"),
            get(|State(site): State<Site>| async move { answer(&json::settings(&site.monitor.figures())) }),
        )
        .merge(rest::router())
        .fallback(own::page)
        .method_not_allowed_fallback(not_allowed)
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
pub(super) fn unauthorized(path: &str, is_by_script: bool) -> Response {
    let refused = refusal(path, StatusCode::UNAUTHORIZED, "a password or key is needed");
    if is_by_script {
        return refused;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"dnslob\", charset=\"UTF-8\"")];
    (challenge, refused).into_response()
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

async fn metrics(State(site): State<Site>, headers: HeaderMap) -> Response {
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let figures = site.monitor.figures();
    let page = match site.settings.names {
        MetricNames::Dnslob => prometheus::page(&figures, format),
        MetricNames::Dnsdist => dnsdist::page(&figures, format),
    };
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")], page).into_response()
}

async fn statistics(State(site): State<Site>, uri: Uri) -> Response {
    match argument(&uri, "command").as_deref() {
        Some("stats") => answer(&json::statistics(&site.monitor.figures())),
        // There are no dynamic blocks.
        Some("dynblocklist" | "ebpfblocklist") => answer(&json!({})),
        _ => (StatusCode::NOT_FOUND, "command is stats, or dynblocklist, which is always empty\n")
            .into_response(),
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

async fn rings(State(site): State<Site>, uri: Uri) -> Response {
    let most = ["maxQueries", "maxResponses"].map(|name| match argument(&uri, name) {
        None => Ok(ROWS_MAX),
        Some(text) => text.parse::<usize>().map(|most| most.min(ROWS_MAX)),
    });
    let [Ok(queries), Ok(responses)] = most else {
        return (StatusCode::BAD_REQUEST, "maxQueries and maxResponses are whole numbers\n").into_response();
    };
    let request = GrepRequest { filter: Filter::default(), rows: ROWS_MAX };
    // Where nobody keeps records there are none.
    let list = site.monitor.traffic().and_then(|traffic| traffic.grep(request)).unwrap_or_default();
    answer(&json::rings(&list.found, queries, responses))
}

async fn index() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY.as_str()),
    ];
    (headers, PAGE.as_str()).into_response()
}

async fn not_allowed(uri: Uri) -> Response {
    refusal(uri.path(), StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_not_asked_for_a_password() {
        for path in ["/", "/api/v2/overview"] {
            let asks = [false, true].map(|by_script| {
                let refused = unauthorized(path, by_script);
                assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
                refused.headers().contains_key(header::WWW_AUTHENTICATE)
            });
            assert_eq!(asks, [true, false]);
        }
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
