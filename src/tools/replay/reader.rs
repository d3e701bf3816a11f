//! The thread that reads the capture, ahead of those that send.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ahash::RandomState;
use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};

use crate::base::time::{Tick, TickDelta};
use crate::config::replay::ReplayOptions;
use crate::engine::clock;
use crate::tools::capture::{Capture, CaptureError, CaptureOptions, Counts, Step};
use crate::tools::replay::batch::Batch;
use crate::tools::replay::feeder::{Fed, Feeder, Silence, WINDOW};
use crate::tools::replay::worker::Control;

/// Batches that a thread is ahead of one that sends.
pub(crate) const BATCHES: usize = 32;
/// How long jobs of a pipe wait for more, before they are handed over.
const GATHERED: TickDelta = TickDelta::from_ms(20);
/// By how much sending is behind a pipe without recorded answers: some times of gathering.
const BEHIND: TickDelta = TickDelta::from_ms(100);
/// How long it is waited for a thread that has enough, until others may need some.
const PAUSE: Duration = Duration::from_millis(1);

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) fed: Fed,
    pub(crate) counts: Counts,
    /// Why it was not read further.
    pub(crate) error: Option<String>,
}

/// The reader.
pub(crate) struct Reader {
    capture: Capture,
    feeder: Feeder,
    outputs: Vec<Sender<Batch>>,
    control: Arc<Control>,
    /// Told once, when there is something to send or nothing will come.
    begun: Option<Sender<()>>,
    /// Told the times between which nothing is due for long.
    silences: Sender<Silence>,
    /// Whether it is a pipe, whose next packet may take its time.
    is_pipe: bool,
    /// When jobs of a pipe were handed over.
    handed: Tick,
    /// When something was read of a pipe.
    heard: Tick,
    error: Option<String>,
}

impl Reader {
    /// Opens a capture for threads with these queues.
    ///
    /// # Errors
    /// That it cannot be opened.
    pub(crate) fn open(
        options: &ReplayOptions,
        seed: u64,
        outputs: Vec<Sender<Batch>>,
        control: Arc<Control>,
        begun: Sender<()>,
        silences: Sender<Silence>,
    ) -> Result<Self, CaptureError> {
        let capture_options =
            CaptureOptions { ports: options.ports.clone(), seed, ..CaptureOptions::default() };
        let capture = Capture::open(std::slice::from_ref(&options.capture), &capture_options)?;
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 2);
        let feeder = Feeder::new(options, outputs.len(), hasher);
        let (begun, is_pipe, never) = (Some(begun), is_pipe(options), Tick(0));
        Ok(Self {
            capture,
            feeder,
            outputs,
            control,
            begun,
            silences,
            is_pipe,
            handed: never,
            heard: never,
            error: None,
        })
    }

    /// Returns by how much sending has to be behind reading, which matters for a pipe.
    pub(crate) fn delay(options: &ReplayOptions) -> TickDelta {
        let pairs = options.second.is_none() && !options.ignore_recorded;
        match (is_pipe(options), pairs) {
            (false, _) => TickDelta(0),
            (true, false) => BEHIND,
            (true, true) => TickDelta(WINDOW + BEHIND.0),
        }
    }

    /// Reads until the end, or until it is to stop.
    pub(crate) fn run(mut self) -> Read {
        while !self.control.stopping.load(Relaxed) && !self.feeder.is_done() {
            let Self { capture, feeder, .. } = &mut self;
            match capture.step(&mut |event| feeder.take(&event)) {
                Ok(Step::More) => {}
                Ok(Step::Idle) => self.idle(),
                Ok(Step::End) => break,
                Err(error) => self.error = Some(error.to_string()),
            }
            if self.is_pipe {
                self.hand_over_soon();
            }
            for silence in self.feeder.silences.drain(..) {
                // Who listens goes only with the run.
                let _ = self.silences.send(silence);
            }
            if !self.feeder.ready.is_empty() {
                self.hand_over();
            }
        }
        // Connections that are open end here.
        let Self { capture, feeder, .. } = &mut self;
        capture.end(&mut |event| feeder.take(&event));
        let Self { capture, feeder, outputs, control, begun, error, .. } = self;
        let (ready, fed) = feeder.end();
        control.due.store(fed.last_due.0, Relaxed);
        control.read.store(u64::MAX, Relaxed);
        // Whoever waits for it begins, and takes what is more than the queues have room for.
        drop(begun);
        send(ready, &outputs, &control);
        drop(outputs);
        Read { fed, counts: capture.counts().clone(), error }
    }

    /// Hands over what a pipe had some milliseconds ago, however little it is. The run begins with the
    /// first query, which may wait for its recorded answer.
    fn hand_over_soon(&mut self) {
        if self.feeder.pending() > 0 {
            self.begun = None;
        }
        let now = clock::now();
        if now.since(self.handed) >= GATHERED {
            self.handed = now;
            self.feeder.flush();
        }
    }

    /// A pipe is silent: sends what it has, once that is due.
    fn idle(&mut self) {
        let now = clock::now();
        if self.feeder.pending() > 0 {
            if self.heard == Tick(0) {
                self.heard = now;
            }
            // What was read first is due by then.
            if now.since(self.heard).0 > WINDOW * 9 / 10 {
                self.feeder.release(0);
                self.heard = Tick(0);
            }
        }
        self.feeder.flush();
    }

    fn hand_over(&mut self) {
        // Whoever waits for it begins.
        self.begun = None;
        let read = self.capture.position().0;
        self.control.due.store(self.feeder.last_due().0, Relaxed);
        self.control.read.store(read, Relaxed);
        self.feeder.ready.iter_mut().for_each(|(_, batch)| batch.read = read);
        send(std::mem::take(&mut self.feeder.ready), &self.outputs, &self.control);
    }
}

