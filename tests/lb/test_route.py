"""Which node a request goes to."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Balance, Lb
from cluster.member import State
from lb.affinity import Client
from lb.errors import NoNodeAvailable
from lb.policies import ip_hash, least_connections, policy_of, random_two, round_robin
from lb.pool import Node
from lb.route import By, Router


def node(name: str, state: State = State.READY, *, tunnels: int = 0, exchanges: int = 0) -> Node:
    return Node(name, "127.0.0.1", 1, state=state, tunnels=tunnels, exchanges=exchanges)


def client(*, session: str | None = None, cookie: str | None = None, address: str = "192.0.2.1") -> Client:
    return Client(sid=session is not None, session=session, cookie=cookie, address=address)


def router(**lb: object) -> Router:
    return Router.of(Lb.model_validate(lb))


THREE = [node("a"), node("b"), node("c")]


def test_the_sid_wins_over_everything() -> None:
    """The session is there and nowhere else; the client gets the cookie of that node."""
    choice = router().route(THREE, client(session="c", cookie="a"))
    assert (choice.node.name, choice.by, choice.stick) == ("c", By.SID, True)
    choice = router(stickiness="ip_hash").route(THREE, client(session="c"))
    assert (choice.node.name, choice.by, choice.stick) == ("c", By.SID, False)


def test_the_cookie_wins_over_the_policy_and_is_not_set_again() -> None:
    """A client that has the right cookie needs no other."""
    choice = router().route(THREE, client(cookie="b"))
    assert (choice.node.name, choice.by, choice.stick) == ("b", By.COOKIE, False)


def test_a_cookie_of_a_renamed_node_is_still_its() -> None:
    """A probe may learn the name that a configured node's sids carry; clients keep their node."""
    renamed = node("n1")
    renamed.former_names = ("10.0.0.5:3000",)
    choice = router().route([*THREE, renamed], client(cookie="10.0.0.5:3000"))
    assert (choice.node.name, choice.stick) == ("n1", True)


@pytest.mark.parametrize("state", [State.JOINING, State.DRAINING, State.DOWN])
def test_only_ready_nodes_get_new_clients(state: State) -> None:
    """Also those that have its cookie: it is stale, and replaced."""
    nodes = [node("a", state), node("b")]
    for balance in Balance:
        choice = router(balance=balance).route(nodes, client(cookie="a"))
        assert (choice.node.name, choice.by, choice.stick) == ("b", By.POLICY, True)


def test_a_draining_node_serves_its_own_sessions() -> None:
    """It said that it is leaving, not that it has left."""
    nodes = [node("a", State.DRAINING), node("b")]
    assert router().route(nodes, client(session="a")).node.name == "a"


@pytest.mark.parametrize("state", [State.JOINING, State.DOWN])
def test_a_session_whose_node_is_gone_goes_elsewhere(state: State) -> None:
    """Any other node will tell the client that the session is unknown, and the client begins anew."""
    nodes = [node("a", state), node("b")]
    choice = router().route(nodes, client(session="a"))
    assert (choice.node.name, choice.by, choice.stick) == ("b", By.POLICY, True)
    assert router().route(nodes, client(session="never-heard-of")).node.name == "b"


@pytest.mark.parametrize("state", [State.DRAINING, State.EJECTED])
def test_a_session_of_a_node_of_another_make_stays_with_its_cookie(state: State) -> None:
    """Its sid names no node; a new client with that cookie goes elsewhere."""
    nodes = [node("10.0.0.5:80", state), node("b")]
    foreign = Client(sid=True, session=None, cookie="10.0.0.5:80", address="192.0.2.1")
    choice = router().route(nodes, foreign)
    assert (choice.node.name, choice.by, choice.stick) == ("10.0.0.5:80", By.COOKIE, False)
    assert router().route(nodes, client(cookie="10.0.0.5:80")).node.name == "b"
    assert router().route(nodes, foreign, {"10.0.0.5:80"}).node.name == "b"
    # A sid that names a node is that node's, or nobody's.
    assert router().route(nodes, client(session="gone", cookie="10.0.0.5:80")).node.name == "b"


def test_a_node_that_was_tried_is_not_tried_again() -> None:
    """Not even for the session that it has."""
    assert router().route(THREE, client(session="a", cookie="b"), {"a", "b"}).node.name == "c"


def test_no_node_is_an_error_with_the_facts() -> None:
    """How many are known and how many were tried tells an outage from an empty cluster."""
    with pytest.raises(NoNodeAvailable, match=r"no ready node \(1 known, 0 tried\)"):
        router().route([node("a", State.DOWN)], client())
    with pytest.raises(NoNodeAvailable, match=r"\(3 known, 3 tried\)"):
        router().route(THREE, client(), {"a", "b", "c"})
    with pytest.raises(NoNodeAvailable, match=r"\(0 known, 0 tried\)"):
        router().route([], client())


