"""An adapter that is trained in a container, by a real daemon of Docker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import Place
from tests.support.docker_daemon import IMAGE, daemon, run_args

pytestmark = [pytest.mark.scenario, pytest.mark.slow]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with daemon(tmp_path_factory.mktemp("docker")) as variables:
        yield variables


def test_an_adapter_is_trained_there_with_the_same_bytes(
    copied: Place, variables: dict[str, str]
) -> None:
    copied.environment |= variables
    fields = {"kind": "docker", "image": IMAGE, "run_args": run_args()}
    copied.edit("targets:", f"executors: {json.dumps({'box': fields})}\ntargets:")
    copied.edit("kind: adapter\n", "kind: adapter\n    executor: box\n")
    copied.edit("steps: 4", "steps: 5")
    done = copied.build("adapter")
    assert done.ran == ["adapter"], done.err
    assert next(e for e in done.events if e["event"] == "started")["executor"] == "box"
    there = copied.built("adapter", "adapter_model.safetensors")
    other = Place(copied.folder, copied.cache.with_name("other"), copied.environment)
    assert "adapter" in other.build("--executor", "local", "adapter").ran
    assert other.built("adapter", "adapter_model.safetensors") == there
