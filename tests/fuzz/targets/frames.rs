//! Arbitrary bytes as a stream, split anywhere and stopped anywhere: the messages, and the final
//! error, are the same as for the unsplit stream, and no memory is kept.

use dnslob::wire::frame::{Flow, FrameError, Frames, Outbound};

type Taken = (Vec<Vec<u8>>, Option<FrameError>);

pub(crate) fn target(data: &[u8]) {
    let Some((&[cut, stop], stream)) = data.split_first_chunk() else { return };
    let (whole, left) = taken(&[stream], 0);
    // A simple reference implementation.
    assert_eq!(whole, plain(stream));
    let reads: Vec<&[u8]> = stream.chunks(1 + usize::from(cut % 64)).collect();
    let (cut, left_of_cut) = taken(&reads, usize::from(stop % 4));
    assert_eq!(cut, whole);
    if whole.1.is_none() {
        assert_eq!(left, left_of_cut);
        let used: usize = whole.0.iter().map(|message| message.len() + 2).sum();
        assert_eq!(used + left, stream.len());
        output(&whole.0, &stream[..used]);
    }
}

/// Returns the messages of these reads, where every `stop`th message stops reading (0: none), and
/// the number of bytes that remain buffered.
fn taken(reads: &[&[u8]], stop: usize) -> (Taken, usize) {
    let (mut frames, mut messages) = (Frames::new(), Vec::new());
    for read in reads {
        let mut some = |message: &[u8]| {
            messages.push(message.to_vec());
            if stop > 0 && messages.len() % stop == 0 { Flow::Stop } else { Flow::Go }
        };
        match frames.feed(read, &mut some) {
            Ok(used) => frames.keep(&read[used..]),
            Err(error) => return ((messages, Some(error)), frames.pending()),
        }
        while frames.has_more() {
            if let Err(error) = frames.resume(&mut some) {
                return ((messages, Some(error)), frames.pending());
            }
        }
        assert_eq!(frames.is_partial(), frames.pending() > 0);
        assert!(frames.pending() > 0 || frames.capacity() == 0);
    }
    ((messages, None), frames.pending())
}

fn plain(mut stream: &[u8]) -> Taken {
    let mut messages = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk() {
        let length = u16::from_be_bytes(*length);
        match length {
            0 => return (messages, Some(FrameError::Empty)),
            1..12 => return (messages, Some(FrameError::Short(length))),
            12.. => {}
        }
        let Some((message, rest)) = rest.split_at_checked(usize::from(length)) else { break };
        messages.push(message.to_vec());
        stream = rest;
    }
    (messages, None)
}

/// Writing the messages reproduces the stream.
fn output(messages: &[Vec<u8>], stream: &[u8]) {
    let (mut out, mut written) = (Outbound::new(), Vec::new());
    for message in messages {
        assert!(out.push_frame(message));
        let some = out.len() / 2;
        written.extend(&out.pending()[..some]);
        out.advance(some);
    }
    written.extend(out.pending());
    out.advance(out.len());
    out.release();
    assert_eq!((written.as_slice(), out.capacity()), (stream, 0));
}
