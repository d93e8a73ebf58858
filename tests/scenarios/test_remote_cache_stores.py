"""A remote cache on the protocols of Azure Blob Storage and S3: Azurite and moto, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS, Heartbeats
from olivebuild.ml.transfer.claims.leases import LEASES, Leases, lease_of
from olivebuild.ml.transfer.remote import Remote
from tests.conftest import Place, rows, write_rows
from tests.engine.remote.test_cache import Team, notes
from tests.engine.remote.test_leases import build_at_once, counting, runs
from tests.scenarios.test_object_stores import _leaks
from tests.support.object_stores import (
    ACCOUNT,
    KEY,
    Gateway,
    azurite,
    connection_string,
    make_container,
    moto,
    s3_store,
)
from tests.support.server_faults import Handler

pytestmark = pytest.mark.scenario
S3_SECRET = "a-planted/secret+of-s3"
SHORT = 4.0
"""Seconds of a lease: stores tell whole ones."""


@pytest.fixture(params=["azure", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a machine that has a container, or a bucket, as remote cache."""
    if request.param == "azure":
        with azurite(tmp_path / "azurite") as address:
            make_container(address, "team")
            yield {
                "OLIVEBUILD_REMOTE": f"az://{ACCOUNT}/team/models/cache",
                "AZURE_STORAGE_CONNECTION_STRING": connection_string(address),
            }
    else:
        with moto() as address:
            s3_store(address, "team")
            yield _s3(address)


def _s3(address: str) -> dict[str, str]:
    return {
        "OLIVEBUILD_REMOTE": "s3://team/models/cache",
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
    }


def test_a_second_machine_restores_everything(tmp_path: Path, place: dict[str, str]) -> None:
    # A result of 20 MiB goes up in parts.
    team = Team(tmp_path, size=20 << 20)
    one, other = team.machine("one", **place), team.machine("other", **place)
    first = one.build()
    assert first.end["ran"] == ["first", "middle", "last"]
    assert notes(first) == []
    done = other.build()
    assert (done.end["ran"], done.end["restored"]) == ([], ["first", "middle", "last"])
    assert other.everything() == one.everything()
    assert other.build().end["restored"] == []
    said = first.out + first.err + done.out + done.err
    for secret in (KEY, S3_SECRET):
        assert secret not in said
        assert _leaks(one, secret) == _leaks(other, secret) == []


def test_of_many_that_upload_at_once_one_trace_wins(tmp_path: Path, place: dict[str, str]) -> None:
    team = Team(tmp_path, size=2000)
    machines = [team.machine(f"m{n}", **place) for n in range(4)]
    for machine in machines:
        del machine.environment["OLIVEBUILD_REMOTE"]
        machine.build()
        machine.environment |= place
    pushes = [m.start("remote", "push", "--json") for m in machines for _ in range(2)]
    results = [process.communicate() for process in pushes]
    assert not any(process.returncode for process in pushes), "".join(err for _, err in results)
    uploaded = sum(out.count('"first"') for out, _ in results)
    assert uploaded == 1
    assert team.machine("late", **place).build().end["ran"] == []


def test_access_that_is_denied_stops_no_build(tmp_path: Path, place: dict[str, str]) -> None:
    wrong = {name: value for name, value in place.items() if name != "OLIVEBUILD_REMOTE"}
    if "AWS_ENDPOINT_URL" in place:
        wrong["OLIVEBUILD_REMOTE"] = "s3://nobodys/models"
    else:
        wrong["AZURE_STORAGE_CONNECTION_STRING"] = place["AZURE_STORAGE_CONNECTION_STRING"].replace(
            KEY, "d3Jvbmc="
        )
        wrong["OLIVEBUILD_REMOTE"] = place["OLIVEBUILD_REMOTE"]
    done = Team(tmp_path).machine("one", **wrong).build()
    assert done.code == 0, done.err
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("not used" in text or "not uploaded" in text for text in notes(done)), notes(done)


