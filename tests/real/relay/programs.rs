//! Real servers behind relays: mail, SOCKS, web, and haproxy with PROXY headers. The recipes in
//! `examples/` run unchanged except for their addresses.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::{figure, local, logged, relay, until};
use crate::instance::{Instance, binary};
use crate::place::{Directory, PATIENCE, wait_for};
use crate::process::{Program, run};

/// Starts a server and waits until it accepts connections at each of `at`.
fn server(command: &mut Command, at: &[SocketAddr]) -> Program {
    let program = Program::start(command);
    for address in at {
        wait_for(|| format!("{address}; {}", program.transcript()), || TcpStream::connect(address).ok());
    }
    program
}

/// Returns a recipe with every `.0` of `changes` replaced by its `.1`.
fn example(name: &str, changes: &[(&str, SocketAddr)]) -> Instance {
    let path = format!("{}/examples/{name}.lua", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(path).expect("an example");
    for (old, new) in changes {
        let quoted = format!("\"{old}\"");
        assert!(text.contains(&quoted), "{name}.lua has no {quoted}");
        text = text.replace(&quoted, &format!("\"{new}\""));
    }
    let directory = Directory::new();
    let config = directory.write(&format!("{name}.lua"), &text);
    let mut command = Command::new(binary());
    command.args(["--shards", "2", "-C"]).arg(config);
    Instance::launch(command, directory)
}

/// Returns the output of curl.
fn curl(arguments: &[&str]) -> String {
    let all = [&["--silent", "--show-error", "--max-time", "30"], arguments].concat();
    let (status, text) = run("curl", &all);
    assert!(status.success(), "curl {all:?}: {text}");
    text
}

/// A conversation with a mail server.
struct Mail {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Mail {
    fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let lines = BufReader::new(stream.try_clone().expect("a copy"));
        let mut mail = Self { stream, lines };
        mail.hear("220");
        mail
    }

    fn say(&mut self, text: &str, code: &str) {
        self.stream.write_all(text.as_bytes()).expect("written");
        self.hear(code);
    }

    fn hear(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("a line");
            assert!(line.starts_with(code), "{line:?} is no {code}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return;
            }
        }
    }
}

#[test]
fn mail_goes_to_the_server_that_accepts_it() {
    let (dead, alive, at) = (local(), local(), local());
    let home = Directory::new();
    let config = home.write(
        "smtpd.conf",
        &format!(
            "listen on {} port {} hostname mail.test\naction \"keep\" maildir \"{}\"\n\
             match from any for domain \"mail.test\" action \"keep\"\n",
            alive.ip(),
            alive.port(),
            home.path().join("mail").display()
        ),
    );
    let smtpd = server(Command::new("smtpd").arg("-d").arg("-f").arg(config), &[alive]);
    let targets = [("192.0.2.25:25", dead), ("198.51.100.25:25", alive), ("127.0.0.1:2525", at)];
    let instance = example("smtp-failover", &targets);
    let body = "the quick brown fox jumps over the lazy dog\r\n".repeat(60_000);
    for n in 0..3 {
        let mut mail = Mail::connect(at);
        mail.say("EHLO client.test\r\n", "250");
        mail.say("MAIL FROM:<sender@client.test>\r\n", "250");
        mail.say("RCPT TO:<nobody@mail.test>\r\n", "250");
        mail.say("DATA\r\n", "354");
        mail.say(&format!("Subject: {n}\r\n\r\n{body}.\r\n"), "250");
        mail.say("QUIT\r\n", "221");
    }
    // It answers before it logs.
    wait_for(
        || format!("smtpd wrote: {}", smtpd.transcript()),
        || (smtpd.lines_with(0, "smtp message").len() == 3).then_some(()),
    );
    let line = logged(&instance, &["connection 127.0.0.1:", &format!("to {alive}"), "bytes there"]);
    let bytes = line.split(": ").last().and_then(|t| t.split(' ').next()?.parse::<usize>().ok());
    assert!(bytes > Some(body.len()), "{line}");
}

