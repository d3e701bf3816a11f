//! The loop of one thread of `dnslob bench`: sends what is due, takes what has come, sleeps until the
//! next query is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam_channel::Sender;

use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::tools::bench::asker::{Asker, Plan};
use crate::tools::bench::datagrams::{BATCH, Datagrams, Flows};
use crate::tools::bench::streams::{MAKING, Streams};
use crate::tools::load::failures::Failures;
use crate::tools::load::waiter::Waiter;

/// Queries sent in one turn, so that answers are read in between.
const TURN_MAX: usize = 256;
/// Longest sleep, so that signals and time-outs are noticed.
const SLEEP: TickDelta = TickDelta::from_ms(20);
/// The sleep where queries are due and cannot be sent.
const BLOCKED: TickDelta = TickDelta::from_us(500);

/// How long is waited for the next connection to be open, before the run begins without the others.
const PATIENCE: TickDelta = TickDelta(MAKING.0 + 1_000_000_000);
/// How often a thread that is prepared looks for the begin.
const PREPARED: TickDelta = TickDelta::from_ms(2);
/// A [`Control::rate`] at which nothing is sent.
pub(crate) const PAUSED: u32 = u32::MAX;

/// What the main thread tells the others.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// When the run begins, a [`Tick`]; 0 while that is not known.
    pub(crate) begin: AtomicU64,
    /// Send no more, and wait for what is outstanding.
    pub(crate) stopping: AtomicBool,
    /// Do not wait either.
    pub(crate) cut: AtomicBool,
    /// The rate of all threads, queries per second, or [`PAUSED`]; 0 leaves it as it is.
    pub(crate) rate: AtomicU32,
}

/// What queries travel by.
#[derive(Debug)]
enum Lanes {
    Datagrams(Box<Datagrams>),
    Streams(Streams),
}

/// What a thread is given to ask by.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Sockets, and the longest answer, bytes.
    Datagrams(Flows, u16),
    Streams(Streams),
}

/// What a thread is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) asker: Asker,
    pub(crate) transport: Transport,
    pub(crate) waiter: Waiter,
    pub(crate) control: Arc<Control>,
    /// Takes the number of open connections once nothing more has to be prepared.
    pub(crate) prepared: Sender<usize>,
    /// How long queries are sent.
    pub(crate) duration: TickDelta,
    /// How long an answer may take.
    pub(crate) timeout: TickDelta,
}

/// What a thread has to say at its end.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Why connections could not be made.
    pub(crate) failures: Failures,
    /// How long there was no connection while queries were to be sent.
    pub(crate) apart: TickDelta,
}

/// A thread.
#[derive(Debug)]
pub(crate) struct Worker {
    asker: Asker,
    lanes: Lanes,
    waiter: Waiter,
    control: Arc<Control>,
    prepared: Sender<usize>,
    begin: Tick,
    end: Tick,
    duration: TickDelta,
    timeout: TickDelta,
    /// Since when there is no connection.
    apart_since: Option<Tick>,
    /// How long there was none before.
    apart: TickDelta,
}

