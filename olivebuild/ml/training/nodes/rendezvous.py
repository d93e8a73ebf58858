"""Where the nodes of a training meet, and how node 0 notices that another one is gone.

Whoever starts a job on several nodes tells each process
    OLIVEBUILD_NODES         how many nodes there are
    OLIVEBUILD_NODE          its number; the step runs on node 0, the others share its batches
    OLIVEBUILD_RENDEZVOUS    HOST:PORT, an address of node 0 with a port that is free there
    OLIVEBUILD_NODES_WANTED  how many were asked for, where some were lost
Node 0 listens there. What goes through it are numbers and JSON, with no pickles; but there is no
password, so nodes have to be in a network of their own, as for torchrun.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from olivebuild.core.errors import NodeLost, StepError

JOIN_SECONDS = 900.0
"""Time for all nodes to come, which fetch their inputs first."""
BEAT_SECONDS = 1.0
LOST_SECONDS = float(os.environ.get("OLIVEBUILD_NODE_SECONDS", "60"))
"""Time without a beat after which a node is taken for lost."""
LAYOUT = "layout"
SCHEME = "tcp://"
MOST_BYTES = 1 << 16
"""The most that a node may tell."""


class Node(NamedTuple):
    """A node's place among those of a job."""

    number: int = 0
    total: int = 1
    host: str = ""
    port: int = 0
    wanted: int = 1

    @property
    def address(self) -> str:
        """The rendezvous as one word, `tcp://10.0.0.1:4000`."""
        return f"{SCHEME}{self.host}:{self.port}"


class Share(NamedTuple):
    """What a node tells of itself."""

    device: str
    processes: int
    torch: str
    """Its version. olivebuild's own is looked at when a job begins."""


class Layout(NamedTuple):
    """Which processes run where."""

    shares: Sequence[int]
    """Processes of each node; those of node 0 are first."""
    dtype: str

    @property
    def total(self) -> int:
        """The number of processes."""
        return sum(self.shares)

    def ranks(self, node: int) -> range:
        first = sum(self.shares[:node])
        return range(first, first + self.shares[node])


def here(variables: Mapping[str, str] = os.environ) -> Node:
    """Return this node's place. Raises StepError where the variables don't fit together."""
    try:
        count = int(variables.get("OLIVEBUILD_NODES", "1"))
        wanted = int(variables.get("OLIVEBUILD_NODES_WANTED", count))
        if count < 2:
            return Node(wanted=wanted)
        host, _, port = variables["OLIVEBUILD_RENDEZVOUS"].rpartition(":")
        number = int(variables["OLIVEBUILD_NODE"])
        if not host or not 0 <= number < count:
            raise ValueError
        return Node(number, count, host.strip("[]"), int(port), wanted)
    except (KeyError, ValueError):
        raise StepError(
            "OLIVEBUILD_NODES, OLIVEBUILD_NODE and OLIVEBUILD_RENDEZVOUS do not say how many nodes "
            "there are, which one this is and where they meet",
            hint="the launcher of a job sets them; leave them out of your environment",
        ) from None


def share_of(device: torch.device, processes: int) -> Share:
    return Share(device.type, processes, torch.__version__)


