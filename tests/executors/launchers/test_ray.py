"""The launcher for Ray: what needs no cluster, and slow, a real one."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import InputError, RecipeError
from olivebuild.executors.launchers import ray as launcher
from olivebuild.executors.launchers.ray import NO_FOLDER, TIMED_OUT, RayLauncher, open_launcher
from tests.support.ray_cluster import ONE_CORE, LauncherInside, RayCluster, ray_cluster

IDENT = "olivebuild-key-1"
GIGABYTE = 10**9


def run(command: list[str], folder: Path, needs: Needs = ONE_CORE) -> int:
    """Run a command as Ray does, in a shell."""
    text = launcher._entrypoint(command, folder, needs, IDENT)
    return subprocess.run(text, shell=True, cwd="/", check=False).returncode


def test_a_command_runs_in_its_folder_and_adds_to_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "a job's"
    folder.mkdir()
    (folder / "log").write_text("before\n")

    assert run(["sh", "-c", "pwd; echo $1; exit 3", "sh", "it's"], folder) == 3
    assert (folder / "log").read_text() == f"before\n{folder}\nit's\n"


def test_a_job_without_gpus_sees_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run(["sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]"], tmp_path)
    run(["sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]"], tmp_path, Needs(gpus=1))
    assert (tmp_path / "log").read_text() == "[]\n[0]\n"


def test_a_node_without_the_folder_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    assert run(["true"], tmp_path / "nowhere") == NO_FOLDER


def test_a_job_ends_after_the_longest_that_it_may_run(tmp_path: Path) -> None:
    assert run(["sleep", "60"], tmp_path, Needs(seconds=1)) == TIMED_OUT


def test_a_job_that_was_cancelled_while_it_waited_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / f"cancelled-{IDENT}").touch()
    assert run(["sh", "-c", "echo begun"], tmp_path) == 143
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Job supervisor actor died: The actor died unexpectedly before finishing this task.\n"
            "\tclass_name: JobSupervisor\n\tip: 127.0.0.2\n"
            "The actor died because its node has died. Node Id: 9181403290c4\n"
            "\tthe actor's node was terminated unexpectedly: health check failed",
            "its node has died",
        ),
        (
            "Job supervisor actor failed to start within 900 seconds.\nmore",
            "Job supervisor actor failed to start within 900 seconds.",
        ),
        ("", ""),
    ],
)
def test_what_ray_tells_of_a_lost_job_is_a_line(message: str, reason: str) -> None:
    assert launcher._reason(message) == reason


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"adress": "http://head:8265"}, "no option adress"),
        ({"address": "head:8265"}, "no address of a Ray dashboard"),
        ({"autoscaling": "perhaps"}, "autoscaling is 'perhaps'"),
        ({"variables": '{"HOME": 1}'}, "variables of Ray's launcher can't be read"),
    ],
)
def test_options_that_mean_nothing_are_errors(
    options: dict[str, str], fact: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as error:
        open_launcher(options, tmp_path)
    assert fact in error.value.fact


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_site_without_ray_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        open_launcher({}, tmp_path)
    assert "Ray is not installed" in error.value.fact


@pytest.mark.parametrize(
    ("needs", "refusal"),
    [
        (Needs(cores=8), ""),
        (Needs(gpus=2, nodes=1), ""),
        (
            Needs(gpus=4),
            "it asks for 4 GPUs, 1 core; "
            "the largest of the cluster's 2 nodes has 2 GPUs, 8 cores and 64.00 GB",
        ),
        (
            Needs(cores=8, nodes=2),
            "it asks for 8 cores on each of 2 nodes; 1 of the cluster's 2 nodes can hold that",
        ),
        (
            Needs(memory=100 * GIGABYTE),
            "it asks for 1 core, 100.00 GB; "
            "the largest of the cluster's 2 nodes has 2 GPUs, 8 cores and 64.00 GB",
        ),
    ],
)
def test_what_no_node_can_hold_is_refused(
    needs: Needs, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [launcher.Node(0, 4, 16 * GIGABYTE), launcher.Node(2, 8, 64 * GIGABYTE)]
    monkeypatch.setattr(RayLauncher, "_nodes", lambda self: nodes)
    assert RayLauncher().refusal(needs) == refusal
    assert RayLauncher(autoscaling=True).refusal(needs) == ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and two nodes of a processor each, without GPUs."""
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture
def inside(cluster: RayCluster) -> Iterator[LauncherInside]:
    with LauncherInside(cluster, "ray", {"variables": '{"TOKEN_OF": "tests"}'}) as inside:
        yield inside


def end_of(inside: LauncherInside, ident: str, seconds: float = 60) -> JobState:
    """Wait until a job has ended or is lost."""
    return wait_for(inside, ident, (JobState.ENDED, JobState.LOST), seconds)


def wait_for(
    inside: LauncherInside, ident: str, states: tuple[JobState, ...], seconds: float = 60
) -> JobState:
    deadline = time.monotonic() + seconds
    while (state := inside.state(ident)) not in states:
        assert time.monotonic() < deadline, f"the job is still {state}"
        time.sleep(0.2)
    return state