#[test]
fn a_client_keeps_its_socks_server_while_it_is_up() {
    let home = Directory::new();
    home.write("page", "through the relay\n");
    let web = local();
    let _web = nginx(&home, web);
    let places = [local(), local(), local()];
    let mut servers: Vec<Program> = places
        .iter()
        .map(|at| {
            let own = home.write(
                &format!("danted-{}.conf", at.port()),
                &format!(
                    "logoutput: stderr\ninternal: {} port = {}\nexternal: lo\nsocksmethod: none\nclientmethod: none\n\
                     user.privileged: root\nuser.unprivileged: nobody\n\
                     client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\nsocks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n",
                    at.ip(),
                    at.port()
                ),
            );
            let pid = home.path().join(format!("danted-{}.pid", at.port()));
            server(Command::new("danted").arg("-f").arg(own).arg("-p").arg(pid), &[*at])
        })
        .collect();
    let at = local();
    let instance = example(
        "socks-relay",
        &[
            ("198.51.100.1:1080", places[0]),
            ("198.51.100.2:1080", places[1]),
            ("198.51.100.3:1080", places[2]),
            ("127.0.0.1:1080", at),
        ],
    );
    // The server of each client's connections.
    let ask = |last: u8| {
        let client = format!("127.0.6.{last}");
        let from = instance.program.output().len();
        let proxy = at.to_string();
        let stats = curl(&[
            "--interface",
            &client,
            "--socks5",
            &proxy,
            "--noproxy",
            "",
            &format!("http://{web}/page"),
        ]);
        assert_eq!(stats, "through the relay\n");
        let output = wait_for(
            || format!("the line of {client}; {}", instance.program.transcript()),
            || instance.program.lines_with(from, &format!("connection {client}:")).pop(),
        );
        let served = places.iter().position(|p| output.contains(&format!("to {p}:")));
        served.unwrap_or_else(|| panic!("no server in {output}"))
    };
    let clients: Vec<u8> = (1..=12).collect();
    let before: Vec<usize> = clients.iter().map(|c| ask(*c)).collect();
    assert!((0..3).all(|place| before.contains(&place)), "all are used: {before:?}");
    assert_eq!(clients.iter().map(|c| ask(*c)).collect::<Vec<_>>(), before);
    let lost = before[0];
    servers[lost].kill();
    for (client, place) in clients.iter().zip(&before) {
        let served = ask(*client);
        assert!(
            served == *place || *place == lost && served != lost,
            "client {client}: {served}, was {place}"
        );
    }
}

/// Starts a web server for the files in `home`.
fn nginx(home: &Directory, at: SocketAddr) -> Program {
    let path = home.path().display();
    let config = home.write(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\nerror_log stderr;\npid {path}/nginx.pid;\nevents {{}}\n\
             http {{ access_log off; sendfile on; client_body_temp_path {path}; proxy_temp_path {path}; \
             fastcgi_temp_path {path}; uwsgi_temp_path {path}; scgi_temp_path {path};\n\
             server {{ listen {at}; root {path}; }} }}\n"
        ),
    );
    server(Command::new("nginx").arg("-e").arg("stderr").arg("-c").arg(config), &[at])
}

#[test]
fn a_file_from_a_web_server_arrives_complete() {
    let home = Directory::new();
    let file = home.path().join("bulk");
    let bytes: Vec<u8> = (0..48_u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    std::fs::write(&file, &bytes).expect("a file");
    let (web, at) = (local(), local());
    let _web = nginx(&home, web);
    let instance = Instance::start(&relay("addTCPForward", at, &[web], ""));
    let got = home.path().join("got");
    let url = format!("http://{at}/bulk");
    curl(&["--output", got.to_str().expect("a path"), &url]);
    assert!(std::fs::read(&got).expect("what came") == bytes, "not the same {} bytes", bytes.len());
    until(&instance, "relay-open", 0);
    assert!(figure(&instance, "relay-bytes-to-clients") > bytes.len() as u64);
}

#[test]
fn haproxy_reads_the_client_address_from_the_proxy_header() {
    let (inner, outer) = (local(), local());
    let [v2, v1, unread] = [local(), local(), local()];
    let home = Directory::new();
    let config = home.write(
        "haproxy.cfg",
        &format!(
            "defaults\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             frontend inner\n mode http\n bind {inner} accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string \"%[src] to %[dst]:%[dst_port]\"\n\
             listen outer\n mode tcp\n bind {outer}\n server lob {unread} send-proxy-v2\n"
        ),
    );
    let _haproxy = server(Command::new("haproxy").arg("-db").arg("-f").arg(config), &[inner, outer]);
    let tcp = "addTCPForward";
    let lua = relay(tcp, v2, &[inner], ", useProxyProtocol=true")
        + &relay(tcp, v1, &[inner], ", useProxyProtocol=\"v1\"")
        + &relay(tcp, unread, &[inner], "");
    let _instance = Instance::start(&lua);
    for asked in [v2, v1, outer] {
        // Through `outer` it is haproxy's own header, passed on unread.
        let output = curl(&["--interface", "127.0.0.77", &format!("http://{asked}/")]);
        assert_eq!(output, format!("127.0.0.77 to {asked}"));
    }
}