def test_a_colleague_restores_a_model_and_an_edited_row(
    tmp_path: Path, copied: Place, place: dict[str, str]
) -> None:
    environment = place | {"OLIVEBUILD_CONFIG": str(tmp_path / "config")}
    copied.environment |= environment
    folder = tmp_path / "other" / "work"
    shutil.copytree(copied.folder, folder, ignore=shutil.ignore_patterns("build", ".olivebuild"))
    other = Place(folder, tmp_path / "other" / "cache", dict(environment))
    goals = ("merged", "onnx-int4")
    copied.build(*goals)
    assert copied.run("remote", "push").code == 0
    done = other.build(*goals)
    assert done.end["ran"] == [], done.err
    assert other.everything() == copied.everything()
    edited = rows()
    edited[0]["phrase"] = "I am glad about the moon tonight"
    for machine in (copied, other):
        write_rows(machine.folder / "data/tone.jsonl", edited)
    assert copied.build(*goals).ran == ["tone", "adapter", "merged", "onnx-int4"]
    done = other.build(*goals)
    assert done.ran == []
    assert other.everything() == copied.everything()
    # A merged model is what its adapter changes; the rest lies in the base, which is here.
    fetched = {e["node"]: e["bytes"] for e in done.events if e["event"] == "fetched"}
    size = sum(p.stat().st_size for p in (other.folder / "build/merged").rglob("*.safetensors"))
    assert fetched["merged"] < 0.7 * size


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_of_many_machines_each_key_runs_once(
    tmp_path: Path, place: dict[str, str], count: int
) -> None:
    team = Team(tmp_path)
    places = [counting(team, f"m{number}", seconds=0.5) for number in range(count)]
    for one in places:
        one.environment |= place
    events = build_at_once(places)
    # A machine that does without the remote for a while, since that is silent, says so.
    assert [e["text"] for done in events for e in done if e["event"] == "note"] == []
    assert runs(team) == {"first": 1, "second": 1, "last": 1}
    assert len({json.dumps(p.everything(), default=bytes.hex) for p in places}) == 1
    # A sweep sees three results, and nothing that is left of leases or uploads.
    done = places[0].run("gc", "--remote", "--delete", "--older-than", "1d", "--json")
    report = json.loads(done.out)
    assert (report["kept"], report["freed"], report["results"]) == (3, 0, [])
    assert counting(team, "late").run("gc", "--remote").code == 0


def test_one_heartbeat_holds_all_leases_and_of_the_dead_each_is_taken_over_once(
    place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    remotes = [Remote(place["OLIVEBUILD_REMOTE"]) for _ in range(5)]
    beats = [Heartbeats(remote, SHORT) for remote in remotes]
    clients = [Leases(*each) for each in zip(remotes, beats, strict=True)]
    holder, others = clients[0], clients[1:]
    names = [lease_of(f"{number:032x}") for number in range(12)]
    assert all(map(holder.take, names))
    before = list(remotes[0].entries(LEASES))
    (heart,) = remotes[0].entries(HEARTBEATS)
    time.sleep(SHORT + 2)
    assert all(map(holder.is_held, names))
    assert not any(one.take(name) for one in others for name in names)
    assert list(remotes[0].entries(LEASES)) == before
    later = remotes[1].entry(heart.name)
    assert later
    assert later.modified > heart.modified
    # As if it were killed.
    beats[0]._ended.set()
    time.sleep(SHORT + 2)
    with ThreadPoolExecutor(len(others)) as pool:
        answers = list(pool.map(lambda one: [one.take(name) for name in names], others))
    assert [sum(each) for each in zip(*answers, strict=True)] == [1] * len(names)
    for one, beat in zip(others, beats[1:], strict=True):
        one.close()
        beat.close()
    assert list(remotes[0].entries(LEASES)) == []
    assert [entry.name for entry in remotes[0].entries(HEARTBEATS)] == [heart.name]
    # It knows itself that it was late.
    assert not any(map(holder.is_held, names))


def test_a_store_that_ignores_conditions_is_told(tmp_path: Path) -> None:
    """As rclone's server of S3 does: what is there is made again."""

    def ignore(handler: Handler) -> bool:
        del handler.headers["If-None-Match"]  # type: ignore[attr-defined]
        return False

    with moto() as address:
        s3_store(address, "team")
        gateway = Gateway(address)
        gateway.faults.append(ignore)
        environment = _s3(gateway.address)
        team = Team(tmp_path)
        one = counting(team, "one")
        one.environment |= environment
        done = one.build()
        other = team.machine("other", **environment)
        del other.environment["OLIVEBUILD_REMOTE"]
        other.build()
        other.environment |= environment
        pushed = other.run("remote", "push")
        swept = one.run("gc", "--remote", "--delete")
        gateway.shutdown()
        gateway.server_close()
    assert done.end["ran"] == ["first", "second", "last"]
    said = "several machines may make the same result at once: the store ignores If-None-Match"
    assert notes(done) == [said]
    assert pushed.err == f"note: remote: {said}\n"
    assert (swept.code, "ignores If-None-Match" in swept.err) == (1, True)
