//! The documents say what the program does: lists that are written by hand are held to its tables.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use dnslob::config::functions::POLICIES;
use dnslob::config::options::SETTINGS;
use dnslob::shard::verdict::DropReason;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_drop_reason_is_in_the_operators_table() {
    let text = read("docs/operations.md");
    let rows: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).collect();
    let expected: Vec<_> =
        DropReason::ALL.iter().map(|r| format!("| `{}` | {} |", r.label(), r.doc().trim())).collect();
    assert_eq!(rows, expected);
}

#[test]
fn every_policy_is_in_the_readme() {
    let text = read("README.md");
    for policy in POLICIES {
        assert!(text.contains(&format!("| `{policy}`")), "{policy}");
    }
}

#[test]
fn what_takes_a_restart_is_said() {
    let text = read("docs/configuration.md");
    let row = text.lines().find(|l| l.contains("need a restart")).expect("a row on restarts");
    for setting in &SETTINGS {
        let said = row.contains(&format!("`{}`", setting.name));
        assert_eq!(said, !setting.reload, "{}", setting.name);
    }
}

#[test]
fn every_option_of_concentrate_is_in_the_tuning_guide() {
    let text = read("tuning.md");
    for option in [
        "fullFactor",
        "fullMargin",
        "fullTimeouts",
        "capFactor",
        "raiseFactor",
        "raiseInterval",
        "goodFactor",
        "shrinkLoad",
        "shrinkAfter",
        "joinShare",
        "joinDouble",
        "standbyShare",
        "spreadAfterDeath",
        "window",
        "floorSpan",
    ] {
        assert!(text.contains(&format!("| `{option}` |")), "{option}");
    }
}
