"""What a pull request changes of a tiny model: gates and answers, beside those of its branch."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import Place

pytestmark = pytest.mark.scenario
ROWS = 40
BENCH = """
  many:
    kind: dataset
    source: data/many.jsonl
    prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 1
  bench:
    kind: benchmark
    models: [adapter]
    data: many
    gates: ["accuracy >= 0.01", "accuracy >= 0.99", "accuracy >= 0.35"]
"""
SECRET = "a planted phrase"


def test_gates_and_answers(copied: Place, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        {"phrase": f"I am {tone} about {SECRET} {i}", "tone": tone}
        for i in range(ROWS)
        for tone in [draw.choice(["joy", "sad", "fear"])]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (copied.folder / "data/many.jsonl").write_text(lines, "utf-8")
    copied.recipe.write_text(copied.recipe.read_text() + BENCH)
    copied.environment |= {
        "OMP_NUM_THREADS": "1",
        "OLIVEBUILD_REMOTE": (tmp_path / "remote").as_uri(),
        "OLIVEBUILD_CONFIG": str(tmp_path / "config"),
    }
    built = copied.run("build", "bench")
    assert built.code == 3, built.err
    ignored = shutil.ignore_patterns("build", ".olivebuild")
    head = Place(tmp_path / "head", tmp_path / "job-cache", dict(copied.environment))
    shutil.copytree(copied.folder, head.folder, ignore=ignored)
    head.edit("lr: 1e-3, steps: 4", "lr: 1e-2, steps: 4")
    builder = Place(head.folder, copied.cache, dict(copied.environment))
    built = builder.run("build", "bench")
    assert built.code == 3, built.err
    # What was made before there was a remote cache.
    for place in (copied, builder):
        assert place.run("remote", "push", "bench").code == 0
    shutil.rmtree(head.folder / "build")
    shutil.rmtree(head.folder / ".olivebuild")
    out = tmp_path / "report.json"
    words = ("ci", "plan", "--before", str(copied.folder), "--out", str(out), "bench")
    start = time.monotonic()
    done = head.run(*words)
    seconds = time.monotonic() - start
    # One gate is missed. All is cached, and nothing was restored for it.
    assert done.code == 3, done.err
    assert not (head.folder / "build").exists()
    assert seconds < 30
    report = json.loads(out.read_text())
    verdicts = {row["target"]: row["verdict"] for row in report["targets"]}
    assert verdicts.pop("base") == "fresh"
    assert set(verdicts.values()) == {"cached"}
    assert [gate["state"] for gate in report["gates"]][:2] == ["met", "missed"]
    assert [gate["before"] for gate in report["gates"]][:2] == ["met", "missed"]
    # A model as small as this answers all alike, before and now.
    assert report["answers"] == []
    assert SECRET not in out.read_text() + done.out
