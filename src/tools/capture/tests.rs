//! Captures made byte by byte, and what is read of them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::tools::capture::fixture::*;
use crate::tools::capture::*;

const AT: u64 = 1_700_000_000_123_456_789;

/// A query and its response 5 ms later, as IP packets.
fn pair(client: &str, server: &str) -> Vec<(u64, Vec<u8>)> {
    let (query, response) = (dns(1, false, "www"), dns(1, true, "www"));
    vec![(AT, udp(client, server, &query)), (AT + 5_000_000, udp(server, client, &response))]
}

fn assert_pair(read: &Read, at: u64, client: &str, server: &str) {
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    let of =
        |at, is_response| (at, address(client), address(server), is_response, dns(1, is_response, "www"));
    assert_eq!(read.messages, [of(at, false), of(at + 5_000_000, true)]);
    assert_eq!((read.counts.packets, read.counts.queries, read.counts.responses), (2, 1, 1));
}

#[test]
fn both_byte_orders_and_units_of_time_are_read() {
    for order in [Order::Little, Order::Big] {
        for (is_nano, at) in [(true, AT), (false, AT / 1_000 * 1_000)] {
            let frames: Vec<_> =
                pair(CLIENT, SERVER).into_iter().map(|(at, p)| (at, ethernet(&[], &p))).collect();
            assert_pair(&read(pcap(order, is_nano, 1, &frames)), at, CLIENT, SERVER);
        }
    }
}

#[test]
fn datagrams_that_the_kernel_would_have_cut_are_told_apart() {
    let queries = [dns(1, false, "www"), dns(2, false, "ftp"), dns(3, false, "a")];
    let of = |payload: &[u8]| read(pcap(Order::Little, true, 101, &[(AT, udp(CLIENT, SERVER, payload))]));
    assert_eq!(of(&queries.concat()).payloads(), queries, "the last one may be shorter");
    // Trailing data, of which nothing else is known.
    for tail in [&b"x"[..], &queries[0][..20], &dns(9, true, "www")] {
        let payload = [&queries[0], tail].concat();
        assert_eq!(of(&payload).payloads(), [payload]);
    }
}

#[test]
fn every_link_is_read() {
    let sll = |packet: &[u8]| {
        [&[0; 14][..], if packet[0] >> 4 == 6 { &[0x86, 0xdd] } else { &[8, 0] }, packet].concat()
    };
    let sll2 = |packet: &[u8]| {
        [if packet[0] >> 4 == 6 { &[0x86, 0xdd][..] } else { &[8, 0] }, &[0; 18], packet].concat()
    };
    let family = |packet: &[u8]| if packet[0] >> 4 == 6 { 30_u32 } else { 2 };
    let null = |packet: &[u8]| [&family(packet).to_le_bytes()[..], packet].concat();
    let swapped = |packet: &[u8]| [&family(packet).to_be_bytes()[..], packet].concat();
    let plain = |packet: &[u8]| packet.to_vec();
    type Frame<'f> = &'f dyn Fn(&[u8]) -> Vec<u8>;
    let links: &[(u16, Frame<'_>)] = &[
        (1, &|packet| ethernet(&[], packet)),
        (1, &|packet| ethernet(&[0x8100], packet)),
        (1, &|packet| ethernet(&[0x88a8, 0x8100], packet)),
        (113, &sll),
        (276, &sll2),
        (101, &plain),
        (12, &plain),
        (14, &plain),
        (228, &plain),
        (229, &plain),
        (0, &null),
        (0, &swapped),
        (108, &swapped),
    ];
    for (link, frame) in links {
        for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
            let frames: Vec<_> = pair(client, server).into_iter().map(|(at, p)| (at, frame(&p))).collect();
            assert_pair(&read(pcap(Order::Little, true, *link, &frames)), AT, client, server);
        }
    }
    let unknown = read(pcap(Order::Little, true, 147, &pair(CLIENT, SERVER)));
    assert_eq!((unknown.messages.len(), unknown.counts.skipped(Skip::UnknownLink)), (0, 2));
}

