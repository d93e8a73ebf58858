"""Signed lists of results that count no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.remote import Remote
from olivebuild.ml.transfer.signed.withdrawals import Withdrawals
from olivebuild.ml.transfer.signing import Signer, Trust, keygen

KEY, OTHER = "1" * 32, "2" * 32


class Place:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remote = Remote((root / "remote").as_uri())
        self.root, self.notes = root, list[str]()
        self._environment = monkeypatch

    def signer(self, name: str) -> Signer:
        self._environment.setenv("OLIVEBUILD_CONFIG", str(self.root / name))
        keygen()
        signer = Signer.of_configuration()
        assert signer
        return signer

    def reader(self, trust: Trust, name: str = "reader") -> Withdrawals:
        # In a folder that a cache without sums has not.
        file = self.root / "sums" / f"{name}.json"
        reader = Withdrawals(self.remote, trust, file, self.notes.append)
        reader.read()
        return reader

    def lists(self) -> list[Path]:
        return sorted(p for p in self.root.glob("remote/v1/withdrawn/*/*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_what_was_signed_before_counts_no_more(place: Place) -> None:
    signer = place.signer("one")
    trust = Trust(trusted=frozenset([signer.name]))
    before = signer.sign(b"a result")
    place.reader(trust).check(KEY, before)
    place.reader(trust).add(signer, [KEY])
    reader = place.reader(trust)
    with pytest.raises(StoreError, match="is withdrawn"):
        reader.check(KEY, before)
    reader.check(OTHER, before)
    # What is made anew counts.
    reader.check(KEY, structs.replace(before, time=before.time + 60))
    place.reader(trust).add(signer, [OTHER])
    with pytest.raises(StoreError, match="is withdrawn"):
        place.reader(trust, "new").check(OTHER, before)
    assert len(place.lists()) == 2


def test_a_list_that_is_taken_away_still_counts_where_it_was_read(place: Place) -> None:
    signer = place.signer("one")
    trust = Trust(trusted=frozenset([signer.name]))
    before = signer.sign(b"a result")
    place.reader(trust).add(signer, [KEY])
    place.reader(trust)
    for path in place.lists():
        path.unlink()
    with pytest.raises(StoreError, match="is withdrawn"):
        place.reader(trust).check(KEY, before)


def test_lists_of_others_count_for_nothing(place: Place) -> None:
    signer, stranger = place.signer("one"), place.signer("stranger")
    trust = Trust(trusted=frozenset([signer.name]))
    before = signer.sign(b"a result")
    place.reader(trust).add(stranger, [KEY])
    place.reader(trust).check(KEY, before)
    # Under the signer's name it is none either, and those after it still count.
    (theirs,) = place.lists()
    place.reader(trust).add(signer, [OTHER])
    (ours,) = set(place.lists()) - {theirs}
    (ours.parent / "1").write_bytes(ours.read_bytes())
    ours.write_bytes(theirs.read_bytes())
    reader = place.reader(trust, "new")
    reader.check(KEY, before)
    with pytest.raises(StoreError, match="is withdrawn"):
        reader.check(OTHER, before)
    assert place.notes == ["a list of withdrawn results is not used: it is another signer's"]
