//! The web server: metrics, statistics and health over HTTP, on a thread of its own.
//!
//! ```text
//!  control loop ──prepare (bind), adopt──► web thread ──figures──► Monitor
//!  client ──► ACL, limit of connections ──► HTTP with time-outs ──► password or key ──► page
//! ```
//!
//! Neither the control loop nor a shard waits for it, and everything that a client can hold has an
//! end: connections, the time for a request, the life of a connection, the size of a body.

mod access;
mod carbon;
mod dnsdist;
mod exposition;
mod json;
mod own;
mod pages;
mod prometheus;
mod rest;
mod server;
mod site;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::web::WebSettings;
use crate::control::monitor::Monitor;
use crate::control::web::carbon::Carbon;
use crate::control::web::server::Order;
pub(super) use crate::control::web::site::Api;

/// The control loop's hold on the web server.
#[derive(Debug, Default)]
pub(super) struct WebServer {
    /// The running thread; it ends when this is dropped.
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// Where it listens.
    address: Option<SocketAddr>,
    /// A listener for the configuration that is to come.
    prepared: Option<TcpListener>,
    carbon: Carbon,
}

impl WebServer {
    /// Binds what the settings need and the present ones do not have. `is_asked` is whether somebody
    /// has just asked for this address, and waits for the answer.
    ///
    /// # Errors
    /// The address cannot be taken, and that is fatal or asked for.
    pub(super) fn prepare(&mut self, settings: &WebSettings, is_asked: bool) -> Result<(), String> {
        self.prepared = None;
        let Some(address) = settings.address.filter(|address| self.address != Some(*address)) else {
            return Ok(());
        };
        match server::bind(address) {
            Ok(listener) => self.prepared = Some(listener),
            Err(e) => {
                let error = format!("the web server cannot listen on {address}: {e}");
                if settings.bind_fatal || is_asked {
                    return Err(error);
                }
                tracing::error!("{error}");
            }
        }
        Ok(())
    }

    /// The configuration with these settings is in force.
    pub(super) fn adopt(
        &mut self,
        settings: &WebSettings,
        monitor: &Arc<Monitor>,
        api: impl FnOnce() -> Api,
    ) {
        self.carbon.adopt(&settings.carbon, monitor);
        if let Some(directory) = settings.directory.as_deref().filter(|_| settings.writable) {
            rest::clean(directory);
        }
        let listener = self.prepared.take();
        if self.orders.is_none() {
            if listener.is_none() {
                return;
            }
            match server::start(Arc::clone(monitor), api()) {
                Ok(orders) => self.orders = Some(orders),
                Err(error) => return tracing::error!(%error, "the web server cannot start"),
            }
        }
        if let Some(address) = settings.address.filter(|_| listener.is_some()) {
            tracing::info!(%address, "the web server listens");
            self.address = Some(address);
        } else if settings.address.is_none() {
            self.address = None;
        }
        let order = Order { listener, listens: self.address.is_some(), settings: Arc::new(settings.clone()) };
        if self.orders.as_ref().is_some_and(|orders| orders.send(order).is_err()) {
            tracing::error!("the web server has ended unexpectedly");
            (self.orders, self.address) = (None, None);
        }
    }

    /// The configuration that was prepared for does not come into force.
    pub(super) fn discard(&mut self) {
        self.prepared = None;
    }
}
