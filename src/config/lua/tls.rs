//! `addTLSLocal`, and what `newServer` says of TLS: files are read here, so that what is wrong with
//! one is reported with the line that names it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mlua::{Lua, UserData, UserDataMethods, Value};

use super::argument::{named, parsed, switch, text, texts, whole, wrong};
use super::context::{Call, Context};
use super::settings::local_option;
use crate::config::draft::{DraftListener, DraftServer};
use crate::config::error::Fault;
use crate::config::functions::{LOCAL_OPTIONS, TLS_LOCAL_MISSING, TLS_LOCAL_OPTIONS};
use crate::config::snapshot::{ProxyHeader, Service, StreamOptions};
use crate::config::value::{self, TLS_PORT};
use crate::tls::server::SESSION_SECONDS_MAX;
use crate::tls::{CertificateFiles, ClientSpec, ClientTls, ServerSpec, ServerTls, TlsError, Version};

/// Sessions that are kept for a listener, ticket keys, and seconds between their rotations, at most.
const SESSIONS_MAX: u32 = 10_000_000;
const TICKET_KEYS_MAX: u32 = 64;
const ROTATION_MAX: u32 = 31_536_000;

const PATH: &str = "the path of a file";
const CERTIFICATES: &str = "a path, a newTLSCertificate, or a list of them";

pub(super) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "addTLSLocal", |call, arguments| {
        let made = listeners(call, arguments)?;
        call.draft.listeners.extend(made);
        Ok(Value::Nil)
    })?;
    context.define(lua, "newTLSCertificate", |call, arguments| {
        let path = path("", arguments.first().unwrap_or(&Value::Nil))?;
        let mut certificate = Certificate { key: path.clone(), path };
        if let Some(options) = arguments.get(1).filter(|v| !v.is_nil()) {
            for (name, v) in named("the second argument", options)? {
                match name.as_str() {
                    "key" => certificate.key = self::path(&name, &v)?,
                    "password" => {
                        let meanwhile = "write the certificate and its key as PEM, without a password \
                                         (openssl pkcs12 -in FILE -nodes -out FILE)";
                        return Err(super::missing::fault("option \"password\" (PKCS12)", meanwhile));
                    }
                    _ => return Err(Fault::unknown("option", &name, ["key", "password"].into_iter())),
                }
            }
        }
        Ok(Value::UserData(call.lua.create_userdata(certificate)?))
    })?;
    // What a certificate file holds is read when the configuration is, and again by SIGHUP.
    context.define(lua, "reloadAllCertificates", |_, _| Ok(Value::Nil))?;
    context.define(lua, "getTLSFrontendCount", |call, _| {
        Ok(Value::Integer(i64::try_from(front_ends(&call.draft.listeners).count()).unwrap_or(i64::MAX)))
    })?;
    for name in ["getTLSFrontend", "getTLSContext"] {
        let own = context.clone();
        context.define(lua, name, move |call, arguments| {
            let n = whole("", arguments.first().unwrap_or(&Value::Nil), 0, u32::from(u16::MAX))?;
            match front_ends(&call.draft.listeners).nth(n as usize) {
                Some(at) => {
                    let front_end = FrontEnd { context: own.clone(), at };
                    Ok(Value::UserData(call.lua.create_userdata(front_end)?))
                }
                None => Ok(Value::Nil),
            }
        })?;
    }
    Ok(())
}

/// The places of the listeners with TLS.
fn front_ends(listeners: &[DraftListener]) -> impl Iterator<Item = usize> + '_ {
    listeners.iter().enumerate().filter(|(_, l)| l.service.tls().is_some()).map(|(at, _)| at)
}

/// A certificate as Lua sees it.
#[derive(Clone, Debug)]
struct Certificate {
    path: PathBuf,
    key: PathBuf,
}

impl UserData for Certificate {}

/// A listener with TLS as Lua sees it: its place in the draft.
#[derive(Clone, Debug)]
struct FrontEnd {
    context: Context,
    at: usize,
}