/// A file of pcapng; times are written in this resolution.
fn pcapng(order: Order, resolution: Option<u8>, offset: i64, times: &[u64]) -> Vec<u8> {
    let mut section = order.u32(0x1a2b_3c4d).to_vec();
    section.extend([order.u16(1), order.u16(0)].concat());
    section.extend([0xff; 8]);
    let mut interface = [order.u16(101), order.u16(0)].concat();
    interface.extend(order.u32(0));
    if let Some(resolution) = resolution {
        interface.extend([order.u16(9), order.u16(1)].concat());
        interface.extend([resolution, 0, 0, 0]);
    }
    if offset != 0 {
        interface.extend([order.u16(14), order.u16(8)].concat());
        interface.extend(if order == Order::Little { offset.to_le_bytes() } else { offset.to_be_bytes() });
    }
    interface.extend([0; 4]);
    let mut file = block(order, 0x0a0d_0d0a, &section);
    file.extend(block(order, 1, &interface));
    // Names, which nobody needs.
    file.extend(block(order, 4, &[1; 9]));
    for (time, (_, packet)) in times.iter().zip(pair(CLIENT, SERVER)) {
        let length = packet.len() as u32;
        let mut content =
            [0, (time >> 32) as u32, *time as u32, length, length].map(|n| order.u32(n)).concat();
        content.extend(packet);
        file.extend(block(order, 6, &content));
    }
    file
}

#[test]
fn pcapng_is_read_with_every_unit_of_time() {
    for order in [Order::Little, Order::Big] {
        for (resolution, unit) in [(None, 1_000), (Some(6), 1_000), (Some(9), 1), (Some(3), 1_000_000)] {
            let times = [AT / unit, (AT + 5_000_000) / unit];
            let read = read(pcapng(order, resolution, 0, &times));
            assert_pair(&read, AT / unit * unit, CLIENT, SERVER);
        }
        // 2^-10 seconds; 10^-12 seconds from a later origin.
        let read_at = |file| read(file).messages.first().map(|message| message.0);
        assert_eq!(read_at(pcapng(order, Some(0x8a), 0, &[1024 * 7 + 512])), Some(7_500_000_000));
        assert_eq!(read_at(pcapng(order, Some(12), 100, &[1_500_000_000_000])), Some(101_500_000_000));
        assert_eq!(read_at(pcapng(order, Some(0xff), 0, &[u64::MAX])), Some(0), "no such unit is of use");
    }
}

#[test]
fn pcapng_has_several_sections_and_older_packets() {
    let mut file = pcapng(Order::Little, Some(9), 0, &[AT]);
    file.extend(pcapng(Order::Big, None, 0, &[AT / 1_000]));
    let packet = udp(CLIENT, SERVER, &dns(9, false, "old"));
    let length = packet.len() as u32;
    // The number of the interface and that of dropped packets are shorter than today's.
    let mut older =
        [0, ((AT / 1_000) >> 32) as u32, (AT / 1_000) as u32, length, length].map(u32::to_be_bytes).concat();
    older.extend(&packet);
    file.extend(block(Order::Big, 2, &older));
    file.extend(block(Order::Big, 3, &[&length.to_be_bytes()[..], &packet].concat()));
    let read = read(file);
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    let times: Vec<u64> = read.messages.iter().map(|message| message.0).collect();
    let micro = AT / 1_000 * 1_000;
    assert_eq!(times, [AT, micro, micro, micro], "a simple packet has the time of the one before");
}

#[test]
fn damaged_files_say_where() {
    let says = |file: Vec<u8>| read(file).errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(says(vec![]), ["standard input: it is empty"]);
    assert_eq!(
        says(b"#!/bin/sh".to_vec()),
        ["standard input: at byte 0: it is neither pcap nor pcapng nor dnstap: it begins with 23 21 2f 62"]
    );
    let good = frames(&pair(CLIENT, SERVER));
    let second = good.len() - 16 - ethernet(&[], &pair(CLIENT, SERVER)[1].1).len();
    assert_eq!(
        says(good[..good.len() - 1].to_vec()),
        [format!(
            "standard input: at byte {second}: the file ends within a packet: {} of {} bytes are there",
            good.len() - 1 - second,
            good.len() - second
        )]
    );
    let mut long = good.clone();
    long[second + 8..second + 12].fill(0x7f);
    assert_eq!(
        says(long),
        [format!("standard input: at byte {second}: a packet of 2139062143 bytes: the file is damaged")]
    );
    let mut version = good;
    version[4] = 3;
    assert_eq!(
        says(version),
        ["standard input: at byte 0: a version of pcap other than 2.4, which is not read"]
    );
    let good = pcapng(Order::Little, None, 0, &[AT / 1_000, AT / 1_000]);
    let mut lengths = good.clone();
    *lengths.last_mut().expect("a byte") = 1;
    assert!(says(lengths)[0].ends_with("a block whose two lengths differ: the file is damaged"));
    let mut order = good;
    order[8] = 0;
    assert!(says(order)[0].ends_with("at byte 0: a section without its byte order: the file is damaged"));
}

/// All kinds of files, each with some messages.
fn kinds() -> Vec<Vec<u8>> {
    vec![
        frames(&pair(CLIENT6, SERVER6)),
        pcapng(Order::Big, Some(9), 0, &[AT, AT + 5_000_000]),
        dnstap(&[tap(5, 1, &dns(1, false, "www")), tap(6, 1, &dns(1, true, "www"))]),
        frames(&conversation()),
    ]
}

