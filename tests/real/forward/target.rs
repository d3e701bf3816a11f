//! Targets within this process: what they do is known, and they can die.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::local;

/// What a target does with a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// Sends everything back as it comes, until the client has closed its end.
    Echo,
    /// Reads to the end, then sends all of it back.
    Gather,
    /// Answers each line with its own number and that line.
    Number(u8),
    /// Sends as much as is taken.
    Flood,
}

/// A server of connections.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    taken: AtomicU64,
    bytes: AtomicU64,
    /// Connections that a reset ended.
    broken: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Target {
    pub(super) fn start(manner: Manner) -> Self {
        let address = local();
        let listener = TcpListener::bind(address).expect("a target's listener");
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            loop {
                let taken = listener.accept();
                if own.stop.load(SeqCst) {
                    // Before what was just taken ends: who hears of that finds nobody here.
                    drop(listener);
                    return;
                }
                let Ok((connection, _)) = taken else { continue };
                own.taken.fetch_add(1, SeqCst);
                own.open.lock().expect("the list").push(connection.try_clone().expect("a copy"));
                let own = Arc::clone(&own);
                std::thread::spawn(move || {
                    if serve(&connection, manner, &own.bytes).is_err() {
                        own.broken.fetch_add(1, SeqCst);
                    }
                    let _ = connection.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Connections taken.
    pub(super) fn taken(&self) -> u64 {
        self.shared.taken.load(SeqCst)
    }

    /// Bytes sent by [`Manner::Flood`].
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(SeqCst)
    }

    /// Connections that ended by an error.
    pub(super) fn broken(&self) -> u64 {
        self.shared.broken.load(SeqCst)
    }

    /// Dies: it listens no more, and its connections end.
    pub(super) fn kill(&mut self) {
        self.shared.stop.store(true, SeqCst);
        // Wakes the thread, which closes the listener as it ends.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the target's thread");
        }
        for connection in self.shared.open.lock().expect("the list").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.kill();
        }
    }
}

fn serve(connection: &TcpStream, manner: Manner, bytes: &AtomicU64) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(connection), connection);
    let mut buffer = vec![0; 64 * 1024];
    match manner {
        Manner::Echo => loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                count => writer.write_all(&buffer[..count])?,
            }
        },
        Manner::Gather => {
            let mut all = Vec::new();
            reader.read_to_end(&mut all)?;
            writer.write_all(&all)
        }
        Manner::Number(number) => {
            let mut line = String::new();
            while reader.read_line(&mut line)? > 0 {
                writer.write_all(format!("{number} {line}").as_bytes())?;
                line.clear();
            }
            Ok(())
        }
        Manner::Flood => loop {
            writer.write_all(&buffer)?;
            bytes.fetch_add(buffer.len() as u64, SeqCst);
        },
    }
}
