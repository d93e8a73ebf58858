"""What the models of a benchmark are made of, by the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.api.step import Ref
from olivebuild.recipe.file import load
from olivebuild.steps.parts.lineage import Lineage, side_of, unguarded
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, text: "{a}"}
  mails: {kind: dataset, source: rows.jsonl, text: "{a}", near_duplicates: false, test: t.jsonl}
  first: {kind: adapter, model: base, data: tone.train}
  second: {kind: adapter, model: base, data: mails, from: first}
  merged: {kind: merged, model: base, adapter: second}
  int4: {kind: onnx, model: merged}
  fused: {kind: onnx, model: base, adapter: first, precision: int8}
"""


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    targets = load(Site(tmp_path, RECIPE).folder / "olivebuild.yaml").targets
    return Lineage([Ref(n) for n in ("base", "merged", "int4", "fused")], targets)


def test_sources_training_rows_and_precisions(lineage: Lineage) -> None:
    assert lineage.fields() == {
        "base": {"source": "", "trained_on": [], "precision": ""},
        "merged": {"source": "base", "trained_on": ["mails", "tone"], "precision": ""},
        "int4": {"source": "merged", "trained_on": ["mails", "tone"], "precision": "int4"},
        # It differs from the base by training, too.
        "fused": {"source": "base", "trained_on": ["tone"], "precision": ""},
    }


def test_rows_that_a_model_is_rounded_by_count_as_its_training(tmp_path: Path) -> None:
    gptq = "  gptq: {kind: onnx, model: base, algorithm: gptq, calibration: mails.test}\n"
    targets = load(Site(tmp_path, RECIPE + gptq).folder / "olivebuild.yaml").targets
    fields = Lineage([Ref("base"), Ref("gptq")], targets).fields()
    assert fields["gptq"]["trained_on"] == ["mails.test"]


def test_an_adapter_comes_before_its_base(tmp_path: Path) -> None:
    targets = load(Site(tmp_path, RECIPE).folder / "olivebuild.yaml").targets
    models = [Ref("base"), Ref("second"), Ref("merged")]
    assert Lineage(models, targets).fields()["merged"]["source"] == "second"


def test_what_no_target_is_has_no_origin(tmp_path: Path) -> None:
    targets = load(Site(tmp_path, RECIPE).folder / "olivebuild.yaml").targets
    assert Lineage([Ref("none")], targets).fields()["none"] == {
        "source": "",
        "trained_on": [],
        "precision": "",
    }


def test_only_rows_that_no_split_keeps_apart_are_compared(tmp_path: Path) -> None:
    targets = load(Site(tmp_path, RECIPE).folder / "olivebuild.yaml").targets
    train = [Ref("tone", "train"), Ref("mails"), Ref("tone", "test")]
    data = [Ref("tone"), Ref("mails")]
    assert unguarded(train, data, targets) == [
        [0, 1, 0],
        [1, 0, 1],
        # A file of test rows has no split that keeps it apart.
        [1, 1, 0],
        # Trained on the test rows themselves.
        [2, 0, 1],
        [2, 1, 0],
    ]
    assert [side_of(ref) for ref in train] == ["tone", "mails", "tone.test"]