def test_stickiness_by_address_places_by_address_whatever_the_balance() -> None:
    """Otherwise the second request would land elsewhere."""
    by_hash = router(stickiness="ip_hash", balance="round_robin")
    assert len({by_hash.route(THREE, client()).node.name for _ in range(10)}) == 1


def test_without_stickiness_no_cookie_is_set() -> None:
    """Only the sid routes then."""
    assert not router(stickiness="none").route(THREE, client()).stick


def test_least_connections_takes_the_emptiest() -> None:
    """By clients, then by exchanges under way."""
    choose = least_connections()
    assert choose([node("a", tunnels=2), node("b", tunnels=1)], "").name == "b"
    assert choose([node("a", tunnels=1, exchanges=3), node("b", tunnels=1, exchanges=2)], "").name == "b"


def test_least_connections_spreads_equals_by_chance() -> None:
    """Two balancers that both see three empty nodes must not both pick the first."""
    choose = least_connections(random.Random(1).random)
    counts = Counter(choose(THREE, "").name for _ in range(300))
    assert min(counts.values()) > 60


def test_random_two_takes_the_less_loaded_of_two() -> None:
    """Never the fullest of all, as long as there are two."""
    nodes = [node("a", tunnels=9), node("b", tunnels=1), node("c", tunnels=2)]
    choose = random_two(random.Random(1).random)
    counts = Counter(choose(nodes, "").name for _ in range(300))
    assert set(counts) == {"b", "c"}
    assert choose(nodes[:1], "").name == "a"


def test_round_robin_goes_round() -> None:
    """By name, whatever the order in the pool."""
    choose = round_robin()
    assert [choose(THREE[::-1], "").name for _ in range(5)] == ["a", "b", "c", "a", "b"]


def test_round_robin_keeps_its_turn_when_nodes_come_and_go() -> None:
    """A counter would begin to favour somebody."""
    choose = round_robin()
    assert choose(THREE, "").name == "a"
    assert choose([THREE[0], THREE[2]], "").name == "c"
    assert choose([*THREE, node("d")], "").name == "d"
    assert choose(THREE, "").name == "a"


ADDRESSES = [f"10.0.{high}.{low}" for high in range(4) for low in range(0, 256, 4)]


def placed(names: frozenset[str]) -> dict[str, str]:
    nodes = [node(name) for name in names]
    return {address: ip_hash(nodes, address).name for address in ADDRESSES}


@given(st.frozensets(st.text("abcdefg0123456789-", min_size=1, max_size=8), min_size=2, max_size=8), st.data())
def test_a_lost_node_moves_only_its_own_clients_and_gets_them_back(names: frozenset[str], data: st.DataObject) -> None:
    """Rendezvous hashing: whoever was not on it stays where it is."""
    lost = data.draw(st.sampled_from(sorted(names)))
    before, after = placed(names), placed(names - {lost})
    assert all(after[address] == name for address, name in before.items() if name != lost)
    assert placed(names) == before


def test_the_address_hash_is_even_and_ignores_the_order_of_nodes() -> None:
    """Every balancer agrees without talking."""
    counts = Counter(placed(frozenset({"n3000", "n3001", "n3002"})).values())
    assert min(counts.values()) > len(ADDRESSES) / 3 * 0.7
    assert ip_hash(THREE, "192.0.2.7") is ip_hash(THREE[::-1], "192.0.2.7")


@pytest.mark.parametrize("balance", list(Balance))
def test_every_policy_takes_the_only_node(balance: Balance) -> None:
    """And never looks at anything else."""
    only = node("a", tunnels=5)
    assert policy_of(balance)([only], "192.0.2.1") is only


def test_whoever_failed_once_is_sent_to_a_node_that_is_well() -> None:
    """In panic all nodes are used that live; from one sick node to the next, a failure would become an error."""
    sick = [node("a", State.EJECTED), node("b", State.EJECTED)]
    for each in sick:
        each.recruited = True
    nodes = [*sick, node("c", tunnels=50)]
    chosen = router()
    assert chosen.route(nodes, client()).node.name in ("a", "b")
    assert chosen.route(nodes, client(), ["a"]).node.name == "c"
    placed = chosen.place(nodes, client(), 0.0, ["a"])
    assert placed is not None
    assert placed.node.name == "c"
    assert chosen.route(nodes, client(), ["a", "c"]).node.name == "b"
    doubtful = node("d")
    doubtful.conduct.failures = 1
    assert chosen.route([*nodes, doubtful], client(), ["a"]).node.name == "c"
    assert chosen.route([*nodes, doubtful], client(), ["a", "c"]).node.name == "d"
