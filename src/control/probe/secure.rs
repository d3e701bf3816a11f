//! A check over TLS: handshake, question, answer, goodbye.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failed;
use crate::control::health::Failure;
use crate::tls::{self, ClientTls, Session};

/// Octets read at a time.
const READ: usize = 16 * 1024;
/// Octets of a message's length.
const LENGTH: usize = 2;

/// Sends a message with its length, and gives the answer without.
///
/// # Errors
/// What the network says, or in plain words what is wrong with the server's TLS.
pub(super) async fn ask(stream: &mut TcpStream, tls: &ClientTls, framed: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut session = Session::client(tls)?;
    // Kept until the handshake is done; a question is far shorter than what a session keeps.
    session.send(framed);
    let mut buffer = vec![0; READ];
    let mut plain = Vec::new();
    loop {
        flush(stream, &mut session).await?;
        let whole = plain.first_chunk::<LENGTH>().map(|l| LENGTH + usize::from(u16::from_be_bytes(*l)));
        if let Some(message) = whole.and_then(|end| plain.get(LENGTH..end)) {
            session.close();
            // The answer is here, whatever becomes of the goodbye.
            let _ = flush(stream, &mut session).await;
            return Ok(message.to_vec());
        }
        let count = stream.read(&mut buffer).await?;
        if count == 0 || session.peer_closed() {
            session.on_end()?;
            return Err(Failed::new(Failure::Network, "the connection ended without an answer"));
        }
        if let Err(failure) = session.on_octets(&buffer[..count], &mut plain) {
            // Tells the server why.
            let _ = flush(stream, &mut session).await;
            return Err(failure.into());
        }
    }
}

async fn flush(stream: &mut TcpStream, session: &mut Session) -> std::io::Result<()> {
    let mut octets = Vec::new();
    while session.wants_write() {
        session.write_to(&mut octets)?;
    }
    stream.write_all(&octets).await
}

impl From<tls::Failure> for Failed {
    fn from(failure: tls::Failure) -> Self {
        Self::new(Failure::Network, format!("TLS: {failure}"))
    }
}