#[test]
fn a_file_that_is_cut_anywhere_yields_what_is_before() {
    for file in kinds() {
        let whole = read(file.clone());
        assert!(whole.errors.is_empty() && whole.messages.len() >= 2, "{:?}", whole.errors);
        let mut seen = 0;
        for length in 0..file.len() {
            let read = read(file[..length].to_vec());
            // At the end of a packet nothing is missing.
            assert!(read.errors.len() <= 1);
            for error in &read.errors {
                assert!(error.offset <= length as u64, "{error}");
            }
            assert!(read.messages.len() >= seen && whole.messages.starts_with(&read.messages), "at {length}");
            assert_eq!(read.opened.len(), read.closed.len(), "at {length}");
            seen = read.messages.len();
        }
    }
}

#[test]
fn what_yields_no_message_is_counted() {
    let query = dns(1, false, "www");
    let (from, to) = (address(CLIENT), address(SERVER));
    let cut = {
        let mut packet = udp(CLIENT, SERVER, &query);
        packet.truncate(packet.len() - 4);
        packet
    };
    let mut wrong_length = udp(CLIENT, SERVER, &query);
    wrong_length[25] = 7;
    for (why, packet) in [
        (Skip::OtherPort, udp(CLIENT, "198.51.100.1:5353", &query)),
        (Skip::OtherTransport, ip(from, to, 1, &[8, 0, 0, 0], None)),
        (Skip::NotDns, udp(CLIENT, SERVER, &query[..11])),
        (Skip::Direction, udp(SERVER, CLIENT, &query)),
        (Skip::Direction, udp(CLIENT, SERVER, &dns(1, true, "www"))),
        (Skip::Cut, cut),
        (Skip::Malformed, wrong_length),
        (Skip::NotIp, vec![0; 40]),
    ] {
        let read = read(pcap(Order::Little, true, 101, &[(AT, packet)]));
        assert_eq!((read.messages.len(), read.counts.skipped(why)), (0, 1), "{why:?}: {:?}", read.counts);
        assert_eq!(read.counts.reasons().map(|(_, _, n)| n).sum::<u64>(), 1);
    }
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    assert_eq!(read(pcap(Order::Little, true, 1, &[(AT, arp)])).counts.skipped(Skip::NotIp), 1);
}

#[test]
fn every_reason_is_in_the_documents() {
    let document = include_str!("../../../docs/how-to/captures.md");
    for (label, doc, _) in Counts::default().reasons() {
        assert!(document.contains(&format!("| `{label}` | {doc} |")), "{label}");
    }
}

#[test]
fn servers_have_the_ports_that_are_said() {
    let options = CaptureOptions { ports: vec![5300, 53], ..CaptureOptions::default() };
    let file = frames(&pair(CLIENT, "198.51.100.1:5300"));
    assert_pair(&read_with(file, &options), AT, CLIENT, "198.51.100.1:5300");
    // Where both have such a port, the message tells.
    assert_pair(&read_with(frames(&pair("192.0.2.7:53", SERVER)), &options), AT, "192.0.2.7:53", SERVER);
}

#[test]
fn headers_of_ipv6_are_walked() {
    let (from, to) = (address(CLIENT6), address(SERVER6));
    let inner = udp_payload(from, to, &dns(1, false, "www"));
    // Hop by hop, 16 bytes; destination options, 8 bytes; a fragment that is all of it.
    let extended = [&[60, 1][..], &[0; 14], &[44, 0], &[0; 6], &[17, 0, 0, 0, 0, 0, 0, 9], &inner].concat();
    let read_one = |payload: &[u8]| read(frames(&[(AT, ip(from, to, 0, payload, None))]));
    assert_eq!(read_one(&extended).payloads(), [dns(1, false, "www")]);
    let endless = [0, 0, 0, 0, 0, 0, 0, 0].repeat(40);
    assert_eq!(read_one(&endless).counts.skipped(Skip::Malformed), 1);
}

/// A response of 300 bytes in three fragments.
fn fragments(client: &str, server: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (from, to) = (address(server), address(client));
    let mut message = dns(7, true, "large");
    message.resize(300, 0x5a);
    let datagram = udp_payload(from, to, &message);
    let part = |range: std::ops::Range<usize>, more| {
        ip(from, to, 17, &datagram[range.clone()], Some((77, range.start as u16, more)))
    };
    (message, vec![part(0..104, true), part(104..208, true), part(208..308, false)])
}

