//! The API that reads and changes the configuration: `/api/v2`, and what dnsdist's clients change
//! under `/api/v1`.
//!
//! ```text
//!  request ──► conditions (If-Match, writable) ──► one line of Lua, of our own words ──► store: written aside
//!                                                                                              │
//!  answer ◄── what changed, generation ◄── control loop: as a command of the console ◄─────────┘
//! ```
//! Representations carry the generation of the configuration as `ETag`, and a change names the one
//! that it was meant for: of two writers who have read the same, one wins.

mod change;
mod lua;
mod openapi;
mod operations;
mod problem;
mod read;
mod store;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::base::printable::{Printable, cut};
use crate::control::monitor::Monitor;
use crate::control::request::{Refusal, Reply, Request, Terms};
use crate::control::web::access::Area;
use crate::control::web::rest::change::Change;
use crate::control::web::rest::operations::{Id, Method, OPERATIONS, Operation};
pub(super) use crate::control::web::rest::problem::Problem;
use crate::control::web::rest::store::Kept;
pub(super) use crate::control::web::rest::store::clean;
pub(super) use crate::control::web::rest::stream::Watched;
use crate::control::web::site::{Api, Site, argument};
use crate::model::Snapshot;

/// How long a change may take: new servers are checked, and a reload may be on its way.
pub(super) const CHANGE: Duration = Duration::from_secs(45);
/// How often a change for any generation is made anew for another one.
const TRIES: usize = 16;
/// Characters of a path that a line of the log has.
const PATH_CHARS: usize = 200;
/// Longest output of a change, bytes: there are only warnings.
const OUTPUT_MAX: usize = 64 << 10;

/// The paths of the table.
pub(super) fn router() -> Router<Site> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| {
        let filter = match operation.method {
            Method::Get => MethodFilter::GET,
            Method::Put => MethodFilter::PUT,
            Method::Post => MethodFilter::POST,
            Method::Patch => MethodFilter::PATCH,
            Method::Delete => MethodFilter::DELETE,
        };
        let handle = move |State(site): State<Site>,
                           parameters: Result<RawPathParams, RawPathParamsRejection>,
                           uri: Uri,
                           headers: HeaderMap,
                           Extension(watched): Extension<Watched>,
                           Extension(peer): Extension<SocketAddr>,
                           body: Bytes| async move {
            let Ok(parameters) = parameters else {
                return Problem::bad_request("the path is not UTF-8").into_response();
            };
            let parameters =
                parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let call = Call { site, operation, parameters, uri, headers, watched, peer, body };
            call.answer().await.unwrap_or_else(IntoResponse::into_response)
        };
        router.route(operation.path, on(filter, handle))
    })
}

/// Whether a request with this method may change something.
pub(super) fn is_change(method: &HttpMethod) -> bool {
    !matches!(*method, HttpMethod::GET | HttpMethod::HEAD | HttpMethod::OPTIONS)
}

/// The answer to a request that is refused, in the form of the API if it is for that.
pub(super) fn refusal(path: &str, status: StatusCode, why: &str) -> Response {
    if Area::of(path) == Area::Api {
        return Problem::new(status, why).into_response();
    }
    (status, format!("{}\n", status.canonical_reason().unwrap_or_default())).into_response()
}

/// A request of one operation.
struct Call {
    site: Site,
    operation: &'static Operation,
    parameters: Vec<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    watched: Watched,
    peer: SocketAddr,
    body: Bytes,
}

/// Which configurations a change is meant for.
enum Meant {
    Any,
    /// Those with one of these tags.
    Tags(Vec<String>),
}

