//! Programs beside the server: the console's client, the demonstration, the tools that measure, the
//! documents.
//!
//! ```text
//! bench/              `dnslob bench`: asks a name server and measures its answers
//!   asker.rs            queries of a thread, and the judgement of their answers
//!   datagrams.rs        its UDP sockets
//!   names.rs            the questions: of a file, popular, new
//!   plan.rs             the load divided among threads, sockets and connections
//!   ramp.rs             the search for the highest rate
//!   streams.rs          its connections over TCP and TLS
//!   worker.rs           its loop
//! capture/            reads captures of DNS traffic: files, pipes
//!   clock.rs            which of their times are to be believed
//!   counts.rs           what was read, and what was left out and why
//!   decode.rs           from packets to messages
//!   dnstap.rs           files of dnstap
//!   error.rs            what can be wrong with a capture, and where
//!   fixture.rs          captures for tests
//!   fragments.rs        datagrams out of fragments
//!   frame.rs            a frame of dnstap
//!   ip.rs               from an IP packet to what it carries
//!   link.rs             from a link's frame to the IP packet
//!   live.rs             packets of an interface
//!   message.rs          messages, and connections that open and close
//!   open.rs             opens files and pipes
//!   pcap.rs             tcpdump's format
//!   pcapng.rs           Wireshark's format
//!   record.rs           a packet in a file
//!   stream.rs           the bytes of a file
//!   tcp.rs              messages out of TCP segments
//!   unpack.rs           gzip and zstd
//! console.rs          `dnslob console`: the client
//!   completion.rs       what can follow what is typed
//!   prompt.rs           history, pages, commands of several lines
//! demo/               `dnslob demo`: all of it in one process
//!   account.rs          where every query went
//!   backend.rs          a name server with a cache that must warm up
//!   balancer.rs         a Lua configuration and the real control plane
//!   load.rs             an open-loop load, and the measure of its answers
//!   summary.rs          what is said at the end
//!   table.rs            the live table
//! documents.rs        man page, completions, reference, statistics
//! load/               what every tool that asks or answers many queries is made of
//!   failures.rs         why connections could not be made
//!   interrupt.rs        SIGINT and SIGTERM, to be waited for
//!   outstanding.rs      queries of a socket that wait; late, wrong and repeated answers
//!   pace.rs             when queries have to be sent
//!   progress.rs         how far a run is: a bar, or lines
//!   random.rs           distributions
//!   sockets.rs          sockets, and how many there may be
//!   spans.rs            spans of time in a histogram, with exact ends and mean
//!   stream.rs           a connection over TCP or TLS
//!   tally.rs            what a thread counts, a second at a time
//!   threads.rs          threads on CPUs of their own
//!   totals.rs           what all threads have counted
//!   waiter.rs           waits for sockets or exact times
//! reflect/            `dnslob reflect`: a name server for measurements
//!   answer.rs           answers that are a function of the query
//!   impairment.rs       delays, losses, truncation, response codes
//!   server.rs           one of its threads
//!   tally.rs            what it has done
//! replay/             `dnslob replay`: sends the queries of a capture, and compares the answers
//!   batch.rs            what the reader hands to the threads that send
//!   datagrams.rs        their UDP sockets
//!   feeder.rs           makes jobs of what a capture tells
//!   filter.rs           which queries are sent
//!   flights.rs          queries that wait for their answers
//!   ledger.rs           what becomes of them: measured, compared
//!   reader.rs           the thread that reads the capture
//!   schedule.rs         when they are due
//!   sessions.rs         connections over TCP and TLS
//!     pairs.rs          tests of those to two targets
//!   stamp.rs            the client's address in its query
//!   times.rs            whether they were kept, and whose doing it is if not
//!   worker.rs           the loop of a thread that sends
//! report/             what is said of a run at its end
//!   findings.rs         what was found in traffic of others
//!   hdr.rs              logs of HdrHistograms
//!   json.rs             as JSON
//!   machine.rs          machine, command line, version
//!   page.rs             as a page
//!   plot.rs             its plots
//!   raster.rs           the same in points
//!   replay.rs           what a replayed capture has besides
//!   text.rs             as text
//! scope/              `dnslob scope`: what a capture or an interface shows
//!   analysis.rs         what a message adds to the figures
//!   pending.rs          queries that wait; late and repeated answers
//!   seconds.rs          what happened over time
//!   summary.rs          the figures in words
//!   tops.rs             most frequent names and clients
//! ```

pub mod bench;
pub mod capture;
pub mod console;
pub mod demo;
pub mod documents;
mod load;
pub mod reflect;
pub mod replay;
mod report;
pub mod scope;
