"""Targets that are made again and compared, on this machine and on a second one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Place

RECIPE = """\
targets:
  same: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  other: {kind: command, run: "python make.py {inputs.same} {outputs.y}", inputs: {same: same.x},
          files: [make.py], outputs: {y: y.txt}}
"""
MAKE = "import os, sys\nopen(sys.argv[2], 'wb').write(os.urandom(8))\n"


def state_of(place: Place) -> dict[str, bytes]:
    return {
        str(p): p.read_bytes()
        for folder in (place.folder, place.cache)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
        and p.suffix != ".lock"
        and ".sqlite" not in p.name
        and "cache.db" not in p.name
    }


def test_what_comes_out_differently_is_told(place: Place) -> None:
    place.recipe.write_text(RECIPE)
    (place.folder / "in.txt").write_text("text")
    (place.folder / "make.py").write_text(MAKE)
    done = place.run("verify", "--rebuild", "other")
    assert done.code != 0
    assert "has no result" in done.err
    place.build("other")
    before = state_of(place)
    done = place.run("verify", "--rebuild", "same", "--rebuild", "other", "--json")
    assert done.code == 1, done.err
    rebuilt = {row["node"]: row for row in json.loads(done.out)["rebuilt"]}
    assert rebuilt["same"]["same"]
    assert not rebuilt["other"]["same"]
    assert rebuilt["other"]["before"] != rebuilt["other"]["now"]
    # Nothing is changed by it.
    assert state_of(place) == before
    done = place.run("verify", "--rebuild", "other")
    assert (done.code, "not deterministic" in done.out) == (1, True)
    assert place.verdicts() == {"same": "fresh", "other": "fresh"}


@pytest.mark.scenario
def test_merge_and_int4_are_reproduced_on_a_second_machine(copied: Place, tmp_path: Path) -> None:
    remote = (tmp_path / "remote").as_uri()
    copied.run("remote", "push", "--url", remote)
    second = Place(tmp_path / "second", tmp_path / "second-cache")
    second.folder.mkdir()
    for name in ("olivebuild.yaml", "tiny", "data"):
        source = copied.folder / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, second.folder / name)
    second.environment["OLIVEBUILD_REMOTE"] = remote
    assert second.build("adapter", "onnx-int4").end["ran"] == []
    done = second.run("verify", "--rebuild", "merged", "--rebuild", "onnx-int4")
    assert done.code == 0, done.out + done.err
    assert "reproduced  merged" in done.out
    assert "reproduced  onnx-int4" in done.out