#[test]
fn fragments_are_put_together_in_any_order() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
        let (message, parts) = fragments(client, server);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut packets: Vec<_> = order.iter().map(|n| (AT, parts[*n].clone())).collect();
            // One of them comes twice, and one when the datagram is whole.
            packets.insert(1, packets[0].clone());
            packets.push((AT + 1_000, packets[3].1.clone()));
            let read = read(frames(&packets));
            assert_eq!((read.payloads(), read.counts.reassembled), (vec![message.clone()], 1), "{order:?}");
            assert_eq!(read.counts.reasons().map(|(_, _, n)| n).sum::<u64>(), 0, "{:?}", read.counts);
        }
    }
}

#[test]
fn fragments_that_miss_others_or_overlap_are_counted() {
    let (_, parts) = fragments(CLIENT, SERVER);
    let lost = read(frames(&[(AT, parts[0].clone()), (AT, parts[2].clone())]));
    assert_eq!((lost.messages.len(), lost.counts.skipped(Skip::FragmentLost)), (0, 1));
    let late = [(AT, parts[0].clone()), (AT, parts[1].clone()), (AT + 31_000_000_000, parts[2].clone())];
    assert_eq!(
        read(frames(&late)).counts.skipped(Skip::FragmentLost),
        2,
        "what is old, and what came for it"
    );
    let (from, to) = (address(SERVER), address(CLIENT));
    let other = ip(from, to, 17, &[0; 104], Some((77, 96, true)));
    let overlap = read(frames(&[(AT, parts[0].clone()), (AT, other)]));
    assert_eq!((overlap.messages.len(), overlap.counts.skipped(Skip::FragmentOverlap)), (0, 1));
    // The rest of it is not lost besides, and its number is free a second later.
    let rest = |after: u64| {
        let again = ip(from, to, 17, &[0; 104], Some((77, 96, true)));
        let mut packets = vec![(AT, parts[0].clone()), (AT, again), (AT + 1, parts[1].clone())];
        packets.extend(parts.iter().map(|part| (AT + after, part.clone())));
        read(frames(&packets))
    };
    for (after, messages) in [(2, 0), (1_500_000_000, 1)] {
        let read = rest(after);
        assert_eq!(
            (read.messages.len(), read.counts.skipped(Skip::FragmentOverlap)),
            (messages, 1),
            "{after}"
        );
        assert_eq!(read.counts.skipped(Skip::FragmentLost), 0, "{after}");
    }
    // More datagrams than are kept.
    let many: Vec<_> =
        (0..3_000_u16).map(|id| (AT, ip(from, to, 17, &[0; 1_400], Some((id, 0, true))))).collect();
    assert_eq!(read(frames(&many)).counts.skipped(Skip::FragmentLost), 3_000);
}

/// A conversation over TCP: two queries in one segment, their responses in three, and the end.
fn conversation() -> Vec<(u64, Vec<u8>)> {
    let queries = [framed(&dns(1, false, "a")), framed(&dns(2, false, "b"))].concat();
    let responses = [framed(&dns(2, true, "b")), framed(&dns(1, true, "a"))].concat();
    let (q, r) = (queries.len() as u32, responses.len() as u32);
    let (c, s) = (CLIENT, SERVER);
    let packets = vec![
        tcp(c, s, SYN, (u32::MAX, 0), &[]),
        tcp(s, c, SYN | ACK, (999, 0), &[]),
        tcp(c, s, ACK, (0, 1_000), &[]),
        tcp(c, s, ACK, (0, 1_000), &queries),
        tcp(s, c, ACK, (1_000, q), &responses[..1]),
        tcp(s, c, ACK, (1_001, q), &responses[1..40]),
        tcp(s, c, ACK, (1_040, q), &responses[40..]),
        tcp(c, s, FIN | ACK, (q, 1_000 + r), &[]),
        tcp(s, c, FIN | ACK, (1_000 + r, q + 1), &[]),
        tcp(c, s, ACK, (q + 1, 1_001 + r), &[]),
    ];
    (0..).map(|n| AT + n).zip(packets).collect()
}

#[test]
fn messages_of_connections_are_read() {
    let read = read(frames(&conversation()));
    let wanted = [dns(1, false, "a"), dns(2, false, "b"), dns(2, true, "b"), dns(1, true, "a")];
    assert_eq!(read.payloads(), wanted);
    let times: Vec<u64> = read.messages.iter().map(|message| message.0 - AT).collect();
    assert_eq!(times, [3, 3, 5, 6], "that of the last byte");
    let connection = Connection { id: 0, at: AT, client: address(CLIENT), server: address(SERVER) };
    assert_eq!(read.opened, [connection]);
    assert_eq!(read.closed, [(Connection { at: AT + 8, ..connection }, End::Finished)]);
    assert_eq!(read.counts.reasons().map(|(_, _, n)| n).sum::<u64>(), 0, "{:?}", read.counts);
}

