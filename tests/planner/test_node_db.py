"""What a build remembers grows by what an edit changes, and whatever befalls the file, it is read
as it was at some time, or not at all.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from olivebuild import snapshot
from olivebuild.planner import node_db
from olivebuild.planner.node_db import GLOBAL, NodeData, NodeDb, Ragged, packed
from olivebuild.snapshot import SEEN, Patch, StatComparison
from tests.conftest import Place

COPY = (
    "  copy{0}: {{kind: command, run: 'cp in{0}.txt {{outputs.o}}', files: [in{0}.txt], "
    "outputs: {{o: o}}}}\n"
)
COUNT = 6
DATACLASSES = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
ours = [module for name, module in sys.modules.items() if name.startswith("olivebuild")]
dataclasses = [
    f"{value.__module__}.{name}"
    for module in ours
    for name, value in vars(module).items()
    if isinstance(value, type) and hasattr(value, "__dataclass_fields__")
]
assert not dataclasses, dataclasses
"""


@pytest.fixture
def state(place: Place) -> Path:
    """What a build of a few copies has remembered."""
    place.recipe.write_text("targets:\n" + "".join(map(COPY.format, range(COUNT))))
    for number in range(COUNT):
        (place.folder / f"in{number}.txt").write_text(str(number))
    assert place.run().code == 0
    # What was written just before a build is looked at once more.
    assert place.run().code == 0
    return place.folder / ".olivebuild"


def open_seen(state: Path) -> StatComparison:
    seen = snapshot.open_seen(str(state / SEEN))
    assert seen
    return seen


def read(state: Path) -> NodeDb:
    return NodeDb.read(state, open_seen(state))


def content(db: NodeDb) -> tuple[object, ...]:
    nodes = [tuple(map(bytes, db.data(number))) for number in range(COUNT)]
    return db.header, db.all_paths(), nodes


def patch(db: NodeDb, number: int, chance: random.Random) -> dict[int, Patch]:
    """Another key, and a few files that look as they do now, or differ."""
    row = msgspec.structs.replace(
        db.row(number), key=f"{chance.getrandbits(64):016x}", seconds=chance.random()
    )
    files = [f"/no/{'x' * chance.randrange(9)}{i}" for i in range(chance.randrange(4))]
    block = {path: None if chance.random() < 0.8 else (1, 2, 3, 4, 5) for path in files}
    return {number: db.patch(number, NodeData(*packed(block), msgspec.json.encode(row)))}


@pytest.mark.parametrize("unit", [1, 8])
@pytest.mark.parametrize("first", [0, GLOBAL])
def test_rows_of_different_lengths_are_read_as_they_were_put_in(unit: int, first: int) -> None:
    chance = random.Random(unit)
    rows = [chance.randbytes(unit * chance.randrange(5)) for _ in range(50)]
    ragged = Ragged.of(rows, unit=unit, first=first)
    numbers = range(first, first + len(rows))
    assert [ragged[number] for number in numbers] == rows
    assert ragged.data == b"".join(rows)
    for number in numbers:
        start, end = ragged.span(number)
        assert [ragged.row_at(item) for item in range(start, end)] == [number] * (end - start)
    for number in (first - 1, first + len(rows)):
        with pytest.raises(ValueError, match="unpack"):
            ragged.span(number)


def test_what_is_written_is_what_was_read(state: Path) -> None:
    db, files = read(state), (state / SEEN, state / node_db.NODES)
    before = [file.read_bytes() for file in files]
    assert db.compacted().write(state).name == db.name
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("share", [1, 1 << 12, 1 << 40])
def test_patches_are_read_as_they_were_added(
    state: Path, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_db, "PATCH_SHARE", share)
    chance, db, sizes = random.Random(share), read(state), []
    for _ in range(40):
        numbers = chance.sample(range(COUNT), chance.randrange(1, 4))
        patches: dict[int, Patch] = {}
        for number in numbers:
            patches |= patch(db, number, chance)
        db = db.append(patches, state)
        again = read(state)
        assert content(again) == content(db)
        assert (again.name, again.end) == (db.name, db.end)
        assert content(again.compacted()) == content(db)
        sizes.append(len(again.patches))
    assert max(sizes) == (COUNT if share == 1 else 0)
    assert 0 in sizes


