//! The thread of the web server: accepts connections within its limits, and serves HTTP on them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use crate::base::addr::mapped;
use crate::config::web::WebSettings;
use crate::control::api::SharedDashboard;
use crate::control::monitor::Monitor;
use crate::control::web::access::{Access, Area};
use crate::control::web::pages::{self, dress, takes_body, unauthorized};
use crate::control::web::rest::{CHANGE, Watched, is_change, refusal};
use crate::control::web::site::{Api, Site};
use crate::stats::registry::WebStats;
use crate::stats::web_refusal::WebRefusal;

/// How long a client may take for the head of a request, and be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take, with its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lives, and how long it may take to finish then.
const LIFE: Duration = Duration::from_secs(60);
const FINISH: Duration = Duration::from_secs(10);
/// Longest body, bytes, and of a change by the API, as an ACL of ten thousand networks.
const BODY_MAX: usize = 64 << 10;
const CHANGE_BODY_MAX: usize = 256 << 10;
/// Longest head, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The pause after a connection could not be accepted: most often descriptors are used up.
const PAUSE: Duration = Duration::from_millis(100);

/// A header that scripts of a page add, as the dashboard's: with a challenge, the browser would hold
/// their requests and ask for a password.
const BY_SCRIPT: &str = "x-requested-with";

/// How often the dashboard's history is fed.
const SECOND: Duration = Duration::from_secs(1);

/// What the control loop says: the settings, and a listener where there is a new one.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) listener: Option<StdListener>,
    /// Whether there is an address to listen on at all.
    pub(super) listens: bool,
    pub(super) settings: Arc<WebSettings>,
}

/// Binds an address.
///
/// # Errors
/// The kernel's.
pub(super) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// The system's.
pub(super) fn start(monitor: Arc<Monitor>, api: Api) -> io::Result<mpsc::UnboundedSender<Order>> {
    let (orders, queue) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("web".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, serve(queue, monitor, api));
    })?;
    Ok(orders)
}

/// What stays over reloads.
#[derive(Clone)]
struct Shared {
    monitor: Arc<Monitor>,
    dashboard: SharedDashboard,
    api: Api,
}

/// The settings in force, with what belongs to them.
struct Served {
    site: Site,
    access: Access,
    pages: TowerToHyperService<Router>,
    idle: Rc<Idle>,
}

impl Served {
    fn new(shared: &Shared, settings: Arc<WebSettings>, idle: &Rc<Idle>) -> Rc<Self> {
        let Shared { monitor, dashboard, api } = shared.clone();
        api.settings.store(Arc::clone(&settings));
        let site = Site { monitor, settings, dashboard, api };
        let pages = TowerToHyperService::new(pages::router(site.clone()));
        Rc::new(Self { site, access: Access::default(), pages, idle: Rc::clone(idle) })
    }