#[test]
fn segments_may_come_in_any_order_and_overlap() {
    let (c, s) = (CLIENT, SERVER);
    let messages: Vec<Vec<u8>> = (0..6).map(|n| dns(n, false, &format!("name-{n}"))).collect();
    let stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
    // Begin and end of each segment: out of order, repeated, overlapping on both sides.
    for cuts in [
        &[(0, 30), (30, 90), (90, 170)][..],
        &[(90, 170), (30, 90), (0, 30)],
        &[(30, 90), (0, 30), (0, 30), (90, 170), (30, 90)],
        &[(0, 40), (30, 100), (20, 95), (90, 170)],
        &[(50, 60), (40, 100), (90, 170), (0, 45)],
        &[(0, 1), (2, 170), (1, 2)],
    ] {
        let mut packets = vec![(AT, tcp(c, s, SYN, (0xffff_fff0, 0), &[]))];
        let number = |at: usize| 0xffff_fff1_u32.wrapping_add(at as u32);
        let end = stream.len();
        for (from, to) in cuts {
            let (from, to) = (*from, if *to == 170 { end } else { *to });
            packets.push((AT, tcp(c, s, ACK, (number(from), 1), &stream[from..to])));
        }
        let read = read(frames(&packets));
        assert_eq!(read.payloads(), messages, "{cuts:?}");
        assert_eq!(read.counts.reasons().map(|(_, _, n)| n).sum::<u64>(), 0, "{cuts:?} {:?}", read.counts);
        assert_eq!(read.closed.iter().map(|(_, end)| *end).collect::<Vec<_>>(), [End::CaptureEnd]);
    }
}

#[test]
fn a_gap_costs_the_messages_that_it_hits() {
    let (c, s) = (CLIENT, SERVER);
    let [a, b, d] = ["a", "b", "d"].map(|label| framed(&dns(1, false, label)));
    let n = a.len() as u32;
    let segment = |at: u32, payload: &[u8]| (AT, tcp(c, s, ACK, (1 + at, 1), payload));
    // The second message is not in the capture; the server acknowledges the third.
    let mut packets = vec![(AT, tcp(c, s, SYN, (0, 0), &[])), segment(0, &a), segment(2 * n, &d)];
    packets.push((AT + 9, tcp(s, c, ACK, (1, 1 + 3 * n), &[])));
    packets.push((AT + 10, tcp(c, s, ACK, (1 + 3 * n, 1), &b)));
    let read_all = read(frames(&packets));
    assert_eq!(read_all.payloads(), ["a", "d", "b"].map(|label| dns(1, false, label)));
    assert_eq!(read_all.messages[1].0, AT + 9, "as soon as that is known");
    assert_eq!(read_all.counts.skipped(Skip::StreamGap), 1);
    // Behind a gap in the middle of a message, the next segment that begins with one is taken.
    let torn = [&d[5..], &b].concat();
    let packets = [
        packets[0].clone(),
        segment(0, &a),
        segment(n + 5, &torn),
        segment(3 * n, &a),
        (AT, tcp(c, s, RST, (9, 0), &[])),
    ];
    let read_torn = read(frames(&packets));
    assert_eq!(read_torn.payloads(), [dns(1, false, "a"), dns(1, false, "a")]);
    assert_eq!(read_torn.counts.skipped(Skip::StreamGap), 1);
    assert_eq!(read_torn.counts.skipped(Skip::StreamUnaligned), 1);
    assert_eq!(read_torn.closed[0].1, End::Reset);
}

#[test]
fn early_segments_are_held_within_bounds() {
    let (c, s) = (CLIENT, SERVER);
    let mut packets = vec![(AT, tcp(c, s, SYN, (0, 0), &[]))];
    let message = framed(&dns(1, false, "early"));
    let n = message.len() as u32;
    for at in 1..=400 {
        packets.push((AT, tcp(c, s, ACK, (1 + at * n, 1), &message)));
    }
    let read = read(frames(&packets));
    assert_eq!(read.messages.len(), 400);
    assert_eq!((read.counts.skipped(Skip::StreamGap), read.counts.early_segments), (1, 257));
}

