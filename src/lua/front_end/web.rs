//! The web server: `webserver`, `setWebserverConfig`; the hashes of its passwords. Reports to Carbon.

mod carbon;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use mlua::{Lua, Value};

use crate::config::draft::Draft;
use crate::config::error::Fault;
use crate::config::functions::WEB_OPTIONS;
use crate::config::password::{Credential, Hashed, SALT};
use crate::config::value;
use crate::config::web::WebSettings;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::argument::{self, function, parsed, switch, text, texts, whole, wrong};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::raised;
use crate::lua::front_end::nearest;
use crate::lua::front_end::settings::{NETWORK, networks};
use crate::model::ListenerTls;
use crate::tls::{CertificateFiles, ServerSpec, ServerTls};

/// Most connections that the reserve of descriptors may hold.
const CONNECTIONS_MAX: u32 = 10_000;
/// Paths that the configuration cannot take, beside those below /api.
pub(crate) const BUILT_IN: [&str; 5] = ["/", "/livez", "/readyz", "/metrics", "/jsonstat"];
/// Most paths with functions.
const HANDLERS_MAX: usize = 1_000;
/// Characters of a password: scrypt takes any number.
const PASSWORD_CHARS_MAX: usize = 1_000;
const PASSWORD: &str = "a text of 1 to 1000 characters";

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    carbon::define(lua, context)?;
    context.define(lua, "webserver", |call, a| {
        let address = parsed("", a.at(0), value::SERVICE_ADDRESS, value::service_address)?;
        call.at_once(
            |draft| &mut draft.web,
            |call| {
                let former = call.draft.web.address.replace(address);
                if let Some(former) = former.filter(|former| *former != address) {
                    call.warn(Fault::Note(format!("replaces {former}: there is one web server")));
                }
                older_arguments(call, &a)
            },
        )?;
        call.draft.web_origin = Some(call.origin.clone());
        Ok(Value::Nil)
    })?;
    context.define(lua, "setWebserverConfig", |call, a| {
        let named = argument::named(a.what(0), a.at(0))?;
        call.at_once(|draft| &mut draft.web, |call| configure(call, named))?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "setWebserverBindFatal", |call, a| {
        call.draft.web.bind_fatal = a.switch(0)?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "registerWebHandler", |call, a| {
        const PATH: &str = "a path of the web server, as \"/mine\"";
        let path = a.text(0, PATH)?;
        let is_path = path.len() <= 255
            && path.starts_with('/')
            && path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
        if !is_path {
            return Err(a.wrong(0, PATH));
        }
        let function = call.keep(function(a.what(1), a.at(1))?)?;
        if BUILT_IN.contains(&&*path) || path.starts_with("/api/") {
            call.warn(Fault::Note(format!("{path} is a path of dnslob's own: the function is never called")));
        }
        let handlers = &mut call.draft.web.handlers;
        let before = handlers.len();
        handlers.retain(|(of, _)| *of != path);
        // At the console it is meant so.
        if handlers.len() < before && call.session.is_none() {
            call.warn(Fault::Note(format!("replaces another function of {path}")));
        }
        let handlers = &mut call.draft.web.handlers;
        if handlers.len() >= HANDLERS_MAX {
            return Err(a.wrong(0, "at most 1000 paths"));
        }
        handlers.push((path, function));
        Ok(Value::Nil)
    })?;
    context.define(lua, "setAPIWritable", |call, a| {
        let writable = a.switch(0)?;
        let directory = match a.given(1) {
            Some(path) if nearest::is_empty_text(path) => {
                call.warn_empty_text("the directory", "changes are not kept");
                None
            }
            Some(_) => Some(a.text(1, "the path of a directory")?),
            None => None,
        };
        if let Some(path) = &directory {
            let fault = |reason| Fault::Unreadable { path: path.clone(), reason };
            match std::fs::metadata(path) {
                Ok(is) if is.is_dir() => {}
                Ok(_) => return Err(fault("not a directory".to_owned())),
                Err(e) => return Err(fault(e.to_string())),
            }
        }
        call.draft.web.writable = writable;
        call.draft.web.directory = directory.map(PathBuf::from);
        Ok(Value::Nil)
    })?;
    let show = crate::config::functions::functions().find(|e| e.name == "showWebserverConfig");
    let show = show.ok_or_else(|| mlua::Error::runtime("no entry of showWebserverConfig"))?;
    context.define_printing(lua, show, |call, _| Ok(call.draft.web.text()))?;
    define_anytime(lua, context, "hashPassword", |lua, a| {
        let hashed = credential("", a.at(0))
            .and_then(|password| Ok(Hashed::with_work(password.as_bytes(), salt()?, work(a)?).to_string()));
        let hashed = hashed.map_err(|fault| raised(lua, "hashPassword", &fault))?;
        Ok(Value::String(lua.create_string(hashed)?))
    })
}

impl Call<'_> {
    /// Runs what changes a part of the draft in several steps, and undoes them where one fails.
    pub(crate) fn at_once<T: Clone>(
        &mut self,
        part: fn(&mut Draft) -> &mut T,
        steps: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (kept, errors) = (part(self.draft).clone(), self.draft.errors.len());
        let done = steps(self);
        if done.is_err() || self.draft.errors.len() > errors {
            *part(self.draft) = kept;
        }
        done
    }
}

