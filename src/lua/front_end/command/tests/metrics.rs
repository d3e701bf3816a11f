//! Metrics that commands declare.

use super::*;
use crate::stats::custom_metrics::{self, CustomKind};

fn kind(name: &str) -> Option<CustomKind> {
    custom_metrics::all().list().iter().find(|metric| metric.name == name).map(|metric| metric.kind)
}

#[test]
fn a_command_that_fails_declares_nothing() {
    let console = Console::new("");
    for failing in [
        "declareMetric('con-odd', 'counter', 'd') error('x')",
        "declareMetric('con-odd', 'counter', 'd') newServer('nonsense')",
        "for i = 1, 1100 do declareMetric('con-many' .. i, 'gauge', 'd') end",
    ] {
        console.error(failing);
        assert!(kind("con-odd").is_none() && kind("con-many1").is_none(), "{failing}");
    }
    assert!(console.error("incMetric('con-odd')").contains("the metric is not declared"));
    assert_eq!(console.reply("declareMetric('con-odd', 'gauge', 'd')"), "true\n");
    assert_eq!(kind("con-odd"), Some(CustomKind::Gauge));
    assert_eq!(console.reply("declareMetric('con-odd', 'gauge', 'd') return incMetric('con-odd', 3)"), "3\n");
    assert!(console.error("declareMetric('con-odd', 'counter', 'd')").contains("was declared otherwise"));
}

#[test]
fn what_a_change_declares_comes_with_it() {
    let console = Console::new("");
    let text = "declareMetric('con-with', 'counter', 'd') incMetric('con-with', 2) addACL('192.0.2.77')";
    let ran = console.run(text);
    assert!(ran.reply.is_ok() && ran.draft.is_some() && kind("con-with").is_none(), "not in force yet");
    console.lua.settle(false);
    assert!(console.error("incMetric('con-with')").contains("the metric is not declared"));
    let draft = console.change(text);
    let metric = draft.metrics.metric("con-with").expect("declared");
    assert_eq!(metric.values(), [(Vec::new(), 2.0)]);
    assert_eq!(console.reply("getMetric('con-with')"), "2\n");
}
