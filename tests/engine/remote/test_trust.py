"""A bucket that others can write to: signed results, whose count, and what is told apart.

By the command line; tests/ml/transfer/signed/ has most of it without.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.cache.remote_records import (
    RemoteBlob,
    RemoteResult,
    blob_name,
    envelope,
    opened,
    short_name,
)
from olivebuild.core import hashing
from tests.conftest import Place
from tests.engine.remote.test_cache import Team, notes
from tests.support.forged import forged_pair

ALL = ["first", "middle", "last"]


def key_of(place: Place) -> str:
    """Return the public key of a machine that signs from now on."""
    return place.run("remote", "keygen").out.split()[-1]


class SigningTeam(Team):
    """One machine builds and signs, as the others know."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.builder = self.machine("builder")
        self.key = key_of(self.builder)

    def reader(self, name: str, *keys: str) -> Place:
        return self.machine(name, OLIVEBUILD_TRUSTED_KEYS=" ".join(keys or (self.key,)))


@pytest.fixture
def team(tmp_path: Path) -> SigningTeam:
    return SigningTeam(tmp_path)


def test_two_inputs_of_one_xxh3_digest_are_told_apart(team: SigningTeam) -> None:
    evil, good = forged_pair()
    assert hashing.of_bytes(evil) == hashing.of_bytes(good)
    reader = team.reader("reader")
    (team.builder.folder / "in.txt").write_bytes(evil)
    (reader.folder / "in.txt").write_bytes(good)
    team.builder.build()
    done = reader.build()
    # What follows from it has another digest, and so another key.
    assert done.end["ran"] == ALL
    assert any("made from another file" in text for text in notes(done)), notes(done)
    assert reader.built("first", "x.bin") != team.builder.built("first", "x.bin")
    # The builder's own cache knows what its result was made from, too: it is not signed again.
    for path in team.objects("traces"):
        path.unlink()
    (team.builder.folder / "in.txt").write_bytes(good)
    done = team.builder.run("remote", "push", "first")
    assert done.code == 1
    assert "made from another file" in done.err
    assert team.objects("traces") == []


@pytest.mark.slow
def test_what_a_result_is_made_from_is_compared_through_results(team: SigningTeam) -> None:
    """A trusted machine that takes its input from the bucket signs what it took."""
    middle = team.machine("second", OLIVEBUILD_TRUSTED_KEYS=team.key)
    own = key_of(middle)
    team.builder.build("first")
    assert middle.build().end["ran"] == ["middle", "last"]
    reader = team.reader("reader", team.key, own)
    done = reader.build()
    assert (done.end["ran"], notes(done)) == ([], [])
    assert reader.everything() == middle.everything()
    # Who trusts the first machine alone makes the rest.
    assert team.reader("other").build().end["ran"] == ["middle", "last"]


@pytest.mark.slow
def test_a_trusted_result_lies_beside_that_of_a_stranger(team: SigningTeam) -> None:
    stranger = team.machine("stranger")
    key_of(stranger)
    stranger.build()
    team.builder.environment["OLIVEBUILD_TRUSTED_KEYS"] = team.key
    done = team.builder.build()
    assert done.end["ran"] == ALL
    assert any("not trusted here" in text for text in notes(done))
    assert len(team.objects("traces")) == 6
    assert len([p for p in team.objects("traces") if p.suffix == f".{short_name(team.key)}"]) == 3
    assert team.reader("reader").build().end["ran"] == []


@pytest.mark.slow
def test_a_signed_result_lies_beside_an_unsigned_one(team: SigningTeam) -> None:
    team.machine("stranger").build()
    (team.builder.folder / "build").mkdir()
    team.builder.environment["OLIVEBUILD_TRUSTED_KEYS"] = team.key
    assert team.builder.build().end["ran"] == ALL
    assert team.reader("reader").build().end["ran"] == []
    # Once is enough.
    before = [p.read_bytes() for p in team.objects("traces")]
    team.builder.run("remote", "push")
    assert [p.read_bytes() for p in team.objects("traces")] == before


@pytest.mark.slow
def test_what_others_made_is_not_signed_by_whom_it_is_fetched(team: SigningTeam) -> None:
    team.machine("stranger").build()
    assert team.builder.build().end["ran"] == []
    shutil.rmtree(team.remote / "v1" / "traces")
    team.builder.run("remote", "push")
    done = team.reader("reader").build()
    assert done.end["ran"] == ALL
    assert any("not signed" in text for text in notes(done))


@pytest.mark.slow
def test_a_withdrawn_result_is_not_replayed(team: SigningTeam) -> None:
    team.builder.build()
    old = {path: path.read_bytes() for path in team.objects("traces")}
    assert team.reader("before").build().end["ran"] == []
    done = team.builder.run("remote", "withdraw", "first", "--json")
    assert json.loads(done.out)["withdrawn"] == ["first"], done.err
    reader = team.reader("reader")
    done = reader.build()
    assert done.end["ran"] == ["first"]
    assert any("is withdrawn" in text for text in notes(done)), notes(done)
    # A result that is signed later counts again; whoever puts the old one back is found out.
    time.sleep(0.01)
    shutil.rmtree(team.builder.cache)
    for path in team.objects("traces"):
        path.unlink()
    team.builder.environment["OLIVEBUILD_TRUSTED_KEYS"] = team.key
    assert team.builder.build().end["ran"] == ALL
    assert team.reader("later").build().end["ran"] == []
    for path, text in old.items():
        path.write_bytes(text)
    assert team.reader("last").build().end["ran"] == ["first"]