    fn stats(&self) -> &WebStats {
        self.site.monitor.web()
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, monitor: Arc<Monitor>, api: Api) {
    let shared = Shared { monitor, dashboard: SharedDashboard::default(), api };
    let idle = Rc::default();
    let mut served = Served::new(&shared, Arc::default(), &idle);
    let mut second = tokio::time::interval(SECOND);
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut listener: Option<TcpListener> = None;
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { listener: new, listens, settings }) = order else { return };
                served = Served::new(&shared, settings, &idle);
                if !listens {
                    listener = None;
                }
                match new.map(TcpListener::from_std).transpose() {
                    Ok(Some(new)) => listener = Some(new),
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "the web server cannot listen"),
                }
            }
            _ = second.tick() => {
                let (figures, notes) = (shared.monitor.figures(), shared.monitor.take_notes());
                let mut dashboard = shared.dashboard.lock();
                dashboard.note(&figures, notes);
                dashboard.feed(&figures);
            },
            accepted = accept(listener.as_ref()) => match accepted {
                Ok((stream, peer)) => welcome(stream, peer, &served),
                Err(error) => {
                    tracing::debug!(%error, "the web server cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// Waits for a connection; forever without a listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Counts a connection while it is open.
struct Open<'s>(&'s WebStats);

impl<'s> Open<'s> {
    fn new(stats: &'s WebStats) -> Self {
        stats.open.set(stats.open.get() + 1);
        Self(stats)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// The connections by their age, and which of them wait for their client: to send the head of a
/// request, or another one.
#[derive(Debug, Default)]
struct Idle {
    last: Cell<u64>,
    open: RefCell<BTreeMap<u64, Waits>>,
}

#[derive(Debug)]
struct Waits {
    is_idle: bool,
    /// Ends the connection.
    end: Rc<Notify>,
}

impl Idle {
    /// Adds a connection; returns its number, and what says that it is to end.
    fn enter(&self) -> (u64, Rc<Notify>) {
        let end = Rc::<Notify>::default();
        self.last.set(self.last.get() + 1);
        self.open.borrow_mut().insert(self.last.get(), Waits { is_idle: true, end: Rc::clone(&end) });
        (self.last.get(), end)
    }

    /// Notes whether a connection waits for its client.
    fn note(&self, number: u64, is_idle: bool) {
        if let Some(waits) = self.open.borrow_mut().get_mut(&number) {
            waits.is_idle = is_idle;
        }
    }

    /// Ends the oldest that waits for its client; returns whether there is one.
    fn end_oldest(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let oldest = open.iter_mut().map(|(_, waits)| waits).find(|waits| waits.is_idle);
        oldest.is_some_and(|waits| {
            waits.is_idle = false;
            waits.end.notify_one();
            true
        })
    }
}

/// Forgets a connection when it ends.
struct Leaves<'i>(&'i Idle, u64);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.open.borrow_mut().remove(&self.1);
    }
}

/// Serves a connection, or closes it at once.
fn welcome(stream: TcpStream, peer: SocketAddr, served: &Rc<Served>) {
    let (stats, settings) = (served.stats(), &served.site.settings);
    stats.opened.add(1);
    if !settings.acl.contains(&mapped(peer.ip())) {
        return stats.refused[WebRefusal::Acl].add(1);
    }
    if stats.open.get() >= settings.connections_max {
        // Rather one that asks nothing: whoever holds all of them would keep out the probes of
        // /livez, by which a healthy process is ended.
        stats.refused[WebRefusal::Connections].add(1);
        if !served.idle.end_oldest() {
            return;
        }
    }
    let served = Rc::clone(served);
    tokio::task::spawn_local(async move {
        let _open = Open::new(served.stats());
        let (number, end) = served.idle.enter();
        let _leaves = Leaves(&served.idle, number);
        tokio::select! {
            () = attend(stream, &served, (number, peer)) => {}
            () = end.notified() => {}
        }
    });
}

/// Serves a connection, encrypted or not.
async fn attend(stream: TcpStream, served: &Rc<Served>, client: (u64, SocketAddr)) {
    // Answers are small and awaited.
    let _ = stream.set_nodelay(true);
    let tls = served.site.settings.tls.as_ref();
    let Some(tls) = tls else { return connection(stream, served, client).await };
    let acceptor = TlsAcceptor::from(tls.0.config());
    match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, served, client).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake of the web server failed");
            served.stats().refused[WebRefusal::Handshake].add(1);
        }
        Err(_) => served.stats().refused[WebRefusal::Slow].add(1),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    served: &Rc<Served>,
    (number, peer): (u64, SocketAddr),
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let has_asked = Rc::new(Cell::new(false));
    let is_answering = Rc::new(Cell::new(false));
    let (own, asked, answering) = (Rc::clone(served), Rc::clone(&has_asked), Rc::clone(&is_answering));
    let watched = Watched::default();
    let stream_watched = watched.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.set(true);
        own.idle.note(number, false);
        request.extensions_mut().insert(stream_watched.clone());
        request.extensions_mut().insert(peer);
        let (own, watched, answering) = (Rc::clone(&own), stream_watched.clone(), Rc::clone(&answering));
        async move {
            answering.set(true);
            let answer = answered(&own, request).await;
            answering.set(false);
            own.idle.note(number, !watched.streams());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let refuse = |why: WebRefusal| served.stats().refused[why].add(1);
    let mut ended = tokio::time::timeout(LIFE, connection.as_mut()).await;
    // A stream of events ends by itself.
    while ended.is_err() && watched.streams() {
        if !watched.reads() {
            return refuse(WebRefusal::Behind);
        }
        ended = tokio::time::timeout(FINISH, connection.as_mut()).await;
    }
    let ended = match ended {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            match finished(connection, &is_answering, FINISH).await {
                Some(ended) => ended,
                None => return refuse(WebRefusal::Slow),
            }
        }
    };
    match ended {
        Ok(()) => {}
        // Idle after its last answer.
        Err(error) if is_timeout(&error) && has_asked.get() => {}
        Err(error) if is_timeout(&error) => refuse(WebRefusal::Slow),
        Err(error) => {
            tracing::debug!(%error, "a connection to the web server broke");
            refuse(WebRefusal::Broken);
        }
    }
}

/// Waits for the end of a connection: for its client within a limit, for its answer, which has limits
/// of its own, in any case.
async fn finished<F: Future>(
    mut connection: Pin<&mut F>,
    is_answering: &Cell<bool>,
    limit: Duration,
) -> Option<F::Output> {
    loop {
        match tokio::time::timeout(limit, connection.as_mut()).await {
            Ok(ended) => return Some(ended),
            Err(_) if is_answering.get() => {}
            Err(_) => return None,
        }
    }
}

fn is_timeout(error: &hyper::Error) -> bool {
    error.is_timeout()
        || error.source().is_some_and(|source| {
            source.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
        })
}

