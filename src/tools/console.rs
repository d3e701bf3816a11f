//! The client of the console: commands from the command line, from standard input, or typed with
//! completion and history.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::flags::{ConsoleOptions, DEFAULT_FILE};
use crate::control::console::channel::{Channel, LENGTH_BYTES, NONCE_BYTES, nonce};
use crate::lua::front_end;
use crate::model::console::ConsoleKey;

mod completion;
mod prompt;

/// How long a connection may take, and the first bytes of the server.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a reply may take: longer than any command may run, and a reload.
const REPLY: Duration = Duration::from_secs(120);
/// Longest reply that is accepted, bytes.
const REPLY_MAX: usize = 1 << 30;
/// What the reply to a command that failed begins with.
const ERROR: &str = "Error: ";

/// A connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    channel: Channel,
}

impl Connection {
    /// Connects, and proves that both ends have the same key.
    fn open(address: SocketAddr, key: &ConsoleKey) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT))?;
        stream.set_write_timeout(Some(REPLY))?;
        let own = nonce().map_err(io::Error::other)?;
        let mut peer = [0; NONCE_BYTES];
        let greeted = stream.write_all(&own).and_then(|()| stream.read_exact(&mut peer));
        if peer.starts_with(b"HTTP/") {
            return Err(io::Error::other("it speaks HTTP: this is not the address of controlSocket"));
        }
        greeted.map_err(|e| {
            closed(e, "its setConsoleACL does not allow this client, it has no setKey, or more connections at a time than it takes")
        })?;
        let channel = Channel::new(key, &own, &peer);
        stream.set_read_timeout(Some(REPLY))?;
        let mut connection = Self { stream, channel };
        let reply = connection.ask("").map_err(|e| closed(e, "it has another key"))?;
        // To nothing there is no answer but that there are too many.
        if is_error(&reply) { Err(io::Error::other(reply.trim_end().to_owned())) } else { Ok(connection) }
    }

    /// Sends a command and returns the reply.
    pub(crate) fn ask(&mut self, command: &str) -> io::Result<String> {
        let sealed = self.channel.seal(command.as_bytes()).map_err(io::Error::other)?;
        self.stream.write_all(&sealed)?;
        let mut length = [0; LENGTH_BYTES];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > REPLY_MAX {
            return Err(io::Error::other("the reply is too long"));
        }
        // Not allocated ahead: the length is the server's word only.
        let mut sealed = Vec::new();
        (&mut self.stream).take(length as u64).read_to_end(&mut sealed)?;
        let opened = self.channel.open(&sealed).map_err(io::Error::other)?;
        Ok(String::from_utf8_lossy(&opened).into_owned())
    }
}