fn is_pipe(options: &ReplayOptions) -> bool {
    options.capture == Path::new("-") || !options.capture.metadata().is_ok_and(|m| m.is_file())
}

/// Passes batches to their threads; waits where one has enough, without keeping the others waiting.
fn send(mut ready: Vec<(usize, Batch)>, outputs: &[Sender<Batch>], control: &Control) {
    while !ready.is_empty() {
        let mut is_full = vec![false; outputs.len()];
        let mut left = Vec::new();
        for (thread, batch) in ready {
            if is_full[thread] {
                left.push((thread, batch));
                continue;
            }
            match outputs[thread].try_send(batch) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(batch)) => {
                    is_full[thread] = true;
                    left.push((thread, batch));
                }
            }
        }
        ready = left;
        if ready.is_empty() || control.stopping.load(Relaxed) {
            return;
        }
        let (thread, batch) = ready.remove(0);
        match outputs[thread].send_timeout(batch, PAUSE) {
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => {}
            Err(SendTimeoutError::Timeout(batch)) => ready.insert(0, (thread, batch)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::capture::fixture::{CLIENT, SERVER, dns, frames, udp};
    use crate::tools::replay::batch::JOBS_MAX;
    use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};

    #[test]
    fn a_run_begins_before_all_that_waited_for_answers_is_handed_over() {
        // No answer is there, so that all of them are held back until the end; and the queue has room for fewer.
        const QUERIES: usize = BATCHES * JOBS_MAX + 1_000;
        let packets: Vec<_> = (0..QUERIES)
            .map(|n| (7_000_000_000 + n as u64, udp(CLIENT, SERVER, &dns(n as u16, false, "www"))))
            .collect();
        let path = std::env::temp_dir().join(format!("dnslob-reader-short-{}", std::process::id()));
        std::fs::write(&path, frames(&packets)).expect("a capture");
        let all = ["replay", path.to_str().expect("text"), "127.0.0.1"];
        let matches = crate::config::replay::command().try_get_matches_from(all).expect("options");
        let options = crate::config::replay::options(&matches);
        let (control, (output, jobs)) = (Arc::new(Control::default()), bounded(BATCHES));
        let (begun, begins) = bounded(1);
        let reader = Reader::open(&options, 1, vec![output], Arc::clone(&control), begun, unbounded().0)
            .expect("a capture");
        let reading = std::thread::spawn(move || reader.run());
        let told = begins.recv_timeout(Duration::from_secs(20));
        assert_eq!(told, Err(RecvTimeoutError::Disconnected), "it waits for a run that waits for it");
        assert_eq!(jobs.iter().map(|batch: Batch| batch.jobs.len()).sum::<usize>(), QUERIES);
        assert_eq!(reading.join().expect("the reader").fed.queries, QUERIES as u64);
        std::fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn it_tells_how_long_the_run_will_take() {
        let packets: Vec<_> = (0..6_u16)
            .map(|n| {
                (7_000_000_000 + u64::from(n) * 1_000_000_000, udp(CLIENT, SERVER, &dns(n, false, "www")))
            })
            .collect();
        let path = std::env::temp_dir().join(format!("dnslob-reader-{}", std::process::id()));
        std::fs::write(&path, frames(&packets)).expect("a capture");
        let length = path.metadata().expect("a file").len();
        for (arguments, whole_s) in
            [(&["--speed", "1"][..], 5), (&["--count", "3"], 2), (&["--rate", "1"], 5)]
        {
            let all = [&["replay", path.to_str().expect("text"), "127.0.0.1"][..], arguments].concat();
            let matches = crate::config::replay::command().try_get_matches_from(all).expect("options");
            let (control, (output, _jobs)) = (Arc::new(Control::default()), bounded(BATCHES));
            let reader = Reader::open(
                &crate::config::replay::options(&matches),
                1,
                vec![output],
                Arc::clone(&control),
                bounded(1).0,
                unbounded().0,
            );
            reader.expect("a capture").run();
            assert_eq!(control.whole(length), whole_s * 1_000_000_000, "{arguments:?}");
        }
        std::fs::remove_file(path).expect("it is there");
    }
}
