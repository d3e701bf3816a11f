//! What the compiler cannot check of the source: modules keep to themselves, nothing is left
//! undocumented, no file grows without end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dnslob::stats::drop_reason::DropReason;

/// Non-test lines above which a file of `src/` should give some of its state a module of its own.
const LINES_MAX: usize = 600;
/// Files that are longer all the same, and how long they may be; such a figure may only fall.
const LONG: &[(&str, usize)] = &[("src/config/options.rs", 1_500)];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a directory with one of these extensions, as paths from the root.
fn files(below: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(below)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a directory entry").path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                if name != "target" && name != ".git" && name != "__pycache__" {
                    open.push(path);
                }
            } else if extensions.iter().any(|e| name.rsplit('.').next() == Some(e)) {
                let relative = path.strip_prefix(root()).unwrap();
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The product's code of a file: without its test module at the end, and without comments.
fn code(text: &str) -> String {
    let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
    let lines = product.lines().map(|l| l.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Panics with every complaint at once.
fn none(what: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{what}:\n  {}", complaints.join("\n  "));
}

#[test]
fn every_drop_reason_is_documented() {
    for reason in DropReason::ALL {
        let doc = reason.doc().trim();
        assert!(doc.len() > 10 && doc.ends_with('.'), "{reason:?}: {doc:?} is no sentence");
        let label = reason.label();
        assert!(
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{reason:?}: the label {label:?} is not lower case words with hyphens"
        );
        let same = DropReason::ALL.iter().filter(|r| r.label() == label).count();
        assert_eq!(same, 1, "the label {label} is used {same} times");
    }
}

#[test]
fn the_map_names_every_module() {
    let map = |file: &str| -> String { read(file).lines().filter(|l| l.starts_with("//!")).collect() };
    let (all, tools) = (map("src/lib.rs"), map("src/tools/mod.rs"));
    let mut missing = Vec::new();
    for path in files("src", &["rs"]) {
        if is_test(&path) || path == "src/lib.rs" {
            continue;
        }
        let map = if path.starts_with("src/tools/") && path != "src/tools/mod.rs" { &tools } else { &all };
        // A directory's mod.rs is the directory itself; a file inside one is named without it.
        let parts: Vec<&str> = path.trim_start_matches("src/").split('/').collect();
        let name = match parts.as_slice() {
            [.., directory, "mod.rs"] => format!("{directory}/"),
            [.., file] => (*file).to_owned(),
            [] => continue,
        };
        if !map.contains(&name) {
            missing.push(format!("{path} ({name})"));
        }
    }
    none("the maps in src/lib.rs and src/tools/mod.rs do not name", &missing);
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<_> = files("src", &["rs"])
        .into_iter()
        .chain(files("tests", &["rs"]).into_iter().filter(|p| !p.contains("fuzz_targets")))
        .filter(|p| !is_test(p) || p.starts_with("tests/"))
        .filter(|p| !read(p).starts_with("//!"))
        .collect();
    none("files that do not open with a description", &silent);
}

/// A target's body is compiled and run by `tests/fuzz_smoke.rs`; that cargo-fuzz finds it, and calls
/// nothing else, is seen from its text, without a build with libFuzzer.
#[test]
fn every_fuzz_target_is_run_by_tests_and_by_cargo_fuzz() {
    let (manifest, smoke) = (read("tests/fuzz/Cargo.toml"), read("tests/fuzz_smoke.rs"));
    let mut wrong = Vec::new();
    let bodies = files("tests/fuzz/targets", &["rs"]);
    assert!(!bodies.is_empty());
    for path in &bodies {
        let name = Path::new(path).file_stem().unwrap().to_string_lossy();
        let wrapper = format!(
            "#![no_main]\n\n#[path = \"../targets/{name}.rs\"]\nmod {name};\n\n\
             libfuzzer_sys::fuzz_target!(|data: &[u8]| {name}::target(data));\n"
        );
        if fs::read_to_string(root().join(format!("tests/fuzz/fuzz_targets/{name}.rs"))).ok() != Some(wrapper)
        {
            wrong.push(format!("tests/fuzz/fuzz_targets/{name}.rs does not call its body as the others do"));
        }
        let binary = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        if !manifest.contains(&binary) {
            wrong.push(format!("tests/fuzz/Cargo.toml has no binary {name}"));
        }
        if !smoke.contains(&format!("#[path = \"fuzz/targets/{name}.rs\"]\nmod {name};"))
            || !smoke.contains(&format!("{name}::target"))
        {
            wrong.push(format!("tests/fuzz_smoke.rs does not run {name}"));
        }
    }
    assert_eq!(files("tests/fuzz/fuzz_targets", &["rs"]).len(), bodies.len());
    none("fuzz targets that are not complete", &wrong);
}

#[test]
fn unsafe_code_is_in_the_engine_with_its_reasons() {
    let mut wrong = Vec::new();
    for path in files("src", &["rs"]) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let statement = line.split("//").next().unwrap();
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|u| statement.contains(u));
            if !is_unsafe {
                continue;
            }
            if !["src/engine/", "src/lua/ffi/"].iter().any(|home| path.starts_with(home)) {
                wrong.push(format!("{path}:{}: unsafe outside src/engine/ and src/lua/ffi/", at + 1));
            }
            let before = &lines[at.saturating_sub(8)..=at];
            if !before.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
                wrong.push(format!("{path}:{}: unsafe without SAFETY", at + 1));
            }
        }
    }
    none("unsafe", &wrong);
}