#[test]
fn connections_are_joined_midway_replaced_and_forgotten() {
    let (c, s) = (CLIENT, SERVER);
    let message = framed(&dns(1, false, "a"));
    let n = message.len() as u32;
    let midway = [
        (AT, tcp(c, s, ACK, (500, 1), &message[10..])),
        (AT, tcp(c, s, ACK, (500 + n - 10, 1), &message)),
        (AT, tcp(c, s, SYN, (7_000, 0), &[])),
        (AT, tcp(c, s, SYN, (7_000, 0), &[])),
        (AT, tcp(c, s, ACK, (7_001, 1), &message)),
    ];
    let read_midway = read(frames(&midway));
    assert_eq!((read_midway.messages.len(), read_midway.counts.skipped(Skip::StreamUnaligned)), (2, 1));
    let ends: Vec<_> = read_midway.closed.iter().map(|(connection, end)| (connection.id, *end)).collect();
    assert_eq!(ends, [(0, End::Replaced), (1, End::CaptureEnd)]);

    let options = CaptureOptions { connections_max: 10, ..CaptureOptions::default() };
    let many: Vec<_> =
        (0..25).map(|port| (AT, tcp(&format!("192.0.2.7:{}", 1_000 + port), s, SYN, (0, 0), &[]))).collect();
    let read_many = read_with(frames(&many), &options);
    assert_eq!((read_many.opened.len(), read_many.closed.len()), (25, 25));
    let forgotten: Vec<u64> =
        read_many.closed.iter().filter(|c| c.1 == End::Forgotten).map(|c| c.0.id).collect();
    assert_eq!(forgotten, (0..15).collect::<Vec<_>>(), "the oldest first");
    // Closed connections are remembered within a bound, too.
    let short: Vec<_> = (0..20_000_u16)
        .flat_map(|port| {
            let client = format!("192.0.2.7:{}", 1_000 + port);
            [tcp(&client, s, SYN, (0, 0), &[]), tcp(s, &client, RST | ACK, (0, 1), &[])].map(|p| (AT, p))
        })
        .collect();
    let read_short = read(frames(&short));
    assert!(read_short.closed.iter().all(|c| c.1 == End::Reset) && read_short.closed.len() == 20_000);
}

#[test]
fn streams_that_are_not_dns_are_counted() {
    let (c, s) = (CLIENT, SERVER);
    let packets = [
        (AT, tcp(c, s, SYN, (0, 0), &[])),
        (AT, tcp(c, s, ACK, (1, 1), b"\0\x03GET / HTTP/1.1\r\n\r\n")),
        (AT, tcp(c, s, ACK, (22, 1), b"Host: example\r\n")),
    ];
    let read = read(frames(&packets));
    assert_eq!(read.messages.len(), 0);
    assert_eq!((read.counts.skipped(Skip::StreamNotDns), read.counts.skipped(Skip::StreamUnaligned)), (1, 1));
}

/// A field of protobuf: bytes.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    [&[number << 3 | 2, (length & 0x7f | 0x80) as u8, (length >> 7) as u8][..], bytes].concat()
}

/// A dnstap message of this type over this protocol.
fn tap(kind: u8, protocol: u8, dns: &[u8]) -> Vec<u8> {
    let is_response = kind.is_multiple_of(2);
    let mut message = vec![1 << 3, kind, 2 << 3, 1, 3 << 3, protocol];
    message.extend(bytes_field(4, &[192, 0, 2, 7]));
    message.extend(bytes_field(5, &[198, 51, 100, 1]));
    // 40,000 and 53.
    message.extend([6 << 3, 0xc0, 0xb8, 2, 7 << 3, 53]);
    let seconds = [0x80, 0xe2, 0xcf, 0xaa, 6];
    let (s, ns, m) = if is_response { (12, 13, 14) } else { (8, 9, 10) };
    message.push(s << 3);
    message.extend(seconds);
    message.push(ns << 3 | 5);
    message.extend(123_456_789_u32.to_le_bytes());
    message.extend(bytes_field(m, dns));
    let mut frame = bytes_field(1, b"identity");
    frame.extend(bytes_field(14, &message));
    frame.extend([15 << 3, 1]);
    frame
}

/// A file of dnstap.
fn dnstap(frames: &[Vec<u8>]) -> Vec<u8> {
    let content = b"protobuf:dnstap.Dnstap";
    let mut file = [0, 12 + content.len() as u32, 2, 1, content.len() as u32].map(u32::to_be_bytes).concat();
    file.extend(content);
    for frame in frames {
        file.extend((frame.len() as u32).to_be_bytes());
        file.extend(frame);
    }
    file.extend([0, 4, 3].map(u32::to_be_bytes).concat());
    file
}

