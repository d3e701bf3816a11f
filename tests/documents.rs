//! The documents say what the program does: lists that are written by hand are held to its tables.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use dnslob::base::time::TickDelta;
use dnslob::config;
use dnslob::config::functions::POLICIES;
use dnslob::config::options::SETTINGS;
use dnslob::config::{Flags, Slots};
use dnslob::lua::front_end;
use dnslob::model::policy::Concentrate;
use dnslob::stats::close_reason::{BackendCloseReason, ClientCloseReason, RelayCloseReason};
use dnslob::stats::drop_reason::DropReason;
use dnslob::tls::Reason;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_reason_is_in_the_operators_tables() {
    let text = read("docs/operations.md");
    let (drops, connections) = text.split_once("## Connections").expect("a section on connections");
    let (connections, forwards) = connections.split_once("## Forwards").expect("a section on forwards");
    let rows = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.starts_with("| `")).map(str::to_owned).collect()
    };
    let expected: Vec<_> =
        DropReason::ALL.iter().map(|r| format!("| `{}` | {} |", r.label(), r.doc().trim())).collect();
    assert_eq!(rows(drops), expected);
    let expected: Vec<_> =
        RelayCloseReason::ALL.iter().map(|r| format!("| `{}` | {} |", r.label(), r.doc().trim())).collect();
    assert_eq!(rows(forwards), expected);
    let row = |label: &str, doc: &str| format!("| `{label}` | {} |", doc.trim());
    let expected: Vec<_> = ClientCloseReason::ALL
        .iter()
        .map(|r| row(r.label(), r.doc()))
        .chain(BackendCloseReason::ALL.iter().map(|r| row(r.label(), r.doc())))
        .chain(Reason::ALL.iter().map(|r| row(r.label(), r.doc())))
        .collect();
    assert_eq!(rows(connections), expected);
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
fn every_default_of_concentrate_is_in_the_tuning_guide() {
    let text = read("tuning.md");
    let d = Concentrate::default();
    let us = |t: TickDelta| format!("{}us", t.0 / 1_000);
    let ms = |t: TickDelta| format!("{}ms", t.0 / 1_000_000);
    let seconds = |t: TickDelta| format!("{}s", t.0 / 1_000_000_000);
    for (option, default) in [
        ("fullFactor", d.full_factor.to_string()),
        ("fullMargin", us(d.full_margin)),
        ("fullTimeouts", (d.full_timeouts_ppm / 10_000).to_string()),
        ("capFactor", d.cap_factor.to_string()),
        ("raiseFactor", d.raise_factor.to_string()),
        ("raiseInterval", seconds(d.raise_interval)),
        ("goodFactor", d.good_factor.to_string()),
        ("shrinkLoad", d.shrink_load.to_string()),
        ("shrinkAfter", seconds(d.shrink_after)),
        ("joinShare", d.join_share.to_string()),
        ("joinDouble", seconds(d.join_double)),
        ("standbyShare", d.standby_share.to_string()),
        ("spreadAfterDeath", seconds(d.spread_after_death)),
        ("window", ms(d.window)),
        ("floorSpan", seconds(d.floor_span)),
    ] {
        let row = format!("| `{option}` | {default} |");
        assert!(text.contains(&row), "tuning.md has no row {row}");
    }
}

#[test]
fn every_configuration_in_the_documents_is_good() {
    let mut checked = 0;
    for document in ["README.md", "docs/configuration.md", "docs/operations.md", "tuning.md"] {
        for block in read(document).split("```lua\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let name = format!("dnslob-document-{}-{checked}.lua", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).expect("written");
            let flags = Flags { file: Some(path.clone()), ..Flags::default() };
            let outcome = front_end::load(&flags)
                .and_then(|loaded| config::compile(&loaded.draft, &Slots::default(), 1).map(drop));
            std::fs::remove_file(&path).expect("removed");
            let errors = outcome.err().unwrap_or_default();
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert!(errors.is_empty(), "{document}:\n{text}\n{errors:#?}");
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} found");
}
