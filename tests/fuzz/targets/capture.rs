//! Arbitrary bytes as a capture: no panic, every message is one, every connection that opens is closed
//! once, and what is counted is what was told.

use std::collections::BTreeSet;

use dnslob::tools::capture::{Capture, CaptureOptions, Event, Step};

pub(crate) fn target(data: &[u8]) {
    messages(data);
}

/// Reads a capture, and returns how many messages it has.
pub(crate) fn messages(data: &[u8]) -> u64 {
    // Few enough connections that some are forgotten.
    let options = CaptureOptions { ports: vec![53, 5300], connections_max: 2, seed: 1 };
    let mut capture = Capture::from_bytes(data.to_vec(), &options);
    let (mut open, mut messages, mut connections) = (BTreeSet::new(), [0; 2], 0);
    let mut visit = |event: Event<'_>| match event {
        Event::Message(message) => {
            assert!(message.payload.len() >= 12);
            assert_eq!(message.payload[2] & 0x80 != 0, message.is_response);
            assert!(message.connection.is_none_or(|id| open.contains(&id)), "it is open");
            messages[usize::from(message.is_response)] += 1;
        }
        Event::Opened(connection) => {
            assert!(open.insert(connection.id) && open.len() <= 2);
            connections += 1;
        }
        Event::Closed(connection, _) => assert!(open.remove(&connection.id)),
    };
    let mut errors = 0;
    loop {
        match capture.step(&mut visit) {
            Ok(Step::End) => break,
            Ok(Step::More | Step::Idle) => {}
            Err(error) => {
                assert!(error.offset <= data.len() as u64, "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors <= 1, "a file ends with its error");
    assert!(open.is_empty(), "the end closes all");
    let counts = capture.counts();
    assert_eq!([counts.queries, counts.responses], messages);
    assert_eq!(counts.connections, connections);
    messages.iter().sum()
}
