"""Faults of a model's use by an adapter's method, found before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.planner.checks import model_use
from tests.support.bases import NF4, RECIPE, found, make_base, only
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, RECIPE)
    made.write("rows.jsonl", '{"phrase": "a", "tone": "b"}\n')
    return made


def test_loftq_needs_weights_that_are_not_quantised_yet(site: Site) -> None:
    site.edit("adapter, model", "adapter, method: loftq, model")
    make_base(site.folder / "base", stored="U8", quantization_config=NF4)
    problem = only(site, "adapter")
    assert problem.fails
    assert "loftq needs the base's own weights, and it is quantised (bitsandbytes)" in problem.fact
    assert "method: qlora" in problem.hint
    assert str(problem.where).startswith("olivebuild.yaml:5:")


@pytest.mark.parametrize("method", ["qlora", "loftq"])
def test_a_base_in_4_bits_needs_bitsandbytes(
    method: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(site.folder / "base")
    site.edit("adapter, model", f"adapter, method: {method}, model")
    assert found(site, "adapter") == []
    monkeypatch.setattr(model_use, "is_there", lambda name: name != "bitsandbytes")
    assert only(site, "adapter").fact == f"method: {method} needs bitsandbytes, not installed here"
    site.edit(f"method: {method}", "method: lokr")
    assert found(site, "adapter") == []


@pytest.mark.parametrize(
    ("model_type", "told"),
    [("llama", ""), ("phi3", "peft 0.21.2 has no modules of its own choice")],
)
def test_modules_that_peft_chooses_need_a_model_that_it_knows(
    model_type: str, told: str, site: Site
) -> None:
    make_base(site.folder / "base", model_type=model_type)
    site.edit("adapter, model", "adapter, modules: peft-default, model")
    assert [told in p.fact for p in found(site, "adapter")] == ([True] if told else [])


def test_a_layer_that_the_model_does_not_have_is_told_by_the_plan(site: Site) -> None:
    make_base(site.folder / "base")
    site.edit("adapter, model", "adapter, layers: [0, 3], model")
    assert found(site, "adapter") == []
    site.edit("layers: [0, 3]", "layers: [4, 0]")
    problem = only(site, "adapter")
    assert (problem.fact, problem.fails) == ("the model has no layer 4", True)
    assert problem.hint == "its layers are 0 to 3"
