"""Jobs in containers of a real daemon."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import InputError, StepError
from olivebuild.executors.launchers.docker import DockerLauncher, Settings, open_launcher
from olivebuild.executors.site.folder import TIME_IS_UP
from tests.support.docker_daemon import IMAGE, daemon, run_args

OPTIONS = {"image": IMAGE, "run_args": json.dumps(run_args())}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with daemon(tmp_path_factory.mktemp("docker")) as variables:
        yield variables


@pytest.fixture
def docker(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> DockerLauncher:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "locks").mkdir()
    return open_launcher(OPTIONS, tmp_path)


def submit(docker: DockerLauncher, folder: Path, code: str, needs: Needs | None = None) -> str:
    return docker.submit("key", [sys.executable, "-c", code], folder, needs or Needs())


def wait(docker: DockerLauncher, ident: str, state: JobState = JobState.ENDED) -> None:
    for _ in range(6000):
        if (seen := docker.state(ident)) is state:
            return
        time.sleep(0.05)
    raise AssertionError(seen)


def test_a_job_sees_the_folder_and_this_code(docker: DockerLauncher, tmp_path: Path) -> None:
    code = f"import olivebuild; print(olivebuild.__file__); open({str(tmp_path / 'x')!r}, 'w')"
    ident = submit(docker, tmp_path, code)
    wait(docker, ident)
    assert (tmp_path / "log").read_text() == "/opt/olivebuild-code/olivebuild/__init__.py\n"
    assert (tmp_path / "x").exists()
    assert docker.ending(ident) == "its container ended with exit code 0"


def test_cancelled(docker: DockerLauncher, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143));"
        "print('runs', flush=True); time.sleep(60)"
    )
    ident = submit(docker, tmp_path, code)
    while not (tmp_path / "log").exists() or "runs" not in (tmp_path / "log").read_text():
        time.sleep(0.05)
    assert docker.state(ident) is JobState.RUNNING
    docker.cancel(ident)
    docker.cancel(ident)
    wait(docker, ident)
    assert docker.ending(ident) == "its container ended with exit code 143"
    docker.cancel(ident)


def test_a_job_ends_in_its_time(docker: DockerLauncher, tmp_path: Path) -> None:
    ident = submit(docker, tmp_path, "import time; time.sleep(60)", Needs(seconds=1))
    wait(docker, ident)
    # The agent tells of it.
    assert (tmp_path / TIME_IS_UP).read_text() == "1"


def test_a_container_that_is_gone(docker: DockerLauncher) -> None:
    assert docker.state("0123456789ab") is JobState.GONE
    assert docker.ending("0123456789ab") == "its container is gone"
    docker.cancel("0123456789ab")


def test_an_image_that_is_made_of_a_dockerfile(docker: DockerLauncher, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"ARG of\nFROM $of\nENV MADE=here\nLABEL a={tmp_path}\n")
    options = OPTIONS | {
        "image": "olivebuild-tests-made:1",
        "build_context": str(context),
        "variables": json.dumps({"GIVEN": "by the recipe"}),
        "build_args": json.dumps({"of": IMAGE}),
    }
    made = open_launcher(options, tmp_path)
    ident = submit(made, tmp_path, "import os; print(os.environ['MADE'], os.environ['GIVEN'])")
    wait(made, ident)
    assert (tmp_path / "log").read_text() == "here by the recipe\n"
    (context / "Dockerfile").write_text("FROM nowhere.invalid/x\n")
    with pytest.raises(StepError, match="docker build:"):
        submit(open_launcher(options, tmp_path), tmp_path, "")


def test_what_the_daemon_refuses(docker: DockerLauncher, tmp_path: Path) -> None:
    other = open_launcher({"image": "Not An Image"}, tmp_path)
    with pytest.raises(StepError, match="docker run: invalid reference format"):
        submit(other, tmp_path, "")
    assert docker.refusal(Needs()) == ""
    assert "it asks for 99 GPUs, and the machine has" in docker.refusal(Needs(gpus=99))
    assert "99999 cores" in docker.refusal(Needs(cores=99999))
    assert "2 nodes" in docker.refusal(Needs(nodes=2))
    assert "of memory" in docker.refusal(Needs(memory=1 << 60))


def test_no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(StepError, match="docker"):
        open_launcher(OPTIONS, tmp_path).refusal(Needs())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="docker can't be run"):
        open_launcher(OPTIONS, tmp_path).refusal(Needs())


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({}, "names no image"),
        ({"image": "x", "color": "red"}, "no 'color'"),
        ({"dockerfile": "x", "base_image": "y"}, "a base image, and another"),
        ({"image": "x", "run_args": '{"detach": true}'}, "not handed on"),
    ],
)
def test_fields_that_can_not_be(options: dict[str, str], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        Settings.of_options(options)
