//! The UDP sockets of one thread of `dnslob replay`.
//!
//! ```text
//!  client ─► flow: a socket towards each target        as many flows as allowed, then clients share
//! ```
//! What is due at a time is sorted by flow, without changing the order within one, and goes out in
//! batches by one system call.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use ahash::{AHashMap, RandomState};
use socket2::Socket;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::addr::mapped;
use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::engine::sys::{Local, Note, OutgoingDatagram, ReceiveBuffers, Segment, SendBuffers};
use crate::tools::load::sockets;
use crate::tools::load::waiter::Waiter;
use crate::tools::replay::batch::{Batch, Job};
use crate::tools::replay::feeder::DATAGRAM_MAX;
use crate::tools::replay::ledger::Ledger;

/// Queries of one system call.
const BATCH: usize = 32;
/// Answers of one system call.
const RECEIVE_BATCH: usize = 64;
/// Batches of answers of one socket in a turn.
const BATCHES_MAX: usize = 4;
/// Sockets that send from recorded addresses: each sends from all of them.
const SPOOFING: usize = 16;

/// What sockets are opened for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) targets: Vec<SocketAddr>,
    /// Most flows.
    pub(crate) most: usize,
    /// Whether datagrams come from the recorded addresses.
    pub(crate) spoof: bool,
    /// What tables are hashed with.
    pub(crate) hasher: RandomState,
}

/// The sockets, and the buffers that they share.
#[derive(Debug)]
pub(crate) struct Datagrams {
    plan: Plan,
    /// Of each flow, a socket towards each target.
    flows: Vec<Vec<Socket>>,
    clients: AHashMap<IpAddr, u32>,
    /// Why no more flows could be opened.
    pub(crate) shortage: Option<io::Error>,
    /// Flow and number of each job that is sent in a turn.
    order: Vec<(u32, u32)>,
    received: ReceiveBuffers,
    /// The queries of a batch.
    staged: ReceiveBuffers,
    outgoing: Vec<OutgoingDatagram>,
    slots: Vec<usize>,
    failed: Vec<usize>,
    send: SendBuffers,
    segment: Segment,
}

impl Datagrams {
    /// Allocates the buffers, on the thread that uses them.
    pub(crate) fn new(plan: Plan) -> Self {
        // Segments of one message have one source.
        let segment = if plan.spoof { Segment::Never } else { Segment::Runs };
        Self {
            flows: Vec::new(),
            clients: AHashMap::with_hasher(plan.hasher.clone()),
            shortage: None,
            order: Vec::new(),
            received: ReceiveBuffers::with_message_max(RECEIVE_BATCH, usize::from(u16::MAX)),
            staged: ReceiveBuffers::with_message_max(BATCH, DATAGRAM_MAX),
            outgoing: Vec::with_capacity(BATCH),
            slots: Vec::with_capacity(BATCH),
            failed: Vec::new(),
            send: SendBuffers::new(BATCH),
            segment,
            plan,
        }
    }

    /// Sends the queries among these jobs, for which the ledger has room. They were due from `begin`
    /// on; without it, at once.
    pub(crate) fn send(
        &mut self,
        ledger: &mut Ledger,
        waiter: &Waiter,
        batch: &Batch,
        jobs: &[usize],
        begin: Option<Tick>,
    ) {
        self.order.clear();
        for job in jobs {
            match self.flow_of(batch.jobs[*job].client.ip(), waiter) {
                // A batch has 256 jobs.
                Some(flow) => self.order.push((flow, *job as u32)),
                None => (0..ledger.targets()).for_each(|target| ledger.counts(target).send_errors += 1),
            }
        }
        self.order.sort_by_key(|(flow, _)| *flow);
        let order = std::mem::take(&mut self.order);
        for run in order.chunk_by(|a, b| a.0 == b.0) {
            for part in run.chunks(BATCH) {
                self.send_batch(ledger, batch, part, begin);
            }
        }
        self.order = order;
    }

    /// Sends queries of one flow.
    fn send_batch(&mut self, ledger: &mut Ledger, batch: &Batch, part: &[(u32, u32)], begin: Option<Tick>) {
        let flow = part[0].0;
        let now = clock::now();
        self.outgoing.clear();
        self.slots.clear();
        for (at, (_, number)) in part.iter().enumerate() {
            let job = &batch.jobs[*number as usize];
            let intended = intended(job, begin, now);
            let (slot, id) = ledger.ask(batch, job, [flow; 2], intended, now);
            let (header, message) = (batch.bytes(&job.header), batch.bytes(&job.message));
            let mut packet = self.staged.packet_at(at, 0, 0);
            // What is longer was left out before.
            let _ = packet.append(header) && packet.append(&id.to_be_bytes()) && packet.append(&message[2..]);
            let len = header.len() + message.len();
            self.outgoing.push(OutgoingDatagram { at, start: 0, len, to: None, from: None });
            self.slots.push(slot);
        }
        for target in 0..self.plan.targets.len() {
            self.address(batch, part, target);
            let was_refused = self.hand_over(flow, target);
            for (at, slot) in self.slots.iter().enumerate() {
                if self.failed.contains(&at) {
                    ledger.unsent(*slot, target);
                } else {
                    ledger.sent(*slot, target);
                }
            }
            if was_refused {
                // It tells of those before: these have gone behind it.
                ledger.refused(target, flow, now - TickDelta(1));
            }
        }
    }