impl FrontEnd {
    /// Has the listener's TLS loaded anew from its changed specification.
    fn change(
        &self,
        lua: &Lua,
        method: &str,
        change: impl FnOnce(&mut ServerSpec) -> Result<(), Fault>,
    ) -> mlua::Result<Value> {
        self.context.call(lua, method, |call| {
            let Some(listener) = call.draft.listeners.get_mut(self.at) else { return Ok(Value::Nil) };
            let Service::Tls(tls) = &listener.service else { return Ok(Value::Nil) };
            let mut spec = tls.spec().clone();
            change(&mut spec)?;
            listener.service = Service::Tls(Arc::new(ServerTls::load(&spec)?));
            Ok(Value::Nil)
        })
    }
}

impl UserData for FrontEnd {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("loadTicketsKeys", |lua, own, file: Value| {
            own.change(lua, "loadTicketsKeys", |spec| {
                spec.ticket_key_file = Some(path("", &file)?);
                Ok(())
            })
        });
        methods.add_method("loadNewCertificatesAndKeys", |lua, own, (files, keys): (Value, Value)| {
            own.change(lua, "loadNewCertificatesAndKeys", |spec| {
                spec.certificates = certificates(&files, &keys)?;
                Ok(())
            })
        });
        // They are new a moment ago.
        methods.add_method("rotateTicketsKey", |_, _, ()| Ok(()));
        methods.add_method("reloadCertificates", |_, _, ()| Ok(()));
        methods.add_method("getAddressAndPort", |lua, own, ()| {
            own.context.call(lua, "getAddressAndPort", |call| {
                let address = call.draft.listeners.get(own.at).map(|l| l.address.to_string());
                Ok(Value::String(call.lua.create_string(address.unwrap_or_default())?))
            })
        });
    }
}

fn path(name: &str, v: &Value) -> Result<PathBuf, Fault> {
    let path = text(name, v, PATH)?;
    if path.is_empty() { Err(wrong(name, v, PATH)) } else { Ok(PathBuf::from(path)) }
}

fn paths(name: &str, v: &Value) -> Result<Vec<PathBuf>, Fault> {
    Ok(texts(name, v, "a path, or a list of them")?.into_iter().map(PathBuf::from).collect())
}

/// The certificates of the second argument, with their keys from the third.
fn certificates(files: &Value, keys: &Value) -> Result<Vec<CertificateFiles>, Fault> {
    const FILES: &str = "the certificates";
    let items: Vec<Value> = match files {
        Value::Table(list) => list.sequence_values::<Value>().collect::<Result<_, _>>()?,
        one => vec![one.clone()],
    };
    let keys = match keys {
        Value::Nil => Vec::new(),
        keys => paths("the keys", keys)?,
    };
    let mut keys = keys.into_iter();
    let mut found = Vec::new();
    for item in &items {
        let known = item.as_userdata().and_then(|u| u.borrow::<Certificate>().ok().map(|c| c.clone()));
        let (certificate, key) = match known {
            Some(Certificate { path, key }) => (path, key),
            None if item.is_string() => {
                let key = keys.next().filter(|key| !key.as_os_str().is_empty()).ok_or_else(|| {
                    let expected = format!("a private key for each, {} of them", items.len());
                    Fault::value("the keys", "too few", expected)
                })?;
                (path(FILES, item)?, key)
            }
            None => return Err(wrong(FILES, item, CERTIFICATES)),
        };
        found.push(CertificateFiles { certificate, key, ocsp: None });
    }
    if keys.any(|key| !key.as_os_str().is_empty()) {
        return Err(Fault::value("the keys", "too many", "one for each certificate"));
    }
    Ok(found)
}

