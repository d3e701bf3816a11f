//! What pages and API are made of.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use axum::http::Uri;
use tokio::sync::{Semaphore, mpsc};

use crate::config::web::WebSettings;
use crate::control::api::SharedDashboard;
use crate::control::monitor::Monitor;
use crate::control::request::{PageRequest, Request};

/// What all pages are made of.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) monitor: Arc<Monitor>,
    pub(super) settings: Arc<WebSettings>,
    /// What the dashboard has remembered.
    pub(super) dashboard: SharedDashboard,
    /// Takes changes.
    pub(super) api: Api,
}

impl Site {
    /// Whether the settings are still those that its visitors were admitted by.
    pub(super) fn is_in_force(&self) -> bool {
        **self.api.settings.load() == *self.settings
    }
}

/// What all changes by the API share, over reloads.
#[derive(Clone, Debug)]
pub(in crate::control) struct Api {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) pages: mpsc::Sender<PageRequest>,
    /// Changes are made one by one, as each writes the files anew.
    pub(super) turn: Arc<Semaphore>,
    /// Open streams of events.
    pub(super) streams: Arc<AtomicUsize>,
    /// The settings in force.
    pub(super) settings: Arc<ArcSwap<WebSettings>>,
}

impl Api {
    /// Of a control loop that takes commands here.
    pub(in crate::control) fn new(requests: mpsc::Sender<Request>, pages: mpsc::Sender<PageRequest>) -> Self {
        Self {
            requests,
            pages,
            turn: Arc::new(Semaphore::new(1)),
            streams: Arc::default(),
            settings: Arc::default(),
        }
    }
}

/// Returns an argument of the query string, decoded.
pub(super) fn argument(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    String::from_utf8(decoded(value)?).ok()
}

/// Returns whether an argument is in a query string more than once.
pub(super) fn is_repeated(uri: &Uri, name: &str) -> bool {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.filter(|pair| pair.split('=').next() == Some(name)).count() > 1
}

/// Returns the variables of a query string or form; those that are malformed are left out.
pub(super) fn variables(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter_map(|(name, value)| Some((decoded(name)?, decoded(value)?))).collect()
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
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
    Some(bytes)
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
}
