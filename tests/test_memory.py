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

from olivebuild import memory, snapshot
from olivebuild.memory import Pages
from olivebuild.snapshot import SEEN, Change, Look
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
made = [f"{c.__module__}.{name}" for m in ours for name, c in vars(m).items() if isinstance(c, type) and hasattr(c, "__dataclass_fields__")]
assert not made, made
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


def look(state: Path) -> Look:
    found = snapshot.look(str(state / SEEN))
    assert found
    return found


def read(state: Path) -> Pages:
    return Pages.read(state, look(state))


def said(pages: Pages) -> tuple[object, ...]:
    return (
        pages.head,
        pages.all_paths(),
        [tuple(map(bytes, pages.seen(number))) for number in range(COUNT)],
    )


def change(pages: Pages, number: int, chance: random.Random) -> dict[int, Change]:
    """Another key, and a few files that look as they do now, or differ."""
    known = msgspec.structs.replace(
        pages.known(number), key=f"{chance.getrandbits(64):016x}", seconds=chance.random()
    )
    files = [f"/no/{'x' * chance.randrange(9)}{i}" for i in range(chance.randrange(4))]
    block: memory.Block = {
        path: None if chance.random() < 0.8 else (1, 2, 3, 4, 5) for path in files
    }
    start, end = pages.starts[number : number + 2]
    return {number: (start, end - start, *memory.packed(block), msgspec.json.encode(known))}


@pytest.mark.parametrize("share", [1, 64, 1 << 40])
def test_changes_are_read_as_they_were_added(
    state: Path, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHARE", share)
    chance, pages, sizes = random.Random(share), read(state), []
    for _ in range(40):
        numbers = chance.sample(range(COUNT), chance.randrange(1, 4))
        pages = pages.add(
            {k: v for number in numbers for k, v in change(pages, number, chance).items()}, state
        )
        found = read(state)
        assert said(found) == said(pages)
        assert (found.name, found.end) == (pages.name, pages.end)
        assert said(found.whole()) == said(pages)
        sizes.append(len(found.changes))
    assert max(sizes) == (COUNT if share == 1 else 0)
    assert 0 in sizes


def test_what_differs_is_told_by_what_was_added_last(
    state: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setattr(memory, "SHARE", 1)
    before = look(state)
    assert before.same
    file = place.folder / "in3.txt"
    file.write_text("edit")
    pages = read(state)
    assert pages.changed(look(state)) == {3}
    paths = [
        os.fsdecode(os.path.join(pages.base, path))
        for path in bytes(pages.seen(3)[0]).split(b"\0")[:-1]
    ]
    assert str(file) in paths
    start, end = pages.starts[3:5]
    now = memory.packed({path: snapshot.stat_of(path) for path in paths}, pages.base)
    pages = pages.add({3: (start, end - start, *now, bytes(pages.seen(3)[-1]))}, state)
    after = look(state)
    assert after.same
    assert after.name == pages.name != before.name
    file.write_text("another")
    after = look(state)
    assert not after.same
    assert read(state).changed(after) == {3}


def test_comparing_beside_something_else_finds_the_same(state: Path, place: Place) -> None:
    for text in ("5", "edit"):
        (place.folder / "in5.txt").write_text(text)
        one, two = look(state), look(state)
        two.begin()
        assert one.compared() == two.compared()
        assert one.compared() == two.compared()


def test_a_torn_or_damaged_end_is_as_if_it_were_not_there(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHARE", 1)
    chance, pages, file = random.Random(5), read(state), state / SEEN
    known = [(file.stat().st_size, said(pages))]
    for number in (1, 4, 1):
        pages = pages.add(change(pages, number, chance), state)
        known.append((file.stat().st_size, said(pages)))
    whole, nodes = file.read_bytes(), (state / memory.NODES).read_bytes()
    for _ in range(200):
        at = chance.randrange(known[0][0], len(whole))
        flipped = bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        file.write_bytes(whole[:at] + chance.choice([b"", b"\0" * 50, flipped]))
        (state / memory.NODES).write_bytes(nodes)
        found = read(state)
        assert said(found) == [then for size, then in known if size <= at][-1]
        # What is added next is not lost behind it.
        found = found.add(change(found, 2, chance), state)
        assert said(read(state)) == said(found)


def test_of_two_builds_beside_each_other_the_first_to_add_counts(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHARE", 1)
    chance, one, two = random.Random(7), read(state), read(state)
    size = (state / SEEN).stat().st_size
    first = one.add(change(one, 1, chance), state)
    # The other looked at the file's length just before.
    added = snapshot.added_bytes(two.name, change(two, 2, chance))[1]
    with open(state / SEEN, "ab") as f:
        f.write(added)
    assert (state / SEEN).stat().st_size == first.end + len(added) > size
    assert said(read(state)) == said(first)
    third = two.add(change(two, 3, chance), state)
    assert said(read(state)) == said(third)
    assert not read(state).changes


@pytest.mark.parametrize(
    "modules", [("cli", "executors.local", "building"), ("worker",)], ids=["parent", "worker"]
)
def test_an_edit_does_not_wait_for_dataclasses_to_be_made(modules: tuple[str, ...]) -> None:
    subprocess.run(
        [sys.executable, "-c", DATACLASSES, *(f"olivebuild.{module}" for module in modules)],
        check=True,
    )