impl Call {
    async fn answer(self) -> Result<Response, Problem> {
        if self.operation.changes() {
            let (monitor, author) = (Arc::clone(&self.site.monitor), self.author());
            let is_dry_run = self.is_dry_run().unwrap_or(false);
            return self.change().await.inspect_err(|problem| {
                if !is_dry_run && problem.is_to_be_told() {
                    monitor.refused(&author, "", &[problem.text()]);
                }
            });
        }
        self.knows_its_arguments()?;
        let monitor = &self.site.monitor;
        let snapshot = monitor.snapshot();
        if openapi::is_asked(self.operation) {
            return Ok(document(
                StatusCode::OK,
                &openapi::DOCUMENT,
                Some(&tag(monitor, snapshot.generation)),
            ));
        }
        if self.operation.id == Id::Events {
            return stream::answer(&self.site, &self.headers, &self.watched);
        }
        let body = read::body(self.operation.id, &self.site, &snapshot, &self)?;
        Ok(document(StatusCode::OK, &body, Some(&tag(monitor, snapshot.generation))))
    }

    /// A part of the path, decoded.
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(of, _)| of == name).map_or("", |(_, value)| value)
    }

    /// A number of the query string.
    fn number(&self, name: &str, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = argument(&self.uri, name) else { return Ok(default) };
        let number = text.parse().ok().filter(|n| *n <= most);
        number.ok_or_else(|| Problem::bad_request(format!("{name} is a number, at most {most}")))
    }

    /// Refuses arguments that the operation does not have, or has once: `dryrun` would make a change, and so would
    /// `dry-run=false` before `dry-run=true`.
    fn knows_its_arguments(&self) -> Result<(), Problem> {
        // dnsdist ignores what it does not know.
        if !self.operation.id.is_v2() {
            return Ok(());
        }
        let arguments = self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let names: Vec<&str> =
            arguments.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name)).collect();
        for (at, name) in names.iter().enumerate() {
            if self.operation.query.iter().all(|known| known.name != *name) {
                return Err(Problem::bad_request(format!("there is no argument {name:?} here")));
            }
            if names[..at].contains(name) {
                return Err(Problem::bad_request(format!("the argument {name:?} is given twice")));
            }
        }
        Ok(())
    }

    /// Whose request it is, for the log.
    fn author(&self) -> String {
        let (method, path) = (self.operation.method.name(), self.uri.path());
        let what = format!("{method} {path}");
        format!("the API ({} by {})", Printable(cut(&what, PATH_CHARS)), self.peer)
    }

    fn is_dry_run(&self) -> Result<bool, Problem> {
        match argument(&self.uri, "dry-run").as_deref() {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(_) => Err(Problem::bad_request("dry-run is true or false")),
        }
    }

    /// The body as JSON.
    fn json(&self) -> Result<Value, Problem> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        // A form of another site in somebody's browser can send anything but this.
        if self.operation.id.is_v2() && !kind.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body is to be application/json",
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|e| Problem::bad_request(format!("the body is no JSON: {e}")))
    }

    /// Which configurations the change is meant for.
    fn meant(&self) -> Result<Meant, Problem> {
        if !self.operation.id.is_v2() {
            // dnsdist's clients know no generations.
            return Ok(Meant::Any);
        }
        let mut tags = Vec::new();
        for value in self.headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| Problem::bad_request("If-Match is no list of ETags"))?;
            for tag in text.split(',').map(str::trim) {
                match tag {
                    "*" => return Ok(Meant::Any),
                    "" => {}
                    tag => tags.push(tag.to_owned()),
                }
            }
        }
        if tags.is_empty() {
            let why = "a change needs If-Match, with the ETag of what was read, or with *";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, why));
        }
        Ok(Meant::Tags(tags))
    }

    async fn change(self) -> Result<Response, Problem> {
        self.knows_its_arguments()?;
        let settings = &self.site.settings;
        if !settings.writable {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the API changes nothing without setAPIWritable(true)",
            ));
        }
        let (meant, dry_run) = (self.meant()?, self.is_dry_run()?);
        let body = if self.operation.body.is_some() { self.json()? } else { Value::Null };
        let directory = settings.directory.clone();
        // In a task of its own: it is carried out whether the client waits or not.
        let made = tokio::spawn(async move { self.carry_out(&meant, dry_run, &body, directory).await });
        match timeout(CHANGE, made).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => {
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the change failed unexpectedly"))
            }
            Err(_) => {
                let why = "the change takes long, and may yet come into force: see the generation";
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, why))
            }
        }
    }

    async fn carry_out(
        &self,
        meant: &Meant,
        dry_run: bool,
        body: &Value,
        directory: Option<PathBuf>,
    ) -> Result<Response, Problem> {
        let (monitor, api) = (&self.site.monitor, &self.site.api);
        let Ok(_turn) = api.turn.acquire().await else { return Err(ends()) };
        for _ in 0..TRIES {
            let snapshot = monitor.snapshot();
            if let Meant::Tags(tags) = meant
                && !tags.contains(&tag(monitor, snapshot.generation))
            {
                break;
            }
            let change = change::of(self, &snapshot, body)?;
            let terms = terms(&snapshot, dry_run, directory.clone(), &change).await?;
            let reply = api.ask(change.lua.clone(), self.author(), terms).await?;
            match reply.result {
                Ok(ref output) => {
                    let output = String::from_utf8_lossy(output).into_owned();
                    let kept = directory.is_some() && !dry_run;
                    return Ok(self.changed(&reply, &output, &change, (dry_run, kept)));
                }
                Err(Refusal::Stale) if matches!(meant, Meant::Any) => {}
                Err(Refusal::Stale) => break,
                Err(Refusal::Wrong(errors)) => return Err(Problem::refused(self.operation.id, errors)),
            }
        }
        let why = format!("the configuration is at generation {}", monitor.snapshot().generation);
        Err(Problem::new(StatusCode::PRECONDITION_FAILED, why))
    }

    /// What a change that succeeded is answered with.
    fn changed(
        &self,
        reply: &Reply,
        output: &str,
        change: &Change,
        (dry_run, kept): (bool, bool),
    ) -> Response {
        let etag = tag(&self.site.monitor, reply.generation);
        if self.operation.id == Id::PutAllowFrom {
            let snapshot = self.site.monitor.snapshot();
            return document(StatusCode::OK, &read::allow_from(&snapshot), Some(&etag));
        }
        let warnings = output.lines().map(|line| line.strip_prefix("Warning: ").unwrap_or(line));
        let warnings = warnings.chain(reply.not_kept.as_deref());
        let body = json!({
            "generation": reply.generation,
            "changes": reply.changes,
            "warnings": warnings.collect::<Vec<_>>(),
            "dry-run": dry_run,
            "kept": kept && reply.not_kept.is_none(),
            "location": change.location,
        });
        let status = if dry_run { StatusCode::OK } else { self.operation.status() };
        let mut response = document(status, &body, Some(&etag));
        let location = change.location.as_ref().filter(|_| status == StatusCode::CREATED);
        if let Some(location) = location.and_then(|path| HeaderValue::from_str(path).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// The terms of a change, with its file written aside.
async fn terms(
    snapshot: &Snapshot,
    dry_run: bool,
    directory: Option<PathBuf>,
    change: &Change,
) -> Result<Terms, Problem> {
    let (generation, mark) = (Some(snapshot.generation), Some(change.mark.clone()));
    let mut terms = Terms { generation, dry_run, strict: true, mark, keep: None };
    if let Some(directory) = directory.filter(|_| !dry_run) {
        let kept = Kept { file: change.file, mark: change.mark.clone(), lua: change.lua.clone() };
        // A disk may be slow, and others wait for this thread.
        let written = tokio::task::spawn_blocking(move || store::prepare(&directory, &kept)).await;
        let written =
            written.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed"))?;
        terms.keep = Some(written.map_err(|e| Problem::not_kept(&e))?);
    }
    Ok(terms)
}

impl Api {
    async fn ask(&self, text: String, by: String, terms: Terms) -> Result<Reply, Problem> {
        let (reply, answered) = oneshot::channel();
        let request = Request { text, by, output_max: OUTPUT_MAX, terms, reply };
        self.requests.send(request).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())
    }
}

fn ends() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the process ends")
}

/// The `ETag` of a generation; a number of the process tells it from those of earlier ones.
fn tag(monitor: &Monitor, generation: u64) -> String {
    format!("\"{:x}.{generation}\"", monitor.process())
}

/// A document of JSON.
fn document(status: StatusCode, body: &Value, etag: Option<&str>) -> Response {
    let body = Body::from(Bytes::from(body.to_string()));
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
