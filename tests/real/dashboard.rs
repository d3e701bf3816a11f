//! The dashboard: its page, and that its figures follow what happens.

use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, listen};
use crate::load::{Load, Plan};
use crate::place::{port, wait_for};
use crate::process;

/// Asks curl for a path: head and body.
fn fetch(web: SocketAddr, path: &str) -> String {
    process::run("curl", &["-s", "-i", "--max-time", "15", &format!("http://{web}{path}")]).1
}

/// Returns the numbers of a column of the history.
fn column(history: &str, name: &str) -> Vec<f64> {
    let start = history.rfind(&format!("\"{name}\":[")).map(|at| at + name.len() + 4);
    let (numbers, _) = history[start.expect("the column")..].split_once(']').expect("its end");
    numbers.split(',').filter_map(|number| number.parse().ok()).collect()
}

fn wait_for_overview(web: SocketAddr, what: &str) {
    wait_for(
        || format!("the overview does not say {what}"),
        || fetch(web, "/api/v2/overview").contains(what).then_some(()),
    );
}

#[test]
fn the_dashboard_follows_what_happens() {
    let local = || SocketAddr::from(([127, 0, 0, 1], port()));
    let (prompt, at, web) = (Backend::start(1, Behaviour::Prompt), local(), local());
    let lua = listen(at)
        + &format!("newServer{{address='{}', name='alpha', checkTimeout=2000}}\n", prompt.address)
        + &format!(
            "webserver('{web}') setWebserverConfig({{apiRequiresAuthentication=false, \
             dashboardRequiresAuthentication=false}})\n"
        );
    let instance = Instance::start(&lua);

    let page = fetch(web, "/");
    assert!(page.contains("script-src 'sha256-") && page.contains("<title>dnslob</title>"), "{page}");
    assert!(page.ends_with("</html>\n"));
    let wrong = fetch(web, "/api/v2/history?range=7");
    assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
    let wrong = fetch(web, "/api/v2/top?what=everything");
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("what is one of clients, "), "{wrong}");

    wait_for_overview(web, "\"state\":\"up\"");
    let load = Load::start(Plan { target: at, rate: 500, count: 1_500, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    wait_for(
        || "the history does not have what was asked".to_owned(),
        || {
            let history = fetch(web, "/api/v2/history?range=300");
            // Each sample is a second, so their sum is the number of queries.
            (1_490.0..1_510.0).contains(&column(&history, "sent").iter().sum::<f64>()).then_some(())
        },
    );

    wait_for(
        || "the lists do not have what was asked".to_owned(),
        || {
            let clients = fetch(web, "/api/v2/top?what=clients&window=300&client=127.0.0.0/8");
            let all = fetch(web, "/api/v2/top?what=clients&window=300");
            let total =
                |text: &str| text.contains("\"label\":\"127.0.0.1\"") && text.contains("\"total\":1500");
            (total(&clients) && total(&all)).then_some(())
        },
    );

    drop(prompt);
    wait_for_overview(web, "server alpha: up → down");
    assert!(fetch(web, "/api/v2/overview").contains("\"state\":\"down\""));
}
