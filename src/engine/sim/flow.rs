//! Relayed UDP flows: a socket to the target for each, as in the socket engine.

use std::net::SocketAddr;

use crate::base::addr::{Client, SessionSlot};
use crate::base::time::TickDelta;
use crate::engine::relay::proxy_header;
use crate::engine::schedule::Weight;
use crate::engine::sim::network::{Arrival, Network, Path, What, batch};
use crate::engine::sim::node::{Budget, Node};
use crate::engine::sim::{Seen, Sim};
use crate::shard::messages::PendingWork;
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::stats::close_reason::ConnectFailure;
use crate::stats::drop_reason::DropReason;
use crate::wire::proxy::Transport;

/// Datagrams of one batch, as in the socket engine.
const BATCH: usize = 32;
/// Longest unanswered datagram that is kept for the next target, bytes, as in the socket engine.
const KEPT_MAX: usize = 1_500;

/// A flow's socket, as its target sees it. The port of a closed socket is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowPort {
    /// The shard that owns it.
    pub shard: usize,
    /// The flow.
    pub session: SessionSlot,
    opened: u64,
}

/// A flow's socket.
#[derive(Debug)]
pub(super) struct Flow {
    opened: u64,
    target: SocketAddr,
    attempt: Attempt,
    /// The PROXY header in front of each datagram.
    proxy_header: Vec<u8>,
    /// The last datagram, without the PROXY header, until the first reply.
    kept: Option<Vec<u8>>,
    is_answered: bool,
}

impl Flow {
    /// Keeps a datagram that may have to be sent to another target.
    fn keep(&mut self, bytes: &[u8]) {
        if !self.is_answered {
            self.kept = (bytes.len() <= KEPT_MAX).then(|| bytes.to_vec());
        }
    }
}

impl Node {
    /// Reads replies, then clients' datagrams, a batch at a time while the slice lasts.
    pub(super) fn serve_relayed_datagrams(&mut self, budget: &mut Budget, network: &mut Network) {
        while !self.replies.is_empty() {
            for (port, bytes) in batch(&mut self.replies, BATCH) {
                self.read_reply(port, bytes, network);
            }
            if budget.ends_with(Weight::Heavy) {
                return;
            }
        }
        while !self.relayed.is_empty() {
            self.read_relayed(network);
            if budget.ends_with(Weight::Heavy) {
                return;
            }
        }
    }

    /// Reads one batch of clients' datagrams and relays them. Returns their number.
    pub(super) fn read_relayed(&mut self, network: &mut Network) -> usize {
        let queries = batch(&mut self.relayed, BATCH);
        let count = queries.len();
        let mut outgoing = Vec::new();
        for (client, bytes) in queries {
            self.read_relayed_query(client, bytes, &mut outgoing, network);
        }
        self.send_relayed(&mut outgoing, network);
        count
    }

    fn read_relayed_query(
        &mut self,
        client: Client,
        bytes: Vec<u8>,
        outgoing: &mut Vec<(SessionSlot, Vec<u8>)>,
        network: &mut Network,
    ) {
        let Some(open) = self.listener(client.listener) else { return };
        let taken = self.shard.on_datagram(client, &open.listener.clone());
        if let Some(PendingWork::Relay(evicted)) = self.shard.take_evicted() {
            // Earlier datagrams leave by the flow's own socket; its slot may be reused.
            self.send_relayed(outgoing, network);
            self.serve_flow(evicted);
        }
        let Some((session, attempt)) = taken else { return };
        if !self.ensure(session, attempt, network) {
            return;
        }
        let Some(flow) = self.flows.get_mut(&session) else { return };
        self.shard.on_relayed(session, Direction::Out, bytes.len());
        flow.keep(&bytes);
        outgoing.push((session, [&flow.proxy_header[..], &bytes].concat()));
    }

    /// Sends datagrams, and again to the next target what a target's kernel refuses.
    fn send_relayed(&mut self, outgoing: &mut Vec<(SessionSlot, Vec<u8>)>, network: &mut Network) {
        outgoing.sort_by_key(|(session, _)| *session);
        for (session, bytes) in outgoing.drain(..) {
            if !self.send_flow(session, &bytes, network) {
                self.move_on(session, ConnectFailure::Unreachable, network);
                if !self.send_flow(session, &bytes, network) {
                    self.shard.drop(DropReason::QuerySendError);
                }
            }
        }
    }

    /// Sends one datagram; false when the kernel refuses.
    fn send_flow(&self, session: SessionSlot, bytes: &[u8], network: &mut Network) -> bool {
        let Some(flow) = self.flows.get(&session) else { return true };
        if network.refuses(flow.target) {
            return false;
        }
        let port = FlowPort { shard: self.index, session, opened: flow.opened };
        let target = flow.target;
        let seen = || What::Seen(Seen::Relayed { target, port, bytes: bytes.to_vec() });
        network.travel(network.backends, seen);
        true
    }