@pytest.mark.slow
def test_withdrawing_wants_a_key_and_a_target(team: SigningTeam) -> None:
    team.builder.build()
    assert team.builder.run("remote", "withdraw").code == 2
    stranger = team.machine("stranger")
    done = stranger.run("remote", "withdraw", "first")
    assert done.code == 1
    assert "there is no signing key" in done.err
    done = stranger.run("remote", "withdraw", "last")
    assert "last has no key yet" in done.err


def flip_blobs(team: SigningTeam) -> None:
    for path in team.objects("blobs"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def forge_blobs(team: SigningTeam) -> None:
    """Replace a blob by another of its size and digest."""
    text, other = forged_pair()
    for path in team.objects("blobs"):
        if path.read_bytes() == text:
            path.write_bytes(other)


def swap_traces(team: SigningTeam) -> None:
    paths = team.objects("traces")
    texts = [path.read_bytes() for path in paths]
    for path, text in zip(paths, [*texts[1:], texts[0]], strict=True):
        path.write_bytes(text)


def leave_folder(team: SigningTeam) -> None:
    """Give manifests names that leave their folder; what names them is as it was."""
    for path in team.objects("blobs"):
        if b'"name":"x.bin"' in (text := path.read_bytes()):
            path.write_bytes(text.replace(b'"name":"x.bin"', b'"name":"../.x"'))


def alter_traces(team: SigningTeam) -> None:
    for path in team.objects("traces"):
        body, signature = opened(path.read_bytes())
        path.write_bytes(envelope(body.replace(b'"seconds":', b'"seconds":1'), signature))


def drop_inputs(team: SigningTeam) -> None:
    """Put results there as a trusted machine of an earlier version has signed them."""
    for path in team.objects("traces"):
        body, signature = opened(path.read_bytes())
        fields = json.loads(body) | {"inputs": {}, "outputs": {}}
        path.write_bytes(envelope(json.dumps(fields).encode(), signature))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("poison", "why"),
    [
        (flip_blobs, "not what was put there"),
        (forge_blobs, "not what was put there"),
        (swap_traces, "another key's"),
        (leave_folder, "not what was put there"),
        (alter_traces, "is not right"),
        (drop_inputs, "is not right"),
    ],
)
def test_a_poisoned_bucket(
    team: SigningTeam, poison: Callable[[SigningTeam], None], why: str
) -> None:
    reader = team.reader("reader")
    if poison is forge_blobs:
        make = "import shutil, sys\nshutil.copyfile(sys.argv[1], sys.argv[2])\n"
        for place in (team.builder, reader):
            (place.folder / "make.py").write_text(make)
            (place.folder / "in.txt").write_bytes(forged_pair()[0])
    team.builder.build()
    poison(team)
    done = reader.build()
    assert done.code == 0, done.err
    assert "first" in done.end["ran"]
    assert any(why in text for text in notes(done)), notes(done)
    assert reader.everything() == team.builder.everything()
    assert not list(team.root.glob("**/.x"))


@pytest.mark.slow
def test_a_harmed_bucket_is_mended_by_whom_makes_the_result(team: SigningTeam) -> None:
    team.builder.build()
    flip_blobs(team)
    for path in team.objects("traces"):
        path.write_bytes(b"nothing")
    second = team.machine("second", OLIVEBUILD_TRUSTED_KEYS=team.key)
    key_of(second)
    assert second.build().end["ran"] == ALL
    assert all(opened(path.read_bytes())[1].signer for path in team.objects("traces"))


@pytest.mark.slow
def test_a_result_of_the_cache_is_not_used_for_other_inputs_of_its_digest(
    team: SigningTeam,
) -> None:
    evil, good = forged_pair()
    (team.builder.folder / "in.txt").write_bytes(evil)
    first = team.builder.build()
    assert first.end["ran"] == ALL
    made = team.builder.built("first", "x.bin")
    (team.builder.folder / "in.txt").write_bytes(good)
    done = team.builder.build()
    assert done.end["ran"] == ALL
    assert any("cache's result is not used" in text for text in notes(done)), notes(done)
    assert team.builder.built("first", "x.bin") != made
    assert team.builder.build().end["ran"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../.x", "/tmp/.x"])
def test_a_consistent_result_whose_files_leave_their_folder(tmp_path: Path, name: str) -> None:
    """Without signatures whoever writes can make all digests right."""
    team = Team(tmp_path)
    builder, reader = team.machine("builder"), team.machine("reader")
    builder.build()
    for path in team.objects("traces"):
        body, signature = opened(path.read_bytes())
        result = RemoteResult.from_body(body, path.name)
        old = team.remote / blob_name(result.trace.manifest)
        fields = json.loads(old.read_bytes())
        fields["files"][0]["name"] = name
        text = json.dumps(fields).encode()
        digest = hashing.of_bytes(text)
        new = team.remote / blob_name(digest)
        new.parent.mkdir(exist_ok=True)
        new.write_bytes(text)
        sha256 = hashlib.sha256(text).hexdigest()
        blobs = [b for b in result.blobs if b.digest != result.trace.manifest]
        forged = structs.replace(
            result,
            trace=structs.replace(result.trace, manifest=digest),
            blobs=(RemoteBlob(digest=digest, size=len(text), sha256=sha256), *blobs),
        )
        path.write_bytes(envelope(forged.body(), signature))
    done = reader.build()
    assert done.code == 0, done.err
    assert done.end["ran"] == ALL
    assert any("is not used: a name that" in text for text in notes(done)), notes(done)
    assert reader.everything() == builder.everything()
    assert not list(tmp_path.glob("**/.x"))