    /// Names sources and destinations, where sockets are not connected.
    fn address(&mut self, batch: &Batch, part: &[(u32, u32)], target: usize) {
        if !self.plan.spoof {
            return;
        }
        let to = self.plan.targets[target];
        for (datagram, (_, number)) in self.outgoing.iter_mut().zip(part) {
            let client = batch.jobs[*number as usize].client.ip();
            datagram.to = Some(to.into());
            datagram.from = Some(Local { ip: mapped(client), interface: 0 });
        }
    }

    /// Passes what is staged to the kernel; notes what it did not take, and returns whether the port has
    /// refused earlier datagrams.
    fn hand_over(&mut self, flow: u32, target: usize) -> bool {
        let Self { flows, staged, outgoing, failed, send, segment, .. } = self;
        let (socket, with) = (&flows[flow as usize][target], *segment);
        failed.clear();
        let (mut again, mut refused) = (Vec::new(), false);
        send.send(socket.as_fd(), staged, outgoing, with, &mut |range, error| {
            // An earlier datagram was refused by its port; or the device cannot send segments (udp(7)).
            let was_refused = error.kind() == io::ErrorKind::ConnectionRefused;
            refused |= was_refused;
            if range.len() > 1 && !was_refused {
                *segment = Segment::Never;
            }
            if range.len() > 1 || was_refused { again.extend(range) } else { failed.extend(range) }
        });
        if !again.is_empty() {
            let datagrams: Vec<OutgoingDatagram> = again.iter().map(|at| outgoing[*at]).collect();
            send.send(socket.as_fd(), staged, &datagrams, Segment::Never, &mut |range, _| {
                failed.extend(again[range].iter().copied());
            });
        }
        refused
    }

    /// Takes the answers that a socket has; `number` is what it was added with.
    pub(crate) fn receive(&mut self, ledger: &mut Ledger, number: u64) {
        let targets = self.plan.targets.len() as u64;
        let (flow, target) = ((number / targets) as u32, (number % targets) as usize);
        let Some(socket) = self.flows.get(flow as usize).map(|flow| &flow[target]) else { return };
        let note = if self.plan.spoof { Note::Peer } else { Note::Nothing };
        let server = self.plan.targets[target].into();
        for _ in 0..BATCHES_MAX {
            let count = match self.received.receive(socket.as_fd(), 0, note) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    ledger.refused(target, flow, clock::now());
                    continue;
                }
                Err(_) => return,
            };
            let now = clock::now();
            for at in 0..count {
                if self.plan.spoof && self.received.peer(at) != Some(server) {
                    ledger.counts(target).unexpected += 1;
                    continue;
                }
                ledger.take(target, flow, self.received.message(at), now);
            }
            if count < RECEIVE_BATCH {
                return;
            }
        }
    }

    /// Returns the flow of a client, which may be a new one; `None` if there can be none.
    fn flow_of(&mut self, client: IpAddr, waiter: &Waiter) -> Option<u32> {
        if self.plan.spoof {
            while self.flows.len() < self.plan.most.min(SPOOFING) && self.shortage.is_none() {
                self.add_flow(waiter);
            }
        } else if let Some(flow) = self.clients.get(&client) {
            return Some(*flow);
        } else if self.flows.len() < self.plan.most && self.shortage.is_none() {
            self.add_flow(waiter);
            if self.shortage.is_none() {
                // Limits are far below 2^32.
                let flow = self.flows.len() as u32 - 1;
                self.clients.insert(client, flow);
                return Some(flow);
            }
        }
        let flows = self.flows.len() as u64;
        (flows > 0).then(|| (xxh3_64(&mapped(client)) % flows) as u32)
    }

    fn add_flow(&mut self, waiter: &Waiter) {
        match self.open(self.flows.len() as u32, waiter) {
            Ok(flow) => self.flows.push(flow),
            Err(error) => self.shortage = Some(error),
        }
    }

    fn open(&self, number: u32, waiter: &Waiter) -> io::Result<Vec<Socket>> {
        let targets = self.plan.targets.len() as u64;
        let mut flow = Vec::with_capacity(self.plan.targets.len());
        for (target, address) in (0..).zip(&self.plan.targets) {
            let socket = if self.plan.spoof {
                sockets::ask_transparently(*address)?
            } else {
                sockets::ask(*address, None)?
            };
            waiter.add(&socket, u64::from(number) * targets + target, false)?;
            flow.push(socket);
        }
        Ok(flow)
    }
}

/// Returns the intended time of a job.
#[must_use]
pub(crate) fn intended(job: &Job, begin: Option<Tick>, now: Tick) -> Tick {
    begin.map_or(now, |begin| begin + job.due)
}
