"""Names and values in a file that only grows: what was saved is found, and what is torn or damaged
is as if it were not there.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from olivebuild.core import journal
from olivebuild.core.journal import Journal

NAMES = ["a", "b", "two words", "tab\there", "line\nbreak", "\udcff", "ä", '"quoted"', ""]


def known(file: Path) -> dict[str, bytes]:
    there = Journal(file)
    return {name: value for name in there if (value := there.get(name))}


@pytest.mark.parametrize("tail", [0, 50, journal.TAIL])
@pytest.mark.parametrize("seed", range(4))
def test_it_holds_what_a_dictionary_would(
    tmp_path: Path, seed: int, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SPARE", 300)
    monkeypatch.setattr(journal, "TAIL", tail)
    chance, file, expected = random.Random(seed), tmp_path / "j", dict[str, bytes]()
    mine = [Journal(file), Journal(file)]
    for number in range(200):
        one, name = chance.choice(mine), chance.choice(NAMES)
        if chance.random() < 0.3:
            one.forget(name)
            expected.pop(name, None)
        else:
            one.set(name, b"%d" % number)
            expected[name] = b"%d" % number
        assert one.get(name) == expected.get(name)
        other = chance.choice(NAMES)
        assert Journal(file).get(other) == known(file).get(other)
        one.save(alone=chance.random() < 0.5)
        assert known(file) == expected
    assert file.stat().st_size < 3000
    assert [p.name for p in tmp_path.iterdir()] == ["j"]


def test_a_torn_tail_costs_its_own_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "j"
    for number, name in enumerate("abc"):
        one = Journal(file)
        one.set(name, b"[%d]" % number)
        one.save()
    whole = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        # A line is whole without its line break, too.
        kept = sum(end - 1 <= length for end in ends)
        expected = {name: b"[%d]" % i for i, name in enumerate("abc"[:kept])}
        assert known(file) == expected
        one = Journal(file)
        one.set("d", b"4")
        one.save()
        assert known(file) == expected | {"d": b"4"}


def test_a_flipped_bit_is_no_value(tmp_path: Path) -> None:
    file = tmp_path / "j"
    one = Journal(file)
    one.set("a", b"[1,2,3]")
    one.save()
    whole = file.read_bytes()
    for i in range(len(whole) - 1):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert known(file) == {}


def test_nothing_is_written_that_has_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "j"
    Journal(file).save(alone=True)
    assert not file.parent.exists()
