//! Errors that `pcall` gets: what the failed call has added is taken back, and the shards' states, whose
//! functions check nothing, raise the same errors at the same calls.

use std::collections::HashMap;

use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault, Origin};
use crate::lua::state::Raised;

/// The calls of one file or command, counted by function.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    file: String,
    numbers: HashMap<String, u32>,
}

impl Calls {
    /// Begins with a file or command.
    pub(crate) fn enter(&mut self, file: &str) {
        file.clone_into(&mut self.file);
        self.numbers.clear();
    }

    /// Returns the number of this call among those of its function, from 1.
    pub(crate) fn number(&mut self, function: &str) -> u32 {
        match self.numbers.get_mut(function) {
            Some(number) => {
                *number += 1;
                *number
            }
            None => {
                self.numbers.insert(function.to_owned(), 1);
                1
            }
        }
    }

    /// Describes the error of a call for the shards.
    pub(crate) fn raised(&self, function: &str, number: u32, error: &ConfigError) -> Raised {
        let (file, function) = (self.file.clone(), function.to_owned());
        Raised { file, function, number, error: error.to_string() }
    }
}

/// The sizes of what calls add to. What they change in place they change once nothing of the call has
/// failed.
pub(crate) struct Before {
    errors: usize,
    warnings: usize,
    listeners: [usize; 2],
    relays: usize,
    servers: usize,
    caches: usize,
    functions: usize,
    sets: [usize; 2],
    states: usize,
}

impl Before {
    /// Notes the sizes before a call.
    pub(crate) fn of(draft: &Draft) -> Self {
        Self {
            errors: draft.errors.len(),
            warnings: draft.warnings.len(),
            listeners: [draft.listeners.len(), draft.left_out.len()],
            relays: draft.relays.len(),
            servers: draft.servers.len(),
            caches: draft.caches.len(),
            functions: draft.functions.len(),
            sets: [draft.name_sets.len(), draft.networks.len()],
            states: draft.states.len(),
        }
    }

    /// Returns whether the call has recorded errors.
    pub(crate) const fn has_failed(&self, draft: &Draft) -> bool {
        draft.errors.len() > self.errors
    }

    /// Removes what the call has added; returns its first error.
    pub(crate) fn undo(&self, draft: &mut Draft, origin: &Origin, function: &str) -> ConfigError {
        draft.listeners.truncate(self.listeners[0]);
        draft.left_out.truncate(self.listeners[1]);
        draft.relays.truncate(self.relays);
        // They keep their numbers.
        (self.servers..draft.servers.len()).for_each(|at| draft.remove_server(at));
        draft.caches.truncate(self.caches);
        draft.functions.truncate(self.functions);
        draft.name_sets.truncate(self.sets[0]);
        draft.networks.truncate(self.sets[1]);
        draft.states.truncate(self.states);
        draft.warnings.take_beyond(self.warnings);
        let error = draft.errors.take_beyond(self.errors);
        error.unwrap_or_else(|| ConfigError::new(origin, function, Fault::Script("fails".to_owned())))
    }
}
