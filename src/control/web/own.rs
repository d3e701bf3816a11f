//! Pages that functions of the configuration make (`registerWebHandler`).

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::Response;
use tokio::sync::oneshot;

use crate::base::printable::shortened;
use crate::control::request::PageRequest;
use crate::control::web::rest::refusal;
use crate::control::web::site::{Site, variables};
use crate::lua::front_end::page;

/// Answers a path that is none of ours.
pub(super) async fn page(
    State(site): State<Site>,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let missing = || refusal(uri.path(), StatusCode::NOT_FOUND, "there is no such path");
    if !site.settings.handlers.iter().any(|(path, _)| path == uri.path()) {
        return missing();
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_form = kind.starts_with("application/x-www-form-urlencoded");
    let form = if is_form { String::from_utf8_lossy(&body).into_owned() } else { String::new() };
    let request = page::Request {
        path: uri.path().to_owned(),
        version: if version == Version::HTTP_10 { "1.0" } else { "1.1" }.to_owned(),
        method: method.to_string(),
        body: body.to_vec(),
        getvars: variables(uri.query().unwrap_or_default()),
        postvars: variables(&form),
        headers: headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
    };
    let (reply, answered) = oneshot::channel();
    if site.api.pages.send(PageRequest { request, reply }).await.is_err() {
        return missing();
    }
    let made = match answered.await {
        Ok(Some(made)) => made.and_then(response),
        Ok(None) | Err(_) => return missing(),
    };
    made.unwrap_or_else(|error| {
        let error = shortened(&error);
        tracing::info!(path = uri.path(), %error, "the function of a page of the web server failed");
        refusal(uri.path(), StatusCode::INTERNAL_SERVER_ERROR, "the function of this page failed")
    })
}

fn response(answer: page::Response) -> Result<Response, String> {
    let status = StatusCode::from_u16(answer.status).map_err(|e| e.to_string())?;
    // These have no body, nor the length of one (RFC 9110, 8.6).
    let is_empty = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let mut response = Response::new(if is_empty { Body::empty() } else { Body::from(answer.body) });
    *response.status_mut() = status;
    for (name, value) in &answer.headers {
        // How the message ends, only the server knows.
        if ["content-length", "transfer-encoding", "connection"].contains(&&*name.to_lowercase()) {
            continue;
        }
        let wrong = || format!("{name:?} and its value are no header");
        let value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn some_answers_have_no_body() {
        for (status, length) in [(200, 1), (204, 0), (304, 0), (404, 1)] {
            let answer = page::Response { status, body: b"x".to_vec(), headers: Vec::new() };
            let response = response(answer).expect("an answer");
            assert_eq!(response.body().size_hint().exact(), Some(length), "{status}");
        }
    }
}
