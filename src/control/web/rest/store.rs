//! Keeps what the API changes as Lua, in two files of its directory.
//!
//! ```text
//!  change ──► .api.conf.7.new: written, synced ──► the control loop publishes ──► renamed to api.conf
//!                     │ no room, no permission              │ refused
//!                     ▼                                     ▼
//!               nothing changes                       the file is removed
//! ```
//! So the file has what is in force, at every moment: the rename happens before any other change
//! of configuration can begin.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::base::files;
use crate::config::web::{ACL_FILE, CHANGES_FILE};
use crate::control::certificate_monitor::unix_seconds;
use crate::control::request::Keep;
use crate::lua::front_end::command::{Act, Mark, shorten};

/// Longest file, bytes: nothing is added to it by which it would become longer.
const BYTES_MAX: u64 = 8 << 20;
/// How much longer it may become by what sets or removes something that is there, bytes.
const RESERVE: u64 = 1 << 20;

/// How many changes were written.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The first line.
const HEAD: &str = "-- Changes by the API of dnslob, which writes this file anew with each one.";

/// How a mark begins, which stands above its line of Lua.
const MARK: &str = "--= ";

/// A change that is to be kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// The name of its file.
    pub(super) file: &'static str,
    /// What it is about.
    pub(super) mark: Mark,
    /// One line of Lua.
    pub(super) lua: String,
}

/// A line of a file, with its mark if the API has written it.
struct Line {
    mark: Option<Mark>,
    lua: String,
}

/// A file that is written and not in force yet; removed when this is dropped.
struct Written {
    temporary: PathBuf,
    file: PathBuf,
}

impl Drop for Written {
    fn drop(&mut self) {
        // Renamed, if all went well.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes a file with this change beside the present one; what is returned puts it in its place.
///
/// # Errors
/// It cannot be read or written.
pub(super) fn prepare(directory: &Path, kept: &Kept) -> io::Result<Keep> {
    let file = directory.join(kept.file);
    let text = match files::read(&file, BYTES_MAX + RESERVE) {
        Ok(text) => String::from_utf8(text).map_err(|_| io::Error::other("it is not UTF-8"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let text = with(&text, kept);
    let most = if kept.mark.act == Act::Create { BYTES_MAX } else { BYTES_MAX + RESERVE };
    if text.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("it would exceed {most} bytes")));
    }
    // Of its own name: what is left of another change must not remove it.
    let number = NUMBER.fetch_add(1, Relaxed);
    let written = Written { temporary: directory.join(format!(".{}.{number}.new", kept.file)), file };
    // As other files of a configuration, it concerns nobody but its owner.
    let mut out =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&written.temporary)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    remove_left(directory, kept.file, out.metadata()?.modified()?);
    let directory = directory.to_owned();
    Ok(Keep(Box::new(move || {
        let renamed = fs::rename(&written.temporary, &written.file);
        let synced = renamed.and_then(|()| File::open(&directory)?.sync_all());
        synced.map_err(|e| format!("{}: {e}", written.file.display()))
    })))
}

/// Removes what a process has left in this directory that was killed while it wrote.
pub(in crate::control::web) fn clean(directory: &Path) {
    let now = UNIX_EPOCH + Duration::from_secs(unix_seconds());
    [ACL_FILE, CHANGES_FILE].iter().for_each(|file| remove_left(directory, file, now));
}

/// Removes what a process has left that was killed while it wrote: files as old as no change takes.
fn remove_left(directory: &Path, file: &str, now: SystemTime) {
    const AGE: Duration = Duration::from_secs(600);
    let begins = format!(".{file}.");
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&begins)?.strip_suffix(".new"));
        let is_one = number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let changed = || entry.metadata().and_then(|data| data.modified()).ok();
        if is_one && changed().and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age > AGE) {
            // Another one may remove it too.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Returns the text of a file with a change added.
fn with(text: &str, kept: &Kept) -> String {
    let mut lines = read(text);
    lines.push(Line { mark: Some(kept.mark.clone()), lua: kept.lua.clone() });
    shorten(&mut lines, |line| &mut line.mark);
    let mut out = format!("{HEAD}\n");
    for line in lines {
        if let Some(Mark { key, act, also }) = line.mark {
            let mut mark = json!({"act": word(act), "key": key});
            if !also.is_empty() || has_others(&key) {
                mark["also"] = also.iter().map(|(key, act)| json!([word(*act), key])).collect();
            }
            out += &format!("{MARK}{mark}\n");
        }
        out += &line.lua;
        out.push('\n');
    }
    out
}

/// Reads the lines of a file; what somebody has added by hand has no mark.
fn read(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut mark = None;
    for (at, line) in text.lines().enumerate() {
        if let Some(json) = line.strip_prefix(MARK) {
            mark = serde_json::from_str::<Value>(json).ok().and_then(|json| parsed(&json));
        } else if at > 0 || line != HEAD {
            lines.push(Line { mark: mark.take(), lua: line.to_owned() });
        }
    }
    lines
}

/// Reads a mark.
fn parsed(json: &Value) -> Option<Mark> {
    let (kind, key) = (act(json.get("act")?.as_str()?)?, json.get("key")?.as_str()?.to_owned());
    let also = match json.get("also").map(Value::as_array) {
        Some(list) => {
            let other =
                |pair: &Value| Some((pair.get(1)?.as_str()?.to_owned(), act(pair.get(0)?.as_str()?)?));
            list?.iter().map(other).collect::<Option<_>>()?
        }
        // Without the rest it may be about more than that: its line stays.
        None if has_others(&key) => return None,
        None => Vec::new(),
    };
    Some(Mark { key, act: kind, also })
}

/// Whether a change of this always says what it does to other things, even if that is nothing.
fn has_others(key: &str) -> bool {
    key.starts_with("rule ") || key.starts_with("group ")
}

const fn word(act: Act) -> &'static str {
    match act {
        Act::Use => "use",
        Act::Create => "create",
        Act::Set => "set",
        Act::Remove => "remove",
    }
}

