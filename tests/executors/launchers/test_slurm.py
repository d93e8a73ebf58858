"""The launcher of Slurm, on a real controller with two nodes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import BuildError
from olivebuild.executors.launchers import slurm
from olivebuild.executors.launchers.slurm import Known, SlurmLauncher, open_launcher
from tests.support.slurm_cluster import SlurmCluster, require_slurm
from tests.support.slurm_launcher import cluster, launcher, until

__all__ = ["cluster", "launcher"]

STAYS = """\
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("stopped").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("has begun", flush=True)
time.sleep(300)
"""


def ended(launcher: SlurmLauncher, ident: str) -> JobState:
    until(lambda: launcher.state(ident) not in (JobState.QUEUED, JobState.RUNNING))
    return launcher.state(ident)


def text_of(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_a_job_runs_in_its_folder_and_what_it_prints_is_in_its_log(
    launcher: SlurmLauncher, tmp_path: Path
) -> None:
    folder = tmp_path / "100% 'sure'"
    folder.mkdir()
    code = "import os; print(os.getcwd()); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    ident = launcher.submit("a", [sys.executable, "-c", code], folder, Needs(gpus=1, cores=1))
    assert ended(launcher, ident) == JobState.ENDED
    assert (folder / "log").read_text().splitlines() == [str(folder), "0"]
    assert launcher.ending(ident) == "COMPLETED"


@pytest.mark.slow
def test_a_job_waits_for_a_gpu_and_is_cancelled_in_order(
    launcher: SlurmLauncher, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", STAYS]
    idents = [launcher.submit(f.name, command, f, Needs(gpus=1, memory=2**28)) for f in folders]
    until(lambda: all("has begun" in text_of(f / "log") for f in folders[:2]))
    assert launcher.state(idents[2]) == JobState.QUEUED
    until(lambda: launcher.ending(idents[2]) == "PENDING (Resources)")
    launcher.cancel(idents[0])
    assert ended(launcher, idents[0]) == JobState.ENDED
    assert (folders[0] / "stopped").exists()
    until(lambda: "has begun" in text_of(folders[2] / "log"))
    for ident in [*idents, *idents]:
        launcher.cancel(ident)
    assert {ended(launcher, ident) for ident in idents} == {JobState.ENDED}
    assert launcher.ending(idents[2]) == "CANCELLED"


@pytest.mark.slow
def test_a_job_whose_node_is_gone_runs_again(
    cluster: SlurmCluster, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    ident = launcher.submit("a", [sys.executable, "-c", STAYS], tmp_path, Needs(cores=2))
    until(lambda: "has begun" in text_of(tmp_path / "log"))
    node = cluster.call("squeue", "--noheader", f"--jobs={ident}", "--format=%N").strip()
    cluster.kill_node(node)
    cluster.down(node)
    until(lambda: launcher.state(ident) == JobState.QUEUED)
    until(lambda: launcher.ending(ident) == "PENDING (BeginTime)")
    cluster.call("scontrol", "update", f"job={ident}", "StartTime=now")
    until(lambda: text_of(tmp_path / "log").count("has begun") == 2)
    # What the controller says is kept for a moment.
    until(lambda: launcher.state(ident) == JobState.RUNNING)
    launcher.cancel(ident)
    ended(launcher, ident)
    cluster.start_node(node)
    cluster.up(node)


def test_what_can_never_run_is_refused(
    cluster: SlurmCluster, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    assert launcher.refusal(Needs(gpus=1, cores=2, memory=2**30, seconds=3600, nodes=2)) == ""
    assert launcher.refusal(Needs(gpus=2)) == "no node of partition main has 2 GPUs, at most 1"
    assert launcher.refusal(Needs(nodes=3)).endswith(
        "has 2 nodes of this sort, and 3 are asked for"
    )
    assert launcher.refusal(Needs(seconds=3601)).endswith("of time for a job, at most 1 h 00 min")
    small = open_launcher({"partition": "small"}, tmp_path)
    assert small.refusal(Needs(seconds=120)).startswith("no node of partition small has 2 min 00 s")
    # In Slurm's own words.
    nowhere = open_launcher({"partition": "none"}, tmp_path)
    assert nowhere.refusal(Needs()).startswith("sbatch: invalid partition specified: none")
    unknown = open_launcher({"no-such-option": "1"}, tmp_path)
    assert "unrecognized option" in unknown.refusal(Needs())


def test_a_node_that_is_down_refuses_nothing(
    cluster: SlurmCluster, launcher: SlurmLauncher
) -> None:
    cluster.down("n2")
    assert launcher.refusal(Needs(nodes=2)) == ""
    assert launcher.refusal(Needs(nodes=3))
    cluster.up("n2")


def test_a_job_that_slurm_has_forgotten_is_lost(launcher: SlurmLauncher) -> None:
    assert launcher.state("999999") == JobState.GONE
    assert launcher.ending("999999") == ""
    launcher.cancel("999999")


def test_a_controller_that_is_away_is_an_error_at_once_and_later_a_pause(
    launcher: SlurmLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = launcher.submit("a", ["true"], tmp_path, Needs())
    state = ended(launcher, ident)
    monkeypatch.setattr(slurm, "FRESH_SECONDS", 0.0)
    # Slurm looks for its controller for a minute.
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    monkeypatch.setattr(slurm, "TIMEOUT_SECONDS", 0.3)
    assert launcher.state(ident) == state
    with pytest.raises(BuildError, match="squeue: has not answered"):
        open_launcher({}, tmp_path).state(ident)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(BuildError, match="squeue: has not answered"):
        launcher.state(ident)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"output": "x"}, "--output of sbatch can't be set"),
        ({"nodes": "4"}, "--nodes of sbatch can't be set"),
        ({"comment": "a\nb"}, "is no option of sbatch"),
        ({"a b": "x"}, "is no option of sbatch"),
    ],
)
def test_options_that_are_none(options: dict[str, str], fact: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=fact):
        open_launcher(options, tmp_path)


def test_no_slurm_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="there is no program sbatch here"):
        open_launcher({}, tmp_path)


def test_an_image_is_run_by_apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_slurm()
    launcher = open_launcher({"image": "/images/olive.sif"}, tmp_path)
    script = launcher._script(["python", "-m", "job"], Needs(gpus=1))
    words = f"apptainer exec --nv --bind {tmp_path} /images/olive.sif python -m job"
    assert script == f"#!/bin/sh\nexec {words}\n"


def test_options_of_sbatch_are_handed_on(tmp_path: Path) -> None:
    require_slurm()
    options = {"partition": "main", "account": "", "exclusive": "true", "spread-job": "false"}
    launcher = open_launcher(options | {"exclude": "n1"}, tmp_path)
    needs = Needs(gpus=2, cores=4, memory=2**30 + 1, seconds=61)
    words = ["--nodes=1", "--ntasks-per-node=1", "--gres=gpu:2", "--cpus-per-task=4"]
    words += ["--mem=1025M", "--time=2", "--exclude=n1", "--exclusive", "--partition=main"]
    assert launcher._options(needs, 1) == words


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Priority", JobState.QUEUED),
        ("CONFIGURING", "None", JobState.QUEUED),
        ("REQUEUE_HOLD", "JobHeldAdmin", JobState.QUEUED),
        ("RUNNING", "None", JobState.RUNNING),
        ("COMPLETING", "None", JobState.RUNNING),
        ("SUSPENDED", "None", JobState.RUNNING),
        ("NODE_FAIL", "NodeDown", JobState.LOST),
        ("PREEMPTED", "None", JobState.LOST),
        ("FAILED", "JobLaunchFailure", JobState.LOST),
        ("FAILED", "NonZeroExitCode", JobState.ENDED),
        ("TIMEOUT", "TimeLimit", JobState.ENDED),
        ("OUT_OF_MEMORY", "OutOfMemory", JobState.ENDED),
    ],
)
def test_states(state: str, reason: str, expected: JobState) -> None:
    assert Known(state, reason).job_state == expected
