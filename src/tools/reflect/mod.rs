//! `dnslob reflect`: a fast name server for measurements.
//!
//! It has no zone: an answer is a function of the question (`answer.rs`), and what it does wrong is what
//! the command line asks for (`impairment.rs`). Each thread has its own sockets on the same port.

pub(crate) mod answer;
mod impairment;
mod server;
mod tally;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use socket2::Type;

use crate::config::reflect::ReflectOptions;
use crate::tls::server::{CertificateFiles, ServerSpec, ServerTls};
use crate::tools::load::interrupt::Interrupt;
use crate::tools::load::{random, sockets, threads};
use crate::tools::reflect::answer::Shape;
use crate::tools::reflect::impairment::Impairment;
use crate::tools::reflect::server::{Server, Sockets};
use crate::tools::reflect::tally::Tally;
use crate::tools::report::{self, text};

/// How often the threads are looked after.
const TURN: Duration = Duration::from_millis(200);

/// Answers until SIGINT or SIGTERM, and prints what was done.
///
/// # Errors
/// When it cannot listen or a thread ends.
pub fn run(options: &ReflectOptions) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::take().context("signals")?;
    let count = usize::from(options.threads);
    // As many connections as the process may have; fewer are no reason not to start.
    let _ = sockets::limit().and_then(sockets::allow);
    let tls = options.tls.as_ref().map(|tls| {
        let pair =
            CertificateFiles { certificate: tls.certificate.clone(), key: tls.key.clone(), ocsp: None };
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        Ok::<_, anyhow::Error>((tls.listen, Arc::new(ServerTls::load(&spec)?)))
    });
    let tls = tls.transpose().context("TLS")?;
    let mut rng = random::seeded(options.seed).context("random numbers")?;
    let (mut listen, mut listen_tls) = (options.listen, tls.as_ref().map(|(address, _)| *address));
    let ending = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for (thread, cpu) in threads::cpus(count, &options.cpus, threads::From::First)?.into_iter().enumerate() {
        let alone = thread == 0 && !options.shared;
        let opened = open(&mut listen, listen_tls.as_mut().zip(tls.as_ref().map(|(_, tls)| tls)), alone)?;
        let shape = Shape { ttl: options.ttl.clone(), records: options.records.clone() };
        let impairment = Impairment::new(options, random::fork(&mut rng));
        let ending = Arc::clone(&ending);
        let started = threads::start(format!("reflect-{thread}"), cpu, move || {
            Server::new(opened, shape, impairment).map(|server| server.serve(&ending))
        });
        running.push(started.context("a thread")?);
    }
    let secure = listen_tls.map_or_else(String::new, |address| format!(", {address} (TLS)"));
    writeln!(
        io::stderr(),
        "dnslob reflect: answers on {listen} (UDP, TCP){secure}, {}",
        text::threads(count)
    )?;
    while !interrupt.wait(TURN) && !running.iter().any(std::thread::JoinHandle::is_finished) {}
    ending.store(true, Relaxed);
    let (mut sum, mut failed) = (Tally::default(), 0);
    for thread in running {
        match thread.join() {
            Ok(tally) => sum.add(&tally.context("a thread")?),
            Err(_) => failed += 1,
        }
    }
    report::print(&sum.text())?;
    ensure!(failed == 0, "{failed} threads failed");
    Ok(())
}

/// Says why it cannot listen on an address, and what to do.
fn refused(error: io::Error, what: &str, address: SocketAddr) -> anyhow::Error {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        ": ports below 1024 need root or the capability CAP_NET_BIND_SERVICE: listen on a higher port, or give the \
         program the right with 'setcap cap_net_bind_service+ep'"
    } else {
        ""
    };
    anyhow::Error::new(error).context(format!("{what} on {address}{hint}"))
}

/// Opens the sockets of a thread, which must be `alone` on their addresses. Where a port is the kernel's
/// choice, the first thread's is all threads'.
fn open(
    listen: &mut SocketAddr,
    tls: Option<(&mut SocketAddr, &Arc<ServerTls>)>,
    alone: bool,
) -> anyhow::Result<Sockets> {
    let vacant = |address: SocketAddr, kind: Type, what: &str| {
        let vacant = if alone { sockets::vacant(address, kind) } else { Ok(()) };
        vacant.map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return anyhow!(
                    "{what} on {address}: something else answers there; with --shared each gets a part of the queries"
                );
            }
            refused(error, what, address)
        })
    };
    vacant(*listen, Type::DGRAM, "UDP")?;
    let udp = sockets::answer(*listen).map_err(|error| refused(error, "UDP", *listen))?;
    *listen = sockets::bound(&udp)?;
    vacant(*listen, Type::STREAM, "TCP")?;
    let tcp = sockets::accept(*listen).map_err(|error| refused(error, "TCP", *listen))?;
    let tls = tls.map(|(address, settings)| {
        vacant(*address, Type::STREAM, "TLS")?;
        let socket = sockets::accept(*address).map_err(|error| refused(error, "TLS", *address))?;
        *address = sockets::bound(&socket)?;
        Ok::<_, anyhow::Error>((socket, Arc::clone(settings)))
    });
    Ok(Sockets { udp, tcp, tls: tls.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_told_with_what_to_do() {
        let of = |kind: io::ErrorKind| {
            format!("{:#}", refused(kind.into(), "UDP", SocketAddr::from(([127, 0, 0, 1], 53))))
        };
        let said = of(io::ErrorKind::PermissionDenied);
        assert!(said.starts_with("UDP on 127.0.0.1:53: ") && said.contains("CAP_NET_BIND_SERVICE"), "{said}");
        assert!(!of(io::ErrorKind::AddrNotAvailable).contains("CAP_"));
    }
}
