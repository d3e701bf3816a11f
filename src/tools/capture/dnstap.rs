//! Files of dnstap: messages as a name server saw them, in frames of Frame Streams.
//!
//! ```text
//!  frame:   length | bytes          control frame: 0 | length | type | fields
//! ```

use crate::tools::capture::Step;
use crate::tools::capture::decode::Decoder;
use crate::tools::capture::error::Fault;
use crate::tools::capture::message::Event;
use crate::tools::capture::stream::{Fill, Stream};

/// Longest frame.
const FRAME_MAX: u32 = 1 << 20;
/// Longest control frame: libfstrm's FSTRM_CONTROL_FRAME_LENGTH_MAX.
const CONTROL_MAX: u32 = 512;
/// Types of control frames.
const START: u32 = 2;
const STOP: u32 = 3;
/// The field of a control frame that says what the frames contain.
const CONTENT_TYPE: u32 = 1;
const DNSTAP: &[u8] = b"protobuf:dnstap.Dnstap";

/// A file of this format.
#[derive(Debug, Default)]
pub(super) struct Dnstap {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Started,
    Stopped,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
}

impl Dnstap {
    /// Returns whether a file that begins so is of this format: with a control frame.
    pub(super) fn is(magic: [u8; 4]) -> bool {
        magic == [0; 4]
    }

    /// Reads the next frame.
    pub(super) fn step(
        &mut self,
        stream: &mut Stream,
        decoder: &mut Decoder,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<Step, Fault> {
        let fill = |stream: &mut Stream, what: &'static str, whole: usize| match stream.fill(whole) {
            Ok(Fill::Enough) => Ok(true),
            Ok(Fill::Idle) => Ok(false),
            Ok(Fill::Ended) => Err(Fault::Cut { what, there: stream.bytes().len(), whole }),
            Err(error) => Err(Fault::Read(error)),
        };
        if matches!(stream.fill(1), Ok(Fill::Ended)) {
            return Ok(Step::End);
        }
        if !fill(stream, "a frame's length", 4)? {
            return Ok(Step::Idle);
        }
        let length = word(stream.bytes(), 0);
        if length > 0 {
            match self.state {
                State::New => return Err(Fault::Format("a frame before the start")),
                State::Stopped => return Err(Fault::Format("a frame behind the stop")),
                State::Started => {}
            }
            if length > FRAME_MAX {
                return Err(Fault::Length { what: "a frame", length: length.into() });
            }
            let whole = 4 + length as usize;
            if !fill(stream, "a frame", whole)? {
                return Ok(Step::Idle);
            }
            decoder.frame(&stream.bytes()[4..whole], visit);
            stream.consume(whole);
            return Ok(Step::More);
        }
        if !fill(stream, "a control frame", 8)? {
            return Ok(Step::Idle);
        }
        let length = word(stream.bytes(), 4);
        if !(4..=CONTROL_MAX).contains(&length) {
            return Err(Fault::Length { what: "a control frame", length: length.into() });
        }
        let whole = 8 + length as usize;
        if !fill(stream, "a control frame", whole)? {
            return Ok(Step::Idle);
        }
        let control = &stream.bytes()[8..whole];
        match word(control, 0) {
            START => {
                if !is_dnstap(&control[4..]) {
                    return Err(Fault::Foreign("frames of something else than dnstap"));
                }
                // Another stream may follow the stop of the first, where files were joined.
                self.state = State::Started;
            }
            STOP => self.state = State::Stopped,
            _ => return Err(Fault::Format("a control frame that a file cannot have")),
        }
        stream.consume(whole);
        Ok(Step::More)
    }
}

/// Returns whether the fields of a start say dnstap, or nothing.
fn is_dnstap(mut fields: &[u8]) -> bool {
    while let Some((head, rest)) = fields.split_at_checked(8) {
        let (kind, length) = (word(head, 0), word(head, 4) as usize);
        let Some((value, rest)) = rest.split_at_checked(length) else { return false };
        if kind == CONTENT_TYPE && value != DNSTAP {
            return false;
        }
        fields = rest;
    }
    true
}
