"""A job of several nodes on a real Slurm: what each node is told, and a node that is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.executors.launchers.slurm import SlurmLauncher
from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_launcher import cluster, launcher, until

__all__ = ["cluster", "launcher"]

TWO = Needs(cores=2, memory=2**28, nodes=2)
TELLS = """\
import os, socket, sys, time
node, nodes = os.environ["OLIVEBUILD_NODE"], os.environ["OLIVEBUILD_NODES"]
host, port = os.environ["OLIVEBUILD_RENDEZVOUS"].rsplit(":", 1)
wanted = os.environ["OLIVEBUILD_NODES_WANTED"]
assert os.environ["SLURM_CPUS_PER_TASK"] == "2"
print(f"node {node} of {nodes} of {wanted}", flush=True)

def partner():
    if node == "0":
        return socket.create_server((host, int(port))).accept()[0]
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            time.sleep(0.1)

if nodes == "2":
    connection = partner()
    connection.sendall(b"met")
    print(connection.recv(3).decode(), flush=True)
"""
STAYS = (
    TELLS
    + """\
    # Until the other one is gone.
    connection.recv(1)
    sys.exit(75)
"""
)


def lines_of(file: Path) -> list[str]:
    return sorted(file.read_text().splitlines()) if file.exists() else []


def test_each_node_is_told_its_number_and_where_they_meet(
    launcher: SlurmLauncher, tmp_path: Path
) -> None:
    ident = launcher.submit("a", [sys.executable, "-c", TELLS], tmp_path, TWO)
    until(lambda: launcher.state(ident) == JobState.ENDED)
    assert lines_of(tmp_path / "log") == ["met", "met", "node 0 of 2 of 2", "node 1 of 2 of 2"]
    assert launcher.ending(ident) == "COMPLETED"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["n1", "n2"])
def test_a_job_is_lost_with_a_node_and_goes_on_with_the_others(
    cluster: SlurmCluster, launcher: SlurmLauncher, tmp_path: Path, lost: str
) -> None:
    command = [sys.executable, "-c", STAYS]
    ident = launcher.submit("a", command, tmp_path, TWO)
    log = tmp_path / "log"
    until(lambda: lines_of(log).count("met") == 2)
    cluster.kill_node(lost)
    cluster.down(lost)
    until(lambda: launcher.state(ident) == JobState.LOST)
    assert launcher.ending(ident).startswith("NODE_FAIL")
    ident = launcher.submit("a", command, tmp_path, TWO)
    until(lambda: launcher.state(ident) == JobState.ENDED)
    assert "Slurm has 1 of the 2 nodes now: it runs on those" in lines_of(log)
    assert "node 0 of 1 of 2" in lines_of(log)
    assert launcher.ending(ident) == "COMPLETED"
    cluster.start_node(lost)
    cluster.up(lost)


@pytest.mark.slow
def test_a_job_that_asks_to_begin_again_does(launcher: SlurmLauncher, tmp_path: Path) -> None:
    """Slurm has not noticed yet, or the node is well."""
    (tmp_path / "left").write_text("1")
    code = (
        "import os, pathlib, sys\n"
        "if os.environ['OLIVEBUILD_NODE'] != '0': sys.exit(0)\n"
        "left = int(pathlib.Path('left').read_text())\n"
        "pathlib.Path('left').write_text(str(left - 1))\n"
        "sys.exit(75 if left else 0)\n"
    )
    ident = launcher.submit("a", [sys.executable, "-c", code], tmp_path, TWO)
    until(lambda: launcher.state(ident) == JobState.ENDED)
    assert (tmp_path / "left").read_text() == "-1"
    assert launcher.ending(ident) == "COMPLETED"


@pytest.mark.slow
def test_a_step_that_fails_is_not_begun_again(launcher: SlurmLauncher, tmp_path: Path) -> None:
    code = (
        "import os\n"
        "print('began', flush=True)\n"
        "raise SystemExit(4 if os.environ['OLIVEBUILD_NODE'] == '0' else 0)\n"
    )
    ident = launcher.submit("a", [sys.executable, "-c", code], tmp_path, TWO)
    until(lambda: launcher.state(ident) == JobState.ENDED)
    assert lines_of(tmp_path / "log").count("began") == 2
    assert launcher.ending(ident) == "FAILED (NonZeroExitCode)"
