//! The loop of one thread of `dnslob replay`: sends what is due, takes what has come, sleeps until the
//! next query is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crossbeam_channel::{Receiver, TryRecvError};

use crate::base::time::{Tick, TickDelta};
use crate::compare::Outcomes;
use crate::engine::clock;
use crate::tools::load::failures::Failures;
use crate::tools::load::spans::Spans;
use crate::tools::load::waiter::Waiter;
use crate::tools::replay::batch::{Batch, Kind};
use crate::tools::replay::datagrams::{self, Datagrams};
use crate::tools::replay::ledger::Ledger;
use crate::tools::replay::sessions::{self, STREAM, Sessions};

/// Longest sleep, so that signals and time-outs are noticed.
const SLEEP: TickDelta = TickDelta::from_ms(20);
/// The sleep where queries are due and cannot be sent, or are not there yet.
const BLOCKED: TickDelta = TickDelta::from_us(500);
/// Late answers are still counted for this part of the time-out.
const SWEEPS: u64 = 20;

/// What the threads tell each other.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Send no more, and wait for what is outstanding.
    pub(crate) stopping: AtomicBool,
    /// Do not wait either.
    pub(crate) cut: AtomicBool,
    /// How much of the capture is sent, bytes.
    pub(crate) done: AtomicU64,
    /// How much of it has been read, bytes, and when the last query of that is due, nanoseconds.
    pub(crate) read: AtomicU64,
    pub(crate) due: AtomicU64,
}

impl Control {
    /// Returns how long a run will take, nanoseconds, of whose capture this is the length: as if what is still
    /// to be read were like what was. Reading is ahead of sending, and so is the place in the file.
    pub(crate) fn whole(&self, length: u64) -> u64 {
        let (read, due) = (self.read.load(Relaxed), self.due.load(Relaxed));
        if read == 0 { u64::MAX } else { (due as f64 * (length.max(read) as f64 / read as f64)) as u64 }
    }
}

/// What a thread is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) ledger: Ledger,
    pub(crate) datagrams: datagrams::Plan,
    pub(crate) sessions: sessions::Plan,
    pub(crate) waiter: Waiter,
    pub(crate) control: Arc<Control>,
    pub(crate) jobs: Receiver<Batch>,
    pub(crate) begin: Tick,
    /// Whether jobs have times.
    pub(crate) is_timed: bool,
    /// How long an answer may take.
    pub(crate) timeout: TickDelta,
}

/// What a thread has to say at its end.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcomes: Outcomes,
    /// When its last query has left for each target,
    pub(crate) sent_until: [Tick; 2],
    /// and when it was handed over: some have to wait for a connection.
    pub(crate) asked_until: Tick,
    /// By how much queries were handed over late, nanoseconds.
    pub(crate) own_lag: Spans,
    /// Why connections could not be made, to each target.
    pub(crate) failures: [Failures; 2],
    pub(crate) notes: Vec<String>,
}

/// A thread.
#[derive(Debug)]
pub(crate) struct Worker {
    ledger: Ledger,
    datagrams: Datagrams,
    sessions: Sessions,
    waiter: Waiter,
    control: Arc<Control>,
    jobs: Receiver<Batch>,
    begin: Tick,
    is_timed: bool,
    timeout: TickDelta,
    batch: Batch,
    /// The next job of the batch.
    next: usize,
    /// Whether there is no batch behind this one.
    is_last: bool,
    /// Jobs that are sent as datagrams in a turn.
    turn: Vec<usize>,
    asked_until: Tick,
}

