"""Captures of queries that the programs of this directory have replayed."""

import struct


def query(name, number):
    """A query for an A record, as bytes."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", number & 0xffff, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)


def client(number):
    """The address of a client as a number: within 10.0.0.0/8, whose neighbours in time are no neighbours by address."""
    return 0x0a000000 | number * 0x9e3779b1 % (1 << 24)


def write(path, queries):
    """Writes a capture (pcap of raw IP) of queries, each an address and the bytes, ten microseconds apart."""
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 101))
        batch = []
        for number, (address, dns) in enumerate(queries):
            length = 28 + len(dns)
            second, micro = divmod(number * 10, 1_000_000)
            batch.append(struct.pack("<IIII", second, micro, length, length)
                         + struct.pack("!BBHHHBBHII", 0x45, 0, length, 0, 0, 64, 17, 0, address, 0x7f000001)
                         + struct.pack("!HHHH", 1024 + number % 60_000, 53, 8 + len(dns), 0) + dns)
            if len(batch) == 10_000:
                f.write(b"".join(batch))
                batch = []
        f.write(b"".join(batch))