#[test]
fn dnstap_is_read() {
    let (query, response) = (dns(1, false, "www"), dns(1, true, "www"));
    let file = dnstap(&[
        tap(5, 1, &query),
        tap(6, 1, &response),
        tap(3, 1, &query),
        tap(5, 9, &query),
        tap(6, 1, &query),
        b"\xff".to_vec(),
    ]);
    let read_all = read(file);
    assert!(read_all.errors.is_empty(), "{:?}", read_all.errors);
    let at = 1_700_000_000_123_456_789;
    let of = |is_response, payload| (at, address(CLIENT), address(SERVER), is_response, payload);
    assert_eq!(read_all.messages, [of(false, query.clone()), of(true, response)]);
    for (why, n) in [(Skip::ResolverSide, 1), (Skip::BadFrame, 2), (Skip::Direction, 1)] {
        assert_eq!(read_all.counts.skipped(why), n, "{why:?}");
    }
    // Two files that were joined, and what nobody has begun.
    let one = || dnstap(&[tap(5, 1, &query)]);
    let joined = read([one(), one()].concat());
    assert!(joined.errors.is_empty() && joined.messages.len() == 2, "{:?}", joined.errors);
    let mut behind = one();
    behind.extend([0, 0, 0, 1, 9]);
    let behind = read(behind);
    assert_eq!(behind.messages.len(), 1);
    assert!(behind.errors[0].to_string().contains("a frame behind the stop"), "{:?}", behind.errors);
    let mut other = dnstap(&[tap(5, 1, &query)]);
    other[30] = b'x';
    assert!(read(other).errors[0].to_string().contains("frames of something else than dnstap"));
    for (number, wanted) in [(3, Protocol::Tls), (4, Protocol::Https), (7, Protocol::Quic)] {
        let mut capture = Capture::from_bytes(dnstap(&[tap(5, number, &query)]), &CaptureOptions::default());
        let mut protocol = None;
        while capture
            .step(&mut |event| {
                if let Event::Message(message) = event {
                    protocol = Some(message.protocol);
                }
            })
            .expect("good")
            != Step::End
        {}
        assert_eq!(protocol, Some(wanted));
    }
}

/// A file of its own.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("dnslob-capture-{}-{name}", std::process::id()));
    fs::write(&path, content).expect("written");
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_files_are_read() {
    let plain = frames(&pair(CLIENT, SERVER));
    // As several runs of a compressor, and with a frame that says nothing.
    let (front, back) = plain.split_at(50);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for (name, packed) in [
        ("plain", plain.clone()),
        ("gz", gzip(&plain)),
        ("gz2", [gzip(front), gzip(back)].concat()),
        ("zst", zstd(&plain)),
        ("zst2", [zstd(front), skipped, zstd(back)].concat()),
    ] {
        let path = file(name, &packed);
        let open = |paths: &[PathBuf]| Capture::open(paths, &CaptureOptions::default()).expect("there");
        assert_pair(&drain(open(std::slice::from_ref(&path))), AT, CLIENT, SERVER);
        assert_eq!(drain(open(&[path.clone(), path.clone()])).messages.len(), 4, "one behind the other");
        // Cut in the middle: what is before is read, and the error says so.
        fs::write(&path, &packed[..packed.len() - 20]).expect("written");
        let cut = drain(open(std::slice::from_ref(&path)));
        assert_eq!(cut.errors.len(), 1, "{name}: {:?}", cut.errors);
        let error = cut.errors[0].to_string();
        assert_eq!(error.contains("decompressed"), name != "plain", "{error}");
        fs::remove_file(&path).expect("removed");
    }
    let none = Capture::open(&[PathBuf::from("/nonexistent/capture")], &CaptureOptions::default());
    assert!(none.map(|_| ()).expect_err("not there").to_string().contains("No such file"));
}

#[test]
fn a_damaged_file_does_not_stop_the_next_one() {
    let good = file("good", &frames(&pair(CLIENT, SERVER)));
    let bad = file("bad", b"nonsense");
    let capture = Capture::open(&[bad.clone(), good.clone()], &CaptureOptions::default()).expect("there");
    let read = drain(capture);
    assert_eq!((read.errors.len(), read.messages.len()), (1, 2));
    for path in [good, bad] {
        fs::remove_file(path).expect("removed");
    }
}

#[test]
fn pipes_are_read_without_waiting() {
    let path = std::env::temp_dir().join(format!("dnslob-capture-{}-pipe", std::process::id()));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .expect("a pipe");
    let mut capture = Capture::open(std::slice::from_ref(&path), &CaptureOptions::default()).expect("there");
    let mut messages = 0;
    let mut visit = |event: Event<'_>| messages += usize::from(matches!(event, Event::Message(_)));
    assert_eq!(capture.step(&mut visit).expect("good"), Step::More);
    assert_eq!(capture.step(&mut visit).expect("good"), Step::Idle, "nobody writes");
    let mut writer = Command::new("sh");
    writer.arg("-c").arg("cat > \"$0\"").arg(&path).stdin(Stdio::piped());
    let mut writer = writer.spawn().expect("sh runs");
    let mut input = writer.stdin.take().expect("its input");
    input.write_all(&gzip(&frames(&pair(CLIENT, SERVER)))).expect("written");
    drop(input);
    while capture.step(&mut visit).expect("good") != Step::End {}
    assert_eq!(messages, 2);
    assert!(capture.position().0 > 100 && capture.position().1.is_none());
    assert!(writer.wait().expect("it ends").success());
    fs::remove_file(path).expect("removed");
}

