"""An exchange on the protocols of Azure Blob Storage and S3, and processes that are killed."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.core.processes import python
from olivebuild.executors.launchers.mirrored import MirroredLauncher
from olivebuild.ml.transfer.exchange.mirror import Mirror
from olivebuild.ml.transfer.exchange.place import Exchange
from tests.executors.launchers.test_mirrored import KEY, NODE, Nodes, Place
from tests.support.exchange_job import action
from tests.support.object_stores import (
    ACCOUNT,
    azurite,
    connection_string,
    make_container,
    moto,
    s3_store,
)

pytestmark = [pytest.mark.scenario, pytest.mark.slow]


@pytest.fixture(params=["azure", "s3", "file"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OLIVEBUILD_EXCHANGE_SECONDS", "0.05")
    if request.param == "file":
        yield (tmp_path / "bucket").as_uri()
    elif request.param == "azure":
        with azurite(tmp_path / "azurite") as address:
            make_container(address, "team")
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(address))
            yield f"az://{ACCOUNT}/team/exchange"
    else:
        with moto() as address:
            s3_store(address, "team")
            for name, value in {
                "AWS_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
                "AWS_SECRET_ACCESS_KEY": "a-secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_CONFIG_FILE": os.devnull,
            }.items():
                monkeypatch.setenv(name, value)
            yield "s3://team/exchange"


def expected(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(count))


def test_both_ends_are_killed_again_and_again(url: str, tmp_path: Path) -> None:
    """The near end while it takes what is said; what it has in the end is whole, and once."""
    place = Place(tmp_path)
    nodes = Nodes(tmp_path)
    place.launcher = MirroredLauncher(nodes, url, place.store.root)
    words: list[list[object]] = []
    for number in range(60):
        words += [["print", f"line {number}"], ["event", {"n": number}], ["sleep", 0.05]]
    large = "x" * (20 << 20)
    folder = action(place.store, KEY, *words, ["output", "made of "], inputs=(large, "and more"))
    ident = place.launcher.submit("name", [], folder, Needs())
    chance = random.Random(1)
    kills = 0
    for _ in range(400):
        state = place.launcher.state(ident)
        if state is JobState.ENDED:
            break
        time.sleep(chance.random() * 0.3)
        process = place.launcher._mirror
        if process and state is JobState.RUNNING and kills < 20:
            kills += 1
            process._process.kill()
            process._process.wait()
            if chance.random() < 0.5:
                # The agent is another one, too.
                place.launcher = MirroredLauncher(nodes, url, place.store.root)
    else:
        raise AssertionError(state)
    assert kills > 3
    assert (place.job / "log").read_text() == expected(60)
    events = (place.job / "events").read_text().splitlines()
    assert events == [f'{{"n": {number}}}' for number in range(60)]
    assert (place.job / "outcome.json").exists()
    (node,) = nodes.processes.values()
    assert node.wait() == 0
    assert place.launcher._mirror
    place.launcher._mirror.close()


def test_a_node_is_killed_and_its_service_starts_the_command_again(
    url: str, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    words: list[list[object]] = [["state", "step 1"], ["print", "runs"], ["sleep", 1.5]]
    folder = action(place.store, KEY, *words, ["output", "done"], inputs=("one",))
    mirror = Mirror(Exchange(url, place.store))
    attempt = mirror.submit(KEY)
    assert attempt
    environment = os.environ | {"OLIVEBUILD_EXCHANGE_SECRET": attempt.secret}
    for number in range(4):
        command = python("-c", NODE, "node", url, KEY, attempt.name)
        here = environment | {"OLIVEBUILD_CACHE": str(tmp_path / f"node-{number}")}
        with subprocess.Popen(command, env=here, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            if number < 3:
                assert process.stdout.readline() == "runs\n"
                process.kill()
            else:
                assert process.wait() == 0
    assert mirror.settle(KEY)["outcome"]
    assert (folder / "log").read_text() == "runs\n" * 4
