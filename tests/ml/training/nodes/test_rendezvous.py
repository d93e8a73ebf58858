"""Where nodes meet: who comes, who has which processes, and who is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from olivebuild.core.errors import NodeLost, StepError
from olivebuild.ml.training.nodes import rendezvous
from olivebuild.ml.training.nodes.rendezvous import Layout, Node, Others, Presence, Share, here

SHARE = Share("cpu", 1, "2.8")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(rendezvous, "LOST_SECONDS", 0.5)


def nodes(count: int) -> list[Node]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return [Node(number=i, total=count, host="127.0.0.1", port=port) for i in range(count)]


def laid_out(shares: list[Share], batch: int) -> tuple[Others, list[Any]]:
    """Node 0, and the layout that each node got."""
    places = nodes(len(shares))
    others = Others(places[0], "adapter")
    layouts: list[Any] = [None] * len(shares)

    def take_part(i: int) -> None:
        layouts[i] = Presence(places[i]).take_part(shares[i])

    threads = [threading.Thread(target=take_part, args=(i,)) for i in range(1, len(shares))]
    for thread in threads:
        thread.start()
    layouts[0] = others.lay_out(shares[0], batch, "float32")
    for thread in threads:
        thread.join()
    return others, layouts


@pytest.mark.parametrize(
    ("variables", "node"),
    [
        ({}, Node()),
        ({"OLIVEBUILD_NODES": "1", "OLIVEBUILD_NODES_WANTED": "3"}, Node(wanted=3)),
        (
            {
                "OLIVEBUILD_NODES": "2",
                "OLIVEBUILD_NODE": "1",
                "OLIVEBUILD_RENDEZVOUS": "10.0.0.1:4000",
            },
            Node(number=1, total=2, host="10.0.0.1", port=4000, wanted=2),
        ),
    ],
)
def test_the_environment_says_where(variables: dict[str, str], node: Node) -> None:
    assert here(variables) == node


@pytest.mark.parametrize(
    "variables",
    [
        {"OLIVEBUILD_NODES": "many"},
        {"OLIVEBUILD_NODES": "2"},
        {"OLIVEBUILD_NODES": "2", "OLIVEBUILD_NODE": "2", "OLIVEBUILD_RENDEZVOUS": "a:1"},
        {"OLIVEBUILD_NODES": "2", "OLIVEBUILD_NODE": "0", "OLIVEBUILD_RENDEZVOUS": "a"},
    ],
)
def test_variables_that_do_not_fit_are_an_error(variables: dict[str, str]) -> None:
    with pytest.raises(StepError, match="do not say how many nodes"):
        here(variables)


def test_each_node_learns_the_layout() -> None:
    shares = [SHARE, SHARE._replace(processes=2), SHARE]
    others, layouts = laid_out(shares, 8)
    assert layouts == [Layout([1, 2, 1], "float32")] * 3
    assert [list(layouts[1].ranks(i)) for i in range(3)] == [[0], [1, 2], [3]]
    others.end()


def test_there_is_a_row_for_each_process() -> None:
    shares = [SHARE._replace(processes=2)] * 3
    others, layouts = laid_out(shares, 4)
    assert layouts[2].shares == [2, 1, 1]
    others.end()


def test_nodes_of_different_sorts_are_an_error() -> None:
    with pytest.raises(StepError, match="node 1 has device cuda, node 0 has cpu"):
        laid_out([SHARE, SHARE._replace(device="cuda")], 8)


def test_a_node_that_does_not_come_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others(nodes(2)[0], "adapter")
    monkeypatch.setattr(rendezvous, "JOIN_SECONDS", 0.1)
    with pytest.raises(NodeLost, match=r"node 1 of 2 has not come to 127\.0\.0\.1"):
        others.lay_out(SHARE, 8, "float32")


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node = Node(number=0, total=2, host="127.0.0.1", port=listener.getsockname()[1])
        with pytest.raises(StepError, match="node 0 can't listen at 127"):
            Others(node, "adapter")


@pytest.fixture
def pair() -> Iterator[tuple[Others, Presence]]:
    places = nodes(2)
    others, presence = Others(places[0], "adapter"), Presence(places[1])
    presence.store.set("node/1", '{"device":"cpu","processes":1,"torch":"2.8"}')
    others.lay_out(SHARE, 8, "float32")
    yield others, presence
    others.end()


def test_a_node_that_says_how_it_ended(pair: tuple[Others, Presence]) -> None:
    others, presence = pair
    faulty = threading.Event()
    others.watch(faulty.set)
    presence.tell_end(-9)
    assert faulty.wait(10)
    assert "a process on node 1 of the 2" in str(others.wait_for_fault())
    assert not isinstance(others.fault, NodeLost)


def test_a_silent_node_is_lost(pair: tuple[Others, Presence]) -> None:
    others, presence = pair
    faulty = threading.Event()
    others.watch(faulty.set)
    assert not faulty.wait(1.0)
    presence.alone.set()
    assert faulty.wait(10)
    assert isinstance(others.fault, NodeLost)


def test_the_interface_is_the_one_that_leads_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rendezvous.use_interface_to(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    import os

    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert rendezvous._interface_of("203.0.113.250") == ""


def test_every_address_of_this_machine_has_an_interface() -> None:
    if not Path("/proc/net/fib_trie").exists():
        pytest.skip("Linux tells its addresses")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent.
            probe.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("no route leads out of this machine")
        address = probe.getsockname()[0]
    assert rendezvous._interface_of(address) in [name for _, name in socket.if_nameindex()]


def test_a_node_notices_that_the_first_is_gone() -> None:
    """In a process of its own, whose end closes what it listens with."""
    import subprocess
    import sys

    (first, second) = nodes(2)
    code = (
        "import sys, time\n"
        "from olivebuild.ml.training.nodes.rendezvous import Node, Others\n"
        f"others = Others(Node(0, 2, '127.0.0.1', {first.port}), 'a')\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    presence = Presence(second)
    assert not presence.alone.is_set()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while not presence.alone.is_set() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert presence.take_part(SHARE) is None
