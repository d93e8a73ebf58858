"""Quantised bases: what a plan says of training, merging and converting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.bases import GPTQ, NF4, base_site, found, make_base, only
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return base_site(tmp_path)


def test_a_quantised_base_is_told_once_at_the_merge(site: Site) -> None:
    make_base(site.folder / "base", quantization_config=GPTQ)
    problem = only(site, "onnx")
    assert (problem.target, str(problem.where)) == ("merged", "olivebuild.yaml:6:26")
    assert problem.fact == "the base model is quantised (gptq)"
    assert "full-precision" in problem.hint


def test_a_quantised_base_that_can_not_be_loaded_here_is_told_at_the_training(site: Site) -> None:
    make_base(site.folder / "base", quantization_config=GPTQ)
    problem = only(site, "adapter")
    assert (problem.target, str(problem.where)) == ("adapter", "olivebuild.yaml:5:28")
    assert "gptq" in problem.fact
    assert "optimum" in problem.hint


def test_a_base_in_4_bits_may_be_trained_and_its_adapter_merged_into_another(site: Site) -> None:
    make_base(site.folder / "base", stored="U8", quantization_config=NF4)
    make_base(site.folder / "full")
    site.edit("merged, model: base", "merged, model: full")
    site.edit("  tone:", "  full: {kind: model, source: full}\n  tone:")
    assert found(site, "onnx") == []
    make_base(site.folder / "base", quantization_config=NF4)
    assert "its weights are not" in only(site, "onnx").fact


@pytest.mark.parametrize(
    ("given", "stored", "told"),
    [
        ("method: qlora", NF4, ""),
        (
            "method: qlora",
            NF4 | {"bnb_4bit_use_double_quant": False},
            "quantisation: {type: nf4, double: false}",
        ),
        (
            "method: qlora, quantisation: {double: false}",
            NF4 | {"bnb_4bit_use_double_quant": False},
            "",
        ),
        (
            "method: qlora, quantisation: {type: fp4}",
            NF4,
            "quantisation: {type: nf4, double: true}",
        ),
        ("method: qlora", NF4 | {"load_in_4bit": False, "load_in_8bit": True}, "method: lora"),
    ],
)
def test_a_base_in_4_bits_is_what_qlora_says_or_an_error(
    site: Site, given: str, stored: dict[str, Any], told: str
) -> None:
    make_base(site.folder / "base", stored="U8", quantization_config=stored)
    site.edit("adapter, model", f"adapter, {given}, model")
    assert [told in p.hint for p in found(site, "adapter")] == ([True] if told else [])


def test_a_method_of_quantisation_that_the_model_builder_does_not_read(site: Site) -> None:
    make_base(site.folder / "base", stored="U8", quantization_config=NF4)
    site.edit("onnx, model: merged", "onnx, model: base")
    assert "does not read weights that are quantised by bitsandbytes" in only(site, "onnx").fact
