//! Chromium without a window, driven over WebDriver (W3C), and what it shows of the dashboard.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Behaviour};
use crate::bench::{Reflect, bench};
use crate::instance::{Instance, listen};
use crate::load::{Load, Plan};
use crate::message::{answer, query};
use crate::place::{Directory, port, wait_for};
use crate::process::{self, Program};
use crate::replay::{RECORDED, client, replay, written};
use crate::scope::scope;
use crate::web::fetch_with;

/// A browser with one page.
struct Browser {
    session: String,
    _driver: Program,
    _profile: Directory,
}

impl Browser {
    fn open(page: &str) -> Self {
        let (at, profile) = (format!("http://127.0.0.1:{}", port()), Directory::new());
        let number = at.rsplit_once(':').map_or("", |(_, number)| number);
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={number}")).env("HOME", profile.path());
        let driver = Program::start(&mut command);
        wait_for(
            || format!("chromedriver; {}", driver.transcript()),
            || {
                let (_, text) = process::run("curl", &["-s", "--max-time", "5", &format!("{at}/status")]);
                text.contains("\"ready\":true").then_some(())
            },
        );
        // The sandbox does not start as root, nor in most containers.
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1400,1000".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = send("POST", &format!("{at}/session"), &wanted);
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        let browser = Self { session: format!("{at}/session/{id}"), _driver: driver, _profile: profile };
        browser.post("url", &json!({"url": page}));
        browser
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        send("POST", &format!("{}/{command}", self.session), body)
    }

    /// Runs a function body in the page and returns what it returns.
    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": []}))
    }

    fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_default().to_owned()
    }

    fn resize(&self, width: u32, height: u32) {
        // A window cannot be as narrow as a telephone; the page's viewport can.
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.post(
            "goog/cdp/execute",
            &json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}),
        );
    }

    /// Asserts that the page's scripts and style have no errors.
    fn assert_no_complaints(&self) {
        let complaints = self.post("se/log", &json!({"type": "browser"}));
        let severe = |entry: &&Value| entry["level"] == "SEVERE" && !entry.to_string().contains("favicon");
        let severe: Vec<_> = complaints.as_array().into_iter().flatten().filter(severe).collect();
        assert!(severe.is_empty(), "{severe:#?}");
    }

    /// Takes a picture, to be looked at, into the directory of test outputs.
    fn picture(&self, name: &str) {
        use base64::Engine as _;
        let made = send("GET", &format!("{}/screenshot", self.session), &Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(made.as_str().expect("a picture"));
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(&path, bytes.expect("base64")).expect("the picture is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; with the driver alone it would stay.
        process::run("curl", &["-s", "--max-time", "10", "-X", "DELETE", &self.session]);
    }
}

/// Sends a command and returns its `value`. Panics when it failed.
fn send(method: &str, url: &str, body: &Value) -> Value {
    let directory = Directory::new();
    // A script may be longer than an argument can be.
    let body = directory.write("body", &body.to_string());
    let (data, body) = (format!("@{}", body.display()), body.display());
    let mut arguments = vec!["-s", "--max-time", "60", "-X", method, url];
    if method == "POST" {
        arguments.extend(["-H", "content-type: application/json", "--data-binary", &data]);
    }
    let (_, text) = process::run("curl", &arguments);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{url}: {e}: {text}"));
    let value = answer["value"].clone();
    assert!(value.get("error").is_none_or(Value::is_null), "{url} {body}: {value:#}");
    value
}

/// Returns texts whose contrast with what is behind them is below what WCAG 2.1 wants (AA: 4.5, or 3
/// for large letters), and controls and pictures without a name.
const FAULTS: &str = r##"
const rgb = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const plain = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const light = (c) => { const [r, g, b] = c.map((x) => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = plain(getComputedStyle(node).backgroundColor);
    if (colour[3] > .99) return colour;
  }
  return [255, 255, 255, 1];
};
const faults = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode, at = text.parentElement, style = getComputedStyle(at);
  if (!text.textContent.trim() || !at.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  if (at.closest("script, style, .hidden, .skip")) continue;
  const [one, two] = [light(plain(style.color)), light(behind(at))].sort((a, b) => b - a);
  const ratio = (one + .05) / (two + .05), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) faults.push(`${ratio.toFixed(2)}: ${text.textContent.trim().slice(0, 40)}`);
}
const named = (node) => node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()
  || (node.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent.trim());
for (const node of document.querySelectorAll("a, button, input, select, [role=img], [role=group], section"))
  if (!named(node)) faults.push("no name: " + node.outerHTML.slice(0, 80));
const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
ids.filter((id, at) => ids.indexOf(id) !== at).forEach((id) => faults.push("twice: " + id));
if (!document.documentElement.lang) faults.push("no language");
return faults;
"##;

