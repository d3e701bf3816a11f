//! What can be wrong with a capture, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::base::printable::Printable;

/// Compressions that are not unpacked: what their files begin with, and their programs.
const PACKED: [(&[u8], &str); 3] = [(b"\xfd7zX", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")];

/// A capture that cannot be read, or not further than this.
#[derive(Debug)]
pub struct CaptureError {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// Where, in bytes from its begin.
    pub offset: u64,
    /// Whether the offset is in what was decompressed.
    pub compressed: bool,
    /// What.
    pub fault: Fault,
}

/// What is wrong with a capture.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be opened.
    Open(io::Error),
    /// It cannot be read, or not be decompressed.
    Read(io::Error),
    /// There is no such interface; these there are.
    NoInterface(Vec<String>),
    /// The process may not look at interfaces.
    Rights,
    /// There is nothing in it.
    Empty,
    /// It is neither pcap nor pcapng nor dnstap.
    Unknown([u8; 4]),
    /// It ends within something.
    Cut {
        /// Within what.
        what: &'static str,
        /// Bytes that are there.
        there: usize,
        /// Bytes that it should have.
        whole: usize,
    },
    /// A length that nothing can have.
    Length {
        /// Of what.
        what: &'static str,
        /// Bytes.
        length: u64,
    },
    /// Something that may be good and is not read.
    Foreign(&'static str),
    /// Something else that cannot be.
    Format(&'static str),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.as_os_str() == "-" {
            f.write_str("standard input")?;
        } else {
            write!(f, "{}", Printable(self.file.to_string_lossy()))?;
        }
        let is_whole =
            matches!(self.fault, Fault::Open(_) | Fault::NoInterface(_) | Fault::Rights | Fault::Empty);
        if !is_whole {
            let unpacked = if self.compressed { " of its decompressed content" } else { "" };
            write!(f, ": at byte {}{unpacked}", self.offset)?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) | Self::Read(error) => error.fmt(f),
            Self::NoInterface(names) => {
                write!(f, "there is no such interface; there are: any, {}", names.join(", "))
            }
            Self::Rights => f.write_str(
                "looking at an interface needs root or the capability CAP_NET_RAW. \
                 Or: tcpdump -i INTERFACE -w - port 53 | dnslob scope -",
            ),
            Self::Empty => f.write_str("it is empty"),
            Self::Unknown(magic) => {
                if let Some((_, name)) = PACKED.iter().find(|(begin, _)| magic.starts_with(begin)) {
                    return write!(
                        f,
                        "it is compressed with {name}, which is not unpacked: use {name} -dc and a pipe"
                    );
                }
                let [a, b, c, d] = magic;
                write!(
                    f,
                    "it is neither pcap nor pcapng nor dnstap: it begins with {a:02x} {b:02x} {c:02x} {d:02x}"
                )
            }
            Self::Foreign(what) => write!(f, "{what}, which is not read"),
            Self::Cut { what, there, whole } => {
                write!(f, "the file ends within {what}: {there} of {whole} bytes are there")
            }
            Self::Length { what, length } => write!(f, "{what} of {length} bytes: the file is damaged"),
            Self::Format(what) => write!(f, "{what}: the file is damaged"),
        }
    }
}

/// Its words have those of the operating system, so that it has no source.
impl std::error::Error for CaptureError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_compressions_are_named() {
        let said = |magic: &[u8; 4]| Fault::Unknown(*magic).to_string();
        assert!(said(b"\xfd7zX").contains("xz -dc") && said(b"BZh9").contains("bzip2 -dc"));
        assert!(said(b"#!/b").ends_with("it begins with 23 21 2f 62"));
    }

    #[test]
    fn an_error_says_everything_once() {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        for fault in [Fault::Open(missing()), Fault::Read(missing())] {
            let error = CaptureError { file: "a.pcap".into(), offset: 5, compressed: false, fault };
            let said = format!("{:#}", anyhow::Error::new(error));
            assert_eq!(said.matches("No such file").count(), 1, "{said}");
        }
    }
}
