//! What pages and API are made of.

use std::sync::Arc;

use axum::http::Uri;
use tokio::sync::{Semaphore, mpsc};

use crate::config::web::WebSettings;
use crate::control::api::SharedDashboard;
use crate::control::monitor::Monitor;
use crate::control::request::Request;

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

/// What all changes by the API share, over reloads.
#[derive(Clone, Debug)]
pub(in crate::control) struct Api {
    pub(super) requests: mpsc::Sender<Request>,
    /// Changes are made one by one, as each writes the files anew.
    pub(super) turn: Arc<Semaphore>,
}

impl Api {
    /// Of a control loop that takes commands here.
    pub(in crate::control) fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests, turn: Arc::new(Semaphore::new(1)) }
    }
}

/// Returns an argument of the query string, decoded.
pub(super) fn argument(uri: &Uri, name: &str) -> Option<String> {
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
}