impl Worker {
    /// Prepares the thread that calls it.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { mut asker, transport, waiter, control, prepared, duration, timeout } = setup;
        asker.timeout = timeout;
        Waiter::be_exact();
        let lanes = match transport {
            Transport::Datagrams(flows, payload) => {
                Lanes::Datagrams(Box::new(Datagrams::new(flows, payload)))
            }
            Transport::Streams(streams) => Lanes::Streams(streams),
        };
        Self {
            asker,
            lanes,
            waiter,
            control,
            prepared,
            begin: Tick(0),
            end: Tick(0),
            duration,
            timeout,
            apart_since: None,
            apart: TickDelta(0),
        }
    }

    /// Asks until the end, and until everything is answered or lost.
    pub(crate) fn run(mut self) -> Done {
        if self.prepare() {
            self.ask();
        }
        self.asker.tally.end();
        let failures = match self.lanes {
            Lanes::Datagrams(_) => Failures::default(),
            Lanes::Streams(streams) => streams.failures,
        };
        Done { failures, apart: self.apart }
    }

    /// Makes the connections and waits for the begin; returns whether there is one. What takes its time
    /// here is no part of the measurement.
    fn prepare(&mut self) -> bool {
        let (mut told, mut open, mut until) = (false, 0, clock::now() + PATIENCE);
        loop {
            let now = clock::now();
            if self.control.cut.load(Relaxed) {
                return false;
            }
            let begin = Tick(self.control.begin.load(Relaxed));
            if begin != Tick(0) {
                (self.begin, self.end) = (begin, begin + self.duration);
                self.asker.begin_at(begin);
                return true;
            }
            let is_prepared = match &mut self.lanes {
                Lanes::Datagrams(_) => true,
                Lanes::Streams(streams) => {
                    streams.connect(&mut self.asker, &self.waiter, now);
                    streams.give_up(&mut self.asker, now);
                    if streams.open() > open {
                        (open, until) = (streams.open(), now + PATIENCE);
                    }
                    streams.is_prepared() || now >= until
                }
            };
            if is_prepared && !told {
                told = true;
                // Whoever waits for it goes only when the process ends.
                let _ = self.prepared.send(open);
            }
            let events = self.waiter.wait(PREPARED);
            self.receive(events);
        }
    }

    fn ask(&mut self) {
        let sweep = TickDelta((self.timeout.0 / 20).clamp(1_000_000, 100_000_000));
        let (mut sweep_at, mut sending, mut events) = (self.begin + sweep, true, 0);
        loop {
            let now = clock::now();
            self.asker.tally.on_time(now);
            if sending && (now >= self.end || self.control.stopping.load(Relaxed)) {
                sending = false;
                if !self.is_paused() {
                    let last = now.min(self.end - TickDelta(1));
                    if matches!(self.asker.plan, Plan::Open(_)) {
                        // What has become due since the last turn is not late.
                        self.send(last, events);
                    }
                    let missed = self.asker.skip_due(last);
                    let is_apart = self.is_apart();
                    let counts = self.asker.tally.counts();
                    *(if is_apart { &mut counts.unconnected } else { &mut counts.not_sent }) += missed;
                }
            }
            self.note_apart(now, sending);
            let (sent, room) = if sending { self.send(now, events) } else { (false, 0) };
            if !sending && (self.asker.waiting == 0 || self.control.cut.load(Relaxed)) {
                break;
            }
            if now >= sweep_at {
                sweep_at = now + sweep;
                match &mut self.lanes {
                    Lanes::Datagrams(datagrams) => datagrams.expire(&mut self.asker, now, self.timeout),
                    Lanes::Streams(streams) => {
                        streams.expire(&mut self.asker, now, self.timeout);
                        streams.give_up(&mut self.asker, now);
                        if sending && streams.is_apart() {
                            self.asker.give_up_due(now - self.timeout);
                        }
                    }
                }
            }
            let sleep = self.sleep(now, sending, sent, room).min(sweep_at.since(now));
            events = self.waiter.wait(sleep);
            self.receive(events);
        }
        match &mut self.lanes {
            Lanes::Datagrams(datagrams) => datagrams.cut_short(&mut self.asker),
            Lanes::Streams(streams) => streams.cut_short(&mut self.asker),
        }
    }

    /// Returns whether there is no connection.
    fn is_apart(&self) -> bool {
        matches!(&self.lanes, Lanes::Streams(streams) if streams.is_apart())
    }

    /// Returns whether a ramp waits for what is outstanding.
    fn is_paused(&self) -> bool {
        self.control.rate.load(Relaxed) == PAUSED
    }

    /// Measures how long there is no connection.
    fn note_apart(&mut self, now: Tick, sending: bool) {
        if sending && now >= self.begin && self.is_apart() {
            self.apart_since.get_or_insert(now);
        } else if let Some(since) = self.apart_since.take() {
            self.apart = TickDelta(self.apart.0 + now.since(since).0);
        }
    }

    /// Sends what may be sent; returns whether something was, and how much may still be.
    fn send(&mut self, now: Tick, events: usize) -> (bool, usize) {
        if now < self.begin {
            return (false, 0);
        }
        if let Lanes::Streams(streams) = &mut self.lanes {
            streams.connect(&mut self.asker, &self.waiter, now);
        }
        let rate = self.control.rate.load(Relaxed);
        if rate == PAUSED {
            self.asker.skip_due(now);
            return (false, 0);
        }
        if let Plan::Open(pace) = &mut self.asker.plan
            && rate != 0
            && rate != pace.rate()
        {
            // What a ramp has not sent at the old rate is part of that step.
            pace.change(now, rate);
        }
        let room = self.asker.room(now);
        let is_worth_it = match &self.asker.plan {
            Plan::Open(_) => room > 0,
            // Small batches only where no answers come that would make larger ones.
            Plan::Closed(most) => room > 0 && (room >= BATCH.min(*most) || events == 0),
        };
        if !is_worth_it {
            return (false, room);
        }
        let count = room.min(TURN_MAX);
        let sent = match &mut self.lanes {
            Lanes::Datagrams(datagrams) => datagrams.send(&mut self.asker, count),
            Lanes::Streams(streams) => streams.send(&mut self.asker, &self.waiter, count),
        };
        (sent, self.asker.room(now))
    }

    /// Returns how long there is nothing to do.
    fn sleep(&self, now: Tick, sending: bool, sent: bool, room: usize) -> TickDelta {
        let interval = self.asker.tally.over_at().since(now);
        if !sending {
            return SLEEP.min(interval);
        }
        if now < self.begin {
            return self.begin.since(now);
        }
        if self.is_paused() {
            return SLEEP.min(interval);
        }
        let until_next = match &self.asker.plan {
            Plan::Open(_) if room > 0 && sent => TickDelta(0),
            Plan::Open(_) if room > 0 => BLOCKED,
            Plan::Open(pace) => pace.next().since(clock::now()),
            Plan::Closed(_) if room == 0 => SLEEP,
            // Answers that have come, or else room is used.
            Plan::Closed(_) if sent || self.asker.waiting > 0 => TickDelta(0),
            Plan::Closed(_) => BLOCKED,
        };
        until_next.min(SLEEP).min(interval).min(self.end.since(now))
    }

    fn receive(&mut self, events: usize) {
        for event in 0..events {
            let (number, readable, writable) = self.waiter.event(event);
            // Numbers of sockets are their places.
            let number = number as usize;
            match &mut self.lanes {
                Lanes::Datagrams(datagrams) => datagrams.receive(&mut self.asker, number),
                Lanes::Streams(streams) => {
                    streams.on_event(&mut self.asker, &self.waiter, number, readable, writable);
                }
            }
        }
    }
}
