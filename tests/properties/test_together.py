"""Several builds at once in one folder, while sources, results and the cache change under them:
afterwards one build makes all right.

OLIVEBUILD_ROUNDS says how often, OLIVEBUILD_SEED with which changes.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.faults import INPUTS, Pipeline, amount, chance_of, check_blobs, quick_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def change(pipeline: Pipeline, chance: random.Random) -> None:
    place, which = pipeline.place, chance.choice(list(INPUTS))
    result = place.folder / "build" / which
    match chance.choice(["edit"] * 6 + ["flip", "lose a result", "lose a blob", "forget"]):
        case "edit":
            pipeline.edit(which, chance.choice("01234"))
        case "flip":
            flip(result / "one.txt")
        case "lose a result":
            shutil.rmtree(result, ignore_errors=True)
        case "lose a blob":
            there = sorted(place.cache.glob("blobs/??/*"))
            chance.choice(there).unlink(missing_ok=True)
        case "forget":
            (place.folder / ".olivebuild/memory.json").unlink(missing_ok=True)


def flip(file: Path) -> None:
    """In place, its time put back; if no build moves it just now."""
    try:
        before, data = file.stat(), file.read_bytes()
        file.write_bytes(bytes(b ^ 1 for b in data))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError:
        return


def test_builds_in_one_folder_while_everything_changes() -> None:
    chance = chance_of("together")
    with quick_folder() as root:
        place = Place(root / "work", root / "cache")
        pipeline = Pipeline(place)
        assert place.build().code == 0
        for number in range(amount("ROUNDS", 12)):
            change(pipeline, chance)
            builds = []
            for _ in range(chance.choice([1, 2, 2, 3])):
                builds.append(
                    place.start(
                        "build",
                        "--json",
                        *chance.choice([(), ("-j", "2"), ("a",), ("f",), ("d", "c")]),
                    )
                )
                time.sleep(chance.uniform(0, 0.6))
                if chance.random() < 0.7:
                    change(pipeline, chance)
            for build in builds:
                if chance.random() < 0.1:
                    build.kill()
            for build in builds:
                _, err = build.communicate()
                assert "Traceback" not in err
            done = place.build()
            assert done.code == 0, (number, done.err)
            assert place.everything() == pipeline.expected(), number
            again = place.build()
            assert (again.ran, again.end["restored"]) == ([], []), number
            assert place.build().code == 0
            assert place.everything() == pipeline.expected(), number
            check_blobs(place.cache)
