//! The functions that configure the console.

#![expect(clippy::disallowed_methods, reason = "makeKey and testCrypto make random keys")]

use std::sync::mpsc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use mlua::{Lua, Value};

use crate::base::prefix::listed;
use crate::config::draft::DraftConsole;
use crate::config::error::Fault;
use crate::config::functions::console::CONSOLE_PORT;
use crate::config::value;
use crate::lua::front_end::argument::{parsed, text, texts};
use crate::lua::front_end::context::{Call, Context, entry};
use crate::lua::front_end::settings::{NETWORK, networks};

/// Who looks only for the console in a file, and gets each state of it until the file ends, however that
/// ends.
pub(crate) type ConsoleWatch = mpsc::Sender<DraftConsole>;

/// Tells who watches what the file has said of the console.
fn seen(call: &Call<'_>) {
    if let Some(watch) = call.lua.app_data_ref::<ConsoleWatch>() {
        // It may have given up the file.
        let _ = watch.send(call.draft.console.clone());
    }
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "controlSocket", |call, a| {
        let address = parsed("", a.at(0), value::ADDRESS, |t| value::address_of(t, CONSOLE_PORT))?;
        call.draft.console.origin = Some(call.origin.clone());
        let former = call.draft.console.address.replace(address).filter(|former| *former != address);
        // At the console it is meant so.
        if let (Some(former), None) = (former, &call.session) {
            call.warn(Fault::Note(format!("replaces {former}: there is one console")));
        }
        seen(call);
        Ok(Value::Nil)
    })?;
    context.define(lua, "setKey", |call, a| {
        // The message must not show the key.
        let key = text("", a.at(0), value::CONSOLE_KEY)?;
        if key.is_empty() {
            call.warn_empty_text("", "there is no key, and the console refuses every connection");
            call.draft.console.key = None;
        } else {
            let wrong = |expected| Fault::value("", "a text that is no key", expected);
            call.draft.console.key = Some(value::console_key(&key).map_err(wrong)?);
        }
        seen(call);
        Ok(Value::Nil)
    })?;
    context.define_printing(lua, entry("makeKey")?, |_, _| {
        let mut key = [0; 32];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut key)
            .map_err(|_| Fault::Script("no random bytes".to_owned()))?;
        Ok(format!("setKey(\"{}\")", STANDARD.encode(key)))
    })?;
    context.define(lua, "setConsoleACL", |call, a| {
        let texts = texts("", a.at(0), NETWORK)?;
        let acl = networks(call, texts.iter().map(String::as_str))?;
        if acl.is_empty() {
            call.warn_empty_list("", "the console refuses every connection");
        }
        call.draft.console.acl = Some(acl);
        Ok(Value::Nil)
    })?;
    context.define(lua, "addConsoleACL", |call, a| {
        let written = text("", a.at(0), NETWORK)?;
        let mut acl = call.draft.console.allowed();
        acl.extend(networks(call, std::iter::once(written.as_str()))?);
        call.draft.console.acl = Some(acl);
        Ok(Value::Nil)
    })?;
    context.define_printing(lua, entry("testCrypto")?, |call, _| {
        let key = call.draft.console.key.as_ref().map(|key| key.0);
        let what = if key.is_some() { "the key of setKey" } else { "a random key: there is no setKey" };
        let good = test_crypto(key)?;
        Ok(format!(
            "{}, with {what}",
            if good { "everything is ok" } else { "what was sealed cannot be opened" }
        ))
    })?;
    context.define(lua, "clearConsoleHistory", |call, _| {
        if let Some(session) = &mut call.session {
            session.forgets = true;
        }
        Ok(Value::Nil)
    })?;
    context.define_printing(lua, entry("showConsoleACL")?, |call, _| {
        Ok(listed(&call.draft.console.allowed()).join("\n"))
    })
}

/// Returns whether what is sealed with a key, or a random one, can be opened.
fn test_crypto(key: Option<[u8; 32]>) -> Result<bool, Fault> {
    const TEXT: &[u8] = b"what the console sends";
    let random = ring::rand::SystemRandom::new();
    let fill = |bytes: &mut [u8]| {
        let filled = ring::rand::SecureRandom::fill(&random, bytes);
        filled.map_err(|_| Fault::Script("no random bytes".to_owned()))
    };
    let (mut own, mut nonce) = ([0; 32], [0; 24]);
    fill(&mut own)?;
    fill(&mut nonce)?;
    let (key, nonce) = (Key::from(key.unwrap_or(own)), Nonce::from(nonce));
    let cipher = XSalsa20Poly1305::new(&key);
    let opened = cipher.encrypt(&nonce, TEXT).and_then(|sealed| cipher.decrypt(&nonce, &*sealed));
    Ok(opened.is_ok_and(|opened| opened == TEXT))
}
