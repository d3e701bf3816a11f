//! The documents say what the program does: lists that are written by hand are held to its tables.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use dnslob::base::time::TickDelta;
use dnslob::config;
use dnslob::config::{Flags, Slots};
use dnslob::lua::front_end;
use dnslob::model::policy::Concentrate;
use dnslob::stats::registry::METRIC_SETS;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_metric_and_every_reason_is_in_the_statistics() {
    let text = read("docs/metrics.md");
    for metric in METRIC_SETS.iter().flat_map(|set| set.metrics) {
        let row = format!("| {} | {} | {} |", metric.kind.label(), metric.unit.label(), metric.help);
        let of = |l: &&str| l.starts_with(&format!("| `{}", metric.name)) && l.ends_with(&row);
        assert!(text.lines().any(|l| of(&l)), "docs/metrics.md has no row for {}", metric.name);
        for (label, doc) in metric.reasons {
            assert!(text.contains(&format!("\n| `{label}` | {doc} |\n")), "{}: {label}", metric.name);
        }
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

/// Every document that people write, as paths from the root.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["", "docs/", "docs/how-to/", "perf/"] {
        let path = format!("{}/{directory}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(path).expect("a directory") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if name.ends_with(".md") {
                found.push(format!("{directory}{name}"));
            }
        }
    }
    found
}

/// What the documents' configurations find in `/etc/dnslob/`: a list of names, certificates and keys.
fn files_of_the_documents(home: &std::path::Path) {
    std::fs::create_dir_all(home.join("tls")).expect("a directory");
    std::fs::write(home.join("blocked.txt"), "ads.example\ntracker.example\n").expect("written");
    let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).expect("a certificate");
    for (name, text) in [
        ("fullchain.pem", made.cert.pem()),
        ("ecdsa.pem", made.cert.pem()),
        ("rsa.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("ecdsa.key", made.signing_key.serialize_pem()),
        ("rsa.key", made.signing_key.serialize_pem()),
    ] {
        std::fs::write(home.join("tls").join(name), text).expect("written");
    }
}

#[test]
fn every_configuration_in_the_documents_is_good() {
    let home = std::env::temp_dir().join(format!("dnslob-documents-{}", std::process::id()));
    files_of_the_documents(&home);
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        for block in read(&document).split("```lua\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let path = home.join(format!("{checked}.lua"));
            let here = format!("{}/", home.display());
            std::fs::write(&path, text.replace("/etc/dnslob/", &here)).expect("written");
            let flags = Flags { file: Some(path), ..Flags::default() };
            let outcome = front_end::load(&flags)
                .and_then(|loaded| config::compile(&loaded.draft, &Slots::default(), 1).map(drop));
            for error in outcome.err().unwrap_or_default() {
                wrong.push(format!("{document}: {error}\n{text}"));
            }
            checked += 1;
        }
    }
    std::fs::remove_dir_all(&home).expect("removed");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 40, "only {checked} found");
}

/// Splits a command line as a shell does, as far as the documents use it: single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (part, text) in line.split('\'').enumerate() {
        if part % 2 == 1 {
            words.last_mut().unwrap().push_str(text);
            continue;
        }
        for (number, word) in text.split(' ').enumerate() {
            if number > 0 {
                words.push(String::new());
            }
            words.last_mut().unwrap().push_str(word);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_line_in_the_documents_is_understood() {
    let mut checked = 0;
    for document in documents() {
        let mut in_block = false;
        for line in read(&document).lines() {
            in_block ^= line.starts_with("```");
            // Words in front of the program set its environment.
            let is_command = |at: &usize| line[..*at].split(' ').all(|w| w.is_empty() || w.contains('='));
            let Some(at) = line.find("dnslob ").filter(is_command).filter(|_| in_block) else { continue };
            let words = words(&line[at..]).into_iter().take_while(|w| !["&", ">", "|"].contains(&w.as_str()));
            if let Err(error) = config::flags::parse(words) {
                panic!("{document}: {line}\n{error}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} found");
}

#[test]
fn every_example_is_a_good_configuration() {
    let directory = format!("{}/examples", env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for entry in std::fs::read_dir(directory).expect("examples") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "lua") {
            continue;
        }
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dnslob"));
        let outcome = command.arg("--check-config").arg("-C").arg(&path).output().expect("it runs");
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success(), "{}:\n{said}", path.display());
        checked += 1;
    }
    assert!(checked >= 4, "only {checked} found");
}
