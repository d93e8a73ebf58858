"""What a site sends back is believed as far as its digests go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import convert, structs

from olivebuild.api.action import Action
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.core import hashing
from olivebuild.core.errors import BuildError, StepError
from olivebuild.executors.site.delivery import take_in
from olivebuild.executors.site.frames import PIECE, Frame
from olivebuild.executors.site.link import Link
from olivebuild.executors.site.portable import PortableOutcome
from tests.support.remote_steps import RemoteSteps


class Site:
    """An agent that tells what a test says."""

    label = "box"

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.blobs = dict(blobs)
        self.asked: list[str] = []

    def move(self, op: str, make: Callable[[int], tuple[Mapping[str, Any], bytes]]) -> Frame:
        data, blob = make(PIECE)
        assert (op, blob) == ("get", b"")
        wanted = convert(data["blob"], RemoteBlob)
        self.asked.append(wanted.digest)
        content = self.blobs.get(wanted.digest, b"")
        return Frame({}, content[data["offset"] : data["offset"] + PIECE])


def blob_of(data: bytes) -> RemoteBlob:
    return RemoteBlob(
        digest=hashing.of_bytes(data), size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )


LARGE = b"0123456789" * 500_000
TEXT = b"the text"
MANIFEST = Manifest(
    (
        Entry("large.bin", executable=False, size=len(LARGE), digest=blob_of(LARGE).digest),
        Entry("sub/text.txt", executable=True, size=len(TEXT), digest=blob_of(TEXT).digest),
    )
)
BYTES = MANIFEST.to_json().encode()


@pytest.fixture
def steps(tmp_path: Path) -> RemoteSteps:
    return RemoteSteps(tmp_path)


@pytest.fixture
def action(steps: RemoteSteps) -> Action:
    return steps.action("true")


def told(action: Action, *contents: bytes) -> PortableOutcome:
    return PortableOutcome(
        key=action.key,
        seconds=2.5,
        manifest=blob_of(BYTES).digest,
        blobs=tuple(map(blob_of, contents or (BYTES, LARGE, TEXT))),
        metrics={"rows": 3},
    )


def site(*contents: bytes) -> Site:
    return Site({blob_of(data).digest: data for data in contents or (BYTES, LARGE, TEXT)})


def take(action: Action, outcome: PortableOutcome, there: Site) -> Any:
    return take_in(action, outcome, cast("Link", there), lambda _done, _total: None)


def test_a_result_comes_back_whole(steps: RemoteSteps, action: Action) -> None:
    outcome = take(action, told(action), site())
    assert outcome.error is None
    assert (outcome.seconds, outcome.result.metrics) == (2.5, {"rows": 3})
    out = Path(action.out)
    assert (out / "large.bin").read_bytes() == LARGE
    assert (out / "sub/text.txt").stat().st_mode & 0o100
    assert steps.store.missing(steps.store.manifest(outcome.result.manifest)) is None
    # What is here already is not fetched again.
    again = site()
    take(action, told(action), again)
    assert again.asked == []


@pytest.mark.parametrize(
    "content", [LARGE[:-1] + b"x", LARGE[:-1], LARGE + b"x", b"", b"x" * len(LARGE)]
)
def test_a_blob_that_is_another(steps: RemoteSteps, action: Action, content: bytes) -> None:
    there = site()
    there.blobs[blob_of(LARGE).digest] = content
    with pytest.raises(BuildError):
        take(action, told(action), there)
    assert not steps.store.path(blob_of(LARGE).digest).exists()
    assert not [*Path(action.out).iterdir()]


def test_a_manifest_that_leaves_its_folder(action: Action) -> None:
    bad = BYTES.replace(b"large.bin", b"../../bad")
    outcome = structs.replace(told(action, bad, LARGE, TEXT), manifest=blob_of(bad).digest)
    with pytest.raises(StepError, match="not whole"):
        take(action, outcome, site(bad, LARGE, TEXT))
    assert not [*Path(action.out).parent.glob("../**/bad")]


def test_what_the_manifest_does_not_name_is_not_fetched(action: Action) -> None:
    there = site(BYTES, LARGE, TEXT, b"x" * 1000)
    take(action, told(action, BYTES, LARGE, TEXT, b"x" * 1000), there)
    assert blob_of(b"x" * 1000).digest not in there.asked


def test_a_blob_that_is_not_told(action: Action) -> None:
    with pytest.raises(StepError, match="is missing"):
        take(action, told(action, BYTES, TEXT), site())
    with pytest.raises(StepError, match="manifest is missing"):
        take(action, told(action, LARGE, TEXT), site())


def test_an_outcome_of_another_key(action: Action) -> None:
    with pytest.raises(StepError, match="another key"):
        take(action, structs.replace(told(action), key="f" * 32), site())


def test_an_error_is_the_steps_own(action: Action) -> None:
    error = StepError("it is wrong", hint="mend it", where=None)
    outcome = take(action, PortableOutcome(key=action.key, error=error.to_json()), site())
    assert outcome.result is None
    assert (outcome.error.fact, outcome.error.hint) == ("it is wrong", "mend it")
    assert outcome.error.target == "step"