/// Applies the options of `setWebserverConfig`; each invalid one is an error.
fn configure(call: &mut Call<'_>, named: Vec<(String, Value)>) -> Result<(), Fault> {
    let mut hashes = false;
    let mut files = (None, None);
    for (name, v) in named {
        if let Err(fault) = option(call, &name, &v, &mut hashes, &mut files) {
            call.fail(fault);
        }
    }
    if let Some(tls) = tls(files)? {
        call.draft.web.tls = Some(tls);
    }
    if hashes {
        let WebSettings { password, api_key, .. } = &mut call.draft.web;
        for credential in [password, api_key] {
            if let Some(plain) = credential.take() {
                *credential = Some(plain.hashed(salt()?));
            }
        }
    }
    Ok(())
}

/// Reads what older versions of dnsdist take behind the address.
fn older_arguments(call: &mut Call<'_>, a: &Arguments<'_>) -> Result<(), Fault> {
    let names = ["password", "apiKey", "customHeaders", "acl"];
    let is_empty = |v: &Value| v.as_string().is_some_and(|text| text.as_bytes().is_empty());
    let given = names.into_iter().zip(1..).filter_map(|(name, at)| Some((name, a.given(at)?)));
    let given: Vec<(&str, &Value)> = given.filter(|(_, v)| !is_empty(v)).collect();
    if !given.is_empty() {
        let today = "the arguments behind the address are of older versions of dnsdist; write \
                     setWebserverConfig{password=, apiKey=, customHeaders=, acl=}";
        call.warn(Fault::Note(today.to_owned()));
    }
    for (name, v) in given {
        option(call, name, v, &mut false, &mut (None, None))?;
    }
    Ok(())
}

/// Files of certificate and key.
type TlsFiles = (Option<PathBuf>, Option<PathBuf>);

/// Loads certificate and key.
fn tls(files: TlsFiles) -> Result<Option<ListenerTls>, Fault> {
    let missing = |name| Err(Fault::value(name, "missing", "a file for each of tlsCertificate and tlsKey"));
    let (certificate, key) = match files {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        (None, Some(_)) => return missing("tlsCertificate"),
        (Some(_), None) => return missing("tlsKey"),
    };
    let spec = ServerSpec {
        certificates: vec![CertificateFiles { certificate, key, ocsp: None }],
        alpn: vec!["http/1.1".to_owned()],
        ..ServerSpec::default()
    };
    let tls = ServerTls::load(&spec).map_err(|e| Fault::Tls(e.to_string()))?;
    Ok(Some(ListenerTls(Arc::new(tls))))
}

