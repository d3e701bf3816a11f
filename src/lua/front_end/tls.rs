//! `addTLSLocal`, `newTLSCertificate`, and the TLS arguments of `newServer`. The files are loaded
//! here, so that errors are reported with the line that names the file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::draft::DraftListener;
use crate::config::error::{Fault, Origin, counted};
use crate::config::functions::needs::TLS_LOCAL_NEEDS;
use crate::config::functions::{LOCAL_OPTIONS, TLS_LOCAL_OPTIONS, TLS_METHODS};
use crate::config::value;
use crate::lua::front_end::argument::{named, parsed, switch, text, texts, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::settings::local_option;
use crate::lua::front_end::{missing, nearest, needs};
use crate::model::{BackendTls, ConnectionOptions, ListenerTls, ProxyHeader, Service};
use crate::tls::ciphers::unsupported;
use crate::tls::server::{SESSION_SECONDS_MAX, TicketKey};
use crate::tls::{CertificateFiles, ClientSpec, ClientTls, ServerSpec, ServerTls, TlsError, Version};

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "addTLSLocal", |call, a| {
        add_local(call, a)?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "newTLSCertificate", |call, a| {
        let certificate = certificate(call, a)?;
        Ok(Value::UserData(call.lua.create_userdata(certificate)?))
    })?;
    context.define(lua, "reloadAllCertificates", |call, _| {
        // The file itself has just loaded them.
        let all: Vec<usize> = front_ends(&call.draft.listeners).filter(|_| call.session.is_some()).collect();
        for at in all {
            change(call, at, |_| Ok(()))?;
        }
        Ok(Value::Nil)
    })?;
    context.define(lua, "getTLSFrontendCount", |call, _| {
        Ok(Value::Integer(i64::try_from(front_ends(&call.draft.listeners).count()).unwrap_or(i64::MAX)))
    })?;
    for name in ["getTLSFrontend", "getTLSContext"] {
        let own = context.clone();
        context.define(lua, name, move |call, a| {
            let n = a.word(0)?;
            let Some(at) = front_ends(&call.draft.listeners).nth(n.into()) else { return Ok(Value::Nil) };
            let origin = call.draft.listeners[at].origin.clone();
            let front_end = FrontEnd { context: own.clone(), at, origin };
            Ok(Value::UserData(call.lua.create_userdata(front_end)?))
        })?;
    }
    Ok(())
}

/// Returns the indexes of the TLS listeners.
fn front_ends(listeners: &[DraftListener]) -> impl Iterator<Item = usize> + '_ {
    listeners.iter().enumerate().filter(|(_, l)| l.service.tls().is_some()).map(|(at, _)| at)
}

/// A TLS listener as a Lua object: its index in the draft, and where it was written.
#[derive(Clone, Debug)]
struct FrontEnd {
    context: Context,
    at: usize,
    origin: Origin,
}

impl FrontEnd {
    /// Changes the listener's specification and loads its TLS again.
    fn change(
        &self,
        call: &mut Call<'_>,
        change: impl FnOnce(&mut ServerSpec) -> Result<(), Fault>,
    ) -> Result<Value, Fault> {
        let listener = call.draft.listeners.get(self.at).filter(|l| l.origin == self.origin);
        listener.ok_or_else(gone)?;
        self::change(call, self.at, change)?;
        Ok(Value::Nil)
    }
}

/// Changes the specification of a listener and loads its TLS again.
fn change(
    call: &mut Call<'_>,
    at: usize,
    change: impl FnOnce(&mut ServerSpec) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let listener = call.draft.listeners.get_mut(at).ok_or_else(gone)?;
    let mut spec = listener.service.tls().ok_or_else(gone)?.spec().clone();
    change(&mut spec)?;
    let tls = ServerTls::load(&spec).map_err(|e| fault(&e))?;
    listener.service = Service::Dot(ListenerTls(Arc::new(tls)));
    Ok(())
}

