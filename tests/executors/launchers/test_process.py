"""Jobs as processes of one machine, and the slots that they wait for."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Launcher, Needs
from olivebuild.core import host
from olivebuild.core.errors import StepError
from olivebuild.executors.launchers import process
from olivebuild.executors.launchers.process import open_launcher
from olivebuild.executors.site.folder import TIME_IS_UP
from tests.support.remote_steps import wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs outlive connections on POSIX only")


def job(folder: Path, text: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [sys.executable, "-c", text]


def is_over(launcher: Launcher, ident: str) -> bool:
    return launcher.state(ident) is JobState.GONE


def test_a_job_runs_apart_and_ends(tmp_path: Path) -> None:
    launcher = open_launcher({}, tmp_path)
    text = "import os; print(os.getcwd(), os.getsid(0) == os.getpid(), flush=True)"
    ident = launcher.submit("a", job(tmp_path / "a", text), tmp_path / "a", Needs())
    wait_for(partial(is_over, launcher, ident))
    assert (tmp_path / "a/log").read_text() == f"{tmp_path / 'a'} True\n"
    launcher.cancel(ident)


def test_another_agent_knows_a_job(tmp_path: Path) -> None:
    job_ = job(tmp_path / "a", "import time; time.sleep(600)")
    first = open_launcher({}, tmp_path)
    ident = first.submit("a", job_, tmp_path / "a", Needs())
    other = open_launcher({}, tmp_path)
    assert other.state(ident) in (JobState.QUEUED, JobState.RUNNING)
    wait_for(lambda: other.state(ident) is JobState.RUNNING)
    other.cancel(ident)
    assert first.state(ident) is JobState.GONE
    # The number may be given to another process, which then began at another time.
    assert other.state(ident) is JobState.GONE
    assert other.state(f"{os.getpid()} a 1") is JobState.GONE
    assert other.state(f"{os.getpid()}") is JobState.GONE
    assert other.state("nonsense") is JobState.GONE


def test_one_after_the_other_on_one_processor(tmp_path: Path) -> None:
    launcher = open_launcher({}, tmp_path)
    go = tmp_path / "go"
    text = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    first = launcher.submit("a", job(tmp_path / "a", text), tmp_path / "a", Needs())
    wait_for(lambda: launcher.state(first) is JobState.RUNNING)
    second = launcher.submit("b", job(tmp_path / "b", text), tmp_path / "b", Needs())
    assert launcher.state(second) is JobState.QUEUED
    assert launcher.ending(second) == "waiting for a GPU or the processor"
    go.touch()
    for ident in (first, second):
        wait_for(partial(is_over, launcher, ident))


def test_a_stubborn_job_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    launcher = open_launcher({}, tmp_path)
    text = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True); time.sleep(600)"
    )
    ident = launcher.submit("a", job(tmp_path / "a", text), tmp_path / "a", Needs())
    wait_for(lambda: "deaf" in (tmp_path / "a/log").read_text())
    launcher.cancel(ident)
    wait_for(partial(is_over, launcher, ident))
    launcher.cancel(ident)


def test_a_job_ends_in_its_time(tmp_path: Path) -> None:
    launcher = open_launcher({}, tmp_path)
    text = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked'))\n"
        "time.sleep(600)"
    )
    needs, folder = Needs(seconds=1), tmp_path / "jobs/a"
    folder.parent.mkdir()
    ident = launcher.submit("a", job(folder, text), folder, needs)
    wait_for(partial(is_over, launcher, ident))
    assert (folder / "log").read_text() == "asked\n"
    assert (folder / TIME_IS_UP).read_text() == "1"


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(nodes=2), "it is one machine, and 2 nodes"),
        (Needs(gpus=99), "99 GPUs are asked for"),
        (Needs(cores=1 << 20), "1048576 cores are asked for"),
        (Needs(memory=1 << 60), "of memory are asked for"),
        (Needs(cores=1, memory=1), ""),
    ],
)
def test_what_it_never_has(tmp_path: Path, needs: Needs, reason: str) -> None:
    assert reason in (told := open_launcher({}, tmp_path).refusal(needs))
    assert bool(told) == bool(reason)


def test_it_has_no_options(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="has no option partition"):
        open_launcher({"partition": "gpu"}, tmp_path)


SMI = "#!/bin/sh\nprintf 'Stand-in GPU\\nStand-in GPU\\n'\n"


def test_each_job_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi says that there are two GPUs."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    host.gpu_names.cache_clear()
    try:
        launcher = open_launcher({}, tmp_path)
        assert launcher.refusal(Needs(gpus=3)) == "3 GPUs are asked for, and it has 2"
        go = tmp_path / "go"
        text = (
            "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
            f"while not os.path.exists({str(go)!r}): time.sleep(0.02)"
        )
        names = ("a", "b", "c")
        idents = [
            launcher.submit(n, job(tmp_path / n, text), tmp_path / n, Needs(gpus=1)) for n in names
        ]
        logs = [tmp_path / name / "log" for name in names]
        wait_for(lambda: sorted(log.read_text() for log in logs) == ["", "0\n", "1\n"])
        both = launcher.submit("d", job(tmp_path / "d", text), tmp_path / "d", Needs(gpus=2))
        assert launcher.state(both) is JobState.QUEUED
        go.touch()
        for ident in (*idents, both):
            wait_for(partial(is_over, launcher, ident))
        assert (tmp_path / "d/log").read_text() == "0,1\n"
    finally:
        host.gpu_names.cache_clear()