fn option(
    call: &mut Call<'_>,
    name: &str,
    v: &Value,
    hashes: &mut bool,
    files: &mut TlsFiles,
) -> Result<(), Fault> {
    match name {
        "password" | "apiKey" if nearest::is_empty_text(v) => {
            call.warn_empty_text(name, "there is none, and nobody can use what needs it");
            let web = &mut call.draft.web;
            let place = if name == "password" { &mut web.password } else { &mut web.api_key };
            *place = None;
        }
        "password" | "apiKey" => {
            let written = credential(name, v)?;
            // Without a word of what was written.
            let read =
                Credential::read(&written).map_err(|expected| Fault::value(name, "no hash", expected))?;
            let web = &mut call.draft.web;
            let place = if name == "password" { &mut web.password } else { &mut web.api_key };
            *place = Some(read);
        }
        "tlsCertificate" => files.0 = Some(PathBuf::from(text(name, v, "the path of a file")?)),
        "tlsKey" => files.1 = Some(PathBuf::from(text(name, v, "the path of a file")?)),
        "acl" => {
            let written = texts(name, v, NETWORK)?;
            let split = written.iter().flat_map(|t| t.split(',')).map(str::trim).filter(|t| !t.is_empty());
            let written: Vec<String> = split.map(str::to_owned).collect();
            let acl = networks(call, written.iter().map(String::as_str))?;
            if !acl.iter().any(|(_, is_in)| *is_in) {
                call.warn(Fault::Note("acl lets nobody use the web server".to_owned()));
            }
            call.draft.web.acl = acl.into_iter().collect();
            call.draft.web.acl_text = written;
        }
        "customHeaders" => {
            let mut headers = Vec::new();
            for (name, value) in argument::named(name, v)? {
                let value = text(&name, &value, "the value of a header")?;
                let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                let is_name = !name.is_empty() && name.bytes().all(is_token);
                if !is_name || value.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
                    let what = format!("\"{}\"", name.escape_debug());
                    return Err(Fault::value("customHeaders", what, "printable names and values of headers"));
                }
                // They say how the message ends, which only the server knows.
                if ["content-length", "transfer-encoding", "connection"].contains(&&*name.to_lowercase()) {
                    let what = format!("\"{name}\"");
                    return Err(Fault::value("customHeaders", what, "headers that do not frame the message"));
                }
                headers.push((name, value));
            }
            call.draft.web.headers = headers;
        }
        "statsRequireAuthentication" => call.draft.web.stats_protected = switch(name, v)?,
        "apiRequiresAuthentication" => call.draft.web.api_protected = switch(name, v)?,
        "dashboardRequiresAuthentication" => call.draft.web.dashboard_protected = switch(name, v)?,
        "maxConcurrentConnections" => {
            // As in dnsdist, 0 means no limit of its own.
            let most = whole(name, v, 0, CONNECTIONS_MAX)?;
            call.draft.web.connections_max = if most == 0 { CONNECTIONS_MAX } else { most };
        }
        "hashPlaintextCredentials" => *hashes = switch(name, v)?,
        _ => call.warn(Fault::unknown("option", name, WEB_OPTIONS.iter().map(|e| e.name))),
    }
    Ok(())
}

/// Reads a password or key; no message shows it.
fn credential(what: &str, v: &Value) -> Result<String, Fault> {
    let Some(written) = v.as_string() else { return Err(wrong(what, v, PASSWORD)) };
    let written = written.to_str().map(|s| s.to_owned()).unwrap_or_default();
    if written.is_empty() || written.chars().count() > PASSWORD_CHARS_MAX {
        return Err(Fault::value(what, "empty, too long, or not UTF-8", PASSWORD));
    }
    Ok(written)
}

/// Reads the work factor of a hash, as its logarithm.
fn work(a: Arguments<'_>) -> Result<u8, Fault> {
    const FACTORS: &str = "a power of two from 1024 to 65536";
    let Some(value) = a.given(1) else { return Ok(10) };
    let factor = whole(a.what(1), value, 1_024, 65_536).map_err(|_| a.wrong(1, FACTORS))?;
    if factor.is_power_of_two() {
        u8::try_from(factor.ilog2()).map_err(|_| a.wrong(1, FACTORS))
    } else {
        Err(a.wrong(1, FACTORS))
    }
}

/// Random bytes for a hash.
fn salt() -> Result<[u8; SALT], Fault> {
    let mut salt = [0; SALT];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut salt));
    read.map(|()| salt)
        .map_err(|e| Fault::Unreadable { path: "/dev/urandom".to_owned(), reason: e.to_string() })
}