    /// Reads a target's reply, or its kernel's refusal.
    fn read_reply(&mut self, port: FlowPort, bytes: Option<Vec<u8>>, network: &mut Network) {
        let session = port.session;
        let Some(flow) = self.flows.get_mut(&session).filter(|f| f.opened == port.opened) else { return };
        if let Some(bytes) = bytes {
            (flow.is_answered, flow.kept) = (true, None);
            if let Some((client, _)) = self.shard.relay_client(session) {
                network.deliver(client, &bytes);
                self.shard.on_relayed(session, Direction::Back, bytes.len());
            }
            return;
        }
        let kept = flow.kept.take();
        if self.move_on(session, ConnectFailure::Refused, network)
            && let Some(kept) = kept
            && let Some(flow) = self.flows.get_mut(&session)
        {
            flow.keep(&kept);
            let bytes = [&flow.proxy_header[..], &kept].concat();
            if !self.send_flow(session, &bytes, network) {
                self.shard.drop(DropReason::QuerySendError);
            }
        }
    }

    /// Moves a flow to the next target; false when there is none.
    fn move_on(&mut self, session: SessionSlot, why: ConnectFailure, network: &mut Network) -> bool {
        self.shard.on_target_failed(session, why);
        match self.shard.relay_interest(session) {
            RelayInterest::Connect(attempt)
            | RelayInterest::Await(attempt)
            | RelayInterest::Serve(attempt) => self.ensure(session, attempt, network),
            RelayInterest::Close(_) => false,
        }
    }

    /// Opens the socket of an attempt if needed, and moves on to later attempts when that fails.
    fn ensure(&mut self, session: SessionSlot, mut attempt: Attempt, network: &mut Network) -> bool {
        loop {
            if self.flows.get(&session).is_some_and(|flow| flow.attempt == attempt) {
                return true;
            }
            // Replies of the previous target are not accepted any more.
            self.flows.remove(&session);
            if let Some(flow) = self.open_flow(session, attempt, network) {
                self.flows.insert(session, flow);
                return true;
            }
            self.shard.on_target_failed(session, ConnectFailure::Unreachable);
            match self.shard.relay_interest(session) {
                RelayInterest::Connect(next) | RelayInterest::Await(next) | RelayInterest::Serve(next) => {
                    attempt = next;
                }
                RelayInterest::Close(_) => return false,
            }
        }
    }

    fn open_flow(&self, session: SessionSlot, attempt: Attempt, network: &mut Network) -> Option<Flow> {
        let target = self.shard.snapshot().backend(attempt.target)?;
        let (client, listener) = self.shard.relay_client(session)?;
        if network.unreachable.contains(&target.address) {
            return None;
        }
        let asked = || Some(listener.address.into());
        let mut header = Vec::new();
        proxy_header(target.client_address, Transport::Datagram, client.peer, asked, &mut header);
        network.opened += 1;
        let (opened, target) = (network.opened, target.address);
        Some(Flow { opened, target, attempt, proxy_header: header, kept: None, is_answered: false })
    }

    /// Does the shard's pending work for a flow.
    pub(super) fn serve_flow(&mut self, session: SessionSlot) {
        if let RelayInterest::Close(why) = self.shard.relay_interest(session) {
            self.flows.remove(&session);
            self.end_session(session, why);
        }
    }
}

/// The targets of flows.
impl Sim {
    /// Returns the socket of a flow, if it has one.
    #[must_use]
    pub fn flow_port(&self, shard: usize, session: SessionSlot) -> Option<FlowPort> {
        let flow = self.nodes[shard].flows.get(&session)?;
        Some(FlowPort { shard, session, opened: flow.opened })
    }

    /// A target sends a datagram.
    pub fn reply(&mut self, port: FlowPort, after: TickDelta, bytes: &[u8]) {
        self.travel_back(port, after, Some(bytes));
    }

    /// A target's kernel refuses what it was sent: nobody listens there.
    pub fn refuse(&mut self, port: FlowPort) {
        self.travel_back(port, TickDelta(0), None);
    }

    fn travel_back(&mut self, port: FlowPort, after: TickDelta, bytes: Option<&[u8]>) {
        let path = self.network.backends;
        let path = Path { delay: TickDelta(path.delay.0.saturating_add(after.0)), ..path };
        let reply = || What::Arrive(port.shard, Arrival::Reply(port, bytes.map(<[u8]>::to_vec)));
        self.network.travel(path, reply);
    }
}