impl UserData for FrontEnd {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, TLS_METHODS);
        let context: fn(&Self) -> &Context = |own| &own.context;
        all.add_recorded("loadTicketsKeys", context, |call, own, a| {
            own.change(call, |spec| {
                spec.ticket_key_file = Some(PathBuf::from(a.text(0, PATH)?));
                spec.ticket_key = None;
                Ok(())
            })
        });
        all.add_recorded("loadNewCertificatesAndKeys", context, |call, own, a| {
            own.change(call, |spec| {
                spec.certificates = certificates(a.at(0), a.given(1))?;
                Ok(())
            })
        });
        all.add_recorded("loadTicketsKey", context, |call, own, a| {
            let key = TicketKey(a.bytes(0)?.into());
            own.change(call, |spec| {
                spec.ticket_key = Some(key);
                Ok(())
            })
        });
        all.add_recorded("rotateTicketsKey", context, |call, own, _| {
            own.change(call, |spec| {
                spec.ticket_key = None;
                spec.ticket_turn = spec.ticket_turn.wrapping_add(1);
                Ok(())
            })
        });
        // The file itself has just loaded them.
        all.add_recorded("reloadCertificates", context, |call, own, _| match &call.session {
            Some(_) => own.change(call, |_| Ok(())),
            None => Ok(Value::Nil),
        });
        all.add_recorded("getAddressAndPort", context, |call, own, _| {
            let listener = call.draft.listeners.get(own.at).filter(|l| l.origin == own.origin);
            let address = listener.ok_or_else(gone)?.address.to_string();
            Ok(Value::String(call.lua.create_string(address)?))
        });
    }
}

/// The error of an object whose listener is not there: what made it was refused.
fn gone() -> Fault {
    let expected = "one of getTLSFrontend()".to_owned();
    Fault::Conflict { wrong: "the listener does not exist: what made it was refused".to_owned(), expected }
}

/// Converts an error in a file or setting of TLS.
fn fault(e: &TlsError) -> Fault {
    Fault::Tls(e.to_string())
}

/// A certificate with its key, as a Lua object.
#[derive(Clone, Debug)]
struct Certificate(CertificateFiles);

impl UserData for Certificate {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.0.certificate.display().to_string())
        });
    }
}

