//! GET /api/v2/events: what happens, as server-sent events (HTML, 9.2), from the events that the
//! dashboard keeps.
//!
//! A stream has no queue of its own: it remembers the number of its next event, and looks once a
//! second. One that falls so far behind that the event is gone is ended, as is one whose client
//! does not read.

use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body, Frame};
use tokio::time::{Interval, MissedTickBehavior};

use crate::base::time::{Tick, TickDelta};
use crate::control::events::Event;
use crate::control::web::rest::Problem;
use crate::control::web::site::Site;
use crate::engine::clock;
use crate::stats::web_refusal::WebRefusal;

/// Streams at a time.
const STREAMS_MAX: usize = 16;
/// How often a stream looks for events.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without an event after which something is sent all the same: whether the client is there
/// shows only then.
const QUIET: u32 = 15;
/// How long a stream lives; clients come again, and go on where they were.
const LIFE: TickDelta = TickDelta::from_ms(3_600_000);
/// How long nobody may read what was sent.
const STALL: TickDelta = TickDelta::from_ms(30_000);

/// How a connection and the stream on it know of each other.
#[derive(Clone, Debug, Default)]
pub(in crate::control::web) struct Watched(Arc<AtomicU64>);

impl Watched {
    /// Whether there is a stream whose client reads.
    pub(in crate::control::web) fn reads(&self) -> bool {
        match self.0.load(Relaxed) {
            0 => false,
            at => clock::now().since(Tick(at)) < STALL,
        }
    }

    /// Whether there is a stream.
    pub(in crate::control::web) fn streams(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    fn touch(&self) {
        self.0.store(clock::now().0.max(1), Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Counts the open streams.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

struct Stream {
    site: Site,
    watched: Watched,
    /// The number of the next event; none until the first look, without one that was seen last.
    next: Option<u64>,
    /// It has looked.
    has_looked: bool,
    second: Interval,
    quiet: u32,
    begun: Tick,
    _counted: Counted,
}

/// Answers with a stream, that goes on after the event that the client has seen last.
///
/// # Errors
/// There are too many.
pub(super) fn answer(site: &Site, headers: &HeaderMap, watched: &Watched) -> Result<Response, Problem> {
    let open = &site.api.streams;
    if open.load(Acquire) >= STREAMS_MAX {
        site.monitor.web().refused[WebRefusal::Streams].add(1);
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "there are too many streams of events"));
    }
    open.fetch_add(1, AcqRel);
    let mut second = tokio::time::interval(LOOK);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    watched.touch();
    let stream = Stream {
        site: site.clone(),
        watched: watched.clone(),
        next: seen.map(|id| next(id, site.monitor.process())),
        has_looked: false,
        second,
        quiet: 0,
        begun: clock::now(),
        _counted: Counted(Arc::clone(open)),
    };
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((kind, axum::body::Body::new(stream)).into_response())
}

/// The number after an id; 0 if it is of another process, whose events are unknown.
fn next(id: &str, process: u64) -> u64 {
    let of_this = id.split_once('.').filter(|(of, _)| u64::from_str_radix(of, 16) == Ok(process));
    of_this.and_then(|(_, number)| number.parse::<u64>().ok()).map_or(0, |number| number.saturating_add(1))
}

/// What is sent at one look: events from a number on. None if some are gone that the client would
/// have to see.
fn events(site: &Site, next: &mut Option<u64>, resumes: bool) -> Option<String> {
    let dashboard = site.dashboard.lock();
    let (oldest, end) = dashboard.event_numbers();
    let from = match *next {
        None => end,
        // Who comes again gets what is left.
        Some(wanted) if wanted < oldest && !resumes => return None,
        Some(wanted) => wanted.clamp(oldest, end),
    };
    // All that are kept, so that a burst of them is as soon there as one.
    let (text, after) = written(dashboard.events_from(from), site.monitor.process());
    *next = Some(after.unwrap_or(from));
    Some(text)
}

/// Writes events; returns the number after the last one, too.
fn written<'e>(events: impl Iterator<Item = &'e Event>, process: u64) -> (String, Option<u64>) {
    let (mut text, mut after) = (String::new(), None);
    for event in events {
        let data = serde_json::json!({"unix": event.unix, "text": event.text});
        let _ = write!(text, "id: {process:x}.{}\nevent: {}\ndata: {data}\n\n", event.number, event.kind);
        after = Some(event.number + 1);
    }
    (text, after)
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let own = self.get_mut();
        own.watched.touch();
        loop {
            if own.second.poll_tick(cx).is_pending() {
                return Poll::Pending;
            }
            let is_over = clock::now().since(own.begun) >= LIFE
                || own.site.monitor.is_draining()
                || !own.site.is_in_force();
            if is_over {
                own.watched.end();
                return Poll::Ready(None);
            }
            let resumes = !std::mem::replace(&mut own.has_looked, true);
            let Some(mut text) = events(&own.site, &mut own.next, resumes) else {
                own.site.monitor.web().refused[WebRefusal::Behind].add(1);
                own.watched.end();
                return Poll::Ready(None);
            };
            own.quiet += 1;
            if text.is_empty() && own.quiet % QUIET == 1 {
                // A comment.
                text.push_str(": \n\n");
            }
            if !text.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_process_begins_with_what_there_is() {
        assert_eq!(next("ff.7", 255), 8);
        for id in ["fe.7", "7", "", "ff.", "ff.-1", "x.7"] {
            assert_eq!(next(id, 255), 0, "{id}");
        }
        assert_eq!(next(&format!("ff.{}", u64::MAX), 255), u64::MAX);
    }

    #[test]
    fn all_events_that_are_kept_come_at_one_look() {
        let event = |number| Event { number, unix: 7, kind: "change", text: format!("change {number}") };
        let all: Vec<Event> = (40..140).map(event).collect();
        let (text, after) = written(all.iter(), 0xff);
        assert_eq!((text.matches("\n\n").count(), after), (100, Some(140)));
        let last = "id: ff.139\nevent: change\ndata: {\"text\":\"change 139\",\"unix\":7}\n\n";
        assert!(text.ends_with(last), "{text}");
        assert_eq!(written([].iter(), 1), (String::new(), None));
    }

    #[test]
    fn who_reads_is_told_from_who_does_not() {
        let watched = Watched::default();
        assert!(!watched.streams() && !watched.reads());
        watched.touch();
        assert!(watched.streams() && watched.reads());
        watched.0.store(1, Relaxed);
        assert!(watched.streams() && !watched.reads() || clock::now() < Tick(STALL.0));
        watched.end();
        assert!(!watched.streams());
    }
}
