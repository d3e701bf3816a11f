//! dnslob, the DNS delivery controller: it lobs queries to as few name servers as serve them well.
//!
//! The program is thin; everything is in this library, so that tests, fuzz targets and benches use
//! the same code path as the program does. This page is the map and the language of the house.
//!
//! # The path of a query
//!
//! ```text
//!  engine recv ─► Shard::on_query ─────────────────────────────► engine send (backend socket)
//!                 parse → rules.eval → policy.select → outstanding.claim → edit id
//!  engine recv ─► Shard::on_response ──────────────────────────► engine send (client)
//!                 outstanding.find (socket, id) → question (RFC 5452) → settle → edit id
//! ```
//!
//! Out and back in one thread: no queue, no lock, no allocation, and the packet stays in the
//! buffer where it arrived.
//!
//! # The rooms
//!
//! ```text
//! main.rs              reads the command line and hands over; no logic
//! lib.rs               this map and the lexicon
//! addr.rs              Client, Route, slots: no bare index between rooms
//! time.rs              Tick and TickDelta: monotonic, handed in
//! reasons.rs           enums of named reasons: label, sentence, place among counters
//! rng.rs               ShardRng: ids and ports nobody can guess, repeatable from a seed
//! packet.rs            Packet: octets in place, room in front and behind
//! panics.rs            catches panics where they must not end the process
//! crowd.rs             connections of all shards: by listener, by client, and who is turned away
//! descriptors.rs       file descriptors of all shards: a pool for each use, who has the right to one
//! live.rs              Board: what changes while a configuration stands; counters, histograms
//!
//! wire/                DNS octets; no I/O, no clock, no allocation per packet
//!   header.rs          the 12 octets
//!   name.rs            names in wire format: ends, labels, zones; as text
//!   query.rs           Question: all that is read of a query, parsed once
//!   codes.rs           types and response codes by name
//!   records.rs         the records behind the question: a walk, TTLs, counts, splices
//!   rebuild.rs         a message written anew: without some of its records, or renamed
//!   edns.rs            the OPT record and its options
//!   ecs.rs             the client subnet option
//!   answer.rs          answers of our own: the query becomes its answer; TC=1
//!   svc.rs             SVCB and HTTPS records as a configuration says them
//!   edit.rs            edits in place: the id
//!   frame.rs           messages in a stream: length and message, what is read and to be written
//!   transfer.rs        where a zone transfer ends
//!   keepalive.rs       the TCP keepalive option
//!   proxy.rs           the PROXY protocol, both versions
//!     crc.rs           its checksum
//!
//! shard/               DATA PLANE: one thread, one owner, no locks
//!   verdict.rs         Verdict, DropReason: what becomes of a packet, and why
//!   rules/             the compiled rule chains
//!     matcher.rs       which packets a rule concerns
//!     action.rs        what it does to them
//!     scene.rs         what rules see and may change
//!     guard.rs         what must hold for a rule to match
//!     index.rs         which rules can match a packet
//!       candidates.rs  asks it, one kind of key at a time, in order
//!       postings.rs    the lists of rules under each key
//!     names.rs         sets of names
//!     name_table.rs    names in one piece of memory, and a hash table over them
//!     networks.rs      sets of networks
//!     prefix_map.rs    a value for each network, the longest one decides
//!     pattern.rs       regular expressions
//!       posix.rs       those of POSIX in the words of the engine
//!     limits.rs        token buckets, sets with an end
//!       bucket.rs      one bucket for all shards, and what a shard holds of it
//!       deadlines.rs   a bounded table: address to point in time
//!     text.rs          rules as people read them
//!   streams.rs         clients' connections, without their sockets
//!     handshake.rs     their TLS handshakes
//!     evict.rs         which of them end when descriptors are used up
//!     preface.rs       PROXY headers in front of their queries
//!     keepalive.rs     how long they may stay open, for who would know
//!     overdue.rs       whose time is up
//!     closing.rs       those whose listener is closed
//!     turns.rs         whose turn it is, and how many queries each may have in flight
//!     invariants.rs    what must hold between calls
//!     end.rs           why connections end
//!   streamed.rs        octets of clients in, answers out
//!   lines.rs           connections to backends, without their sockets
//!     pick.rs          by which one a query goes
//!     overdue.rs       whose time is up
//!   lined.rs           what goes by them, and what becomes of it when they end
//!   recency.rs         who makes room for a new connection or flow
//!   forward.rs         connections and flows of forwards, without their sockets
//!     flows.rs         flows by their client
//!   forwarded.rs       which target each goes to, and to which one next
//!   origin.rs          whose query it is: PROXY headers in and out, source addresses
//!   script.rs          what the shard asks of Lua, without Lua
//!   case.rs            what is known of a query besides its octets
//!   outstanding.rs     fixed slots: claim, settle, expire; O(1) next deadline
//!     timers.rs        a queue per time-out, a bucket per slice of time
//!   cases.rs           the cases of outstanding queries, and queries kept to be asked again
//!   tries.rs           to which server, the second try, and giving up
//!   ruled.rs           the path of packets that meet rules
//!   act.rs             does what rules say
//!   later.rs           answers that are held back, copies of queries
//!   journal.rs         what log actions have to say, on its way to the thread that writes it
//!   policy/            which server gets a query; what a shard knows of the farm
//!     choose.rs        the policies, each a pure function
//!     table.rs         what is derived of snapshot and board: who is usable, warmth, shares
//!     tally.rs         outstanding, rates and latency of the whole process
//!     hash.rs          what the hashed policies hash, and how
//!     ring.rs          chashed's points
//!     selector.rs      table, tally and choice of one shard
//!
//! script/              Lua per shard: functions that are run per query, without a lock
//!   state.rs           one shard's state: calls, limits, errors
//!   current.rs         the packet of the running call
//!   prelude.lua        dq, dr, names, addresses, sets, as scripts see them
//!   print.lua          print and io.write, by the log
//!   core.rs            the steps between Lua's values and the packet
//!   record.rs          finds the functions, and that they are the same everywhere
//!   files.rs           the configuration's text
//!
//! lua/                 a Lua state with its limits: time, memory, stack
//!   library.lua        what scripts see of the standard library where it could be without end
//!   library.rs         the functions under it
//!   pattern.rs         Lua's patterns, by a matcher that gives up
//!   thread.rs          a thread with a stack for Lua, and a value that stays in it
//!
//! engine/              I/O: the only rooms with sockets, OS clock and `unsafe`
//!   mmsg.rs            the loop: epoll, recvmmsg, sendmmsg, UDP_SEGMENT
//!     round.rs         what is done for connections, a slice of time in each turn
//!     mail.rs          what the control thread says; closing listeners
//!   turn.rs            how much is done in one turn, and what is left for the next
//!   doors.rs           sockets for datagrams, of listeners and towards servers
//!   streams.rs         sockets of connections: accept, read, write, close
//!     closing.rs       listeners that change or end
//!     shortage.rs      when the kernel has nothing left for a new connection
//!   carrier.rs         a stream of octets over a socket
//!   linger.rs          connections that we have closed and their clients have not
//!   forward/           sockets of forwards: what is passed on unread
//!     tcp.rs           connections: half-close, resets, what each side is watched for
//!     stretch.rs       one way of a connection, by splice; by copies where that does not do
//!     udp.rs           flows: a socket to the target for each
//!     pipe.rs          the pipes that splice moves octets through
//!   ready.rs           sets of sockets, and what an epoll event is about
//!   outbox.rs          packets of a batch on their way out
//!   strays.rs          answers that come up one by one, on their way there
//!   locals.rs          addresses that wildcard listeners were asked on
//!   socket.rs          safe set-up: REUSEPORT, steering, PKTINFO, buffers, DSCP
//!   clock.rs           the OS clock, read once per batch
//!   luaffi/            what scripts reach through LuaJIT's ffi: which call, whose memory
//!     functions.rs     the C functions of the LuaFFI family
//!   luawatch.rs        ends Lua that runs too long: a timer of the thread's CPU time
//!   transparent.rs     datagrams that come from their client's address
//!   sys.rs             every libc call, wrapped safe
//!     options.rs       options of sockets
//!     process.rs       those of the control plane
//!     signal_stack.rs  a larger stack for signal handlers
//!     single.rs        one datagram from an address of its own
//!   sim.rs             seeded network and virtual clock: delay, loss, reordering, spoofing
//!
//! tls/                 certificates, tickets, sessions over octets; no sockets
//!   server.rs          what a listener needs; what it inherits at a reload
//!   client.rs          what a backend needs
//!   session.rs         one connection: octets here, plaintext there
//!   failure.rs         why one failed: to be counted, and for people
//!   certificates.rs    which certificate a client gets
//!   ocsp.rs            until when an OCSP response is good, and for which certificate
//!   tickets.rs         the ring of keys that seal session tickets
//!   store.rs           sessions kept for clients without tickets
//!   trust.rs           since when a backend's certificate is known to be good; its sessions
//!   verify.rs          whether a backend's certificate is good, and why not
//!   expiry.rs          a certificate's names, and until when it is good
//!   ciphers.rs         ciphers by their OpenSSL names
//!   keylog.rs          secrets in a file, for debugging
//!   files.rs           PEM and DER from files
//!   error.rs           what can be wrong with what was asked for
//!   fixture.rs         certificates for this room's tests
//!
//! config/              what the operator asked for; no side effects
//!   options.rs         ONE table of process settings: flags, Lua, help, reference
//!   functions/         the tables of Lua functions, arguments and methods
//!     rules.rs         selectors, actions, sets
//!     chains.rs        what manages the rules of each chain
//!     forwards.rs      arguments of addTCPForward and addUDPForward
//!     tls.rs           arguments that concern TLS
//!     missing.rs       names of dnsdist that are not there yet
//!   flags.rs           the command line
//!   lua/               the Lua front end: evaluates a file into a Draft
//!     context.rs       where a call stands, and the draft it fills
//!     argument.rs      Lua values to ours, with errors for people
//!     constants.rs     DNSQType, DNSRCode and the like
//!     settings.rs      setters, listeners, ACL, includes
//!     server.rs        newServer, getServer and the server object
//!     forwards.rs      addTCPForward, addUDPForward
//!     tls.rs           addTLSLocal, certificates, servers' TLS
//!     pool.rs          pools, policies, retry, ejection
//!     arguments.rs     the arguments of one call, by their place
//!     functions.rs     Lua functions given to rules and policies
//!     selectors.rs     what rules match
//!     actions.rs       what rules do to queries
//!     answers.rs       answers of our own: the spoofing actions, SVCB records
//!     responses.rs     what rules do to answers
//!     chains.rs        rules in their chains, groups
//!     sets.rs          sets of names
//!     networks.rs      sets of networks, addresses
//!     packet.rs        what a health check's functions see
//!     missing.rs       names of dnsdist that are not there yet, refused by name
//!   value.rs           values as people write them: addresses, spans, CPU lists
//!   prefix.rs          networks, and the ACL's set of them
//!   error.rs           every way to be wrong, with file and line
//!   draft.rs           Draft: as written
//!   ruleset.rs         the rules of a draft
//!   chains.rs          its rules → chains: pools, copies, slots, identities
//!   forwards.rs        its forwards → listeners, pools and hidden servers
//!   compile.rs         Draft → Boot + Snapshot, or all errors at once
//!   slots.rs           stable slots over reloads
//!   snapshot.rs        Snapshot: immutable, by index
//!     listener.rs      its listeners, and what clients' connections may do
//!   diff.rs            what a reload changed, in lines
//!   generate.rs        man page, completions, reference
//!
//! control/             CONTROL PLANE: one slow thread; may block, lock, allocate
//!   configured.rs      flags and file as a source of plans
//!   plan.rs            what the loop needs of a configuration
//!   shards.rs          its hands on the shards: open, tell, see them end
//!   feed.rs            publish: one ArcSwap, generations, acknowledgement
//!   figures.rs         readings kept for rates
//!   reload.rs          one change of configuration: whole, or not at all
//!   farm.rs            the backends' health, shown on the board
//!   health.rs          the probe state machine; warmth, lazy checks
//!   probe.rs           makes one check: UDP, TCP, connect, script
//!     message.rs       its query, and the judgement of its answer
//!   eject.rs           finds the server that answers worse than its peers
//!   concentrate.rs     finds the shares of `concentrate`
//!     gauge.rs         full or good: the latency of fast answers against its floor
//!     driver.rs        reads the board for it, and writes shares
//!   stats.rs           adds up pages: readings, spans, percentiles
//!     text.rs          the line of --stats, the dump of SIGUSR1
//!     rules.rs         the rules with their hits
//!     connections.rs   connections, why they ended, handshakes, certificates
//!   certificates.rs    rotates ticket keys, complains of certificates in time
//!   querylog.rs        the thread that writes query logs and key logs
//!   systemd.rs         sd_notify, watchdog, passed sockets
//!   watchdog.rs        a sign of life only while every shard turns
//!   privileges.rs      -u, -g, capabilities
//!   limits.rs          open files: how many there may be, and how they are divided
//!   budget.rs          that division at the start and over reloads
//!   signals.rs         signals from the first moment on
//!   log.rs             tracing, text or JSON; standard output
//!   writer.rs          bounded queue and thread before a descriptor that may block or fail
//!   report.rs          how a check's outcome comes back to the loop
//!   hold.rs            a hold on it from within the process, for the demo
//!   fixture.rs         configurations for this room's tests
//!
//! demo/                `dnslob demo`: all of it in one process
//!   backend.rs         a name server with a cache that must warm up
//!   balancer.rs        a Lua configuration and the real control plane
//!   load.rs            an open-loop load, and the measure of its answers
//!   account.rs         where every query went
//!   table.rs           the live table
//!   summary.rs         what is said at the end
//! ```
//!
//! A directory's line is its `mod.rs`. Allowed arrows: `engine → shard → wire`,
//! `control → config`, `config, engine, control → tls`,
//! `script → shard, config, wire` (and to and from `engine::luaffi`), `config, script, engine → lua`; both planes read [`config::snapshot`] and [`live`]. `shard` never names
//! `engine`, `control`, Lua or libc; `wire`, `shard` and `config` never ask for time, randomness
//! or I/O. `tests/tidy.rs` holds the map and the arrows to this.
//!
//! # The lexicon
//!
//! | word | is |
//! |---|---|
//! | client | who asks us |
//! | backend, server | a name server that we ask; *server* towards operators |
//! | listener | an address that clients ask |
//! | pool | a set of backends with a policy |
//! | chain, rule | what moves, drops or answers a query before a policy sees it |
//! | policy | chooses a backend of a pool for a query |
//! | query, response, answer | what is asked; what a backend says; what a client gets |
//! | outstanding | asked and not answered yet |
//! | slot | a stable index: of a backend, a listener, an outstanding query |
//! | stream | a client's connection |
//! | line | a connection to a backend |
//! | forward | what is passed on unread; its *targets* are where it goes |
//! | passage | a connection or flow of a forward, from the client to its target |
//! | shard | a thread with all that it needs to serve: sockets, table, counters |
//! | engine | the loop that moves packets between the kernel and a shard |
//! | snapshot | one whole configuration, immutable |
//! | board | what changes while a snapshot stands |
//! | verdict | what becomes of a packet |
//!
//! Verbs have one meaning: *parse* (octets to a view), *eval* (a chain), *select* (a backend),
//! *claim* (a slot for a query), *settle* (by its answer), *expire* (by its time-out), *compile*
//! (draft to snapshot), *publish* (snapshot to shards), *drain* (no new queries, finish the old);
//! `on_…`: an event enters the shard. Never *upstream* or *downstream*: every program means
//! something else by them.

#[macro_use]
mod reasons;

pub mod addr;
pub mod config;
pub mod control;
pub mod crowd;
pub mod demo;
pub mod descriptors;
pub mod engine;
pub mod live;
pub mod lua;
pub mod packet;
pub mod panics;
pub mod rng;
pub mod script;
pub mod shard;
pub mod time;
pub mod tls;
pub mod wire;