/// Reads `newTLSCertificate(path, {key=, password=})`.
fn certificate(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Certificate, Fault> {
    let path = PathBuf::from(a.text(0, PATH)?);
    let mut key = path.clone();
    if let Some(options) = a.given(1) {
        for (name, v) in named(a.what(1), options)? {
            match name.as_str() {
                "key" => key = PathBuf::from(text(&name, &v, PATH)?),
                "password" => {
                    return Err(missing::fault(
                        "option \"password\" (PKCS#12)",
                        "convert the file to PEM: openssl pkcs12 -nodes",
                    ));
                }
                _ => call.unknown("option", &name, ["key", "password"]),
            }
        }
    }
    Ok(Certificate(CertificateFiles { certificate: path, key, ocsp: None }))
}

const PATH: &str = "the path of a file";

/// Reads the certificates and keys of `addTLSLocal`.
fn certificates(files: &Value, keys: Option<&Value>) -> Result<Vec<CertificateFiles>, Fault> {
    const CERTIFICATE: &str = "the path of a certificate, newTLSCertificate(...), or a list of them";
    let (mut list, mut bare) = (Vec::new(), Vec::new());
    for item in items(files)? {
        let item = item?;
        let made = item.as_userdata().and_then(|u| u.borrow::<Certificate>().ok().map(|c| c.0.clone()));
        list.push(match made {
            Some(made) => made,
            None => {
                bare.push(list.len());
                let certificate = PathBuf::from(text("the certificate", &item, CERTIFICATE)?);
                CertificateFiles { key: certificate.clone(), certificate, ocsp: None }
            }
        });
    }
    // A certificate of `newTLSCertificate` has its own key.
    let keys = match keys.filter(|_| !bare.is_empty()) {
        Some(keys) => texts("the key", keys, "the path of a key, or a list of them")?,
        None => Vec::new(),
    };
    if list.is_empty() || keys.len() != bare.len() {
        return Err(Fault::Conflict {
            wrong: format!(
                "{} and {} are given",
                counted(bare.len(), "certificate"),
                counted(keys.len(), "key")
            ),
            expected: "as many keys as certificates, at least one".to_owned(),
        });
    }
    for (at, key) in bare.into_iter().zip(keys) {
        list[at].key = PathBuf::from(key);
    }
    Ok(list)
}

/// Reads the arguments of `addTLSLocal`, and loads the files.
fn add_local(call: &mut Call<'_>, a: Arguments<'_>) -> Result<(), Fault> {
    let address = parsed("the address", a.at(0), value::ADDRESS, address)?;
    let mut spec = ServerSpec { certificates: certificates(a.at(1), a.given(2))?, ..ServerSpec::default() };
    let mut made = DraftListener {
        origin: call.origin.clone(),
        address,
        interface: None,
        reuse_port: false,
        freebind: false,
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::default(),
    };
    let (mut outside, mut lenient, mut more) = (false, false, Vec::new());
    if let Some(options) = a.given(3) {
        let entries = named("the table of options", options)?;
        needs::check(call, &entries, TLS_LOCAL_NEEDS.iter());
        for (name, v) in entries {
            let read = match name.as_str() {
                "proxyProtocolOutsideTLS" => switch(&name, &v).map(|on| outside = on),
                "ignoreTLSConfigurationErrors" => switch(&name, &v).map(|on| lenient = on),
                "additionalAddresses" => addresses(&name, &v).map(|list| more = list),
                "ocspResponses" => ocsp(&mut spec, &name, &v),
                own if TLS_LOCAL_OPTIONS.iter().any(|e| e.name == own) => {
                    server_option(call, &mut spec, own, &v)
                }
                "doTCP" => {
                    call.warn(Fault::Note("doTCP has no effect: TLS is over TCP".to_owned()));
                    Ok(())
                }
                other if LOCAL_OPTIONS.iter().any(|e| e.name == other) || other == "tcpFastOpenSize" => {
                    local_option(call, &mut made, other, &v)
                }
                _ => {
                    call.unknown("option", &name, known());
                    Ok(())
                }
            };
            if let Err(fault) = read {
                call.fail(fault);
            }
        }
    }
    if outside && made.proxy == ProxyHeader::Inside {
        made.proxy = ProxyHeader::Outside;
    }
    warn_of_ciphers(call, spec.version_min, &spec.ciphers);
    let listeners = match ServerTls::load(&spec) {
        Ok(tls) => {
            made.service = Service::Dot(ListenerTls(Arc::new(tls)));
            &mut call.draft.listeners
        }
        Err(e) if lenient => {
            let consequence = "the listener is omitted, or keeps its previous TLS at a reload";
            call.warn(Fault::Tls(format!("{e}; {consequence}")));
            &mut call.draft.left_out
        }
        Err(e) => return Err(fault(&e)),
    };
    let addresses = std::iter::once(made.address).chain(more);
    listeners.extend(addresses.map(|address| DraftListener { address, ..made.clone() }));
    Ok(())
}

/// An option that another one makes ineffective: a warning, because dnsdist accepts it too.
fn without_effect(name: &str, beside: &str, expected: &str) -> Fault {
    let wrong = format!("{name} has no effect beside {beside}");
    Fault::Conflict { wrong, expected: expected.to_owned() }
}

fn warn_of_ciphers(call: &mut Call<'_>, least: Version, tls12: &str) {
    if least > Version::Tls12 && !tls12.is_empty() {
        let expected = "ciphersTLS13, or the version as it is by default";
        call.warn(without_effect("ciphers", "minTLSVersion=\"tls1.3\"", expected));
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    LOCAL_OPTIONS.iter().chain(TLS_LOCAL_OPTIONS).map(|e| e.name).filter(|n| *n != "doTCP")
}

/// Parses an address with the default port of DNS over TLS.
pub(crate) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    value::address_of(text, value::DOT_PORT)
}

fn addresses(name: &str, v: &Value) -> Result<Vec<SocketAddr>, Fault> {
    let texts = texts(name, v, value::ADDRESS)?;
    texts.iter().map(|t| address(t).map_err(|e| Fault::value(name, format!("\"{t}\""), e))).collect()
}

fn ocsp(spec: &mut ServerSpec, name: &str, v: &Value) -> Result<(), Fault> {
    let files = texts(name, v, "the path of an OCSP response, or a list of them")?;
    if files.len() > spec.certificates.len() {
        let expected = format!("at most one for each certificate, which are {}", spec.certificates.len());
        return Err(Fault::value(name, format!("a list of {}", counted(files.len(), "file")), expected));
    }
    for (certificate, file) in spec.certificates.iter_mut().zip(files) {
        certificate.ocsp = Some(PathBuf::from(file));
    }
    Ok(())
}

/// Accepts a setting that rustls lacks, with a warning if it is on.
fn absent(call: &mut Call<'_>, name: &str, v: &Value) -> Result<(), Fault> {
    if switch(name, v)? {
        let what = format!("{name} has no effect: TLS is rustls, which does nothing of the kind");
        call.warn(Fault::Note(what));
    }
    Ok(())
}

/// Reads the least version of TLS. For an older one, as it is dnsdist's default, the least that there is
/// is meant.
fn version(call: &mut Call<'_>, name: &str, v: &Value) -> Result<Version, Fault> {
    let written = text(name, v, "a version of TLS")?;
    let parsed = Version::parse(&written);
    if parsed.as_ref().is_err_and(|e| matches!(e.fault, crate::tls::Fault::OldVersion(_))) {
        let note = format!("{name} is \"{written}\", which is taken as \"tls1.2\", the least that there is");
        call.warn(Fault::Note(note));
        return Ok(Version::Tls12);
    }
    parsed.map_err(|e| fault(&e))
}

fn server_option(call: &mut Call<'_>, spec: &mut ServerSpec, name: &str, v: &Value) -> Result<(), Fault> {
    if call.is_unset(name, v) {
        return Ok(());
    }
    match name {
        "minTLSVersion" => {
            spec.version_min = version(call, name, v)?;
        }
        "ciphers" => spec.ciphers = ciphers(call, name, v)?,
        "ciphersTLS13" => spec.ciphers_tls13 = ciphers(call, name, v)?,
        "preferServerCiphers" => spec.prefer_server_ciphers = switch(name, v)?,
        "sessionTickets" => spec.tickets = switch(name, v)?,
        "numberOfTicketsKeys" => {
            let keys = nearest::whole(call, name, v, 0, 64)?;
            if keys == 0 {
                let note = "numberOfTicketsKeys=0 is taken as 1; sessionTickets=false disables tickets";
                call.warn(Fault::Note(note.to_owned()));
            }
            spec.ticket_keys = keys.max(1) as usize;
        }
        "ticketKeyFile" => spec.ticket_key_file = Some(PathBuf::from(text(name, v, PATH)?)),
        "ticketsKeysRotationDelay" => {
            spec.ticket_rotation_seconds = nearest::whole(call, name, v, 0, u32::MAX)?;
        }
        "sessionTimeout" => spec.session_seconds = nearest::whole(call, name, v, 1, SESSION_SECONDS_MAX)?,
        "numberOfStoredSessions" => spec.sessions = nearest::whole(call, name, v, 0, 10_000_000)? as usize,
        "keyLogFile" => spec.key_log = Some(PathBuf::from(text(name, v, PATH)?)),
        "provider" => {
            const PROVIDERS: &str = "\"openssl\" or \"gnutls\"";
            let provider = text(name, v, PROVIDERS)?;
            if !["openssl", "gnutls", "rustls", ""].contains(&provider.as_str()) {
                return Err(wrong(name, v, PROVIDERS));
            }
        }
        "releaseBuffers" | "readAhead" => {
            switch(name, v)?;
        }
        // The rest of the table.
        _ => absent(call, name, v)?,
    }
    Ok(())
}

const CIPHERS: &str = "names of ciphers separated by colons";

/// Reads a list of ciphers. Those that are not supported are left out, with a warning.
fn ciphers(call: &mut Call<'_>, name: &str, v: &Value) -> Result<String, Fault> {
    let list = text(name, v, CIPHERS)?;
    let missing = unsupported(&list, name == "ciphersTLS13").join(", ");
    if !missing.is_empty() {
        call.warn(Fault::Note(format!("{name}: {missing}: not supported, and left out")));
    }
    Ok(list)
}

/// The TLS arguments of `newServer`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerArguments {
    /// `tls`.
    on: bool,
    /// The first one given that requires `tls`.
    needless: Option<String>,
    spec: ClientSpec,
}

