//! The thread of the web server: accepts connections within its limits, and serves HTTP on them.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
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
}

impl Served {
    fn new(shared: &Shared, settings: Arc<WebSettings>) -> Rc<Self> {
        let Shared { monitor, dashboard, api } = shared.clone();
        api.settings.store(Arc::clone(&settings));
        let site = Site { monitor, settings, dashboard, api };
        let pages = TowerToHyperService::new(pages::router(site.clone()));
        Rc::new(Self { site, access: Access::default(), pages })
    }

    fn stats(&self) -> &WebStats {
        self.site.monitor.web()
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, monitor: Arc<Monitor>, api: Api) {
    let shared = Shared { monitor, dashboard: SharedDashboard::default(), api };
    let mut served = Served::new(&shared, Arc::default());
    let mut second = tokio::time::interval(SECOND);
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut listener: Option<TcpListener> = None;
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { listener: new, listens, settings }) = order else { return };
                served = Served::new(&shared, settings);
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

/// Serves a connection, or closes it at once.
fn welcome(stream: TcpStream, peer: SocketAddr, served: &Rc<Served>) {
    let (stats, settings) = (served.stats(), &served.site.settings);
    stats.opened.add(1);
    if !settings.acl.contains(&mapped(peer.ip())) {
        return stats.refused[WebRefusal::Acl].add(1);
    }
    if stats.open.get() >= settings.connections_max {
        return stats.refused[WebRefusal::Connections].add(1);
    }
    let served = Rc::clone(served);
    tokio::task::spawn_local(async move {
        let _open = Open::new(served.stats());
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let tls = served.site.settings.tls.as_ref();
        let Some(tls) = tls else { return connection(stream, &served).await };
        let acceptor = TlsAcceptor::from(tls.0.config());
        match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => connection(stream, &served).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a handshake of the web server failed");
                served.stats().refused[WebRefusal::Handshake].add(1);
            }
            Err(_) => served.stats().refused[WebRefusal::Slow].add(1),
        }
    });
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, served: &Rc<Served>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let has_asked = Rc::new(Cell::new(false));
    let (own, asked) = (Rc::clone(served), Rc::clone(&has_asked));
    let watched = Watched::default();
    let stream_watched = watched.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.set(true);
        request.extensions_mut().insert(stream_watched.clone());
        let own = Rc::clone(&own);
        async move { Ok::<_, Infallible>(answered(&own, request).await) }
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
            match tokio::time::timeout(FINISH, connection).await {
                Ok(ended) => ended,
                Err(_) => return refuse(WebRefusal::Slow),
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
            unauthorized(&path)
        }
        Ok(Err(WebRefusal::Body)) => refuse(WebRefusal::Body, StatusCode::PAYLOAD_TOO_LARGE),
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

async fn answer(served: &Served, request: Request<Incoming>) -> Result<Response, WebRefusal> {
    let (head, body) = request.into_parts();
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
        let received = tokio::time::timeout(REQUEST_TIMEOUT, to_bytes(Body::new(body), most));
        let body = received.await.map_err(|_| WebRefusal::Slow)?.map_err(|_| WebRefusal::Body)?;
        Body::from(body)
    } else {
        Body::empty()
    };
    let response = served.pages.call(Request::from_parts(head, body)).await;
    Ok(response.unwrap_or_else(|never| match never {}))
}