proptest! {
    #[test]
    fn no_damage_panics(kind in 0_usize..4, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut file = kinds().swap_remove(kind);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let read = read(file);
        prop_assert_eq!(read.opened.len(), read.closed.len());
        prop_assert_eq!(read.counts.queries + read.counts.responses, read.messages.len() as u64);
    }

    /// However a stream is cut and ordered, its messages come out, each once and in order.
    #[test]
    fn any_segmentation_is_the_same_stream(
        labels in prop::collection::vec("[a-z]{1,20}", 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        order in any::<u64>(),
    ) {
        let messages: Vec<Vec<u8>> = labels.iter().map(|label| dns(1, false, label)).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        at.dedup();
        let mut segments: Vec<_> = at.windows(2).map(|w| (w[0], &stream[w[0]..w[1]])).collect();
        let mut rng = crate::base::rng::ShardRng::from_seed(order);
        for n in (1..segments.len()).rev() {
            segments.swap(n, rng.below(n as u32 + 1) as usize);
        }
        let mut packets = vec![(AT, tcp(CLIENT, SERVER, SYN, (4_294_967_000, 0), &[]))];
        for (at, bytes) in segments {
            let number = 4_294_967_001_u32.wrapping_add(at as u32);
            packets.push((AT, tcp(CLIENT, SERVER, ACK, (number, 1), bytes)));
        }
        prop_assert_eq!(read(frames(&packets)).payloads(), messages);
    }
}

/// A query each tenth of a second, of which one has another time.
fn with_odd_time(place: usize, odd: u64) -> Vec<(u64, Vec<u8>)> {
    let time = |n: usize| if n == place { odd } else { AT + n as u64 * 100_000_000 };
    (0..20).map(|n| (time(n), udp(CLIENT, SERVER, &dns(n as u16, false, "www")))).collect()
}

#[test]
fn one_packet_with_another_time_is_of_the_time_of_its_neighbour() {
    const DAY: u64 = 86_400_000_000_000;
    for place in [0, 1, 10, 19] {
        for odd in [AT + DAY, AT - DAY, 1_000_000_000, u64::from(u32::MAX) * 1_000_000_000] {
            let read = read(pcap(Order::Little, true, 101, &with_odd_time(place, odd)));
            let times: Vec<u64> = read.messages.iter().map(|(at, ..)| (*at - AT) / 100_000_000).collect();
            let expected: Vec<u64> = (0..20_u64)
                .map(|n| match n as usize == place {
                    true if n == 0 => 1,
                    true => n - 1,
                    false => n,
                })
                .collect();
            assert_eq!((times, read.counts.odd_times), (expected, 1), "{place}: {odd}");
            assert!(read.payloads().iter().zip(0..).all(|(payload, n)| payload[1] == n), "in their order");
        }
    }
}

#[test]
fn files_without_a_packet_do_not_change_the_order() {
    let directory = std::env::temp_dir().join(format!("dnslob-order-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let file = |n: u64| {
        pcap(
            Order::Little,
            true,
            101,
            &[(AT + n * 10_000_000_000, udp(CLIENT, SERVER, &dns(n as u16, false, "www")))],
        )
    };
    let header = pcap(Order::Little, true, 101, &[]);
    let contents = [file(2), Vec::new(), file(0), header, file(1)];
    let paths: Vec<PathBuf> = (0..)
        .zip(contents)
        .map(|(n, content)| {
            let path = directory.join(format!("cap{n}"));
            fs::write(&path, content).expect("a file");
            path
        })
        .collect();
    let mut capture = Capture::open(&paths, &CaptureOptions::default()).expect("they are there");
    let mut ids = Vec::new();
    loop {
        let mut note = |event: Event<'_>| {
            if let Event::Message(message) = event {
                ids.push(message.payload[1]);
            }
        };
        match capture.step(&mut note) {
            Ok(Step::End) => break,
            Ok(Step::More | Step::Idle) => {}
            Err(error) => assert!(matches!(error.fault, Fault::Empty), "{error}"),
        }
    }
    assert_eq!(ids, [0, 1, 2]);
    fs::remove_dir_all(directory).expect("it is there");
}