impl ServerArguments {
    /// Returns whether its queries use TLS.
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    /// Reads one of [`SERVER_TLS_ARGUMENTS`](crate::config::functions::SERVER_TLS_ARGUMENTS).
    pub(crate) fn read(&mut self, call: &mut Call<'_>, name: &str, v: &Value) -> Result<(), Fault> {
        if name == "tls" {
            const TLS: &str = "true, false, \"openssl\", \"gnutls\" or \"rustls\"";
            self.on = match (v.as_boolean(), v.as_string().map(|s| s.to_string_lossy())) {
                (Some(on), _) => on,
                (None, Some(t)) if ["openssl", "gnutls", "rustls"].contains(&t.as_str()) => true,
                _ => return Err(wrong(name, v, TLS)),
            };
            return Ok(());
        }
        let spec = &mut self.spec;
        match name {
            "subjectName" => {
                spec.subject_name = Some(text(name, v, "a host name")?);
            }
            "subjectAddr" => {
                const ADDRESS: &str = "an IP address";
                let read = |t: &str| t.parse::<IpAddr>().map_err(|_| ADDRESS);
                spec.subject_address = Some(parsed(name, v, ADDRESS, read)?);
            }
            "validateCertificates" => spec.validate = switch(name, v)?,
            "minTLSVersion" => {
                spec.version_min = version(call, name, v)?;
            }
            "caStore" => spec.ca_store = Some(PathBuf::from(text(name, v, PATH)?)),
            "ciphers" => spec.ciphers = ciphers(call, name, v)?,
            "ciphersTLS13" => spec.ciphers_tls13 = ciphers(call, name, v)?,
            "keyLogFile" => spec.key_log = Some(PathBuf::from(text(name, v, PATH)?)),
            "releaseBuffers" => {
                switch(name, v)?;
                return Ok(());
            }
            // The rest of the table.
            _ => return absent(call, name, v),
        }
        self.needless.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    /// Loads the files; `None` without `tls`.
    pub(crate) fn load(&self, call: &mut Call<'_>, server: IpAddr) -> Result<Option<BackendTls>, Fault> {
        if let (false, Some(name)) = (self.on, &self.needless) {
            // As in dnsdist, which leaves the server without TLS.
            call.warn(Fault::Conflict {
                wrong: format!("{name} has no effect without tls: queries to it are not encrypted"),
                expected: "tls=\"openssl\" too, or neither".to_owned(),
            });
        }
        if !self.on {
            return Ok(None);
        }
        let spec = &self.spec;
        warn_of_ciphers(call, spec.version_min, &spec.ciphers);
        if let (Some(_), Some(_)) = (&spec.subject_name, spec.subject_address) {
            call.warn(without_effect("subjectAddr", "subjectName", "one of them"));
        }
        if let (false, Some(_)) = (spec.validate, &spec.ca_store) {
            call.warn(without_effect("caStore", "validateCertificates=false", "one of them"));
        }
        let tls = ClientTls::load(spec, server, call.authorities()).map_err(|e| fault(&e))?;
        Ok(Some(BackendTls { spec: spec.clone(), tls: Arc::new(tls) }))
    }
}
