//! Arbitrary bytes as the messages of a transfer: it ends once, and later messages are refused.

use dnslob::wire::header::Header;
use dnslob::wire::transfer;
use dnslob::wire::transfer::{Progress, Transfer};

pub(crate) fn target(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let serial = transfer::ixfr_serial(data);
    let (qtype, serial) = match kind / 64 {
        0 => (transfer::AXFR, None),
        1 => (transfer::IXFR, serial.or(Some(5))),
        _ => (transfer::IXFR, serial),
    };
    follow(Transfer::new(qtype, serial), [data, data].into_iter());
    follow(Transfer::new(qtype, serial), data.chunks(1 + usize::from(kind % 64)));
}

fn follow<'m>(mut transfer: Transfer, messages: impl Iterator<Item = &'m [u8]>) {
    let mut is_over = false;
    for message in messages {
        let progress = transfer.on_message(message);
        if is_over {
            assert_eq!(progress, Progress::Broken, "it was over");
        }
        is_over |= progress != Progress::More;
        if progress != Progress::Broken {
            assert!(Header::parse(message).is_some_and(|head| head.is_response()));
        }
    }
}