/// The packet path: no I/O, no contended atomic.
const PACKET_PATH: &[&str] = &["src/shard", "src/rules", "src/balance", "src/compare", "src/wire"];

/// Words that a module may not use, and why. Clocks, randomness, locks and unordered iteration are
/// clippy's: scripts/lint/clippy.toml.
const FORBIDDEN: &[(&[&str], &[&str], &str)] = &[
    (
        PACKET_PATH,
        &["UdpSocket", "TcpStream", "TcpListener", "std::fs", "std::io", "libc::", "nix::", "socket2::"],
        "no I/O inside the packet path",
    ),
    (
        PACKET_PATH,
        &["fetch_add", "fetch_sub", "compare_exchange", "SeqCst"],
        "no contended atomic on the packet path",
    ),
    (PACKET_PATH, &["mlua"], "scripts are called through a trait"),
    (&["src/tls"], &["TcpStream", "TcpListener", "UdpSocket", "thread::"], "TLS is bytes: it has no sockets"),
    (PACKET_PATH, &["HashMap", "println!", "eprintln!", "dbg!"], "no map of random order, no output"),
    (&["src"], &["todo!(", "unimplemented!("], "no panic in wait"),
];

/// Uses of forbidden words that have their reason beside them.
const EXCEPTIONS: &[(&str, &str)] = &[
    // One bucket for all shards, written about a hundred times a second by each.
    ("src/rules/limits/bucket.rs", "compare_exchange"),
    // A client's bucket: contended only if its queries reach several shards at once.
    ("src/rules/limits/deadlines.rs", "compare_exchange"),
    // Only looked up.
    ("src/shard/relay/flows.rs", "HashMap"),
];

#[test]
fn modules_keep_to_themselves() {
    let mut wrong = Vec::new();
    for (modules, words, why) in FORBIDDEN {
        for path in modules.iter().flat_map(|module| files(module, &["rs"])).filter(|p| !is_test(p)) {
            let text = code(&read(&path));
            for (at, line) in text.lines().enumerate() {
                for word in words.iter().filter(|w| line.contains(**w)) {
                    if EXCEPTIONS.contains(&(path.as_str(), *word)) {
                        continue;
                    }
                    wrong.push(format!("{path}:{}: {word} ({why})", at + 1));
                }
            }
        }
    }
    none("modules", &wrong);
}

/// Which modules each module may use. What points to another points nowhere back, so there is no
/// circle; `engine::sys` and `engine::clock` are what Lua's limits need of the system.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("tls", &["base"]),
    ("stats", &["base", "compare", "tls", "wire"]),
    ("rules", &["base", "stats", "wire"]),
    ("cache", &["base", "stats", "wire"]),
    ("compare", &["base", "wire"]),
    ("model", &["base", "cache", "rules", "stats", "tls"]),
    ("balance", &["base", "model", "rules", "stats", "wire"]),
    ("shard", &["balance", "base", "cache", "compare", "model", "rules", "stats", "tls", "wire"]),
    ("engine", &["base", "model", "shard", "stats", "tls", "wire"]),
    ("config", &["base", "cache", "compare", "model", "rules", "stats", "tls", "wire"]),
    (
        "lua",
        &[
            "base",
            "cache",
            "config",
            "engine::clock",
            "engine::sys",
            "model",
            "rules",
            "stats",
            "tls",
            "wire",
        ],
    ),
    (
        "control",
        &[
            "balance", "base", "cache", "compare", "config", "engine", "lua", "model", "rules", "shard",
            "stats", "tls", "wire",
        ],
    ),
    (
        "tools",
        &["base", "compare", "config", "control", "engine", "lua", "model::console", "stats", "tls", "wire"],
    ),
];

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for path in files("src", &["rs"]).into_iter().filter(|p| !is_test(p) && !p.ends_with("/fixture.rs")) {
        let Some((from, _)) = path.trim_start_matches("src/").split_once('/') else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == from) else {
            wrong.push(format!("{path}: {from} has no arrows"));
            continue;
        };
        for (at, line) in code(&read(&path)).lines().enumerate() {
            for to in line.split("crate::").skip(1) {
                let end = to.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(to.len());
                let to = to[..end].trim_end_matches(':');
                let is_own = to.split("::").next() == Some(from);
                let may = |m: &str| to == m || to.starts_with(&format!("{m}::"));
                if !is_own && !allowed.iter().any(|m| may(m)) {
                    wrong.push(format!("{path}:{}: {from} uses {to}", at + 1));
                }
            }
        }
    }
    none("arrows", &wrong);
}

