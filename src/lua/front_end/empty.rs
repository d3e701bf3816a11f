//! Empty lists and texts, which dnsdist takes: templates leave them where they have nothing to say.

use mlua::Value;

use crate::config::error::Fault;
use crate::lua::front_end::context::Call;

/// Returns whether a value is an empty text.
pub(crate) fn is_text(value: &Value) -> bool {
    value.as_string().is_some_and(|text| text.as_bytes().is_empty())
}

impl Call<'_> {
    /// Warns that a list is empty, and of what that means.
    pub(crate) fn warn_empty_list(&mut self, what: &str, means: &str) {
        let is = if what.is_empty() { "an empty list" } else { "is an empty list" };
        self.warn(Fault::Note(format!("{what} {is}: {means}").trim_start().to_owned()));
    }

    /// The same of a text.
    pub(crate) fn warn_empty_text(&mut self, what: &str, means: &str) {
        let is = if what.is_empty() { "an empty text" } else { "is an empty text" };
        self.warn(Fault::Note(format!("{what} {is}: {means}").trim_start().to_owned()));
    }
}
