//! What functions of the configuration are told of: `addExitCallback` and its like.

use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua};
use tokio::time::timeout;

use crate::lua::front_end::command::COMMAND;
use crate::lua::front_end::view::View;
use crate::lua::front_end::{Host, LuaHost, NoResult};
use crate::lua::state::place;
use crate::model::LuaFunction;

/// Something that happened.
#[derive(Clone, PartialEq, Eq)]
pub enum Notice {
    /// The process ends.
    Exit,
    /// A server came up or went down.
    ServerState {
        /// Its name and address, as `getNameWithAddr` returns them.
        server: String,
        /// It came up.
        up: bool,
    },
    /// A new key seals session tickets: its bytes.
    TicketsKey(Vec<u8>),
}

impl Notice {
    /// The function of the configuration that asked for it.
    #[must_use]
    pub const fn asked_by(&self) -> &'static str {
        match self {
            Self::Exit => "addExitCallback",
            Self::ServerState { .. } => "addServerStateChangeCallback",
            Self::TicketsKey(_) => "setTicketsKeyAddedHook",
        }
    }
}

impl Host {
    fn notify(&self, function: LuaFunction, notice: &Notice, view: &Arc<dyn View>) -> Result<(), String> {
        let mut standing = self.standing.borrow_mut();
        let function = standing.function(self.runtime.lua(), function)?;
        let told = standing.look(&self.runtime, view, |lua| tell(lua, &function, notice));
        told.map_err(|e| place::placed(&e, place::of_function(&function).as_deref()))
    }
}

/// How long a function that was ended may take to end.
const GRACE: Duration = Duration::from_millis(500);

impl LuaHost {
    /// Waits until the functions at work and those behind them have returned, and ends them after this time. Returns
    /// whether another one can begin: what waits for the system, as for a program, cannot be ended.
    pub fn rest(&self, limit: Duration) -> impl Future<Output = bool> + use<> {
        let within = |limit| self.worker.call_within(limit, |_| ());
        let (returned, ended) = (within(limit), within(limit + GRACE));
        let (stays, interrupt) = (self.worker.stays(), self.worker.interrupt().clone());
        async move {
            if !stays || returned.await.is_ok() {
                return true;
            }
            interrupt.interrupt();
            let has_ended = timeout(GRACE, ended).await.is_ok_and(|ended| ended.is_ok());
            interrupt.clear();
            has_ended
        }
    }

    /// Tells a function of something. What it changes of the configuration is an error.
    ///
    /// # Errors
    /// It did not run, or failed.
    pub fn notify(
        &self,
        function: LuaFunction,
        notice: Notice,
        view: Arc<dyn View>,
    ) -> impl Future<Output = Result<Result<(), String>, NoResult>> + use<> {
        self.worker.call_within(COMMAND, move |host| host.notify(function, &notice, &view))
    }
}

fn tell(lua: &Lua, function: &Function, notice: &Notice) -> mlua::Result<()> {
    match notice {
        Notice::Exit => function.call(()),
        Notice::ServerState { server, up } => function.call((server.as_str(), *up)),
        Notice::TicketsKey(key) => function.call((lua.create_string(key)?, key.len())),
    }
}
