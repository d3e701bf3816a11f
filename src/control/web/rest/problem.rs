//! Errors as clients read them: problem details of RFC 9457.

use std::io;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::base::printable::cut;
use crate::control::web::rest::operations::Id;

/// Characters of what is wrong, which quotes the request.
const DETAIL_CHARS: usize = 500;

/// Why a request is refused. Nothing has changed.
#[derive(Debug)]
pub(in crate::control::web) struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<String>,
    is_told: bool,
}

impl Problem {
    pub(in crate::control::web) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: cut(&detail.into(), DETAIL_CHARS).into_owned(),
            errors: Vec::new(),
            is_told: false,
        }
    }

    /// The request is not what the operation takes.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The request is well formed, and says something impossible.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// There is no such thing.
    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    /// It is not as the request takes for granted.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// Something cannot go, because of these.
    pub(super) fn in_use(detail: &str, by: Vec<String>) -> Self {
        Self { errors: by, ..Self::new(StatusCode::CONFLICT, detail) }
    }

    /// The configuration with the change has these errors, which the control thread has counted and told.
    pub(super) fn refused(id: Id, errors: Vec<String>) -> Self {
        // As dnsdist answers.
        let status = if id.is_v2() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Self { errors, is_told: true, ..Self::new(status, "the configuration does not allow it") }
    }

    /// The change cannot be written to the directory.
    pub(super) fn not_kept(error: &io::Error) -> Self {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let status =
            if is_full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self::new(status, format!("the change cannot be kept in the directory of setAPIWritable: {error}"))
    }

    /// Whether it is to be counted and told as a change that was refused. One that takes long may yet come.
    pub(super) fn is_to_be_told(&self) -> bool {
        !self.is_told && self.status != StatusCode::GATEWAY_TIMEOUT
    }

    /// What is wrong, for the log.
    pub(super) fn text(&self) -> String {
        self.detail.clone()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}
