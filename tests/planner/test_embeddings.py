"""Tokens that an embedding has no row for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bases import TOKENS, base_site, found, make_base, only, tokenizer
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return base_site(tmp_path)


@pytest.mark.parametrize("unigram", [False, True])
@pytest.mark.parametrize(
    ("rows", "fails"),
    [(TOKENS, True), (TOKENS + 1, True), (TOKENS + 2, False), (TOKENS + 9, False)],
)
def test_a_tokenizer_larger_than_the_embedding(
    site: Site, rows: int, unigram: bool, fails: bool
) -> None:
    make_base(site.folder / "base", rows, vocab_size=rows)
    site.write("base/tokenizer.json", tokenizer("<|tone|>", "<|end_of_turn|>", unigram=unigram))
    if not fails:
        assert found(site, "onnx") == []
        return
    problem = only(site, "onnx")
    assert problem.fact == f"the tokenizer has {TOKENS + 2} tokens, the model's embedding {rows}"
    assert ("<|tone|>" if rows == TOKENS else "<|end_of_turn|>") in problem.hint
    assert str(problem.where) == "olivebuild.yaml:3:23"


def test_an_index_without_an_embedding_is_no_fault_of_the_plan(site: Site) -> None:
    make_base(site.folder / "base")
    (site.folder / "base/model.safetensors").rename(site.folder / "base/model-1.safetensors")
    (site.folder / "base/model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {"layer": "model-1.safetensors"}}'
    )
    assert found(site, "merged") == []


def test_tokens_that_tokenizer_config_adds_count(site: Site) -> None:
    make_base(site.folder / "base")
    site.write(
        "base/tokenizer_config.json",
        json.dumps(
            {"added_tokens_decoder": {str(TOKENS): {"content": "<|tone|>", "special": True}}}
        ),
    )
    assert (
        only(site, "onnx").fact
        == f"the tokenizer has {TOKENS + 1} tokens, the model's embedding {TOKENS}"
    )


def test_a_place_for_pictures_needs_no_embedding(site: Site) -> None:
    make_base(site.folder / "base")
    site.write("base/tokenizer.json", tokenizer("<image_soft_token>"))
    assert found(site, "onnx") == []


def test_the_embedding_that_is_stored_is_the_one_that_counts(site: Site) -> None:
    make_base(site.folder / "base", TOKENS + 1)
    assert (
        f"vocab_size {TOKENS}, and the model's embedding has {TOKENS + 1} rows"
        in only(site, "onnx").fact
    )


def test_the_embedding_of_a_model_in_shards(site: Site) -> None:
    make_base(site.folder / "base", vocab_size=TOKENS)
    base = site.folder / "base"
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(
        ("model.embed_tokens.weight", "layer"), "model-00001-of-00001.safetensors"
    )
    site.write(
        "base/model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": names})
    )
    assert found(site, "onnx") == []
    site.write("base/tokenizer.json", tokenizer("<|tone|>"))
    assert (
        only(site, "onnx").fact
        == f"the tokenizer has {TOKENS + 1} tokens, the model's embedding {TOKENS}"
    )
