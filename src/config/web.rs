//! The web server and reports to Carbon as the configuration asks for them.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::base::narrow::to_u32;
use crate::base::prefix::PrefixSet;
use crate::config::carbon::CarbonServer;
use crate::config::options::{Key, Settings};
use crate::config::password::Credential;
use crate::model::{ListenerTls, LuaFunction};

/// Names of the metrics at `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricNames {
    /// dnslob's own.
    #[default]
    Dnslob,
    /// Those of dnsdist, for what dnsdist has as well.
    Dnsdist,
}

impl MetricNames {
    /// Those that the settings ask for.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        match settings.text(Key::MetricsPrefix).as_deref() {
            Some("dnsdist") => Self::Dnsdist,
            _ => Self::Dnslob,
        }
    }
}

/// The file of the API's directory that has the ACL, as dnsdist calls it.
pub const ACL_FILE: &str = "acl.conf";
/// The file of the API's directory that has everything else.
pub const CHANGES_FILE: &str = "api.conf";

/// The settings of the web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSettings {
    /// Where it listens; `None` for no web server.
    pub address: Option<SocketAddr>,
    /// `password`, of any user.
    pub password: Option<Credential>,
    /// `apiKey`.
    pub api_key: Option<Credential>,
    /// `acl`: who may connect.
    pub acl: PrefixSet,
    /// `acl` as written, to be shown.
    pub acl_text: Vec<String>,
    /// `tlsCertificate`, `tlsKey`: it serves HTTPS, and only that.
    pub tls: Option<ListenerTls>,
    /// `customHeaders`: in place of those of the same name, which an empty value removes.
    pub headers: Vec<(String, String)>,
    /// `statsRequireAuthentication`.
    pub stats_protected: bool,
    /// `apiRequiresAuthentication`.
    pub api_protected: bool,
    /// `dashboardRequiresAuthentication`.
    pub dashboard_protected: bool,
    /// `maxConcurrentConnections`.
    pub connections_max: u32,
    /// `registerWebHandler`: functions by their paths.
    pub handlers: Vec<(String, LuaFunction)>,
    /// `setAPIWritable`: whether the API may change anything.
    pub writable: bool,
    /// The directory that keeps what it changes; without one, that is gone at the next reload.
    pub directory: Option<PathBuf>,
    /// `setWebserverBindFatal`: without its address the process does not start.
    pub bind_fatal: bool,
    /// `--metrics-prefix`.
    pub names: MetricNames,
    /// `carbonServer`: whom metrics are reported to.
    pub carbon: Vec<CarbonServer>,
}

/// The networks that may connect unless `acl` says otherwise.
const ACL: [&str; 2] = ["127.0.0.1", "::1"];

impl Default for WebSettings {
    fn default() -> Self {
        Self {
            address: None,
            password: None,
            api_key: None,
            acl: ACL
                .iter()
                .filter_map(|network| network.parse().ok())
                .map(|network| (network, true))
                .collect(),
            acl_text: ACL.map(str::to_owned).to_vec(),
            tls: None,
            headers: Vec::new(),
            stats_protected: true,
            api_protected: true,
            dashboard_protected: true,
            connections_max: 100,
            handlers: Vec::new(),
            writable: false,
            directory: None,
            bind_fatal: false,
            names: MetricNames::default(),
            carbon: Vec::new(),
        }
    }
}

impl WebSettings {
    /// The file descriptors that it may take: its connections, and while an address is replaced, two
    /// listeners; a connection to each Carbon server.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        // Two for each runtime.
        let carbon = if self.carbon.is_empty() { 0 } else { to_u32(self.carbon.len()) + 2 };
        if self.address.is_some() { self.connections_max + 4 + carbon } else { carbon }
    }

    /// The text of `showWebserverConfig()`.
    #[must_use]
    pub fn text(&self) -> String {
        let given = |credential: &Option<Credential>| if credential.is_some() { "yes" } else { "no" };
        let required = |protected| if protected { "required" } else { "not required" };
        let address = self.address.map_or_else(|| "none".to_owned(), |address| address.to_string());
        let headers: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let tls = if self.tls.is_some() { ", with TLS" } else { "" };
        let writable = match (self.writable, &self.directory) {
            (false, _) => "no".to_owned(),
            (true, None) => "yes, until the next reload".to_owned(),
            (true, Some(directory)) => format!("yes, kept in {}", directory.display()),
        };
        format!(
            "Web server:\n Address: {address}{tls}\n ACL: {}\n Connections at most: {}\n Password set: {}\n \
             API key set: {}\n Authentication for statistics: {}\n Authentication for the API: {}\n \
             Authentication for the dashboard: {}\n API writable: {}\n Custom headers: {}\n",
            self.acl_text.join(", "),
            self.connections_max,
            given(&self.password),
            given(&self.api_key),
            required(self.stats_protected),
            required(self.api_protected),
            required(self.dashboard_protected),
            writable,
            if headers.is_empty() { "none".to_owned() } else { headers.join(", ") },
        )
    }
}