/// What axe-core finds, as a list of rules, each with the places.
const AXE: &str = r#"
const done = arguments[arguments.length - 1];
const places = (found) => found.nodes.map((node) => node.target.join(" ") + " " + (node.any[0]?.message ?? "")).slice(0, 5);
axe.run(document, { resultTypes: ["violations"] }).then(
  (found) => done(found.violations.map((v) => `${v.id}: ${places(v).join("; ")}`)),
  (error) => done(["axe: " + error]));
"#;

/// Returns axe-core, if `scripts/setup axe` has installed it.
fn axe() -> Option<String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let place = caches.expect("a place for caches").join("dnslob");
    let files = std::fs::read_dir(&place).into_iter().flatten().filter_map(Result::ok);
    let newest =
        files.map(|file| file.path()).filter(|path| path.to_string_lossy().contains("axe-core-")).max();
    std::fs::read_to_string(newest?).ok()
}

fn assert_no_faults(browser: &Browser, what: &str) {
    assert_eq!(browser.run(FAULTS), json!([]), "{what}");
    if browser.run("return typeof axe === 'object'") == json!(true) {
        let found = browser.post("execute/async", &json!({"script": AXE, "args": []}));
        assert_eq!(found, json!([]), "{what}");
    }
}

#[test]
fn the_dashboard_lives_in_a_browser() {
    let local = || SocketAddr::from(([127, 0, 0, 1], port()));
    let (alpha, beta, at, web) =
        (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt), local(), local());
    let candidate = Backend::start(3, Behaviour::Prompt);
    let server = |backend: &Backend, name: &str| {
        format!(
            "newServer{{address='{}', name='{name}', checkInterval=0.2, checkTimeout=300, \
             maxCheckFailures=1, rise=1}}\n",
            backend.address
        )
    };
    let lua = listen(at)
        + &server(&alpha, "alpha")
        // A name that is longer than a narrow page is wide.
        + &server(&beta, &format!("beta-{}", "x".repeat(200)))
        + &format!("newServer{{address='{}', name='gamma', pool='candidate'}}\n", candidate.address)
        + "addAction(AllRule(), ShadowAction('candidate'))\n"
        + &format!(
            "setServerPolicy(roundrobin) webserver('{web}') setWebserverConfig({{\
             apiRequiresAuthentication=false, dashboardRequiresAuthentication=false, apiKey='key'}}) \
             setAPIWritable(true)\n"
        );
    let instance = Instance::start(&lua);
    let browser = Browser::open(&format!("http://{web}/"));
    let shows = |what: &str, script: &str| {
        wait_for(
            || format!("{what}: {}", browser.text("return document.body.innerText")),
            || browser.run(script).as_bool().unwrap_or(false).then_some(()),
        );
    };

    let load = Load::start(Plan { target: at, rate: 500, count: u64::MAX, patience: Duration::from_secs(4) });
    let queries = "const n = parseFloat(document.getElementById('queries').textContent);";
    shows("the rate of queries", &format!("{queries} return n > 400 && n < 600"));
    // A point is drawn for each second.
    let chart = "return document.querySelector('#c-traffic canvas') !== null";
    assert_eq!(browser.run(chart), json!(true));
    shows(
        "all servers up",
        "return [...document.querySelectorAll('#t-servers tr')].filter((r) => /\\bup\\b/.test(r.innerText)).length === 3",
    );

    shows(
        "what the shadow pool answers otherwise, with an example",
        "const s = document.getElementById('shadowed'); \
         return !s.hidden && /candidate/.test(s.innerText) && /gamma/.test(s.innerText)",
    );

    let killed = Instant::now();
    drop(beta);
    let is_red = "const row = [...document.querySelectorAll('#t-servers tr')].find((r) => /beta/.test(r.innerText)); \
                  return row.className.includes('down') && /down/.test(row.innerText)";
    shows("the killed server in red", is_red);
    println!("a killed server is red after {} ms", killed.elapsed().as_millis());
    shows(
        "its event",
        "return /beta.*down/.test(document.getElementById('t-events').innerText.replaceAll('\\n', ' '))",
    );

    assert_eq!(browser.run("return document.getElementById('changed').hidden"), json!(true));
    let patch = ["-H", "X-API-Key: key", "-H", "If-Match: *", "-H", "Content-Type: application/json"];
    let patch = [&patch[..], &["-X", "PATCH", "-d", "{\"weight\": 7}"]].concat();
    assert_eq!(fetch_with(web, "/api/v2/servers/alpha", &patch).0, 200);
    shows(
        "what differs from the file",
        "const s = document.getElementById('changed'); \
         return !s.hidden && /weight: 1 -> 7/.test(s.innerText) && /, changed/.test(document.getElementById('generation').textContent)",
    );

    match axe() {
        Some(script) => drop(browser.run(&script)),
        None => eprintln!("NOT CHECKED by axe-core, which `scripts/setup axe` installs"),
    }
    assert_no_faults(&browser, "as the system has it");
    browser.picture("dashboard-wide");
    let brightness = "const c = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number); \
                      return c[0] + c[1] + c[2]";
    for (theme, is_dark) in [("light", false), ("dark", true)] {
        shows(
            theme,
            &format!(
                "const b = document.getElementById('theme'); \
                 if (!b.textContent.endsWith('{theme}')) b.click(); return b.textContent.endsWith('{theme}')"
            ),
        );
        let sum = browser.run(brightness).as_f64().unwrap_or_default();
        assert_eq!(sum < 200.0, is_dark, "{theme}: {sum}");
        assert_no_faults(&browser, theme);
        browser.picture(&format!("dashboard-{theme}"));
    }
    browser.resize(360, 800);
    shows(
        "a narrow page that fits",
        "return document.documentElement.scrollWidth <= innerWidth && innerWidth === 360",
    );
    shows(
        "rows as cards, with every figure within the page",
        "const tables = [...document.querySelectorAll('table.cards')]; return tables.length > 3 && \
         tables.every((t) => t.parentElement.scrollWidth <= t.parentElement.clientWidth)",
    );
    assert_no_faults(&browser, "narrow");
    browser.picture("dashboard-narrow");
    for (what, script) in [
        (
            "what is hidden is not seen",
            "const e = $('servers-down'), was = e.hidden; e.hidden = true; \
             const seen = getComputedStyle(e).display; e.hidden = was; return seen === 'none'",
        ),
        ("the header says who is down", "return /^1 of 3 servers down$/.test($('servers-down').textContent)"),
        ("and the title", "return /^1 of 3 servers down/.test(document.title)"),
        (
            "colours are given back",
            "const p = palette(2); p.give([1, 2]); const [a, b] = [p.of(1), p.of(2)]; p.give([2, 3, 9]); \
             return a !== b && p.of(1) === '--rest' && p.of(2) === b && p.of(3) === a && p.of(9) === '--rest'",
        ),
        (
            "equal ones stay",
            "const of = (...shares) => shares.map((share, slot) => ({ slot, share })).sort((a, b) => b.share - a.share); \
             const first = busiest(of(.34, .33, .33), 2, []); \
             return String(first) === '0,1' && String(busiest(of(.32, .33, .35), 2, first)) === '1,0' && \
             String(busiest(of(0, .2, .8), 2, first)) === '1,2'",
        ),
        (
            "Escape leaves a filter, for who has no mouse",
            "narrow('client', '127.0.0.1'); const was = narrowed && $('narrowed').textContent.includes('127.0.0.1'); \
             document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true })); \
             return was && !narrowed && $('narrowed').textContent === '' && document.activeElement.name === 'window'",
        ),
    ] {
        assert_eq!(browser.run(script), json!(true), "{what}");
    }

    browser.assert_no_complaints();
    load.finish();
    drop(instance);
}