@pytest.mark.slow
def test_a_job_runs_on_a_node(inside: LauncherInside, tmp_path: Path) -> None:
    ident = inside.submit("key", ["sh", "-c", "echo $OMP_NUM_THREADS $TOKEN_OF"], tmp_path)
    assert end_of(inside, ident) == JobState.ENDED
    assert (tmp_path / "log").read_text() == "1 tests\n"
    assert inside.ending(ident) == ""


@pytest.mark.slow
def test_a_job_that_fails_says_how(inside: LauncherInside, tmp_path: Path) -> None:
    ident = inside.submit("key", ["sh", "-c", "exit 3"], tmp_path)
    assert end_of(inside, ident) == JobState.ENDED
    assert inside.state(ident) == JobState.ENDED
    assert inside.ending(ident) == "exit code 3"
    assert (tmp_path / "log").read_text() == "Ray: exit code 3\n"


@pytest.mark.slow
def test_jobs_wait_for_a_free_node_and_are_cancelled(
    inside: LauncherInside, tmp_path: Path
) -> None:
    trap = "trap 'echo stopped; exit 143' TERM; while :; do sleep 0.1; done"
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    first, second, third = [inside.submit("key", ["sh", "-c", trap], f) for f in folders]
    for ident in (first, second):
        wait_for(inside, ident, (JobState.RUNNING,))
    assert inside.state(third) == JobState.QUEUED
    assert inside.ending(third) == "waits for resources"

    inside.cancel(third)
    inside.cancel(first)
    inside.cancel(first)
    assert inside.state(third) == JobState.ENDED
    assert end_of(inside, first) == JobState.ENDED
    inside.cancel(first)
    assert "stopped" in (folders[0] / "log").read_text()

    inside.cancel(second)
    assert end_of(inside, second) == JobState.ENDED
    time.sleep(5)
    assert (folders[2] / "log").read_text() == "", "it began when there was a node for it"


@pytest.mark.slow
def test_what_the_cluster_lacks_is_refused(inside: LauncherInside) -> None:
    assert inside.refusal(Needs()) == ""
    assert inside.refusal(Needs(nodes=2)) == ""
    assert inside.refusal(Needs(gpus=1)).startswith(
        "it asks for 1 GPU, 1 core; the largest of the cluster's 3 nodes has 0 GPUs, 1 core and"
    )
    assert inside.refusal(Needs(nodes=3)) == (
        "it asks for 1 core on each of 3 nodes; 2 of the cluster's 3 nodes can hold that"
    )


@pytest.mark.slow
def test_several_nodes_run_a_process_each(inside: LauncherInside, tmp_path: Path) -> None:
    say = "sleep $OLIVEBUILD_NODE; echo $OLIVEBUILD_NODE/$OLIVEBUILD_NODES $OLIVEBUILD_RENDEZVOUS"
    ident = inside.submit("key", ["sh", "-c", f"{say}; sleep 2"], tmp_path, Needs(nodes=2))
    assert end_of(inside, ident, 120) == JobState.ENDED
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines() if "/2" in line]
    assert [node for node, _ in lines] == ["0/2", "1/2"]
    addresses = {address for _, address in lines}
    assert len(addresses) == 1
    assert addresses.pop().startswith("127.0.0.")


@pytest.mark.slow
def test_a_job_of_several_nodes_is_cancelled(inside: LauncherInside, tmp_path: Path) -> None:
    trap = "echo started; trap 'echo stopped; exit 143' TERM; while :; do sleep 0.1; done"
    ident = inside.submit("key", ["sh", "-c", trap], tmp_path, Needs(nodes=2))
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("started") < 2:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    inside.cancel(ident)
    assert end_of(inside, ident) == JobState.ENDED
    assert log.read_text().count("stopped") == 2


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_is_lost_with_its_node(
    cluster: RayCluster, inside: LauncherInside, tmp_path: Path, nodes: int
) -> None:
    command = ["sh", "-c", "echo started; exec sleep 600"]
    ident = inside.submit("key", command, tmp_path, Needs(nodes=nodes))
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("started") < nodes:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    lost = cluster.node_of("sleep 600")
    cluster.kill(lost)
    try:
        assert end_of(inside, ident) == JobState.LOST
        assert inside.ending(ident) == (
            "its node has died" if nodes == 1 else "one of its nodes was lost"
        )
        if nodes == 2:
            again = inside.submit(
                "key", ["sh", "-c", "echo $OLIVEBUILD_NODES"], tmp_path, Needs(nodes=2)
            )
            assert end_of(inside, again, 120) == JobState.ENDED
            assert log.read_text().splitlines()[-1] == "1"
    finally:
        cluster.start_node(lost)


@pytest.mark.slow
def test_a_head_that_was_started_anew_knows_no_job(
    cluster: RayCluster, inside: LauncherInside, tmp_path: Path
) -> None:
    ident = inside.submit("key", ["sleep", "600"], tmp_path)
    wait_for(inside, ident, (JobState.RUNNING,))
    cluster.kill("head")
    assert "does not answer" in inside.error_of_state(ident)
    cluster.restart()
    assert end_of(inside, ident) == JobState.LOST
    inside.cancel(ident)
    assert inside.ending(ident) == "the cluster was started anew"
    again = inside.submit("key", ["true"], tmp_path)
    assert end_of(inside, again) == JobState.ENDED