/// Folders whose files may use each other in a circle: a network and what happens on it, and the
/// context of a configuration and what a configuration contains.
const CIRCLES: [&str; 2] = ["engine::sim", "lua::front_end"];

/// A module and its parent are one thing in several files; any other two files depend on each other
/// in one direction, at any distance.
#[test]
fn files_do_not_depend_on_each_other_in_circles() {
    let module = |path: &str| {
        let name = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        name.replace('/', "::")
    };
    let sources = files("src", &["rs"]).into_iter().filter(|p| !is_test(p) && !p.ends_with("/fixture.rs"));
    let modules: BTreeMap<String, String> = sources.map(|path| (module(&path), code(&read(&path)))).collect();
    let within = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}::"));
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, text) in &modules {
        let used = imports(text).into_iter().filter_map(|path| {
            let mut module = path.as_str();
            while !modules.contains_key(module) {
                module = module.rsplit_once("::")?.0;
            }
            modules.get_key_value(module).map(|(key, _)| key.as_str())
        });
        let apart = |other: &&str| !within(other, name) && !within(name, other);
        let excepted = |other: &&str| CIRCLES.iter().any(|c| within(name, c) && within(other, c));
        uses.insert(name, used.filter(apart).filter(|other| !excepted(other)).collect());
    }
    // What uses nothing that is left is in no circle.
    while let Some(done) = uses.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| *name) {
        uses.remove(done);
        for used in uses.values_mut() {
            used.remove(done);
        }
    }
    // What nothing that is left uses is in none either.
    while let Some(done) = uses.keys().copied().find(|name| !uses.values().any(|used| used.contains(name))) {
        uses.remove(done);
    }
    none(
        "files in a circle",
        &uses.iter().map(|(name, used)| format!("{name}: {used:?}")).collect::<Vec<_>>(),
    );
}

/// Returns every path that the text names from the root of the crate, those of groups included.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in text.split("crate::").skip(1) {
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
        let (base, rest) = path.split_at(end);
        match (base.strip_suffix("::"), rest.strip_prefix('{').and_then(|r| r.split_once('}'))) {
            (Some(base), Some((group, _))) => {
                found.extend(group.split(',').map(|item| format!("{base}::{}", item.trim())));
            }
            _ => found.push(base.to_owned()),
        }
    }
    found
}

#[test]
fn one_word_per_thing() {
    let mut wrong = Vec::new();
    for path in files("src", &["rs"]) {
        for (at, line) in code(&read(&path)).lines().enumerate() {
            let lower = line.to_lowercase();
            // dnsdist's own function names, and a library's, are not ours to choose.
            let foreign = line.contains('"') || line.contains("rustyline");
            for word in ["upstream", "downstream"] {
                if lower.contains(word) && !foreign {
                    wrong.push(format!("{path}:{}: {word} (say client or backend)", at + 1));
                }
            }
            for part in ["fn get_", "Manager ", "Handler ", "Util ", "Helper ", "mod common", "mod utils"] {
                // `get_mut` beside `get` is the standard library's name.
                if line.contains(part) && !foreign && !line.contains("fn get_mut(") {
                    wrong.push(format!("{path}:{}: {part}", at + 1));
                }
            }
        }
    }
    none("words", &wrong);
}

#[test]
fn no_file_grows_without_end() {
    let mut long = Vec::new();
    for path in files("src", &["rs"]).into_iter().filter(|p| !is_test(p)) {
        let limit = LONG.iter().find(|(long, _)| *long == path).map_or(LINES_MAX, |(_, lines)| *lines);
        let text = read(&path);
        let lines = text.split("\n#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        if lines > limit {
            long.push(format!("{path}: {lines} lines, at most {limit}"));
        }
    }
    none("long files", &long);
}

#[test]
fn nothing_tells_of_one_machine() {
    let kinds = ["rs", "md", "toml", "lua", "py", "c", "h", "sh", "csv", "yml", "service", "scn"];
    let mut told = Vec::new();
    for path in files("", &kinds).into_iter().filter(|p| p != "tests/tidy.rs") {
        for (at, line) in read(&path).lines().enumerate() {
            for word in ["/root/", "/home/", "/work/", "/wt/", "/Users/"] {
                if line.contains(word) {
                    told.push(format!("{path}:{}: {word}", at + 1));
                }
            }
        }
    }
    none("paths of somebody's machine", &told);
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for path in files("", &["md"]) {
        let text = read(&path);
        let home = Path::new(&path).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !root().join(&home).join(target).exists() {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    none("broken links", &broken);
}
