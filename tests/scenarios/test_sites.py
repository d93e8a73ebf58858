"""An adapter that is trained on a site: its bytes are those of a training here, whatever becomes of
the connection, the build and the job.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.support.remote_steps import wait_for

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.name != "posix", reason="jobs outlive connections on POSIX only"),
]
LONG = "{lr: 1e-3, steps: 60, batch: 4, checkpoint_steps: 5}"


def prepare(tiny_model: Path, root: Path, training: str = "") -> Place:
    """Return a folder whose recipe has the adapter made on a site, which is a folder, too."""
    place = Place(root / "work", root / "cache", {"OMP_NUM_THREADS": "1"})
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    text = RECIPE.replace("{lr: 1e-3, steps: 4, batch: 4}", training or LONG)
    path = Path(sys.executable).parent
    site = f"executors:\n  box: {{kind: python, path: {path}, root: {root / 'site'}}}\n"
    place.recipe.write_text(site + text.replace("    r: 4\n", "    executor: box\n    r: 4\n"))
    return place


@pytest.fixture(scope="module")
def local(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a training on this machine."""
    place = prepare(tiny_model, tmp_path_factory.mktemp("local"))
    done = place.build("--executor", "local", "adapter")
    assert done.ran == ["tone", "adapter"]
    return place.built("adapter", "adapter_model.safetensors")


@pytest.fixture
def remote(tiny_model: Path, tmp_path: Path) -> Iterator[Place]:
    yield prepare(tiny_model, tmp_path)
    assert not [*(tmp_path / "site/jobs").glob("*")]


def checkpoints(place: Place) -> list[Path]:
    return [*(place.cache.parent / "site/checkpoints").glob("*.safetensors")]


def job_of(place: Place) -> int:
    """Return the process of the one job."""
    ident = next((place.cache.parent / "site/jobs").glob("*/id")).read_text()
    return int(ident.partition(" ")[0])


def test_what_a_site_makes_is_what_is_made_here(remote: Place, local: bytes) -> None:
    done = remote.build("adapter")
    assert done.ran == ["tone", "adapter"]
    assert remote.built("adapter", "adapter_model.safetensors") == local
    started = [event for event in done.events if event["event"] == "started"]
    assert [event.get("executor") for event in started] == [None, "box"]
    losses = [event for event in done.events if event["event"] == "metric"]
    assert len(losses) == 60
    assert "training on cpu" in done.out
    assert remote.build("adapter").ran == []


def test_a_job_killed_in_the_middle_goes_on_from_its_state(remote: Place, local: bytes) -> None:
    build = remote.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(remote))
    os.killpg(job_of(remote), signal.SIGKILL)
    out, err = build.communicate()
    assert build.returncode == 0, err
    assert "its process on box (python) is lost" in out
    assert "resum" in out or "going on" in out or "continu" in out, out
    assert remote.built("adapter", "adapter_model.safetensors") == local


def test_a_build_that_is_killed_is_picked_up_by_the_next(remote: Place, local: bytes) -> None:
    build = remote.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(remote))
    build.kill()
    build.communicate()
    os.kill(job_of(remote), 0)
    done = remote.build("adapter")
    assert done.ran == ["adapter"]
    assert "picked up where it is" in done.out
    assert remote.built("adapter", "adapter_model.safetensors") == local


def test_ctrl_c_keeps_the_state(remote: Place, local: bytes) -> None:
    build = remote.start("build", "--json", "adapter")
    wait_for(lambda: checkpoints(remote))
    pid = job_of(remote)
    build.send_signal(signal.SIGINT)
    build.communicate()
    assert build.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert remote.build("adapter").ran == ["adapter"]
    assert remote.built("adapter", "adapter_model.safetensors") == local


def test_all_of_a_recipe_on_a_site(tiny_model: Path, tmp_path: Path) -> None:
    place = prepare(tiny_model, tmp_path, "{lr: 1e-3, steps: 4, batch: 4}")
    text = place.recipe.read_text()
    for name in ("merged", "onnx-int4"):
        text = text.replace(f"  {name}: {{kind", f"  {name}: {{executor: box, kind")
    place.recipe.write_text(text)
    done = place.build("merged", "onnx-int4")
    started = [event for event in done.events if event["event"] == "started"]
    assert [event.get("executor") for event in started] == [None, "box", "box", "box"]
    made = place.everything()
    there = place.run("verify", "--json")
    assert there.code == 0, there.err
    shutil.rmtree(place.cache)
    shutil.rmtree(place.folder / "build")
    shutil.rmtree(place.folder / ".olivebuild")
    assert len(place.build("--executor", "local", "merged", "onnx-int4").ran) == 4
    assert place.everything() == made
