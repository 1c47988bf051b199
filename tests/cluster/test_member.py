"""cluster/member.py: what a node says of itself, read with care."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.member import NEXT, BadRecord, Drain, NodeRecord, Signal, State

GOOD = {"name": "n3000", "host": "10.0.0.5", "port": 3000, "incarnation": "a1"}


def read(**values: object) -> NodeRecord:
    return NodeRecord.from_json(json.dumps(GOOD | values))


def fault(**values: object) -> str:
    with pytest.raises(BadRecord) as caught:
        read(**values)
    return str(caught.value)


COUNT = st.integers(0, 2**63 - 1)
AMOUNT = st.floats(0, 1e15)
RECORDS = st.builds(
    NodeRecord,
    name=st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True),
    host=st.sampled_from(["10.0.0.5", "fd00::1", "app.example"]),
    port=st.integers(1, 65535),
    incarnation=st.text(min_size=1),
    state=st.sampled_from(State),
    pid=COUNT,
    host_id=st.text(),
    handoff=st.text(),
    version=st.text(),
    connections=COUNT,
    users=COUNT,
    memory_bytes=COUNT,
    cpu_percent=AMOUNT,
    loop_lag_ms=AMOUNT,
    uptime_s=AMOUNT,
    messages_in=COUNT,
    messages_out=COUNT,
)


@given(RECORDS)
def test_a_record_survives_the_way_through_redis(record: NodeRecord) -> None:
    """As text and as bytes."""
    assert NodeRecord.from_json(record.to_json()) == record
    assert NodeRecord.from_json(record.to_json().encode()) == record


def test_what_a_node_need_not_say_has_defaults() -> None:
    """Four fields are needed."""
    assert read() == NodeRecord(name="n3000", host="10.0.0.5", port=3000, incarnation="a1")
    assert read().state is State.READY


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_field_that_is_needed_and_missing_is_named(field: str) -> None:
    """Each of the four."""
    text = json.dumps({name: value for name, value in GOOD.items() if name != field})
    with pytest.raises(BadRecord, match=f"^{field} is missing$"):
        NodeRecord.from_json(text)


def test_a_newer_node_may_say_more() -> None:
    """Fields that we do not know are ignored."""
    assert read(shoe_size=43) == read()


def test_a_whole_number_is_a_number() -> None:
    """JSON does not tell 1 from 1.0."""
    assert read(uptime_s=5).uptime_s == 5


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": 5}, "name must be of type str, not 5"),
        ({"name": "N 3000"}, "name must be the name of a slot, not 'N 3000'"),
        ({"name": ""}, "name must be the name of a slot, not ''"),
        ({"host": ""}, "host must be the address of a host, not ''"),
        ({"host": "a\nb"}, "host must be the address of a host, not 'a\\nb'"),
        ({"host": "h" * 256}, "host must be the address of a host, not '" + "h" * 56 + "..."),
        ({"port": "3000"}, "port must be of type int, not '3000'"),
        ({"port": True}, "port must be of type int, not True"),
        ({"port": 3000.0}, "port must be of type int, not 3000.0"),
        ({"port": 0}, "port must be from 1 to 65535, not 0"),
        ({"port": 65536}, "port must be from 1 to 65535, not 65536"),
        ({"incarnation": ""}, "incarnation must be given, not ''"),
        ({"state": "asleep"}, "state must be one of joining, ready, ejected, draining, down, not 'asleep'"),
        ({"state": None}, "state must be of type State, not None"),
        ({"connections": -1}, "connections must be 0 or more, not -1"),
        ({"connections": 2**63}, "connections must be 0 or more, not 9223372036854775808"),
        ({"cpu_percent": -0.5}, "cpu_percent must be 0 or more, not -0.5"),
        ({"cpu_percent": float("nan")}, "cpu_percent must be 0 or more, not nan"),
        ({"loop_lag_ms": float("inf")}, "loop_lag_ms must be 0 or more, not inf"),
        ({"uptime_s": 10**400}, "uptime_s must be 0 or more, not " + "1" + "0" * 56 + "..."),
        ({"uptime_s": "long"}, "uptime_s must be of type float, not 'long'"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_it_must_be(values: dict[str, object], told: str) -> None:
    """One readable line, of bounded length."""
    assert fault(**values) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON: "),
        ("{", "not JSON: "),
        (b"\xff\xfe\x00", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ("[]", "a JSON object was expected, not list"),
        ("5", "a JSON object was expected, not int"),
        ("null", "a JSON object was expected, not NoneType"),
    ],
)
def test_what_is_no_record_at_all_is_told(text: str | bytes, told: str) -> None:
    """Written by somebody else."""
    with pytest.raises(BadRecord) as caught:
        NodeRecord.from_json(text)
    assert str(caught.value).startswith(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(NodeRecord)]), JSON))
def test_anything_is_a_record_or_a_bad_record(values: dict[str, object]) -> None:
    """No other error comes out of it."""
    try:
        record = read(**values)
    except BadRecord:
        return
    assert NodeRecord.from_json(record.to_json()) == record


class TestNext:
    """The life of a node as a table."""

    def test_every_pair_has_an_outcome(self) -> None:
        """A missing one would be a KeyError in production."""
        assert set(NEXT) == {(state, signal) for state in State for signal in Signal}

    def test_only_a_success_or_the_end_of_an_ejection_brings_a_node_in(self) -> None:
        """Nothing else leads to ready from anywhere."""
        leading = {pair for pair, after in NEXT.items() if after is State.READY and pair[0] is not after}
        assert leading == {
            (State.JOINING, Signal.RISE),
            (State.DOWN, Signal.RISE),
            (State.EJECTED, Signal.READMIT),
        }

    def test_a_draining_node_never_gets_traffic_back_by_itself(self) -> None:
        """It must first be down (a new process), or be told, and then answer a probe."""
        assert {NEXT[State.DRAINING, signal] for signal in Signal if signal is not Signal.UNDRAIN} == {
            State.DRAINING,
            State.DOWN,
        }
        assert NEXT[State.DRAINING, Signal.UNDRAIN] is State.JOINING

    def test_only_who_was_drained_joins_again(self) -> None:
        """Everybody else joins once."""
        back = {pair for pair, after in NEXT.items() if after is State.JOINING and pair[0] is not after}
        assert back == {(State.DRAINING, Signal.UNDRAIN)}

    def test_only_a_ready_node_is_ejected(self) -> None:
        """Whoever gets no clients anyway has nothing to be spared."""
        ejecting = {state for state in State if NEXT[state, Signal.EJECT] is State.EJECTED}
        assert ejecting == {State.READY, State.EJECTED}

    @pytest.mark.parametrize("state", list(State))
    def test_a_node_that_is_gone_is_down(self, state: State) -> None:
        """From wherever it was."""
        assert NEXT[state, Signal.GONE] is State.DOWN
        assert NEXT[state, Signal.FALL] is State.DOWN


class TestDrain:
    """An operator's order, on its way through Redis."""

    @given(st.builds(Drain, since=AMOUNT, drain_s=AMOUNT, close_per_s=AMOUNT))
    def test_an_order_survives_the_way(self, drain: Drain) -> None:
        """As text and as bytes."""
        assert Drain.from_json(drain.to_json()) == drain
        assert Drain.from_json(drain.to_json().encode()) == drain

    @pytest.mark.parametrize(
        "text",
        ["", "[]", '{"since": 1}', '{"since": 1, "drain_s": "x", "close_per_s": 1}', '{"since": NaN}', "[" * 9999],
    )
    def test_what_is_none_is_a_bad_record(self, text: str) -> None:
        """Another version wrote it, or somebody else."""
        with pytest.raises(BadRecord):
            Drain.from_json(text)
