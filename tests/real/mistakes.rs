//! Invalid configurations: each mistake has one message with file and line, and the exit code is
//! not 0.

use crate::instance::run;
use crate::place::Directory;

/// A configuration, and per invalid line the texts that its message must contain.
const CASES: &[(&str, &[(u32, &str)])] = &[
    ("newServer {address=\"nonsense\"}\n", &[(1, "nonsense")]),
    ("newServer {address=\"127.0.0.1:99999\"}\n", &[(1, "127.0.0.1:99999")]),
    // An unknown name is nil in Lua.
    ("\n\nsetServerPolicy(noSuchPolicy)\n", &[(3, "setServerPolicy")]),
    ("setStrict(true) newServer {address=\"127.0.0.1\", noSuchArgument=1}\n", &[(1, "noSuchArgument")]),
    ("newServer {address=\"127.0.0.1\", weight='heavy'}\n", &[(1, "weight")]),
    ("addLocal(\"127.0.0.1:x\")\nnewServer(\"127.0.0.1\")\n", &[(1, "127.0.0.1:x")]),
    ("setACL({\"10.0.0.0/99\"})\nnewServer(\"127.0.0.1\")\n", &[(1, "10.0.0.0/99")]),
    ("newServer(\n", &[(2, "")]),
    ("newServer {}\n", &[(1, "address")]),
    ("noSuchFunction()\n", &[(1, "noSuchFunction")]),
    ("error(\"on purpose\")\n", &[(1, "on purpose")]),
    // A function of dnsdist that this version lacks: reported by name.
    ("newServer(\"127.0.0.1\")\naddDOQLocal(\"127.0.0.1:8853\")\n", &[(2, "addDOQLocal")]),
    // Two mistakes together.
    (
        "newServer {address=\"nonsense\"}\nnewServer {address=\"127.0.0.1\", weight='heavy'}\n",
        &[(1, "nonsense"), (2, "weight")],
    ),
];

#[test]
fn every_mistake_is_named_with_file_and_line() {
    let directory = Directory::new();
    for (text, mistakes) in CASES {
        let path = directory.write("broken.lua", text);
        let path = path.to_str().expect("a path in UTF-8");
        for arguments in [&["--check-config", "-C", path][..], &["-C", path]] {
            let (status, output) = run(arguments);
            assert!(
                !status.success() && status.code().is_some(),
                "{text:?} with {arguments:?}: {status}\n{output}"
            );
            for (line, named) in *mistakes {
                let place = format!("broken.lua:{line}");
                assert!(
                    output.lines().any(|l| l.contains(&place) && l.contains(named)),
                    "{text:?}: no message about {named} at {place}\n{output}"
                );
            }
            assert!(!output.contains("panicked"), "{text:?}\n{output}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let (status, output) = run(&["--check-config", "-C", "/nonexistent/dnslob.lua"]);
    assert!(!status.success() && output.contains("/nonexistent/dnslob.lua"), "{output}");
}

#[test]
fn a_file_without_end_is_refused() {
    let (status, output) = run(&["--check-config", "-C", "/dev/zero"]);
    assert!(!status.success(), "{output}");
    assert_eq!(output.trim(), "/dev/zero: cannot read \"/dev/zero\": it is larger than 64 MiB");
    let (status, output) = run(&["--check-config", "-C", "/dev/null"]);
    assert!(status.success(), "{output}");
}

#[test]
fn unknown_flags_are_refused() {
    let (status, output) = run(&["--no-such-flag"]);
    assert!(!status.success() && output.contains("--no-such-flag"), "{output}");
}

#[test]
fn a_good_configuration_passes_the_check() {
    let directory = Directory::new();
    // From the documentation of the format, which gives each line in the notation of its field.
    let text = "newServer {address=\"2001:4860:4860::8888\", qps=1}\n\
                newServer {address=\"2001:4860:4860::8844\", qps=1}\n\
                newServer {address=\"2620:0:ccc::2\", qps=10}\n\
                newServer {address=\"2620:0:ccd::2\", qps=10}\n\
                newServer(\"192.168.1.2\")\n\
                setServerPolicy(firstAvailable) -- first server within its QPS limit\n";
    let path = directory.write("good.lua", text);
    let (status, output) = run(&["--check-config", "-C", path.to_str().expect("a path in UTF-8")]);
    assert!(status.success(), "{output}");
}
