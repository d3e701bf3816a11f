//! dnslob, the DNS delivery controller: it sends queries to as few name servers as serve them well.
//!
//! The program is thin: tests, fuzz targets and benches use this library as it does. This page is its map.
//!
//! # The path of a query
//!
//! ```text
//!  engine receives ─► pipeline: access list → parse → query rules → cache → select → dispatch ─► engine sends
//!  engine receives ─► dispatch: match (socket, id, question; RFC 5452) → response rules → cache → finish ─► engine sends
//! ```
//!
//! Out and back in one thread: no queue, no lock, no allocation; the packet stays where it arrived.
//!
//! # The modules
//!
//! ```text
//! main.rs               reads the command line and hands over; no logic
//! lib.rs                this map and the lexicon
//!
//! base/                 what everything stands on: addresses, time, randomness, the packet buffer
//!   addr.rs             Client, Route, slots: no bare index between modules
//!   files.rs            reads files of any kind, within limits; replaces files as a whole
//!   narrow.rs           conversions to narrower numbers whose bounds are known
//!   packet.rs           Packet: bytes in place, room in front and behind
//!   packet_queue.rs     packets that wait for the next tick
//!   panics.rs           catches panics where they must not end the process
//!   prefix.rs           networks, and the ACL's set of them
//!   printable.rs        text of others, which stays within its line
//!   reasons.rs          enums of named reasons: label, sentence, place among counters
//!   rng.rs              ShardRng: ids and ports nobody can guess, repeatable from a seed
//!   time.rs             Tick and TickDelta: monotonic, handed in
//!
//! wire/                 DNS bytes; no I/O, no clock, no allocation per packet
//!   answer.rs           answers of our own: the query becomes its answer; TC=1
//!   codes.rs            types and response codes by name
//!   cookie.rs           the cookie option
//!   copied.rs           the option of copied queries: which instances have copied them
//!   ecs.rs              the client subnet option
//!   edit.rs             edits in place: the id
//!   edns.rs             the OPT record and its options
//!   frame.rs            messages in a stream: length and message, what is read and to be written
//!   header.rs           the 12 bytes
//!   keepalive.rs        the TCP keepalive option
//!   name.rs             names in wire format: ends, labels, zones; as text
//!   padding.rs          the padding option: blocks that edited answers keep
//!   proxy.rs            the PROXY protocol, both versions
//!     crc.rs              its checksum
//!   query.rs            Question: all that is read of a query, parsed once
//!   rebuild.rs          a message written anew: without some of its records, or renamed
//!   records.rs          the records behind the question: a walk, TTLs, counts, splices
//!   signature.rs        TSIG and SIG(0): whether a message may be edited
//!   svc.rs              SVCB and HTTPS records as a configuration says them
//!   transfer.rs         where a zone transfer ends
//!
//! tls/                  certificates, tickets, sessions over bytes; no sockets
//!   certificates.rs     which certificate a client gets
//!   ciphers.rs          ciphers by their OpenSSL names
//!   client.rs           what a backend needs
//!   date.rs             days of the calendar
//!   der.rs              DER, as far as certificates need it
//!   error.rs            what can be wrong with what was asked for
//!   failure.rs          why one failed: to be counted, and for people
//!   files.rs            PEM and DER from files
//!   fixture.rs          certificates for this module's tests
//!   keylog.rs           secrets in a file, for debugging
//!   leaf.rs             a certificate's names, and until when it is good
//!   ocsp.rs             until when an OCSP response is good, and for which certificate
//!   server.rs           what a listener needs; what it inherits at a reload
//!   session.rs          one connection: bytes here, plaintext there
//!   store.rs            sessions kept for clients without tickets
//!   tickets.rs          the ring of keys that seal session tickets
//!   trust.rs            since when a backend's certificate is known to be good; its sessions
//!   verify.rs           whether a backend's certificate is good, and why not
//!   version.rs          versions of TLS, and protocols by their ALPN names
//!
//! cache/                the packet cache: responses that all shards share
//!   cleaning.rs         removes what has expired, a part at a time
//!   entry.rs            what is stored of a response, and for how long
//!   figures.rs          its figures as dnsdist's clients know them
//!   key.rs              which queries are the same
//!   options.rs          what a cache is told
//!   removal.rs          removes what functions ask for: a part at once, and the rest later
//!   snapshot.rs         its entries as bytes that outlive the process
//!   table.rs            keys and values as bytes: look-ups without a lock, eviction
//!     entry.rs            an entry in its words
//!     parts.rs            values that are larger than an entry
//!     set.rs              a page with its entries: finds, replaces and evicts them
//!     slot.rs             where an entry is, and in which version: what makes reading safe
//!     visit.rs            all entries, one set after the other
//!   warm_up.rs          names that are resolved when a cache begins
//!
//! compare/              two answers to one question, compared
//!   aspects.rs          what of them is compared
//!   class.rs            what they may have otherwise
//!   describe.rs         a difference in words
//!   judge.rs            whether the later one is better or worse
//!   message.rs          an answer in a form that can be compared
//!   outcomes.rs         what many comparisons have found
//!
//! stats/                figures, limits and live state that all threads share
//!   carbon_failure.rs   why reports to Carbon are lost
//!   check_failure.rs    why a health check failed
//!   claims.rs           which shard asks the servers for what
//!   close_reason.rs     why connections end
//!   connection_limits.rs connections of all shards: by listener, by client, and who is turned away
//!   custom_metrics.rs   metrics that a configuration declares
//!     declared.rs       those of a draft
//!   descriptors.rs      file descriptors of all shards: a pool for each use, who has the right to one
//!   drop_reason.rs      DropReason: why a packet was dropped
//!   histogram.rs        latency histograms
//!   latency_average.rs  averages over the last latencies
//!   live.rs             LiveState: what changes while a configuration stands; counters, histograms
//!   log_queue.rs        what log actions have to say, on its way to the thread that writes it
//!   metric_names.rs     the names under which figures are shown, which others must not have
//!   metric_sets.rs      macros that make readings and meters of the registry's tables
//!   meter.rs            counters and gauges that shards write, and readings of them
//!   not_cached.rs       why a response is not put into the packet cache
//!   query_counts.rs     queries by name, for who has switched that on
//!   query_type.rs       the types that queries are counted by
//!   registry.rs         every metric: name, kind, unit, help, labels
//!   response_code.rs    the response codes that answers are counted by
//!   shadow_queue.rs     responses of shadow pools, on their way to the thread that compares them
//!   top.rs              what can be asked of the traffic: lists, the last queries
//!   traffic_ring.rs     records of finished queries, from a shard to who counts them
//!   web_refusal.rs      why the web server refuses connections and requests
//!
//! rules/                the compiled rule chains
//!   action.rs           what it does to them
//!   apply/              walks a chain and applies the action of each rule that matches
//!     edits.rs            what several actions do to a message
//!     query.rs            the actions of query rules
//!     response.rs         the actions of response rules
//!     script.rs           rules whose action is a function of the configuration
//!   context.rs          what rules see and may change
//!   copies.rs           copies of queries for second servers
//!   guard.rs            what must hold for a rule to match
//!   index.rs            which rules can match a packet
//!     candidates.rs       asks it, one kind of key at a time, in order
//!     postings.rs         the lists of rules under each key
//!   limits.rs           token buckets, sets with an end
//!     bucket.rs           one bucket for all shards, and what a shard holds of it
//!     deadlines.rs        a bounded table: address to point in time
//!   matcher.rs          which packets a rule concerns
//!   name_table.rs       names in one piece of memory, and a hash table over them
//!   names.rs            sets of names
//!   networks.rs         sets of networks
//!   pattern.rs          regular expressions
//!     literals.rs         what an expression cannot match without
//!     posix.rs            those of POSIX in the words of the engine
//!   prefetch.rs         far memory that the packets of a batch ask for together
//!   prefix_map.rs       a value for each network, the longest one decides
//!   query_state.rs      what is known of a query besides its bytes
//!   script.rs           what rules and functions exchange, without Lua
//!   shared_set.rs       sets that rules share
//!   text.rs             rules as people read them
//!
//! model/                Snapshot: listeners, backends, pools; immutable, by index
//!   console.rs          its console
//!   listener.rs         its listeners, and what clients' connections may do
//!   policy.rs           how a pool chooses: settings
//!   ring.rs             chashed's points
//!   script.rs           functions of a configuration, as a snapshot carries them
//!
//! balance/              which server gets a query
//!   balancer.rs         tables, tally and choice of one shard
//!   choose.rs           the policies, each a pure function
//!   hash.rs             what the hashed policies hash, and how
//!   pools.rs            the pools of a snapshot, as rules see them
//!   table.rs            what is derived of snapshot and live state: who is usable, warmth, shares
//!   tally.rs            outstanding, rates and latency of the whole process
//!
//! shard/                DATA PLANE: one thread, one owner, no locks
//!   backend/            connections to backends, without their sockets
//!     choice.rs           by which one a query goes
//!     overdue.rs          whose time is up
//!     transfer.rs         zone transfers: each has a connection to itself, and its client's id
//!     waiting.rs          which wait for a descriptor
//!   client/             clients' connections, without their sockets
//!     closing.rs          those whose listener is closed
//!     events.rs           accept, TLS, PROXY headers, close
//!     evict.rs            which of them end when descriptors are used up
//!     handshake.rs        their TLS handshakes
//!     invariants.rs       what must hold between calls
//!     keepalive.rs        how long they may stay open, for who would know
//!     lifecycle.rs        what a connection may do in its state
//!     overdue.rs          whose time is up
//!     proxy_header.rs     PROXY headers in front of their queries
//!     turns.rs            whose turn it is, and how many queries each may have in flight
//!     unfinished.rs       the memory of queries that have arrived in part
//!   cache.rs            buffers for the packet caches, which it shares with the other shards
//!   coalescing.rs       queries that wait for the response to another one like them
//!   conn_table.rs       connections of one kind by slots with generations: their work, turns, sweep
//!   context.rs          what every event is looked at with: time, configuration, randomness, counters
//!   dispatch/           queries on their way: whom we asked, until when, and how often
//!     asked_names.rs      their names, for those that nobody answers
//!     attempts.rs         to which server, by which route; the second attempt, moving on
//!     delayed.rs          answers that rules hold back
//!     key.rs              what an attempt is known by
//!     outstanding.rs      fixed slots: claim, settle, expire; O(1) next deadline
//!       invariants.rs     what must hold between calls
//!       redraw.rs         numbers of new sockets
//!       repeats.rs        how many are alike: the end of loops
//!       slot.rs           one of them, in a cache line
//!       timers.rs         a queue per time-out, a bucket per slice of time
//!     proxy_header.rs     PROXY headers that servers get
//!     query_table.rs      what is kept of outstanding queries besides their slots
//!     send.rs             one attempt: its slot, its connection
//!     spoofing.rs         datagrams that answer nothing: whether somebody may be guessing answers
//!   evaluator.rs        what rules keep between packets; sets up the evaluation of a chain
//!   messages.rs         bytes of connections become messages; what the engine is to do for connections
//!   pipeline/           the stages that a query and its response pass, and the end of every query
//!     admission.rs        whether a query may be asked, and what it asks
//!     cache.rs            a query is answered from the packet cache, or its response is stored there
//!     coalesce.rs         queries that wait for another one: they join it, and get what it got
//!     failure.rs          attempts without a response: the query moves on, or is lost
//!     judgement.rs        what a response is to others than its client: shared, or worse than an expired one
//!     refresh.rs          own queries: popular entries before they expire, names of a list
//!     response.rs         responses: matched, evaluated, stored, delivered; or the query is restarted
//!     rules.rs            the stage of rules: the state that they see and change
//!     shadow.rs           queries that a second pool gets too
//!     traffic.rs          records of finished queries, for who watches the traffic
//!     transfer.rs         zone transfers
//!     unmatched.rs        messages of servers that match no query
//!   prefetch.rs         memory that the queries of a batch will access, read ahead
//!   recency.rs          who makes room for a new connection or flow
//!   refreshes.rs        which entries are popular, and how many own queries are outstanding
//!   relay/              layer-4 relay sessions, without their sockets
//!     evict.rs            which of them end when there are too many, or descriptors are used up
//!     flows.rs            flows by their client
//!     targets.rs          which target each goes to, and to which one next
//!     timeouts.rs         whose time is up, and whose target is down
//!   scratch.rs          a buffer in which a message is edited that stands elsewhere
//!   shadows.rs          queries for second pools until they are sent, and what has come of them
//!   verdict.rs          Verdict: what becomes of a packet
//!
//! engine/               I/O: the only modules with sockets, OS clock and `unsafe`
//!   clock.rs            the OS clock, read once per batch
//!   datagram/           datagrams between the kernel and a shard: sockets, batches, addresses
//!     deferred.rs         answers that come up one by one, on their way there
//!     local_addresses.rs  addresses that wildcard listeners were asked on
//!     send_batch.rs       packets of a batch on their way out
//!     sockets.rs          sockets for datagrams, of listeners and towards servers
//!     transparent.rs      datagrams that come from their client's address
//!   reactor/            the loop: epoll, recvmmsg, sendmmsg, UDP_SEGMENT
//!     mailbox.rs          what the control thread says; closing listeners
//!     serve.rs            serves connections, a slice of time in each turn
//!   fast_open.rs        TCP Fast Open of listeners: its queue, the key of its cookies
//!   owned.rs            entries by slot, each for its own slot only
//!   readiness.rs        sets of sockets, and what an epoll event is about
//!   relay/              sockets of relay sessions: what is passed on unread
//!     pipe.rs             the pipes that splice moves bytes through
//!     splice_pump.rs      one direction of a connection, by splice; by copies where that does not do
//!     tcp.rs              connections: half-close, resets, what each side is watched for
//!     udp.rs              flows: a socket to the target for each
//!   schedule.rs         how much is done in one turn of a loop, and what is left for the next
//!   sim/                the simulator: seeded network and virtual clock around real shards
//!     connections.rs      connections of clients and to backends, as the reactor serves them
//!     datagram.rs         DNS over UDP
//!     flow.rs             relayed flows
//!     network.rs          what is under way: delay, loss, reordering
//!     node.rs             a shard and what its engine would own; turns and rounds
//!     relay.rs            relayed connections
//!     server.rs           how a name server behaves, statistically
//!     stream.rs           connections as their peers see them: segments, windows, half-close, reset
//!   socket.rs           safe set-up: REUSEPORT, steering, PKTINFO, buffers, DSCP
//!   stream/             sockets of connections: accept, read, write, close
//!     draining_close.rs   connections that we have closed and their clients have not
//!     failure.rs          what an error of a backend connection says about its server
//!     listeners.rs        listeners for connections, and how they change or end
//!     shortage.rs         when the kernel has nothing left for a new connection
//!     transport.rs        a stream of bytes over a socket
//!   sys.rs              every libc call, wrapped safe
//!     options.rs          options of sockets
//!     process.rs          those of the control plane
//!     raw.rs              the three calls of a turn, without points of cancellation
//!     signal_stack.rs     a larger stack for signal handlers
//!     single.rs           one datagram from an address of its own
//!
//! lua/                  everything that runs or reads Lua
//!   code/               what functions do, without running them
//!     dump.rs             functions as LuaJIT dumps them
//!     flow.rs             which global names and members a function uses where
//!     globals.rs          which global names code reads and sets
//!     op.rs               numbers of LuaJIT's operations
//!     shape.rs            kinds of objects that functions get
//!   ffi/                what scripts reach through LuaJIT's ffi: which call, whose memory
//!     caches.rs           those that search packet caches
//!     call.rs             calls of Lua functions without a detour
//!     functions.rs        the C functions of the LuaFFI family: queries, answers, servers
//!     handles.rs          objects that scripts make and free
//!     metrics.rs          those that change metrics of the configuration
//!     objects.rs          the C functions under dq, dr, names, addresses, sets
//!     packets.rs          those that read a message
//!     proxy.rs            those about the PROXY protocol
//!     rings.rs            those about the last queries
//!     running_call.rs     the packet of the running call, lent to those functions
//!     services.rs         those of SVCB and HTTPS records
//!     watch.rs            ends Lua that runs too long: a timer of the thread's CPU time
//!     without.rs          those about what dnslob does not have
//!   front_end/          the Lua front end: evaluates a file into a Draft
//!     absent.rs           functions about what dnslob does not have
//!     actions.rs          what rules do to queries
//!     answers.rs          answers of our own: the spoofing actions, SVCB records
//!     anytime.rs          functions that work at any time
//!     argument.rs         Lua values to ours, with errors for people
//!     arguments.rs        the arguments of one call, by their place
//!     bind.rs             getBind and its object
//!     bound.lua           methods that are bound to their object
//!     cache.rs            newPacketCache and its object
//!     callbacks.rs        addExitCallback and its like
//!     captured.rs         objects of the configuration that functions use later
//!     caught.rs           errors that pcall gets, and what their calls had added
//!     chains.rs           rules in their chains, groups
//!     changes.rs          commands that changed something, and how many there may be
//!     command.rs          commands of the console, in the state of the configuration
//!     console.rs          controlSocket, setKey, the console's ACL
//!     constants.rs        DNSQType, DNSRCode and the like
//!     context.rs          where a call stands, and the draft it fills
//!     declared.rs         selectors and actions as they are declared; methods of objects
//!     functions.rs        Lua functions given to rules and policies
//!     globals.lua         copies the globals, and puts them back
//!     globals.rs          keeps them aside while something runs that may be refused
//!     inspect.rs          functions that show the running process
//!     limiter.rs          newQPSLimiter
//!     lookups.rs          getAddressInfo: addresses of names
//!     lua_error.rs        errors of Lua: where they are, and what may have been meant
//!     machine.rs          interfaces, addresses and resolvers of the machine
//!     mark.rs             what changes by the API are about, and which of them still matter
//!     metrics.rs          declareMetric and what changes such metrics
//!     missing.rs          names of dnsdist that are not there yet, refused by name
//!     name_tree.lua       the last answers as a tree of their names
//!     names.rs            names that functions use and nothing defines
//!     nearest.rs          what dnsdist takes: numbers out of range, empty lists and texts
//!     needs.rs            options that have no effect without another one
//!     networks.rs         sets of networks, addresses
//!     notice.rs           what functions are told of
//!     older.rs            functions of older versions of dnsdist
//!     packet.rs           what a health check's functions see
//!     page.rs             functions that answer requests to the web server
//!     paste.rs            commands as they can stand in a file
//!     pool.rs             pools, policies, retry, ejection
//!     printing.rs         where functions print
//!     query_count.rs      setQueryCount and its like
//!     relays.rs           addTCPForward, addUDPForward
//!     responses.rs        what rules do to answers
//!     selectors.rs        what rules match
//!     server.rs           newServer, rmServer, getServer
//!     server_object.rs    the server object
//!     sets.rs             sets of names
//!     setter.rs           commands that only say a setting
//!     settings.rs         setters, listeners, ACL, includes
//!     stack.rs            where a function was called
//!     tls.rs              addTLSLocal, certificates, servers' TLS
//!     traffic.rs          topClients and its like, grepq
//!     traffic_text.rs     what they print
//!     web.rs              webserver, setWebserverConfig, setAPIWritable, hashPassword
//!       carbon.rs           carbonServer
//!     values.rs           what several selectors and actions take: types, tags, pools
//!     view.rs             the running process, as these functions see it
//!   limits/             a Lua state with its limits: time, memory, stack
//!     library.lua         what scripts see of the standard library where it could be without end
//!     library.rs          the functions under it
//!     pcall.lua           pcall, whose errors are texts
//!     pattern.rs          Lua's patterns, by a matcher that gives up
//!     thread.rs           a thread with a stack for Lua, and a value that stays in it
//!   machine.rs          what a configuration asks of the machine
//!   state/              Lua per shard: functions that are run per query, without a lock
//!     caches.rs           packet caches as functions use them
//!     call_state.rs       what a script knows of the running call
//!     calls.rs            one shard's state: calls, limits, errors
//!     core.rs             the steps between Lua's values and the packet
//!     decision.rs         what functions return, and what that means
//!     files.rs            the configuration's text
//!     place.rs            where an error of a function is
//!     metrics.rs          declareMetric and what changes such metrics
//!     prelude/            dq, dr, names, addresses, sets, as scripts see them
//!       addresses.lua     ComboAddress, networks
//!       caches.lua        packet caches and pools, for functions that run later
//!       calls.lua         how functions are called
//!       common.lua        what the others share
//!       configuration.lua functions of the configuration, which only note functions
//!       metrics.lua       metrics of the configuration
//!       names.lua         DNSName
//!       overlay.lua       DNSPacketOverlay
//!       policies.lua      the built-in policies as functions
//!       query.lua         dq, dr, their header
//!       servers.lua       servers, for functions of rules and policies
//!       sets.lua          sets of names, networks, addresses
//!     print.lua           print and io.write, by the log
//!     record.rs           finds the functions, and that they are the same everywhere
//!     view.rs             the configuration and its servers, as scripts see them
//!
//! config/               what the operator asked for; no side effects
//!   bench.rs            the command line of `dnslob bench`
//!   caches.rs           packet caches that pools use
//!   carbon.rs           Carbon servers as they are asked for
//!   chains.rs           its rules → chains: pools, copies, slots, identities
//!   compile.rs          Draft → Boot + Snapshot, or all errors at once
//!   criteria.rs         conditions on the figures of a run: `--fail-if`
//!   diff.rs             what a reload changed, in lines
//!   draft.rs            Draft: as written
//!     change.rs           what a command has changed of it
//!   error.rs            every way to be wrong, with file and line
//!   flags.rs            the command line
//!   functions/          the tables of Lua functions, arguments and methods
//!     absent.rs           what shows parts of dnsdist that dnslob does not have
//!     cache.rs            the packet cache
//!     callbacks.rs        what is called when something happens
//!     chains.rs           what manages the rules of each chain
//!     console.rs          what configures the console, and what it shows
//!     enumerations.rs     names of numbers: DNSQType, DNSRCode and the like
//!     machine.rs          what asks the machine
//!     missing.rs          names of dnsdist that are not there yet
//!     needs.rs            options that have an effect only beside another one
//!     objects.rs          sets, networks, names, and the methods of objects
//!     older.rs            functions of older versions of dnsdist, and what they mean today
//!     policies.rs         the policies by name, the options of `concentrate`
//!     relays.rs           arguments of addTCPForward and addUDPForward
//!     signature.rs        what follows from the text of a function's arguments
//!     tls.rs              arguments that concern TLS
//!     traffic.rs          what shows clients and names
//!     web.rs              the web server, Carbon, and metrics of a configuration
//!   globals.rs          settings of the data path that belong to nothing smaller
//!   lists.rs            lists of a draft that are searched while they grow
//!   log_style.rs        how the log's lines look
//!   loops.rs            refuses what would send queries or connections to itself
//!   older_options.rs    options of dnsdist, and what to do instead
//!   options.rs          ONE table of process settings: flags, Lua, help, reference
//!   password.rs         hashes of passwords, as dnsdist writes them
//!   reflect.rs          the command line of `dnslob reflect`
//!   relays.rs           its relays → listeners, pools and hidden servers
//!   replay.rs           the command line of `dnslob replay`
//!   ruleset.rs          the rules of a draft
//!   scope.rs            the command line of `dnslob scope`
//!   slots.rs            stable slots over reloads
//!   value.rs            values as people write them: addresses, spans, CPU lists
//!   warnings.rs         warns of what has no effect, or is open to all
//!   web.rs              the web server as it is asked for
//!
//! control/              CONTROL PLANE: one slow thread; may block, lock, allocate
//!   api/                the dashboard: its page, and what it has remembered
//!     overview.rs         the figures of this moment as JSON
//!     top.rs              lists of clients and names as JSON
//!   backend_health.rs   the backends' health, written to the live state
//!     state_lines.rs      which changes of a server's state are a line of the log
//!   budget.rs           that division at the start and over reloads
//!   cache_cleaner.rs    cleans packet caches of what has expired
//!   cache_snapshots.rs  reads and writes files with the entries of packet caches
//!   callbacks.rs        tells functions of the configuration what happened
//!   certificate_monitor.rs rotates ticket keys, complains of certificates in time
//!   checks.rs           starts health checks that are due, takes their outcomes
//!   commands.rs         commands of console and API, each a change like a reload
//!   concentrate.rs      finds the shares of `concentrate`
//!     driver.rs           reads the live state for it, and writes shares
//!     gauge.rs            full or good: the latency of fast answers against its floor
//!     silence.rs          a server that responds to nothing, while others respond
//!     trial.rs            whether load is the cause: an experiment
//!   configured.rs       flags and file as a source of plans
//!   console.rs          the console's thread and connections
//!     channel.rs          its encrypted messages
//!   eject.rs            finds the server that answers worse than its peers
//!   events.rs           what has happened lately, for people
//!   fixture.rs          configurations for this module's tests
//!   health.rs           the probe state machine; warmth, lazy checks
//!   history.rs          the last 24 hours at falling resolution, for charts
//!   launcher.rs         starts the programs of health checks
//!   limits.rs           open files: how many there may be, and how they are divided
//!   log.rs              tracing, text or JSON; standard output
//!     logfmt.rs           lines of names and quoted values
//!     privacy.rs          addresses of clients: whole, networks, pseudonyms
//!   monitor.rs          the figures of the process, for every thread that shows them
//!   notes.rs            what the control loop has to say for people
//!   plan.rs             what the loop needs of a configuration
//!   preconditions.rs    what the machine must have: interfaces, programs, directories
//!   privileges.rs       -u, -g, capabilities
//!   probe.rs            makes one check: UDP, TCP, connect, script
//!     message.rs          its query, and the judgement of its answer
//!   process.rs          CPU time and memory, as the kernel says
//!   publisher.rs        publish: one ArcSwap, generations, acknowledgement
//!   querylog.rs         the thread that writes query logs and key logs
//!   rates.rs            readings kept for rates
//!   reload.rs           one change of configuration: whole, or not at all
//!   report.rs           how a check's outcome comes back to the loop
//!   request.rs          commands of console and API, with their conditions
//!   shadows.rs          compares what shadow pools answer
//!   shards.rs           its hands on the shards: open, tell, see them end
//!   shutdown_handle.rs  a hold on it from within the process, for the demo
//!   signals.rs          signals from the first moment on
//!   spoofing.rs         says when somebody seems to guess answers
//!   stats.rs            adds up statistics: readings, spans, percentiles
//!     caches.rs           packet caches of pools
//!     connections.rs      connections, why they ended, handshakes, certificates
//!     dnsdist.rs          our figures under dnsdist's names
//!     dump.rs             the dump of SIGUSR1
//!     figures.rs          all figures of one moment
//!     latency.rs          latencies as clients see them
//!     rules.rs            the rules with their hits
//!     servers.rs          the table of servers
//!     tables.rs           the tables of the console
//!     text.rs             the line of --stats, the dump of SIGUSR1
//!   stop.rs             the end of the process: what is finished, and what is cut
//!   systemd.rs          sd_notify, watchdog, passed sockets
//!   traffic/            the thread that counts finished queries, and answers questions about them
//!     pools.rs            names of pools, for records that outlive a configuration
//!     recent.rs           the last queries, thinned where there are too many
//!     sketch.rs           heavy hitters in fixed memory
//!     windows.rs          sketches of spans of time
//!   view.rs             the running process, for the console's functions
//!   watchdog.rs         a sign of life only while every shard turns
//!   web/                metrics, statistics and health over HTTP, on a thread of its own
//!     access.rs           passwords and keys
//!     carbon.rs           reports to Carbon servers, on a thread of their own
//!       report.rs           their text, with dnsdist's names
//!     dnsdist.rs          the page of /metrics with dnsdist's names
//!     exposition.rs       the formats of Prometheus: which one, and text
//!       protobuf.rs         the binary one, with native histograms
//!     json.rs             /jsonstat and /api/v1
//!     own.rs              pages that functions of the configuration make
//!     pages.rs            its paths
//!     prometheus.rs       every metric for /metrics
//!     rest/               the API that changes the configuration, and shows it
//!       change.rs           what a request would change, as one line of Lua
//!       lua.rs              JSON as values and calls of Lua
//!       openapi.rs          its description for clients
//!       operations.rs       the table of its paths
//!       problem.rs          errors as problem details
//!       read.rs             what it shows
//!       stream.rs           what happens, as server-sent events
//!       store.rs            keeps changes as Lua in a directory
//!     server.rs           accepts connections within limits
//!     site.rs             what its pages are made of
//!   writer.rs           bounded queue and thread before a descriptor that may block or fail
//!
//! tools/                programs beside the server: their map is in tools/mod.rs
//! ```
//!
//! A directory's line is its `mod.rs`. Allowed arrows:
//! ```text
//!  engine ─► shard ─► {rules, balance, compare, stats, model, wire, base}
//!  control ─► config ─► model          lua ─► {config, rules}          {model, config, engine} ─► tls
//! ```
//!
//! `shard` never names `engine`, `control`, Lua or libc. `wire`, `rules`, `balance`, `shard` and `config`
//! never ask for time, randomness or I/O. `tests/tidy.rs` holds the map and the arrows to this.
//!
//! # The lexicon
//!
//! | word | is |
//! |---|---|
//! | backend, server | a name server that we query; *server* towards operators |
//! | listener | an address on which we take queries or connections |
//! | client connection, backend connection | a TCP or TLS connection that a client made, or we to a backend |
//! | relay, relay session | a layer-4 service, and one connection or flow of it; its backends are *targets* |
//! | pool | a set of backends with a policy |
//! | chain, rule | what moves, drops or answers a query before a policy sees it |
//! | selector, action | what a rule matches, and what it does |
//! | policy | chooses a backend of a pool for a query |
//! | client, query | who asks us; what it asks, and what we ask a backend for it |
//! | response | a message that a backend sent; its *response rules*, its counters |
//! | answer | a message that a client gets: an edited response, or one of our own (*self-answered*) |
//! | query state | what is known of a query besides its bytes; the *query table* keeps it |
//! | attempt | one sending of a query to a backend: the first, a second beside it, or a later one |
//! | outstanding | sent to a backend and not answered yet |
//! | slot | a stable index: of a backend, a listener, an outstanding query |
//! | route | a backend and one of our sockets or connections towards it |
//! | permit | the right to one connection, or to one file descriptor |
//! | shard | a thread with all that it needs to serve: sockets, tables, counters |
//! | engine | the loop that moves packets between the kernel and a shard |
//! | draft, snapshot | a configuration as written; the whole of it compiled, immutable |
//! | cache snapshot | the entries of a packet cache in a file, between two processes |
//! | live state | what changes while a snapshot stands: health, latency, counters |
//! | verdict | what becomes of a packet |
//!
//! Verbs have one meaning: *parse* (bytes to a view), *evaluate* (a chain), *apply* (an action), *select* (a
//! backend), *claim* (a slot for a query), *settle* (by its response), *expire* (by its time-out), *finish* (a
//! query, whatever its outcome), *compile* (draft to snapshot), *publish* (snapshot to shards), *drain* (no new
//! queries, finish the old); `on_…`: an event enters the shard. Never *upstream* or *downstream*: every program
//! means something else by them.

// What scripts/lint/clippy.toml forbids; tests may.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)
)]

pub mod balance;
pub mod base;
pub mod cache;
pub mod compare;
pub mod config;
pub mod control;
pub mod engine;
pub mod lua;
pub mod model;
pub mod rules;
pub mod shard;
pub mod stats;
pub mod tls;
pub mod tools;
pub mod wire;
