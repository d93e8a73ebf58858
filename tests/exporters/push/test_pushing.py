"""The command with a push: one process, all or nothing, written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core.errors import StoreError
from olivebuild.exporters.push.place import HubPlace
from olivebuild.exporters.push.pushing import Pusher
from tests.conftest import Place
from tests.support import hub_uploads, pretend
from tests.support.hub_uploads import TOKEN, Answer, Hub, error
from tests.support.mounts import memory_disk, remount


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_uploads.serving() as hub:
        yield hub


def test_the_command(place: Place, hub: Hub, tmp_path: Path) -> None:
    pretend.write_recipe(place)
    pretend.build(place, 1)
    place.environment = hub.environment
    words = ("export", "onnx-int4", "--force", "--push", "hf:me/tone")
    done = place.run(*words, "../out")
    assert done.code == 0, done.err
    assert "note: me/tone is new, and private" in done.err
    assert "to ../out" in done.out
    assert "to hf:me/tone@" in done.out
    pushed = hub.files("me/tone")
    assert (
        pushed["olivebuild-export.json"] == (tmp_path / "out/olivebuild-export.json").read_bytes()
    )
    assert "as hf:me/tone@" in place.run("history").out
    # Without a place of its own it leaves nothing here.
    told = json.loads(place.run(*words, "--json").out)
    assert (told["place"], told["pushed"]["new"]) == (None, False)
    assert list((place.cache / "tmp").glob("push-*")) == []
    # A sweep leaves alone what is being pushed.
    swept: list[int] = []

    def fault(method: str, path: str) -> Answer | None:
        if "/tree/" in path and not swept:
            swept.append(place.run("gc", "--delete").code)
        return None

    hub.fault = fault
    assert place.run(*words[:-1], "hf:me/swept").code == 0
    assert swept == [0]
    assert hub.files("me/swept") == pushed
    assert list((place.cache / "tmp").glob("push-*")) == []
    # A refusal is known before a file is written.
    hub.fault = lambda method, path: error(401, "no") if "whoami" in path else None
    refused = place.run(*words, "../other")
    assert refused.code == 1
    assert "the hub does not know the token" in refused.err
    assert TOKEN not in refused.err
    assert not (tmp_path / "other").exists()


def test_a_push_is_written_down_whatever_comes_after_it(
    place: Place, hub: Hub, tmp_path: Path
) -> None:
    pretend.write_recipe(place)
    pretend.build(place, 1)
    place.environment = hub.environment
    words = ("export", "onnx-int4", "--force", "--push", "hf:me/tone")

    def fault(method: str, path: str) -> Answer | None:
        if "/commit/" in path:
            # Its place is taken meanwhile, so that it can't be renamed.
            (tmp_path / "out/taken").mkdir(parents=True, exist_ok=True)
        return None

    hub.fault = fault
    assert place.run(*words, "../out").code == 1
    told = place.run("history").out
    assert ("as hf:me/tone@" in told, "as out" in told) == (True, False)
    # What was not written down when it was pushed is so when it proves to be there.
    for file in (place.cache / "history").glob("*.shipped"):
        file.unlink()
    for _ in range(2):
        assert "there already" in place.run(*words).out
        assert place.run("history").out.count("as hf:me/tone@") == 1


def test_a_cache_that_is_read_only(place: Place, hub: Hub, tmp_path: Path) -> None:
    place.environment = hub.environment
    words = ("export", "onnx-int4", "--force", "--push", "hf:me/tone")
    with memory_disk(place.cache, 8 << 20):
        pretend.write_recipe(place)
        pretend.build(place, 1)
        remount(place.cache, "ro")
        done = place.run(*words, "../out")
        assert done.code == 0, done.err
        assert "note: the cache is read-only: `olivebuild history` will not list it" in done.err
        assert "there already" in place.run(*words).out


@pytest.mark.parametrize(
    "words",
    [
        ("--public", "../out"),
        ("--push", "hf:me/tone", "--since", "."),
        ("--push", "tone"),
    ],
)
def test_words_that_do_not_go_together(place: Place, words: tuple[str, ...]) -> None:
    pretend.write_recipe(place)
    assert place.run("export", "onnx-int4", *words).code == 2


def test_a_process_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olivebuild.exporters.push.pushing.MODULE", "olivebuild.no_such_module")
    with pytest.raises(StoreError, match=r"the process that pushes has ended: .*no_such_module"):
        Pusher(HubPlace(text="hf:me/tone", repository="me/tone")).__enter__()
