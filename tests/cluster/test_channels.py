"""Names of channels: any room has one, and on a Redis Cluster they are spread evenly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from cluster.channels import PARTITIONS, Channel, Channels, slot_of

ONE = Channels("flotilla")
SHARDED = Channels("flotilla", is_sharded=True)


def test_names_say_what_they_are() -> None:
    """An operator reads them in `PUBSUB CHANNELS`."""
    assert ONE.room("/", "lobby") == Channel(0, b"{flotilla}:bus:room:/,lobby")
    assert ONE.everybody("/chat") == Channel(0, b"{flotilla}:bus:all:/chat")
    assert ONE.node("n3000") == Channel(0, b"{flotilla}:bus:node:n3000")
    assert ONE.ear("n3000", 0) == Channel(0, b"{flotilla}:bus:ear:n3000")
    assert ONE.partitions == range(1)


@pytest.mark.parametrize(
    ("room", "same"), [(1, True), (1, 1.0), ((1, "a"), (1.0, "a")), (0, False), (2**70, float(2**70))]
)
def test_rooms_that_are_equal_have_one_channel(room: Any, same: Any) -> None:
    """Python finds one in a dictionary by the other."""
    assert room == same
    assert ONE.room("/", room) == ONE.room("/", same)


def test_rooms_of_every_kind_have_a_channel_of_their_own() -> None:
    """Text, bytes, numbers, tuples, and those that are too long for a name."""
    rooms: list[Any] = [
        "a",
        b"\xff",
        1,
        1.5,
        float("inf"),
        float("nan"),
        ("a", 1),
        "x" * 10_000,
        "x" * 10_001,
        "",
        "\ud800",
    ]
    names = {ONE.room("/", room).name for room in rooms} | {ONE.room("/chat", room).name for room in rooms}
    assert len(names) == 2 * len(rooms)
    assert max(map(len, names)) < 200


def test_a_subclass_of_text_is_the_text() -> None:
    """Whatever it says of itself."""

    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "other"

    assert ONE.room("/", Name("lobby")) == ONE.room("/", "lobby")


@pytest.mark.parametrize("room", [object(), None, frozenset()])
def test_a_room_without_a_name_is_refused(room: Any) -> None:
    """With what is allowed."""
    with pytest.raises(TypeError, match="text, bytes, a number or a tuple"):
        ONE.room("/", room)


@given(st.binary())
def test_slots_are_those_of_redis(key: bytes) -> None:
    """The same as the client library computes, hash tags included."""
    assert slot_of(key) == key_slot(key)


@pytest.mark.parametrize("cluster", ["flotilla", "a", "x-1_y"])
def test_partitions_lie_evenly_among_the_slots(cluster: str) -> None:
    """One in each sixteenth, and all channels of a partition in its slot."""
    channels = Channels(cluster, is_sharded=True)
    slots = [channels.slot(number) for number in channels.partitions]
    assert [slot * PARTITIONS // 16384 for slot in slots] == list(range(PARTITIONS))
    for number in range(1000):
        room = channels.room("/", f"room {number}")
        assert slot_of(room.name) == slots[room.partition]
    for partition in channels.partitions:
        assert slot_of(channels.ear("n1", partition).name) == slots[partition]


def test_rooms_are_spread_over_the_partitions() -> None:
    """No partition has twice its share."""
    counts = Counter(SHARDED.room("/", f"room {number}").partition for number in range(16_000))
    assert max(counts.values()) < 1300
    assert len(counts) == PARTITIONS