def listen(node: Node) -> TCPStore:
    """Listen at the rendezvous, on its address alone. Raises StepError."""
    try:
        listener = socket.create_server((node.host, node.port), family=_family(node.host))
    except OSError as e:
        raise StepError(
            f"node 0 can't listen at {node.host}:{node.port}: {e.strerror or e}",
            hint="build again: the launcher looks for another port",
        ) from None
    return TCPStore(
        node.host,
        node.port,
        is_master=True,
        timeout=timedelta(seconds=JOIN_SECONDS),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def join(address: str, seconds: float = JOIN_SECONDS) -> TCPStore:
    """Return a connection to node 0. Raises torch's DistError where it does not listen in time."""
    host, port = _host_and_port(address)
    return TCPStore(host, port, timeout=timedelta(seconds=seconds), wait_for_workers=False)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    return host, int(port)


def use_interface_to(address: str) -> None:
    """Have gloo, and NCCL on a single machine, talk over the interface that leads to node 0."""
    # By default they take the one that this machine's name resolves to, which may be none.
    with socket.create_connection(_host_and_port(address)) as connection:
        name = _interface_of(connection.getsockname()[0])
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if name == "lo":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _interface_of(address: str) -> str:
    """Return the name of the interface that has an IPv4 address, "" where that is not told."""
    if sys.platform != "linux" or ":" in address:
        return ""
    import fcntl
    import struct

    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                # https://man7.org/linux/man-pages/man7/netdevice.7.html: SIOCGIFADDR
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""


class Others:
    """The other nodes, as node 0 sees them."""

    def __init__(self, node: Node, target: str) -> None:
        self.node = node
        self._target = target
        self.store = listen(node)
        self.fault: StepError | None = None
        """Why one of them is gone."""
        self._ended = threading.Event()
        self._watched: list[int] = []

    def lay_out(self, share: Share, batch: int, dtype: str) -> Layout:
        """Wait for all nodes, and tell each its processes: at most one for each row of a batch.

        Raises NodeLost for one that does not come, StepError for one that does not fit.
        """
        shares = [share]
        deadline = time.monotonic() + JOIN_SECONDS
        for number in range(1, self.node.total):
            self._wait_for(number, deadline)
            other = Share(**self._read(f"node/{number}"))
            for what, mine, its in zip(Share._fields, share, other, strict=True):
                if mine != its and what != "processes":
                    raise StepError(
                        f"{self._target} can't share its batches: node {number} has {what} {its}, "
                        f"node 0 has {mine}",
                        hint="a training's nodes have to be of one sort",
                    )
            shares.append(other)
        counts = [s.processes for s in shares]
        while sum(counts) > batch:
            # Of equal ones the last.
            counts[max(range(len(counts)), key=lambda i: (counts[i], i))] -= 1
        # One without a process ends at once.
        self._watched = [number for number, count in enumerate(counts) if number and count]
        layout = Layout(counts, dtype)
        self.store.set(LAYOUT, json.dumps(layout._asdict()))
        return layout

    def _wait_for(self, number: int, deadline: float) -> None:
        while not self.store.check([f"node/{number}"]):
            if time.monotonic() > deadline:
                raise NodeLost(
                    f"{self._target} failed: node {number} of {self.node.total} has not come to "
                    f"{self.node.host}:{self.node.port} in {JOIN_SECONDS:.0f} s",
                    hint="do the nodes reach each other?",
                )
            time.sleep(0.05)

    def _read(self, key: str) -> dict[str, Any]:
        data = json.loads(self.store.get(key)[:MOST_BYTES])
        return {name: data[name] for name in Share._fields}

    def watch(self, on_fault: Callable[[], None]) -> None:
        """Call `on_fault`, in a thread, when a node has ended or is silent for too long."""
        threading.Thread(target=self._watch, args=(on_fault,), daemon=True).start()

    def _watch(self, on_fault: Callable[[], None]) -> None:
        # A connection of its own: another thread may wait with the first one.
        store = join(self.node.address)
        beats = dict.fromkeys(self._watched, (-1, time.monotonic()))
        while not self._ended.wait(BEAT_SECONDS / 2):
            now = time.monotonic()
            for number, (count, since) in beats.items():
                if store.check([f"ended/{number}"]):
                    self.fault = self._ended_error(number, store.get(f"ended/{number}"))
                elif (beat := store.add(f"beat/{number}", 0)) != count:
                    beats[number] = (beat, now)
                elif now - since > LOST_SECONDS:
                    self.fault = self._lost_error(number)
                if self.fault:
                    on_fault()
                    return

    def _ended_error(self, number: int, code: bytes) -> StepError:
        return StepError(
            f"{self._target} failed: a process on node {number} of the {self.node.total} that "
            f"share its batches ended with {code.decode('ascii', 'replace')[:20]}",
            hint=f"`olivebuild log {self._target}` shows its output",
        )

    def _lost_error(self, number: int) -> NodeLost:
        return NodeLost(
            f"{self._target} failed: node {number} of the {self.node.total} that share its "
            f"batches has been silent for {LOST_SECONDS:.0f} s",
            hint="build again: it goes on from its last state",
        )

    def wait_for_fault(self) -> StepError | None:
        """Return why a connection to another node broke, which may show as its silence only."""
        deadline = time.monotonic() + LOST_SECONDS + 2 * BEAT_SECONDS
        while not self.fault and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.fault

    def end(self) -> None:
        self._ended.set()


class Presence:
    """A node that tells node 0 of itself."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.store = join(node.address)
        self.alone = threading.Event()
        """Set when node 0 is gone."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        try:
            store = join(self.node.address, LOST_SECONDS)
            while not self.alone.wait(BEAT_SECONDS):
                store.add(f"beat/{self.node.number}", 1)
        except RuntimeError:
            self.alone.set()

    def take_part(self, share: Share) -> Layout | None:
        """Tell what this node has, and return the layout; None where node 0 is gone."""
        self.store.set(f"node/{self.node.number}", json.dumps(share._asdict()))
        with contextlib.suppress(RuntimeError):
            while not self.alone.is_set():
                if self.store.check([LAYOUT]):
                    data = json.loads(self.store.get(LAYOUT)[:MOST_BYTES])
                    return Layout([int(n) for n in data["shares"]], str(data["dtype"]))
                time.sleep(0.1)
        return None

    def tell_end(self, code: int) -> None:
        with contextlib.suppress(RuntimeError):
            self.store.set(f"ended/{self.node.number}", str(code))
