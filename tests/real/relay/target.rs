//! Targets in this process with a known behaviour, which can be stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::local;

/// The behaviour of a target's connections.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// Echoes everything until the client closes its side.
    Echo,
    /// Reads to the end, then echoes everything.
    Gather,
    /// Answers each line with the number of the target and the line.
    Number(u8),
    /// Sends as much as the client accepts.
    Flood,
    /// Closes at once.
    Close,
    /// Reads, and sends nothing.
    Silent,
    /// Greets, then echoes everything.
    Greet,
}

/// A TCP server.
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
    /// Connections ended by a reset.
    broken: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Target {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let address = local();
        let listener = TcpListener::bind(address).expect("a target's listener");
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            loop {
                let taken = listener.accept();
                if own.stop.load(SeqCst) {
                    // Before the accepted connection ends: a client that notices the end finds no
                    // listener.
                    drop(listener);
                    return;
                }
                let Ok((connection, _)) = taken else { continue };
                own.taken.fetch_add(1, SeqCst);
                own.open.lock().expect("the list").push(connection.try_clone().expect("a copy"));
                let own = Arc::clone(&own);
                std::thread::spawn(move || {
                    if serve(&connection, behaviour, &own.bytes).is_err() {
                        own.broken.fetch_add(1, SeqCst);
                    }
                    let _ = connection.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Returns the number of accepted connections.
    pub(super) fn taken(&self) -> u64 {
        self.shared.taken.load(SeqCst)
    }

    /// Returns the bytes sent by [`Behaviour::Flood`].
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(SeqCst)
    }

    /// Returns the number of connections that ended with an error.
    pub(super) fn broken(&self) -> u64 {
        self.shared.broken.load(SeqCst)
    }

    /// Stops listening and closes all connections.
    pub(super) fn kill(&mut self) {
        self.close_listener();
        for connection in self.shared.open.lock().expect("the list").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Stops listening; connections stay.
    pub(super) fn close_listener(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop.store(true, SeqCst);
        // Wakes the thread, which closes the listener when it ends.
        drop(TcpStream::connect(self.address));
        thread.join().expect("the target's thread");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(connection: &TcpStream, behaviour: Behaviour, bytes: &AtomicU64) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(connection), connection);
    let mut buffer = vec![0; 64 * 1024];
    if matches!(behaviour, Behaviour::Greet) {
        writer.write_all(b"220 hello\r\n")?;
    }
    match behaviour {
        Behaviour::Close => Ok(()),
        Behaviour::Silent => reader.read_to_end(&mut buffer).map(drop),
        Behaviour::Echo | Behaviour::Greet => loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                count => writer.write_all(&buffer[..count])?,
            }
        },
        Behaviour::Gather => {
            let mut all = Vec::new();
            reader.read_to_end(&mut all)?;
            writer.write_all(&all)
        }
        Behaviour::Number(number) => {
            let mut line = String::new();
            while reader.read_line(&mut line)? > 0 {
                writer.write_all(format!("{number} {line}").as_bytes())?;
                line.clear();
            }
            Ok(())
        }
        Behaviour::Flood => loop {
            writer.write_all(&buffer)?;
            bytes.fetch_add(buffer.len() as u64, SeqCst);
        },
    }
}