impl Worker {
    /// Prepares the thread that calls it.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { ledger, datagrams, sessions, waiter, control, jobs, begin, is_timed, timeout } = setup;
        Waiter::be_exact();
        Self {
            ledger,
            datagrams: Datagrams::new(datagrams),
            sessions: Sessions::new(sessions),
            waiter,
            control,
            jobs,
            begin,
            is_timed,
            timeout,
            batch: Batch::default(),
            next: 0,
            is_last: false,
            turn: Vec::new(),
            asked_until: begin,
        }
    }

    /// Sends until the end, and until everything is answered or lost.
    pub(crate) fn run(mut self) -> Done {
        let sweep = TickDelta((self.timeout.0 / SWEEPS).clamp(1_000_000, 100_000_000));
        let mut sweep_at = self.begin + sweep;
        loop {
            let now = clock::now();
            self.ledger.on_time(now);
            let sleep = if self.fetch() { self.send(now) } else { BLOCKED };
            if self.control.stopping.load(Relaxed) {
                // What has become due since the last turn is sent: it is not late.
                self.give_up(now);
            }
            let is_over = self.is_last && self.next == self.batch.jobs.len();
            if is_over && self.ledger.waiting() == 0 || self.control.cut.load(Relaxed) {
                break;
            }
            if now >= sweep_at {
                sweep_at = now + sweep;
                self.ledger.expire(now);
                self.sessions.sweep(&mut self.ledger, now);
            }
            let sleep = if is_over { SLEEP } else { sleep };
            let until = sleep.min(SLEEP).min(self.ledger.over_at().since(now)).min(sweep_at.since(now));
            let events = self.waiter.wait(until);
            self.receive(events);
        }
        self.ledger.cut_short();
        let mut notes = Vec::new();
        if let Some(error) = &self.datagrams.shortage {
            notes.push(format!("clients share sockets, since no more could be opened: {error}"));
        }
        if self.sessions.evicted > 0 {
            let evicted = self.sessions.evicted;
            notes.push(format!("{evicted} connections were closed early, to stay within --connections"));
        }
        let failures = self.sessions.failures;
        let asked_until = self.asked_until;
        let sent_until = self.ledger.sent_until.map(|until| until.max(asked_until));
        let own_lag = std::mem::replace(&mut self.ledger.own_lag, Spans::new());
        Done { outcomes: self.ledger.end(), sent_until, asked_until, own_lag, failures, notes }
    }

    /// Returns whether there is a job, if need be of another batch.
    fn fetch(&mut self) -> bool {
        while self.next == self.batch.jobs.len() && !self.is_last {
            match self.jobs.try_recv() {
                Ok(batch) => {
                    self.control.done.fetch_max(self.batch.read, Relaxed);
                    (self.batch, self.next) = (batch, 0);
                }
                Err(TryRecvError::Disconnected) => self.is_last = true,
                Err(TryRecvError::Empty) => return false,
            }
        }
        self.next < self.batch.jobs.len()
    }

    /// Sends what is due, and returns how long there is nothing more to do.
    fn send(&mut self, now: Tick) -> TickDelta {
        if now < self.begin {
            return self.begin.since(now);
        }
        let passed = now.since(self.begin);
        let due =
            self.batch.jobs[self.next..].iter().take_while(|job| !self.is_timed || job.due <= passed).count();
        let count = self.ledger.room(due, now);
        if count == 0 && due > 0 {
            return BLOCKED;
        }
        let begin = self.is_timed.then_some(self.begin);
        self.turn.clear();
        let mut done = 0;
        for number in self.next..self.next + count {
            let job = &self.batch.jobs[number];
            let needs_connection = job.kind == Kind::Query && job.by_stream;
            if needs_connection && !self.is_timed && !self.sessions.have_room(job) {
                // It can wait: it has no time.
                break;
            }
            done += 1;
            match job.kind {
                Kind::Query if !job.by_stream => self.turn.push(number),
                Kind::Query => self.sessions.send(&mut self.ledger, &self.waiter, &self.batch, job, begin),
                Kind::Open => self.sessions.open(&mut self.ledger, &self.waiter, &self.batch, job),
                Kind::Close => self.sessions.close(&mut self.ledger, job),
            }
        }
        let sent = &self.batch.jobs[self.next..self.next + done];
        let has_queries = sent.iter().any(|job| job.kind == Kind::Query);
        self.next += done;
        if has_queries {
            self.datagrams.send(&mut self.ledger, &self.waiter, &self.batch, &self.turn, begin);
            self.asked_until = clock::now();
        }
        if done < count {
            return BLOCKED;
        }
        if done < count {
            return BLOCKED;
        }
        match self.batch.jobs.get(self.next) {
            Some(job) if self.is_timed => (self.begin + job.due).since(clock::now()),
            Some(_) | None => TickDelta(0),
        }
    }

    /// Leaves out what is not sent yet; what was due counts.
    fn give_up(&mut self, now: Tick) {
        let passed = now.since(self.begin);
        while self.fetch() {
            let left = self.batch.jobs[self.next..].iter();
            let due = left.filter(|job| job.kind == Kind::Query && self.is_timed && job.due <= passed).count()
                as u64;
            for target in 0..self.ledger.targets() {
                self.ledger.counts(target).not_sent += due;
            }
            self.next = self.batch.jobs.len();
        }
    }

    fn receive(&mut self, events: usize) {
        for event in 0..events {
            let (number, readable, writable) = self.waiter.event(event);
            // Numbers of connections have a bit that those of sockets do not reach.
            match u32::try_from(number) {
                Ok(number) if number & STREAM != 0 => {
                    self.sessions.on_event(
                        &mut self.ledger,
                        &self.waiter,
                        number & !STREAM,
                        readable,
                        writable,
                    );
                }
                Ok(_) | Err(_) => self.datagrams.receive(&mut self.ledger, number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_known_once_all_is_read() {
        let control = Control::default();
        assert_eq!(control.whole(1_000), u64::MAX, "nothing is read yet");
        // A tenth is read, which takes two seconds.
        control.read.store(100, Relaxed);
        control.due.store(2_000_000_000, Relaxed);
        assert_eq!(control.whole(1_000), 20_000_000_000);
        control.read.store(1_000, Relaxed);
        assert_eq!(control.whole(1_000), 2_000_000_000);
        assert_eq!(control.whole(10), 2_000_000_000, "a file that grows");
    }
}