def test_what_differs_is_told_by_what_was_added_last(
    state: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setattr(node_db, "PATCH_SHARE", 1)
    before = open_seen(state)
    assert before.same
    file = place.folder / "in3.txt"
    file.write_text("edit")
    db = read(state)
    assert db.changed_rows(open_seen(state)) == {3}
    data = db.data(3)
    names = bytes(data.paths).split(b"\0")[:-1]
    paths = [os.fsdecode(os.path.join(db.root, name)) for name in names]
    assert str(file) in paths
    stats = {path: snapshot.stat_of(path) for path in paths}
    db = db.append({3: db.patch(3, NodeData(*packed(stats, db.root), bytes(data.row)))}, state)
    after = open_seen(state)
    assert after.same
    assert after.name == db.name != before.name
    file.write_text("another")
    after = open_seen(state)
    assert not after.same
    assert read(state).changed_rows(after) == {3}


def test_what_differs_of_all_concerns_every_node(state: Path, place: Place) -> None:
    db = read(state)
    assert b"olivebuild.yaml\0" in bytes(db.paths[GLOBAL])
    place.recipe.write_text(place.recipe.read_text() + "\n")
    assert db.changed_rows(open_seen(state)) is None


def test_comparing_beside_something_else_finds_the_same(state: Path, place: Place) -> None:
    for text in ("5", "edit"):
        (place.folder / "in5.txt").write_text(text)
        one, two = open_seen(state), open_seen(state)
        two.start()
        assert one.result() == two.result()
        assert one.result() == two.result()


def test_a_torn_or_damaged_end_is_as_if_it_were_not_there(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_db, "PATCH_SHARE", 1)
    chance, db, file = random.Random(5), read(state), state / SEEN
    versions = [(file.stat().st_size, content(db))]
    for number in (1, 4, 1):
        db = db.append(patch(db, number, chance), state)
        versions.append((file.stat().st_size, content(db)))
    whole, nodes = file.read_bytes(), (state / node_db.NODES).read_bytes()
    for _ in range(200):
        at = chance.randrange(versions[0][0], len(whole))
        flipped = bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        file.write_bytes(whole[:at] + chance.choice([b"", b"\0" * 50, flipped]))
        (state / node_db.NODES).write_bytes(nodes)
        db = read(state)
        assert content(db) == [then for size, then in versions if size <= at][-1]
        # What is added next is not lost behind it.
        db = db.append(patch(db, 2, chance), state)
        assert content(read(state)) == content(db)


def test_of_two_builds_beside_each_other_the_first_to_add_counts(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_db, "PATCH_SHARE", 1)
    chance, one, two = random.Random(7), read(state), read(state)
    size = (state / SEEN).stat().st_size
    first = one.append(patch(one, 1, chance), state)
    # The other looked at the file's length just before.
    added = node_db.patch_block(two.name, patch(two, 2, chance))[1]
    with open(state / SEEN, "ab") as f:
        f.write(added)
    assert (state / SEEN).stat().st_size == first.end + len(added) > size
    assert content(read(state)) == content(first)
    third = two.append(patch(two, 3, chance), state)
    assert content(read(state)) == content(third)
    assert not read(state).patches


@pytest.mark.parametrize(
    "modules",
    [("cli.main", "executors.local", "cli.run_build"), ("executors.worker",)],
    ids=["parent", "worker"],
)
def test_an_edit_does_not_wait_for_dataclasses_to_be_made(modules: tuple[str, ...]) -> None:
    subprocess.run(
        [sys.executable, "-c", DATACLASSES, *(f"olivebuild.{module}" for module in modules)],
        check=True,
    )