/// The listeners of one call, which share certificates and ticket keys; none when errors that the
/// configuration asks to ignore keep them from being.
fn listeners(call: &mut Call<'_>, arguments: &[Value]) -> Result<Vec<DraftListener>, Fault> {
    let nil = Value::Nil;
    let argument = |at: usize| arguments.get(at).unwrap_or(&nil);
    let mut listener = DraftListener {
        origin: call.origin.clone(),
        address: parsed("", argument(0), value::ADDRESS, |text| value::address_or_port(text, TLS_PORT))?,
        interface: None,
        dscp: 0,
        service: Service::Dns,
        streams: StreamOptions::default(),
        proxy: ProxyHeader::default(),
    };
    let mut spec =
        ServerSpec { certificates: certificates(argument(1), argument(2))?, ..ServerSpec::default() };
    let mut more = Vec::new();
    let mut ignore = false;
    if !argument(3).is_nil() {
        for (name, v) in named("the fourth argument", argument(3))? {
            let done = match name.as_str() {
                "additionalAddresses" => texts(&name, &v, value::ADDRESS).and_then(|list| {
                    list.iter().try_for_each(|text| {
                        let address = value::address_or_port(text, TLS_PORT);
                        let address = address.map_err(|e| Fault::value(&name, format!("\"{text}\""), e))?;
                        more.push(address);
                        Ok(())
                    })
                }),
                "ignoreTLSConfigurationErrors" => switch(&name, &v).map(|on| ignore = on),
                _ => option(&mut listener, &mut spec, &name, &v),
            };
            if let Err(fault) = done {
                call.fail(fault);
            }
        }
    }
    match ServerTls::load(&spec) {
        Ok(tls) => listener.service = Service::Tls(Arc::new(tls)),
        Err(error) if ignore => {
            tracing::warn!("{}: addTLSLocal: {error}; not listening on {}", call.origin, listener.address);
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    }
    let others = more.into_iter().map(|address| DraftListener { address, ..listener.clone() });
    Ok(std::iter::once(listener.clone()).chain(others).collect())
}

/// Reads one option of `addTLSLocal`.
fn option(listener: &mut DraftListener, spec: &mut ServerSpec, name: &str, v: &Value) -> Result<(), Fault> {
    match name {
        "provider" => {
            const PROVIDERS: &str = "\"openssl\" or \"gnutls\", which make no difference here";
            if !matches!(text(name, v, PROVIDERS)?.as_str(), "" | "openssl" | "gnutls") {
                return Err(wrong(name, v, PROVIDERS));
            }
        }
        "ciphers" => spec.ciphers = text(name, v, CIPHERS)?,
        "ciphersTLS13" => spec.ciphers_tls13 = text(name, v, CIPHERS)?,
        "minTLSVersion" => spec.version_min = version(name, v)?,
        "preferServerCiphers" => spec.prefer_server_ciphers = switch(name, v)?,
        "sessionTickets" => spec.tickets = switch(name, v)?,
        "numberOfTicketsKeys" => spec.ticket_keys = whole(name, v, 1, TICKET_KEYS_MAX)? as usize,
        "ticketKeyFile" => spec.ticket_key_file = Some(path(name, v)?),
        "ticketsKeysRotationDelay" => spec.ticket_rotation_seconds = whole(name, v, 0, ROTATION_MAX)?,
        "numberOfStoredSessions" => spec.sessions = whole(name, v, 0, SESSIONS_MAX)? as usize,
        "sessionTimeout" => match whole(name, v, 0, SESSION_SECONDS_MAX)? {
            0 => {}
            seconds => spec.session_seconds = seconds,
        },
        "ocspResponses" => {
            let files = paths(name, v)?;
            if files.len() > spec.certificates.len() {
                let fault = crate::tls::Fault::TooManyOcsp(files.len(), spec.certificates.len());
                return Err(TlsError::from(fault).into());
            }
            for (certificate, file) in spec.certificates.iter_mut().zip(files) {
                certificate.ocsp = Some(file);
            }
        }
        "keyLogFile" => spec.key_log = Some(path(name, v)?),
        "proxyProtocolOutsideTLS" => {
            if switch(name, v)? {
                listener.proxy = ProxyHeader::Outside;
            }
        }
        // Sorted before "proxyProtocolOutsideTLS": that one only says where.
        "enableProxyProtocol" => local_option(listener, name, v)?,
        "releaseBuffers" | "readAhead" => {
            switch(name, v)?;
        }
        _ if TLS_LOCAL_MISSING.iter().any(|m| m.names.contains(&name)) => {
            let family = TLS_LOCAL_MISSING.iter().find(|m| m.names.contains(&name));
            if let Some(m) = family.filter(|_| v.as_boolean() != Some(false)) {
                return Err(super::missing::fault(&format!("option \"{name}\" ({})", m.family), m.meanwhile));
            }
        }
        "doTCP" => {
            switch(name, v)?;
        }
        _ if LOCAL_OPTIONS.iter().any(|o| o.name == name) => local_option(listener, name, v)?,
        _ => {
            let known = TLS_LOCAL_OPTIONS.iter().chain(LOCAL_OPTIONS).map(|o| o.name);
            return Err(Fault::unknown("option", name, known));
        }
    }
    Ok(())
}

const CIPHERS: &str = "names of ciphers, separated by colons";

fn version(name: &str, v: &Value) -> Result<Version, Fault> {
    Version::parse(&text(name, v, "\"tls1.2\" or \"tls1.3\"")?).map_err(Fault::from)
}

/// What `newServer` says of TLS.
#[derive(Debug, Default)]
pub(super) struct ServerParts {
    /// `tls`.
    pub(super) wanted: bool,
    /// No port was written: that of TLS is meant, if it is TLS.
    pub(super) portless: bool,
    spec: ClientSpec,
    /// The first argument that only TLS has.
    needs: Option<String>,
}

impl ServerParts {
    /// Reads one argument; false when it is none of TLS.
    pub(super) fn apply(&mut self, name: &str, v: &Value) -> Result<bool, Fault> {
        const PROVIDERS: &str = "\"openssl\" or \"gnutls\", which are the same here, true or false";
        const NAME: &str = "a host name or an address";
        let spec = &mut self.spec;
        match name {
            "tls" => {
                self.wanted = match v.as_boolean() {
                    Some(on) => on,
                    None => match text(name, v, PROVIDERS)?.as_str() {
                        "" | "no" => false,
                        "openssl" | "gnutls" | "yes" => true,
                        _ => return Err(wrong(name, v, PROVIDERS)),
                    },
                };
                return Ok(true);
            }
            "subjectName" => spec.subject_name = Some(text(name, v, NAME)?).filter(|name| !name.is_empty()),
            "subjectAddr" => {
                const ADDRESS: &str = "an IP address";
                let read = |text: &str| text.parse::<IpAddr>().map_err(|_| ADDRESS);
                spec.subject_address = Some(parsed(name, v, ADDRESS, read)?);
            }
            "caStore" => spec.ca_store = Some(path(name, v)?),
            "validateCertificates" => spec.validate = switch(name, v)?,
            "ciphers" => spec.ciphers = text(name, v, CIPHERS)?,
            "ciphersTLS13" => spec.ciphers_tls13 = text(name, v, CIPHERS)?,
            "minTLSVersion" => spec.version_min = version(name, v)?,
            "keyLogFile" => spec.key_log = Some(path(name, v)?),
            "releaseBuffers" => {
                switch(name, v)?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
        self.needs.get_or_insert_with(|| name.to_owned());
        Ok(true)
    }

    /// Reads the files, and makes the server one with TLS if it shall be.
    pub(super) fn join(&self, call: &mut Call<'_>, server: &mut DraftServer) -> Result<(), Fault> {
        if !self.wanted {
            // Somebody expects this server's queries to be encrypted.
            return match &self.needs {
                Some(name) => Err(Fault::Conflict {
                    wrong: format!("{name} is given without tls"),
                    expected: "tls=\"openssl\" beside it".to_owned(),
                }),
                None => Ok(()),
            };
        }
        if self.portless {
            server.address.set_port(TLS_PORT);
        }
        server.lines.only = true;
        let tls = ClientTls::load(&self.spec, server.address.ip(), call.stores)?;
        server.lines.tls = Some(Arc::new(tls));
        Ok(())
    }
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}
