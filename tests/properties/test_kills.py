"""Builds killed at random points, alone, with all that they started, or a step under them: what is
left is right, and the next build needs no help.

OLIVEBUILD_KILLS says how many, OLIVEBUILD_SEED which ones.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.faults import (
    INPUTS,
    Builds,
    Ended,
    Pipeline,
    amount,
    chance_of,
    check_blobs,
    check_no_orphan,
    check_swept,
    kill,
    let_a_day_pass,
    quick_folder,
)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.timeout(7200),
]
LEAVES = ["a", "b", "c", *"ddd", *"eeeee", *"fffff"]
"""What is edited: most edits leave little to do, so that many kills fit into a minute."""


@pytest.fixture
def root() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.mark.parametrize(
    ("fork_workers", "kills"),
    [
        pytest.param(False, 5, id="workers started"),
        pytest.param(True, 25, id="workers forked"),
        pytest.param(False, 12, id="workers started, more", marks=pytest.mark.slow),
        pytest.param(True, 40, id="workers forked, more", marks=pytest.mark.slow),
    ],
)
def test_builds_killed_at_random_points(root: Path, fork_workers: bool, kills: int) -> None:
    place = Place(root / "work", root / "cache")
    pipeline, chance, known = Pipeline(place), chance_of("kills"), set[str]()
    builds = Builds(place, fork_workers=fork_workers)
    start = time.monotonic()
    assert builds.build().done["ran"] == list(INPUTS)
    step_seconds = (time.monotonic() - start) / len(INPUTS)
    number = killed = 0
    while killed < amount("KILLS", kills):
        number += 1
        pipeline.edit(
            chance.choice(LEAVES),
            str(number if chance.random() < 0.8 else chance.randrange(number)),
        )
        pid = builds.start(*chance.choice([(), ("-j", "2")]))
        time.sleep(chance.uniform(0, step_seconds * (pipeline.left_to_do() + 0.3)))
        which = chance.choice(["parent", "child", "tree"])
        hit, children = kill(pid, which)
        ended = builds.wait()
        # As long as the machine takes today: too late is no kill.
        step_seconds *= 1.05 if hit else 0.9
        killed += hit
        assert which != "child" or ended.code in (0, 1), ended.err
        assert "Traceback" not in ended.err
        check_no_orphan(place, children)
        pipeline.check_nothing_wrong()
        check_blobs(place.cache, known)
        if chance.random() < 0.2:
            finish(pipeline, builds, ended)
    finish(pipeline, builds, ended)
    check_blobs(place.cache)
    assert place.run("gc", "--delete").code == 0
    check_swept(place, after_gc=True)
    shutil.rmtree(place.folder / "build")
    assert (builds.build().done["ran"], place.everything()) == ([], pipeline.expected())
    clean = Place(root / "clean", root / "clean-cache")
    shutil.copytree(
        place.folder, clean.folder, ignore=shutil.ignore_patterns("build", ".olivebuild")
    )
    clean.environment |= place.environment
    assert clean.build().code == 0
    assert clean.everything() == place.everything()


def finish(pipeline: Pipeline, builds: Builds, killed: Ended) -> None:
    """One more build makes everything right, without a step that had ended, and the next one runs
    nothing.
    """
    let_a_day_pass(pipeline.place)
    ended = builds.build()
    done = ended.done
    assert not {*killed.of("finished")} & {*done["ran"]}, (killed, ended)
    assert pipeline.place.everything() == pipeline.expected()
    if done["ran"] or done["restored"]:
        # What has nothing to do is answered before anything is swept.
        check_swept(pipeline.place)
    done = builds.build().done
    assert (done["ran"], done["restored"], sorted(done["fresh"])) == ([], [], sorted(INPUTS))
