"""ci plan and ci comment on recipes of commands, among them those of hostile forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done, Place

RECIPE = """\
default: last
targets:
  first: {kind: command, run: "python make.py in.txt {outputs.x}", files: [in.txt, make.py],
          outputs: {x: x.txt}}
  last: {kind: command, run: "python make.py {inputs.first} {outputs.y}", files: [make.py],
         inputs: {first: first.x}, outputs: {y: y.txt}}
"""
MAKE = "import shutil, sys\nshutil.copy(*sys.argv[1:])\n"


class Pull:
    """The checkout of a branch, that of a pull request for it, and a remote cache."""

    def __init__(self, root: Path) -> None:
        self.remote = root / "remote"
        self.main, self.head = self._checkout(root, "main"), self._checkout(root, "head")

    def _checkout(self, root: Path, name: str) -> Place:
        place = Place(root / name, root / f"{name}-cache")
        place.folder.mkdir()
        place.recipe.write_text(RECIPE)
        (place.folder / "make.py").write_text(MAKE)
        (place.folder / "in.txt").write_text("some text")
        place.environment |= {
            "OLIVEBUILD_REMOTE": self.remote.as_uri(),
            "OLIVEBUILD_CONFIG": str(root / f"{name}-config"),
        }
        return place

    def plan(self, *options: str) -> tuple[Done, dict[str, Any]]:
        out = self.head.folder.parent / "report.json"
        out.unlink(missing_ok=True)
        before = ("--before", str(self.main.folder))
        done = self.head.run("ci", "plan", *before, "--out", str(out), *options)
        return done, json.loads(out.read_text()) if out.exists() else {}

    def verdicts(self) -> dict[str, str]:
        return {row["target"]: row["verdict"] for row in self.plan()[1]["targets"]}


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull(tmp_path)


def test_what_the_remote_cache_has_counts_as_made(pull: Pull) -> None:
    assert pull.verdicts() == {"first": "stale", "last": "waiting"}
    pull.main.build()
    assert pull.verdicts() == {"first": "cached", "last": "cached"}
    # Nothing was made, published or uploaded for it.
    assert not (pull.head.folder / "build").exists()
    (pull.head.folder / "in.txt").write_text("other text")
    done, report = pull.plan()
    assert done.code == 0, done.err
    first, last = report["targets"]
    assert (first["verdict"], last["verdict"]) == ("stale", "waiting")
    # A job knows costs and causes from the branch.
    assert first["why"].startswith("file in.txt: ")
    assert first["seconds"] is not None
    assert len(list(pull.remote.glob("v1/traces/??/*"))) == 2
    assert "2 of 2 targets have to run" in done.out


def test_a_recipe_that_is_wrong_leaves_no_report(pull: Pull) -> None:
    pull.head.recipe.write_text("targets: [")
    done, report = pull.plan()
    assert (done.code, report) == (2, {})
    assert "olivebuild.yaml" in done.err


def test_a_fork_runs_nothing(pull: Pull) -> None:
    """Neither its commands, nor modules beside its recipe, nor what it says of a cache."""
    mark = pull.head.folder.parent / "ran"
    code = f"open({str(mark)!r}, 'w').write('x')\n"
    for name in ("make.py", "json.py", "click.py", "sitecustomize.py", "conftest.py", "setup.py"):
        (pull.head.folder / name).write_text(code + MAKE)
    other = pull.head.folder.parent / "theirs"
    text = pull.head.recipe.read_text().replace(
        "default: last", f"default: last\ncache: {{remote: '{other.as_uri()}'}}"
    )
    pull.head.recipe.write_text(text)
    out = pull.head.folder.parent / "report.json"
    # As the installed command does, which imports nothing from where it stands.
    words = ["-P", "-m", "olivebuild", "ci", "plan", "--before", str(pull.main.folder)]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(out)],
        cwd=pull.head.folder,
        env={**os.environ, **pull.head.environment, "OLIVEBUILD_CACHE": str(pull.head.cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [row["verdict"] for row in report["targets"]] == ["stale", "waiting"]
    assert not mark.exists()
    assert not other.exists()


def test_a_fork_s_keys_do_not_count(pull: Pull) -> None:
    """Who is trusted, the job says; the fork's own files of that name are nothing."""
    pull.main.build()
    pull.head.environment["OLIVEBUILD_TRUSTED_KEYS"] = "ed25519:" + "A" * 43 + "="
    (pull.head.folder / "trusted_keys").write_text("")
    done, report = pull.plan()
    assert [row["verdict"] for row in report["targets"]] == ["stale", "waiting"]
    assert "not signed" in done.err


def test_a_report_of_a_stranger_is_text(pull: Pull, tmp_path: Path) -> None:
    hostile = {
        "version": 1,
        "name": "@team <img src=x>",
        "targets": [{"target": "a|b", "kind": "k", "verdict": "stale", "why": "[x](http://e)"}],
    }
    report = tmp_path / "report.json"
    report.write_text(json.dumps(hostile))
    done = pull.main.run("ci", "comment", str(report), "--to", "stdout")
    assert done.code == 0
    assert r"\@team &lt;img src=x&gt;" in done.out
    assert r"a\|b" in done.out
    for bad in ({"pull_request": 1}, {"repository": "other/repo"}, {"name": ["x"]}):
        report.write_text(json.dumps({**hostile, **bad}))
        done = pull.main.run("ci", "comment", str(report), "--to", "stdout")
        assert (done.code, done.out) == (1, "")
        assert "no report of a pull request" in done.err
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(hostile))
    report.unlink()
    report.symlink_to(secret)
    assert "it is a link" in pull.main.run("ci", "comment", str(report), "--to", "stdout").err
