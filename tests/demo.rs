//! Runs the built `dnslob demo`: it must report the outage, and its summary must add up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

/// Returns the text behind a label of the summary.
fn field<'a>(text: &'a str, label: &str) -> &'a str {
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix(label).filter(|r| r.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no line {label:?} in\n{text}")).trim()
}

/// Parses the number at the start of a text, without its commas.
fn number(text: &str) -> u64 {
    let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

#[test]
fn the_demo_adds_up() {
    // A low rate: the test checks sums, not speed, and shares its machine with others.
    let run = Command::new(env!("CARGO_BIN_EXE_dnslob"))
        .args(["demo", "--seconds", "3", "--rate", "3000", "--backends", "3"])
        .output()
        .expect("it runs");
    let (text, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{:?}\n{text}\n{errors}", run.status);
    assert!(!text.contains('\x1b'), "no escapes where there is no terminal");

    let [sent, answered, lost] = ["sent", "answered", "lost"].map(|label| number(field(&text, label)));
    assert!(sent > 3_000, "at least a third of the offered load: {sent}");
    assert_eq!(sent, answered + lost, "{text}");
    let reasons: u64 = field(&text, "lost")
        .split_once(':')
        .map_or(0, |(_, list)| list.split(',').map(|r| number(r.rsplit(' ').next().unwrap())).sum());
    assert_eq!(lost, reasons, "every loss has its reason: {text}");

    assert!(text.contains("b2 falls silent"), "{text}");
    assert!(field(&text, "outage").starts_with("b2 fell silent and was out of use"), "{text}");
    let shares: f64 =
        field(&text, "share").split("  ").map(|s| s.split(' ').nth(1).unwrap().parse::<f64>().unwrap()).sum();
    assert!((shares - 100.0).abs() < 0.5, "{text}");
}

#[test]
fn with_a_cache_backends_get_fewer_queries_and_the_sum_is_right() {
    let run = Command::new(env!("CARGO_BIN_EXE_dnslob"))
        .args(["demo", "--seconds", "3", "--rate", "3000", "--cache"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{:?}\n{text}", run.status);
    let cached = number(field(&text, "cache"));
    assert!(cached > number(field(&text, "answered")) / 10, "popular names are asked again: {text}");
}

#[test]
fn a_duration_too_short_for_an_outage_is_refused() {
    let run = Command::new(env!("CARGO_BIN_EXE_dnslob"))
        .args(["demo", "--seconds", "1"])
        .output()
        .expect("it runs");
    assert!(!run.status.success());
    assert!(!run.stderr.is_empty());
}