/// What the tools write as pages, each of something that has all parts of its kind.
#[test]
fn the_pages_of_reports_live_in_a_browser() {
    let directory = Directory::new();
    let page = |name: &str| directory.path().join(format!("{name}.html")).display().to_string();
    let [one, two] = ["1", "2"].map(|seed| Reflect::start(&["--seed", seed, "--rcode", "servfail=20%"]));
    let packets: Vec<_> = (0..400_u16)
        .flat_map(|n| {
            let (from, at) = (client((n % 50) as u8 + 1), u64::from(n) * 2_000);
            let asked = query(n, &format!("n{}.<blink>.test", n % 40));
            let answered = answer(&asked, 1).expect("a query");
            [(at, from, RECORDED, asked), (at + u64::from(n), RECORDED, from, answered)]
        })
        .collect();
    let capture = written(&directory, &packets);
    let runs = [
        ("bench", bench(&one.address, &["--rate", "500", "--duration", "3s", "--report", &page("bench")])),
        ("ramp", bench(&one.address, &["--ramp", "--duration", "7s", "--report", &page("ramp")])),
        ("replay", replay(&capture, &[&one.address, &two.address, "--report", &page("replay")])),
        ("scope", scope(&[&capture.display().to_string(), "--report", &page("scope")])),
    ];
    for (name, output) in &runs {
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let browser = Browser::open(&format!("file://{}", page("bench")));
    for (name, _) in &runs {
        browser.post("url", &json!({"url": format!("file://{}", page(name))}));
        let plots = browser.run("return document.querySelectorAll('svg').length").as_u64();
        assert!(plots.is_some_and(|plots| plots >= 2), "{name}: {plots:?} plots");
        assert_eq!(browser.run("return document.querySelector('blink') === null"), json!(true), "{name}");
        for theme in ["light", "dark"] {
            let scheme = json!([{"name": "prefers-color-scheme", "value": theme}]);
            browser.post(
                "goog/cdp/execute",
                &json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": scheme}}),
            );
            if let Some(script) = axe() {
                browser.run(&script);
            }
            assert_no_faults(&browser, &format!("{name}, {theme}"));
            browser.picture(&format!("report-{name}-{theme}"));
        }
        browser.resize(360, 800);
        let fits = "return document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.run(fits), json!(true), "{name} on a telephone");
        browser.picture(&format!("report-{name}-narrow"));
        browser.resize(1400, 1000);
    }
    browser.assert_no_complaints();
}
