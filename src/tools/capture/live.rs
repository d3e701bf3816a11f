//! Packets of an interface, as they come and go: a socket of AF_PACKET.
//!
//! The kernel takes the link's header off and says the protocol and the time. On loopback each packet
//! is seen as it leaves and as it arrives; the second one counts.

use std::io::{ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, RecvMsg, bind, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::sys;
use crate::tools::capture::Step;
use crate::tools::capture::decode::{Decoder, Packet};
use crate::tools::capture::error::Fault;
use crate::tools::capture::message::Event;

/// Longest packet: of IP, and what network cards join.
const PACKET_BYTES: usize = 256 << 10;
/// Packets that the kernel keeps meanwhile, bytes.
const KERNEL_BYTES: usize = 32 << 20;
/// How long a silent interface is waited for.
const PATIENCE: Duration = Duration::from_millis(50);
/// The name for all interfaces.
const ANY: &str = "any";

/// An interface that is looked at.
pub(super) struct Live {
    socket: Socket,
    buffer: Box<[u8]>,
    control: Vec<u8>,
    loopback: Option<usize>,
}

impl Live {
    /// Begins to look at an interface.
    pub(super) fn open(name: &str) -> Result<Self, Fault> {
        let all: Vec<(String, Option<LinkAddr>)> = getifaddrs()
            .map_err(|e| Fault::Open(e.into()))?
            .map(|a| (a.interface_name, a.address.and_then(|a| a.as_link_addr().copied())))
            .collect();
        let link =
            |name: &str| all.iter().find(|(n, link)| n == name && link.is_some()).and_then(|(_, link)| *link);
        let address = link(name);
        if address.is_none() && name != ANY {
            let mut names: Vec<String> = all.into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names.dedup();
            return Err(Fault::NoInterface(names));
        }
        let every = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every)));
        let socket = socket.map_err(|e| {
            if e.kind() == ErrorKind::PermissionDenied { Fault::Rights } else { Fault::Open(e) }
        })?;
        if let Some(address) = address {
            bind(socket.as_raw_fd(), &address).map_err(|e| Fault::Open(e.into()))?;
            // What a mirror port sends is for others. An interface that cannot do that shows what it has.
            let _ = sys::set_bytes(
                socket.as_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                &membership(address.ifindex()),
            );
        }
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).map_err(|e| Fault::Open(e.into()))?;
        // As much as the kernel gives: what does not fit is dropped, and counted.
        if setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BYTES).is_err() {
            let _ = socket.set_recv_buffer_size(KERNEL_BYTES);
        }
        Ok(Self {
            socket,
            buffer: vec![0; PACKET_BYTES].into(),
            control: nix::cmsg_space!(TimeSpec),
            loopback: link("lo").map(|lo| lo.ifindex()),
        })
    }

    /// Takes the next packet.
    pub(super) fn step(
        &mut self,
        decoder: &mut Decoder,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<Step, Fault> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let received: RecvMsg<'_, '_, LinkAddr> =
            match recvmsg(self.socket.as_raw_fd(), &mut parts, Some(&mut self.control), flags) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    // Whoever waits looks for signals himself.
                    let ready = ppoll(&mut fds, Some(TimeSpec::from_duration(PATIENCE)), None);
                    return Ok(if ready.is_ok_and(|n| n > 0) { Step::More } else { Step::Idle });
                }
                // There is no place in an interface.
                Err(error) => return Err(Fault::Open(error.into())),
            };
        let at = received.cmsgs().ok().and_then(|mut all| {
            all.find_map(|message| {
                let ControlMessageOwned::ScmTimestampns(time) = message else { return None };
                Some(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
            })
        });
        let Some(address) = received.address else { return Ok(Step::More) };
        let length = received.bytes;
        if address.pkttype() == libc::PACKET_OUTGOING && Some(address.ifindex()) == self.loopback {
            return Ok(Step::More);
        }
        let packet = Packet {
            at: at.unwrap_or(0),
            link: 0,
            bytes: &self.buffer[..length.min(PACKET_BYTES)],
            is_cut: length > PACKET_BYTES,
        };
        decoder.cooked(&packet, u16::from_be(address.protocol()), visit);
        Ok(Step::More)
    }

    /// Returns how many packets the kernel had no room for since the last time.
    pub(super) fn dropped(&self) -> u64 {
        let mut statistics = [0; 8];
        let read =
            sys::bytes_of(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut statistics);
        let [.., a, b, c, d] = statistics;
        read.map_or(0, |_| u32::from_ne_bytes([a, b, c, d]).into())
    }
}

/// Returns the `packet_mreq` that makes an interface promiscuous for as long as the socket is open
/// (packet(7)).
fn membership(interface: usize) -> [u8; 16] {
    let mut request = [0; 16];
    // Numbers of interfaces are of 31 bits.
    request[..4].copy_from_slice(&(interface as i32).to_ne_bytes());
    request[4..6].copy_from_slice(&(libc::PACKET_MR_PROMISC as u16).to_ne_bytes());
    request
}
