"""The channels of the bus: one for each room, each namespace, each node.  Pure.

A name only decides who *gets* a message; whom it is for stands in the message.  So two rooms that share a name (there
are none among the usual ones) would cost work and do no harm, and long names may be hashed.

On a Redis Cluster the channels are spread over PARTITIONS slots, so that a node needs so many connections at most,
however many channels it listens to (Redis 7, sharded pub/sub).  Each channel is on one partition, and what is published
there arrives in order.  Everywhere else there is one partition.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Hashable
from functools import cache
from typing import NamedTuple

PARTITIONS = 16
"""On a Redis Cluster.  Every node and every emitter must have it alike, so it is no option."""

SLOTS = 16384
_LONGEST_BYTES = 160


class Channel(NamedTuple):
    """A channel's name in Redis, and the partition on which it is."""

    partition: int
    name: bytes


class Channels:
    """The channels of the cluster named `cluster`; `is_sharded` on a Redis Cluster."""

    def __init__(self, cluster: str, *, is_sharded: bool = False) -> None:
        tags = _even_tags(cluster) if is_sharded else (cluster,)
        self._prefixes = [f"{{{tag}}}:bus:".encode() for tag in tags]

    @property
    def partitions(self) -> range:
        return range(len(self._prefixes))

    def room(self, namespace: str, room: Hashable) -> Channel:
        """Raises TypeError for a room that cannot be named on other nodes."""
        text = room if room.__class__ is str else _text(room)
        return self._channel(f"room:{namespace},{text}")

    def everybody(self, namespace: str) -> Channel:
        return self._channel(f"all:{namespace}")

    @property
    def servers(self) -> Channel:
        """What is for every node, whether it has clients or not."""
        return self._channel("servers")

    def node(self, name: str) -> Channel:
        """The channel of the node (or emitter) `name`: questions, answers, messages to single clients."""
        return self._channel(f"node:{name}")

    def ear(self, name: str, partition: int) -> Channel:
        """The last channel that the node `name` subscribes to on a partition: who hears this, hears everything."""
        return Channel(partition, self._prefixes[partition] + f"ear:{name}".encode())

    def slot(self, partition: int) -> int:
        """Return the slot of a Redis Cluster in which the partition is."""
        return slot_of(self._prefixes[partition])

    def _channel(self, rest: str) -> Channel:
        name = rest.encode(errors="surrogatepass")
        if len(name) > _LONGEST_BYTES:
            name = b"long:" + hashlib.blake2b(name, digest_size=16).hexdigest().encode()
        partition = zlib.crc32(name) % len(self._prefixes) if len(self._prefixes) > 1 else 0
        return Channel(partition, self._prefixes[partition] + name)


def _text(room: Hashable) -> str:
    """Name a room that is no plain text.  Rooms that are equal in Python have the same name."""
    if isinstance(room, str):
        return str.__str__(room)
    if isinstance(room, int | float):
        return str(int(room)) if room == room and abs(room) != float("inf") and room == int(room) else repr(float(room))
    if isinstance(room, bytes):
        return room.decode("latin-1")
    if isinstance(room, tuple):
        return f"({','.join(map(_text, room))})"
    raise TypeError(
        f"a room that other nodes know is text, bytes, a number or a tuple of these, not a {type(room).__name__}"
    )


def slot_of(key: bytes) -> int:
    """Return the slot of `key` (Redis Cluster specification, "Key distribution model" and "Hash tags")."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    return _crc16(key[start + 1 : end] if end > start + 1 else key) % SLOTS


def _crc16(data: bytes) -> int:
    """CRC16-CCITT (XMODEM), as the specification names it."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


@cache
def _even_tags(cluster: str) -> tuple[str, ...]:
    """Return a hash tag for each partition, so that their slots lie evenly among all: so they do among the servers."""
    tags: dict[int, str] = {}
    suffix = 0
    while len(tags) < PARTITIONS:
        tag = f"{cluster}:{suffix:x}"
        tags.setdefault(_crc16(tag.encode()) % SLOTS * PARTITIONS // SLOTS, tag)
        suffix += 1
    return tuple(tags[number] for number in range(PARTITIONS))