/// Runs the client.
#[must_use]
pub fn run(options: &ConsoleOptions) -> ExitCode {
    let connection = match target(options) {
        Ok((address, key)) => Connection::open(address, &key).map_err(|e| refused(address, &e)),
        Err(error) => Err(error),
    };
    let done = connection.and_then(|mut connection| {
        if !options.commands.is_empty() {
            let mut commands = options.commands.iter().map(|c| Ok(c.clone()));
            one_by_one(&mut connection, &mut commands)
        } else if io::stdin().is_terminal() {
            prompt::converse(connection).map_err(|e| e.to_string())
        } else {
            one_by_one(&mut connection, &mut io::stdin().lock().lines())
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "dnslob console: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says why there is no connection.
fn refused(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return format!("{address} refused the connection: nothing listens there");
    }
    format!("{address}: {}", late(error).unwrap_or_else(|| error.to_string()))
}

/// Returns the error of a connection that the server has closed: why that may be.
fn closed(error: io::Error, why: &str) -> io::Error {
    if is_end(&error) {
        return io::Error::other(format!("it refused the connection: {why}"));
    }
    error
}

/// Whether the server has closed the connection.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [UnexpectedEof, ConnectionReset, BrokenPipe].contains(&error.kind())
}

/// Says why there is no reply to a command.
pub(crate) fn no_reply(error: &io::Error) -> String {
    if is_end(error) {
        // Whether the command has been run is not known.
        return "the server has closed the connection before its reply: perhaps it was stopped or restarted"
            .to_owned();
    }
    format!("no reply: {}", late(error).unwrap_or_else(|| error.to_string()))
}

/// Says that the time is over, in place of the kernel's "try again".
fn late(error: &io::Error) -> Option<String> {
    use io::ErrorKind::{TimedOut, WouldBlock};
    [WouldBlock, TimedOut].contains(&error.kind()).then(|| "it does not answer in time".to_owned())
}

/// Runs commands in turn. Returns whether all of them worked.
fn one_by_one(
    connection: &mut Connection,
    commands: &mut dyn Iterator<Item = io::Result<String>>,
) -> Result<bool, String> {
    let mut fine = true;
    for command in commands {
        let command = command.map_err(|e| format!("standard input: {e}"))?;
        let reply = connection.ask(&command).map_err(|e| no_reply(&e))?;
        let failed = is_error(&reply);
        fine &= !failed;
        let written = if failed {
            write!(io::stderr(), "{reply}")
        } else {
            write!(io::stdout(), "{reply}").and_then(|()| io::stdout().flush())
        };
        if let Err(error) = written {
            // Whoever reads our output may have seen enough; anything else is a failure.
            return if error.kind() == io::ErrorKind::BrokenPipe { Ok(fine) } else { Err(error.to_string()) };
        }
    }
    Ok(fine)
}

/// Returns whether a reply says that the command failed.
pub(crate) fn is_error(reply: &str) -> bool {
    reply.starts_with(ERROR)
}

/// Returns the server's address and key: as given, or as the configuration says.
fn target(options: &ConsoleOptions) -> Result<(SocketAddr, ConsoleKey), String> {
    let mut found = (options.address, options.key.clone());
    if found.0.is_none() || found.1.is_none() {
        let file = options.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let named = options.file.is_some();
        let (console, errors) = front_end::console_of(&file);
        found = (found.0.or(console.address), found.1.or(console.key));
        if !errors.is_empty() && named {
            let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            if found.0.is_none() || found.1.is_none() {
                return Err(errors);
            }
            // It may be just in the making, and the running process has another one.
            let _ = writeln!(io::stderr(), "dnslob console: {errors}\n(what stands above is used)");
        }
        let name = file.display();
        if found.0.is_none() {
            return Err(format!("no address: give one, or -C FILE with controlSocket ({name} has none)"));
        }
        if found.1.is_none() {
            return Err(format!("no key: give -k KEY, or -C FILE with setKey ({name} has none)"));
        }
    }
    match found {
        (Some(address), Some(key)) => Ok((address, key)),
        _ => Err("no address or no key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client takes of a file, besides what it is told.
    fn found_in(name: &str, text: &str) -> Result<(SocketAddr, ConsoleKey), String> {
        let path = std::env::temp_dir().join(format!("dnslob-client-{name}-{}", std::process::id()));
        std::fs::write(&path, text).expect("written");
        let options =
            ConsoleOptions { file: Some(path.clone()), address: None, key: None, commands: Vec::new() };
        let found = target(&options);
        std::fs::remove_file(&path).expect("removed");
        found
    }

    #[test]
    fn a_file_with_an_error_still_says_where_the_console_is() {
        const CONSOLE: &str =
            "controlSocket('127.0.0.1:5199')\nsetKey('cVNCwHtXFf+zZlzuNd7TMQOoI62A77AShbWbhBFWEaM=')\n";
        for (name, rest) in [
            ("syntax", "bogus(\n"),
            ("within", "function f(\n  if x then\nend end\n"),
            ("runs", "error('no')\n"),
            ("calls", "nonsense()\n"),
            ("value", "newServer('bad')\n"),
        ] {
            let found = found_in(name, &format!("{CONSOLE}{rest}")).expect("found");
            assert_eq!(found.0.port(), 5_199, "{name}");
        }
        let error = found_in("above", &format!("bogus(\n{CONSOLE}")).expect_err("nothing above");
        assert!(error.contains("expected"), "{error}");
    }

    #[test]
    fn what_ends_a_connection_is_said_in_words() {
        let text = |kind: io::ErrorKind| no_reply(&io::Error::from(kind));
        assert!(text(io::ErrorKind::UnexpectedEof).contains("closed the connection"));
        assert!(text(io::ErrorKind::WouldBlock).contains("in time"));
    }

    #[test]
    fn the_web_server_is_told_from_a_console() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut nonce = [0; NONCE_BYTES];
            stream.read_exact(&mut nonce).expect("the first bytes");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("an answer");
        });
        let key = crate::config::value::console_key("cVNCwHtXFf+zZlzuNd7TMQOoI62A77AShbWbhBFWEaM=");
        let error = Connection::open(address, &key.expect("a key")).err().expect("an error");
        assert!(error.to_string().contains("HTTP"), "{error}");
        served.join().expect("served");
    }
}
