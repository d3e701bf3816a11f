//! A real Prometheus scrapes dnslob: the alerts fire, and the dashboard's queries are understood.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::place::{Directory, wait_for};
use crate::process::{self, Program};
use crate::web::{local, open_web};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// The alerts with spans that a test can wait for.
fn hasty_rules() -> String {
    let rules = std::fs::read_to_string(format!("{DEPLOY}/prometheus/dnslob.rules.yml")).expect("the rules");
    [("[5m]", "[4s]"), ("[2m]", "[4s]"), ("[15m]", "[10s]"), ("for: 5m", "for: 1s"), ("for: 1m", "for: 1s")]
        .iter()
        .fold(rules, |rules, (from, to)| rules.replace(from, to))
}

/// Starts Prometheus, which scrapes this web server; `more` are further arguments.
fn start(directory: &Directory, at: SocketAddr, web: SocketAddr, more: &[&str]) -> Program {
    directory.write("rules.yml", &hasty_rules());
    let config = directory.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             \x20 - job_name: dnslob\n\
             \x20   static_configs: [{{targets: ['{web}']}}]\n"
        ),
    );
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address={at}"))
        .args(more);
    Program::start(&mut command)
}

/// Asks Prometheus; none while it does not answer.
fn ask(at: SocketAddr, path: &str, query: Option<&str>) -> Option<serde_json::Value> {
    let url = format!("http://{at}/api/v1/{path}");
    let query = query.map(|query| format!("query={query}"));
    let mut arguments = vec!["-s", "--max-time", "10", &url];
    if let Some(query) = &query {
        arguments.extend(["--data-urlencode", query]);
    }
    let (status, text) = process::run("curl", &arguments);
    if status.success() { serde_json::from_str(&text).ok() } else { None }
}

/// The names of the alerts that fire.
fn firing(at: SocketAddr) -> Vec<String> {
    let answer = ask(at, "alerts", None).unwrap_or_default();
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    firing.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect()
}

/// The queries of the dashboard, as Grafana sends them.
fn dashboard_queries() -> Vec<String> {
    let text = std::fs::read_to_string(format!("{DEPLOY}/grafana/dnslob.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().expect("a query"));
    queries.map(|query| query.replace("$__rate_interval", "4s").replace("$instance", ".*")).collect()
}

#[test]
fn a_real_prometheus_tells_of_slow_servers_and_refused_reloads() {
    let slow = Backend::start(1, Behaviour::After(Duration::from_millis(150)));
    let (dns, web, at, directory) = (local(), local(), local(), Directory::new());
    let instance = Instance::start(&(listen(dns) + &backend(slow.address, "") + &open_web(web)));
    let prometheus = start(&directory, at, web, &[]);
    let load =
        Load::start(Plan { target: dns, rate: 100, count: u64::MAX, patience: Duration::from_secs(4) });
    wait_for(
        || format!("{:?}\n{}", firing(at), prometheus.transcript()),
        || firing(at).iter().any(|name| name == "DnslobLatencyHigh").then_some(()),
    );
    assert_eq!(firing(at), ["DnslobLatencyHigh"], "and nothing else is wrong");
    let queries = dashboard_queries();
    assert!(queries.len() > 40, "{queries:?}");
    let mut answered = 0;
    for query in &queries {
        let answer = ask(at, "query", Some(query)).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answered += usize::from(answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()));
    }
    // What is about TLS, drops and the like has nothing to show.
    assert!(answered > 20, "{answered} of {}", queries.len());
    instance.rewrite("newServer(");
    instance.program.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for(
        || format!("{:?}", firing(at)),
        || firing(at).iter().any(|name| name == "DnslobChangeRefused").then_some(()),
    );
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
}

/// The value that a query gives, if it gives one.
fn value(at: SocketAddr, query: &str) -> Option<f64> {
    let answer = ask(at, "query", Some(query))?;
    let result = answer["data"]["result"].as_array()?;
    let [one] = &result[..] else { return None };
    one["value"][1].as_str()?.parse().ok()
}

#[test]
fn a_real_prometheus_takes_native_histograms() {
    let slow = Backend::start(1, Behaviour::After(Duration::from_millis(150)));
    let (dns, web, at, directory) = (local(), local(), local(), Directory::new());
    let instance = Instance::start(&(listen(dns) + &backend(slow.address, "") + &open_web(web)));
    let load = Load::start(Plan { target: dns, rate: 500, count: 500, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    let prometheus = start(&directory, at, web, &["--enable-feature=native-histograms"]);
    let is = |query: &str, low: f64, high: f64| {
        wait_for(
            || format!("{query}: {:?}\n{}", value(at, query), prometheus.transcript()),
            || value(at, query).filter(|value| (low..=high).contains(value)),
        )
    };
    is("histogram_count(dnslob_latency_seconds)", 500.0, 500.0);
    is("histogram_count(sum(dnslob_listener_latency_seconds))", 500.0, 500.0);
    // Buckets are 9 % wide.
    for (quantile, high) in [("0.01", 0.165), ("0.5", 0.18)] {
        is(&format!("histogram_quantile({quantile}, dnslob_latency_seconds)"), 0.135, high);
    }
    let mean = "histogram_sum(dnslob_latency_seconds) / histogram_count(dnslob_latency_seconds)";
    is(mean, 0.148, 0.2);
    // Everything else is as in text.
    is("dnslob_queries_total", 500.0, 500.0);
    is("dnslob_backend_up", 1.0, 1.0);
    is("scrape_samples_scraped > 100", 100.0, 1e6);
}