fn act(word: &str) -> Option<Act> {
    match word {
        "create" => Some(Act::Create),
        "set" => Some(Act::Set),
        "remove" => Some(Act::Remove),
        "use" => Some(Act::Use),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(key: &str, act: Act, lua: &str) -> Kept {
        Kept {
            file: "api.conf",
            mark: Mark { key: key.to_owned(), act, also: Vec::new() },
            lua: lua.to_owned(),
        }
    }

    /// A directory that is removed with its test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dnslob-store-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("a directory");
            let name =
                |e: io::Result<fs::DirEntry>| e.expect("an entry").file_name().to_string_lossy().into_owned();
            let mut names: Vec<String> = entries.map(name).collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_has_what_still_matters() {
        let mut text = String::new();
        for weight in 0..100 {
            text = with(&text, &kept("server a\n\"b\"/weight", Act::Set, &format!("w({weight})")));
        }
        text += "byhand()\n";
        text = with(&text, &kept("server c", Act::Create, "c()"));
        assert_eq!(
            text,
            "-- Changes by the API of dnslob, which writes this file anew with each one.\n\
             --= {\"act\":\"set\",\"key\":\"server a\\n\\\"b\\\"/weight\"}\nw(99)\nbyhand()\n\
             --= {\"act\":\"create\",\"key\":\"server c\"}\nc()\n"
        );
        text = with(&text, &kept("server c", Act::Remove, "gone()"));
        assert!(!text.contains("c()") && !text.contains("gone()"), "{text}");
    }

    #[test]
    fn marks_are_read_as_they_are_written() {
        let also = vec![("rule query U".to_owned(), Act::Create), ("pool p".to_owned(), Act::Use)];
        for (key, also) in [("group query g", also), ("rule query U", Vec::new()), ("server a", Vec::new())] {
            let mark = Mark { key: key.to_owned(), act: Act::Set, also };
            let kept = Kept { file: "api.conf", mark: mark.clone(), lua: "f()".to_owned() };
            let lines = read(&with("", &kept));
            assert_eq!(lines.iter().map(|line| line.mark.clone()).collect::<Vec<_>>(), [Some(mark)]);
        }
        // Nobody knows what else it was about.
        let text = "--[[ by hand\n]]\n--= {\"act\":\"create\",\"key\":\"group query g\"}\nsetRuleGroup()\n";
        let text = with(text, &kept("group query g", Act::Remove, "clearRuleGroup()"));
        assert!(text.contains("\nsetRuleGroup()\n") && text.contains("\nclearRuleGroup()\n"), "{text}");
        assert!(text.contains("\n--[[ by hand\n]]\n"), "{text}");
    }

    #[test]
    fn what_is_left_of_a_change_does_not_harm_the_next() {
        let directory = Directory::new("next");
        let refused = prepare(&directory.0, &kept("acl", Act::Set, "first()")).expect("written");
        let next = prepare(&directory.0, &kept("acl", Act::Set, "second()")).expect("written");
        drop(refused);
        (next.0)().expect("renamed");
        assert!(fs::read_to_string(directory.0.join("api.conf")).expect("a file").ends_with("second()\n"));
        assert_eq!(directory.names(), ["api.conf"]);
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed() {
        let directory = Directory::new("left");
        let at = |name: &str| directory.0.join(name);
        let names =
            [".acl.conf.0.new", ".api.conf.0.new", ".api.conf.12.new", ".api.conf.13.new", ".api.conf.new"];
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        for name in names {
            let file = File::create(at(name)).expect("a file");
            if name != ".api.conf.13.new" {
                file.set_modified(long_ago).expect("older");
            }
        }
        (prepare(&directory.0, &kept("acl", Act::Set, "f()")).expect("written").0)().expect("renamed");
        assert_eq!(directory.names(), [".acl.conf.0.new", ".api.conf.13.new", ".api.conf.new", "api.conf"]);
        // A start does that without a change.
        clean(&directory.0);
        assert_eq!(directory.names(), [".api.conf.13.new", ".api.conf.new", "api.conf"]);
    }

    #[test]
    fn what_is_refused_leaves_no_trace() {
        let directory = Directory::new("refused");
        let change = kept("acl", Act::Set, "setACL({})");
        drop(prepare(&directory.0, &change).expect("written"));
        assert_eq!(directory.names(), [""; 0]);
        (prepare(&directory.0, &change).expect("written").0)().expect("renamed");
        assert_eq!(directory.names(), ["api.conf"]);
        assert!(fs::read_to_string(directory.0.join("api.conf")).expect("a file").ends_with("setACL({})\n"));
        let nowhere = prepare(&directory.0.join("nowhere"), &change).expect_err("an error");
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
        let lua = "x".repeat(BYTES_MAX as usize);
        let full = prepare(&directory.0, &kept("pool p", Act::Create, &lua)).expect_err("an error");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(directory.names(), ["api.conf"]);
        // What is there can be set and removed, within another limit.
        (prepare(&directory.0, &kept("rule query a", Act::Set, &lua)).expect("written").0)()
            .expect("renamed");
        (prepare(&directory.0, &kept("rule query b", Act::Remove, "g()")).expect("written").0)()
            .expect("renamed");
        let all = "x".repeat((BYTES_MAX + RESERVE) as usize);
        let full = prepare(&directory.0, &kept("rule query a", Act::Set, &all)).expect_err("an error");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
