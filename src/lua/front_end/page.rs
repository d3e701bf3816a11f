//! Functions of the configuration that answer requests to the web server (`registerWebHandler`).

use std::sync::Arc;

use mlua::{Function, Lua, Table, Value};

use crate::lua::front_end::command::COMMAND;
use crate::lua::front_end::view::View;
use crate::lua::front_end::{Host, LuaHost, NoResult};
use crate::model::LuaFunction;

/// Longest body of an answer, bytes.
const BODY_MAX: usize = 10 << 20;
/// Headers of an answer.
const HEADERS_MAX: usize = 100;

/// A request, decoded.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The path.
    pub path: String,
    /// The version of HTTP, as `1.1`.
    pub version: String,
    /// The method.
    pub method: String,
    /// The body.
    pub body: Vec<u8>,
    /// The variables of the query string.
    pub getvars: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those of a form.
    pub postvars: Vec<(Vec<u8>, Vec<u8>)>,
    /// The headers; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Host {
    fn serve(
        &self,
        function: LuaFunction,
        request: &Request,
        view: &Arc<dyn View>,
    ) -> Result<Response, String> {
        let mut standing = self.standing.borrow_mut();
        let function = standing.function(self.runtime.lua(), function)?;
        standing.look(&self.runtime, view, |lua| answer(lua, &function, request))
    }
}

impl LuaHost {
    /// Lets a function answer a request to the web server. What it changes is forgotten.
    ///
    /// # Errors
    /// It did not run, or is wrong.
    pub fn serve(
        &self,
        function: LuaFunction,
        request: Request,
        view: Arc<dyn View>,
    ) -> impl Future<Output = Result<Result<Response, String>, NoResult>> + use<> {
        self.worker.call_within(COMMAND, move |host| host.serve(function, &request, &view))
    }
}

/// Calls the function with a request and an answer to fill.
///
/// # Errors
/// Those of the function, and what is wrong with its answer.
fn answer(lua: &Lua, function: &Function, request: &Request) -> mlua::Result<Response> {
    let req = lua.create_table()?;
    req.raw_set("path", request.path.as_str())?;
    req.raw_set("version", request.version.as_str())?;
    req.raw_set("method", request.method.as_str())?;
    req.raw_set("body", lua.create_string(&request.body)?)?;
    for (name, variables) in [("getvars", &request.getvars), ("postvars", &request.postvars)] {
        let table = lua.create_table()?;
        for (name, value) in variables {
            table.raw_set(lua.create_string(name)?, lua.create_string(value)?)?;
        }
        req.raw_set(name, table)?;
    }
    let headers = lua.create_table()?;
    for (name, value) in &request.headers {
        headers.raw_set(name.as_str(), lua.create_string(value)?)?;
    }
    req.raw_set("headers", headers)?;
    let resp = lua.create_table()?;
    resp.raw_set("status", 200)?;
    resp.raw_set("body", "")?;
    resp.raw_set("headers", lua.create_table()?)?;
    function.call::<()>((req, resp.clone()))?;
    read(&resp)
}

fn read(resp: &Table) -> mlua::Result<Response> {
    let wrong = |what: &str| mlua::Error::runtime(what.to_owned());
    let status = match resp.get::<Value>("status")? {
        Value::Integer(n) => u16::try_from(n).ok(),
        Value::Number(n) if n.fract() == 0.0 && (200.0..=599.0).contains(&n) => Some(n as u16),
        _ => None,
    };
    let status = status
        .filter(|n| (200..=599).contains(n))
        .ok_or_else(|| wrong("resp.status is no status from 200 to 599"))?;
    let body = match resp.get::<Value>("body")? {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Nil => Vec::new(),
        _ => return Err(wrong("resp.body is no text")),
    };
    if body.len() > BODY_MAX {
        return Err(wrong("resp.body is longer than 10 MB"));
    }
    let mut headers = Vec::new();
    match resp.get::<Value>("headers")? {
        Value::Nil => {}
        Value::Table(table) => {
            for pair in table.pairs::<mlua::String, mlua::String>() {
                let (name, value) = pair?;
                if headers.len() == HEADERS_MAX {
                    return Err(wrong("resp.headers has more than 100 headers"));
                }
                headers.push((name.to_string_lossy(), value.as_bytes().to_vec()));
            }
        }
        _ => return Err(wrong("resp.headers is no table")),
    }
    Ok(Response { status, body, headers })
}
