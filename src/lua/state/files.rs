//! The text of a configuration's files: read once, by the control thread, and evaluated by each
//! shard.

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// Its path, as in Lua's messages.
    pub name: String,
    /// Its content.
    pub text: Vec<u8>,
}

/// All files of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Files {
    /// The configuration file; none when there are only flags.
    pub main: Option<File>,
    /// Directories that `includeDirectory` was called with, as written, each with its files in the
    /// order of evaluation.
    pub directories: Vec<(String, Vec<File>)>,
    /// What the API has kept, and commands of the console that functions come from, in their order;
    /// evaluated after the file.
    pub commands: Vec<File>,
    /// Errors that `pcall` got when the control thread evaluated them.
    pub raised: Vec<Raised>,
}

/// An error that a function of the configuration has raised within `pcall`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raised {
    /// The configuration file, or the command, whose evaluation called it.
    pub file: String,
    /// The function.
    pub function: String,
    /// Which of its calls there, from 1.
    pub number: u32,
    /// The text.
    pub error: String,
}

impl Files {
    /// A configuration of one file.
    #[must_use]
    pub fn one(name: &str, text: &[u8]) -> Self {
        let main = Some(File { name: name.to_owned(), text: text.to_vec() });
        Self { main, ..Self::default() }
    }

    /// Returns the files of a directory; none of one that was not read.
    pub(crate) fn directory(&self, path: &str) -> &[File] {
        self.directories.iter().find(|d| d.0 == path).map_or(&[], |d| &d.1)
    }
}

/// Returns the text for Lua: a first line for the shell becomes a comment.
pub(crate) fn runnable(file: &File) -> Vec<u8> {
    match file.text.strip_prefix(b"#") {
        Some(rest) => [b"--", rest].concat(),
        None => file.text.clone(),
    }
}