/// Answers a request, whatever it is.
async fn answered(served: &Served, request: Request<Incoming>) -> Response {
    let stats = served.stats();
    let path = request.uri().path().to_owned();
    let is_by_script = request.headers().contains_key(BY_SCRIPT);
    stats.requests.add(1);
    let refuse = |why: WebRefusal, status: StatusCode| {
        stats.refused[why].add(1);
        refusal(&path, status, "the request is too long, or took too long")
    };
    // Functions of the configuration take their time, too.
    let is_long =
        is_change(request.method()) || served.site.settings.handlers.iter().any(|(of, _)| *of == path);
    let limit = if is_long { REQUEST_TIMEOUT + CHANGE } else { REQUEST_TIMEOUT };
    let mut response = match tokio::time::timeout(limit, answer(served, request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(WebRefusal::Credentials)) => {
            stats.refused[WebRefusal::Credentials].add(1);
            unauthorized(&path, is_by_script)
        }
        Ok(Err(WebRefusal::Body)) => refuse(WebRefusal::Body, StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(WebRefusal::Broken)) => {
            stats.refused[WebRefusal::Broken].add(1);
            refusal(&path, StatusCode::BAD_REQUEST, "the request is malformed")
        }
        Ok(Err(why)) => refuse(why, StatusCode::REQUEST_TIMEOUT),
        Err(_) => refuse(WebRefusal::Slow, StatusCode::REQUEST_TIMEOUT),
    };
    dress(&mut response, &served.site.settings);
    if !served.site.is_in_force() {
        // Its client was admitted by other settings.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a body that did not arrive was malformed, or too long.
fn broken(error: &axum::Error) -> WebRefusal {
    let mut source = error.source();
    while let Some(of) = source {
        if of.is::<hyper::Error>() {
            return WebRefusal::Broken;
        }
        source = of.source();
    }
    WebRefusal::Body
}

/// Whether a request names its host as it must (RFC 9112, 3.2).
fn names_host(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(header::HOST).iter().count();
    hosts == 1 || hosts == 0 && version < Version::HTTP_11
}

async fn answer(served: &Served, request: Request<Incoming>) -> Result<Response, WebRefusal> {
    let (head, body) = request.into_parts();
    if !names_host(head.version, &head.headers) {
        return Err(WebRefusal::Broken);
    }
    let area = Area::of(head.uri.path());
    let area = if area == Area::Api && is_change(&head.method) { Area::Changes } else { area };
    if !served.access.is_granted(&served.site.settings, area, &head.headers).await {
        return Err(WebRefusal::Credentials);
    }
    if area == Area::Changes && !served.site.is_in_force() {
        let why = "the settings of the web server have changed: connect again";
        return Ok(refusal(head.uri.path(), StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let body = if takes_body(&head.method) {
        let most = if area == Area::Changes { CHANGE_BODY_MAX } else { BODY_MAX };
        if body.size_hint().lower() > most as u64 {
            return Err(WebRefusal::Body);
        }
        let received = tokio::time::timeout(REQUEST_TIMEOUT, to_bytes(Body::new(body), most));
        let body = received.await.map_err(|_| WebRefusal::Slow)?.map_err(|error| broken(&error))?;
        Body::from(body)
    } else {
        Body::empty()
    };
    let response = served.pages.call(Request::from_parts(head, body)).await;
    Ok(response.unwrap_or_else(|never| match never {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_waits_for_its_client_makes_room() {
        let idle = Idle::default();
        let all = [idle.enter(), idle.enter(), idle.enter()];
        let [(first, _), ..] = all;
        idle.note(first, false);
        assert!(idle.end_oldest());
        let mut ended = Vec::new();
        for (_, end) in &all {
            ended.push(tokio::time::timeout(Duration::ZERO, end.notified()).await.is_ok());
        }
        assert_eq!(ended, [false, true, false], "who has asked something stays");
        drop(Leaves(&idle, all[2].0));
        assert!(!idle.end_oldest(), "none is left");
        idle.note(first, true);
        assert!(idle.end_oldest() && !idle.end_oldest(), "each ends once");
    }

    #[tokio::test]
    async fn an_answer_under_way_is_waited_for() {
        let (limit, answer) = (Duration::from_millis(1), Duration::from_millis(20));
        let answering = pin!(tokio::time::sleep(answer));
        assert_eq!(finished(answering, &Cell::new(true), limit).await, Some(()));
        let idle = pin!(std::future::pending::<()>());
        assert_eq!(finished(idle, &Cell::new(false), limit).await, None);
        // Its client does not take the answer.
        let is_answering = Cell::new(true);
        let untaken = pin!(async {
            tokio::time::sleep(answer).await;
            is_answering.set(false);
            std::future::pending::<()>().await;
        });
        assert_eq!(finished(untaken, &is_answering, limit).await, None);
    }

    #[test]
    fn a_request_names_its_host() {
        let with = |hosts: usize| {
            let mut headers = HeaderMap::new();
            for _ in 0..hosts {
                headers.append(header::HOST, HeaderValue::from_static("x"));
            }
            headers
        };
        for (version, hosts, fine) in [
            (Version::HTTP_10, 0, true),
            (Version::HTTP_10, 1, true),
            (Version::HTTP_11, 0, false),
            (Version::HTTP_11, 1, true),
            (Version::HTTP_11, 2, false),
        ] {
            assert_eq!(names_host(version, &with(hosts)), fine, "{version:?} {hosts}");
        }
    }
}
