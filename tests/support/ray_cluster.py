"""A real Ray cluster on this machine: a head without processors, and nodes that can be killed.

All of it lies in a network namespace that has nothing but a loopback device: no port of the machine
is taken or opened. Each node has a process namespace and a folder for Ray's files of its own, as a
container has, so that killing it is one signal and takes all that ran there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from olivebuild.api.site import JobState, Needs
from tests.support.require import require

DASHBOARD = "http://127.0.0.1:8265"
START_SECONDS = 120
ONE_CORE = Needs()
NODES = {"one": 2, "two": 3}
"""The nodes, and the last number of their address."""
STORE_BYTES = 80 * 2**20
"""The smallest object store that Ray takes is 75 MB."""


def require_ray() -> None:
    """Skip the test where Ray is not installed or namespaces can't be made."""
    programs = all(shutil.which(name) for name in ("unshare", "nsenter", "ip"))
    require(
        "ray",
        programs and sys.platform == "linux" and importlib.util.find_spec("ray"),
        "Ray and Linux namespaces are needed",
    )


class RayCluster:
    """A cluster; `close` ends every process of it."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            # A node that is gone is noticed after 3 seconds and not after 20.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
            # Else a worker is started for each processor before there is work.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            **(environment or {}),
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._holder = subprocess.Popen(
            [*_unshare("--net"), "sh", "-c", "ip link set lo up && echo && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout
        if not self._holder.stdout.readline():
            self._holder.communicate()
            raise RuntimeError("a network namespace can't be made")

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs another one in the cluster's network."""
        enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        if os.geteuid():
            enter += [f"--user=/proc/{self._holder.pid}/ns/user", "--preserve-credentials"]
        return [*enter, "--", *command]

    def start_head(self) -> None:
        """Start the head, or start it again where it was killed."""
        self._start(
            "head",
            "--head",
            "--port=6379",
            "--dashboard-host=127.0.0.1",
            "--num-cpus=0",
            "--include-log-monitor=false",
        )
        self._wait(lambda: bool(self._get("/api/version")))

    def start_node(self, name: str) -> None:
        """Start a node with one processor."""
        number = NODES[name]

        def ready() -> bool:
            # On a busy machine it may give up: Ray waits for 30 seconds, whatever is said.
            if name not in self._nodes or self._nodes[name].poll() is not None:
                self._start(name, "--address=127.0.0.1:6379", "--num-cpus=1", number=number)
            return self._alive(f"127.0.0.{number}")

        self._wait(ready)

    def restart(self) -> None:
        """Start the head anew, and the nodes: without their head they end after a while."""
        for name in list(self._nodes):
            self.kill(name)
        self.start_head()
        for name in NODES:
            self.start_node(name)

    def node_of(self, text: str) -> str:
        """Return the node that runs a process with this in its command line."""
        for name, process in self._nodes.items():
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if name != "head" and text in " ".join(child.cmdline()):
                        return name
        raise LookupError(text)

    def kill(self, name: str) -> None:
        """End a node or the head, and all of its processes, at once."""
        process = self._nodes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self._nodes):
            self.kill(name)
        self._holder.kill()
        self._holder.communicate()

    def _start(self, name: str, *options: str, number: int = 1) -> None:
        files = Path(tempfile.gettempdir()) / "ray"
        files.mkdir(exist_ok=True)
        ray = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            f"--node-ip-address=127.0.0.{number}",
            f"--object-store-memory={STORE_BYTES}",
            # Each node has an agent, and all of them one network.
            f"--dashboard-agent-listen-port={52365 + number}",
            *options,
        ]
        shell = f'mount -t tmpfs ray "{files}" && exec "$@"'
        with open(self._folder / f"{name}.log", "ab") as log:
            self._nodes[name] = subprocess.Popen(
                self.inside(
                    [
                        *("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"),
                        *("sh", "-c", shell, "sh", *ray),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def _alive(self, address: str) -> bool:
        """Return whether a node at this address is alive: of one that was killed Ray tells, too."""
        text = self._get("/api/v0/nodes")
        nodes = json.loads(text)["data"]["result"]["result"] if text else []
        return any(n["node_ip"] == address and n["state"] == "ALIVE" for n in nodes)

    def _get(self, path: str) -> str:
        """Return what the head answers, "" where it does not."""
        return subprocess.run(
            self.inside(["curl", "-s", "-f", "-m", "5", f"{DASHBOARD}{path}"]),
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def _wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Ray did not start: see {self._folder}")
            time.sleep(0.5)


def _unshare(*namespaces: str) -> list[str]:
    """Return a command for new namespaces; who isn't root gets one of users first."""
    return ["unshare", *namespaces, *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """A cluster of a head and two nodes."""
    require_ray()
    cluster = RayCluster(folder)
    try:
        cluster.start_head()
        for name in NODES:
            cluster.start_node(name)
        yield cluster
    finally:
        cluster.close()


class LauncherInside:
    """A launcher in a process in the cluster's network, as an agent is."""

    def __init__(self, cluster: RayCluster, name: str, options: Mapping[str, str]) -> None:
        module = f"olivebuild.executors.launchers.{name}"
        self._process = subprocess.Popen(
            cluster.inside([sys.executable, "-c", SERVER, module, json.dumps(options)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> LauncherInside:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def submit(
        self, name: str, command: Sequence[str], folder: Path, needs: Needs = ONE_CORE
    ) -> str:
        return str(self._call("submit", name, command, str(folder), needs))

    def refusal(self, needs: Needs) -> str:
        return str(self._call("refusal", needs))

    def state(self, ident: str) -> JobState:
        return JobState(str(self._call("state", ident)))

    def error_of_state(self, ident: str) -> str:
        with pytest.raises(RuntimeError) as error:
            self._call("state", ident)
        return str(error.value)

    def ending(self, ident: str) -> str:
        return str(self._call("ending", ident))

    def cancel(self, ident: str) -> None:
        self._call("cancel", ident)

    def _call(self, method: str, *arguments: object) -> object:
        """Raises RuntimeError for a BuildError there."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


SERVER = """
import importlib, json, pathlib, sys
from olivebuild.api.site import Needs
from olivebuild.core.errors import BuildError

options = json.loads(sys.argv[2])
launcher = importlib.import_module(sys.argv[1]).open_launcher(options, pathlib.Path())
for line in sys.stdin:
    method, *arguments = json.loads(line)
    if method == "submit":
        arguments[2] = pathlib.Path(arguments[2])
    if method in ("submit", "refusal"):
        arguments[-1] = Needs(*arguments[-1])
    try:
        answer = {"result": getattr(launcher, method)(*arguments)}
    except BuildError as e:
        answer = {"error": e.fact}
    print(json.dumps(answer), flush=True)
"""
