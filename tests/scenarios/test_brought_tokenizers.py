"""Tokenizers that adapters bring, in merges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from olivebuild.cache.store import Store
from tests.scenarios.merging import adapt, bring, merged_in, refused, told

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def dress(
    folder: Path, tokenizer: Path, *, end: str | None = None, template: str = "", more: int = 0
) -> None:
    """Save a tokenizer beside an adapter, as trainers do."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(tokenizer)
    if more:
        found.add_special_tokens(
            {"additional_special_tokens": [f"<|more{i}|>" for i in range(more)]}
        )
    if end:
        found.eos_token = end
    if template:
        found.chat_template = template
    found.save_pretrained(str(folder))


TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"


@pytest.mark.parametrize("by", ["tensors", "peft"])
def test_the_tokenizer_of_an_adapter_goes_into_the_merge_as_a_set(
    by: str, llama: Path, tmp_path: Path, store: Store
) -> None:
    from transformers import AutoTokenizer

    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"], use_dora=by == "peft")
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    (base / "added_tokens.json").write_text('{"<|of the base alone|>": 7}')
    plain, _ = merged_in(
        tmp_path / "plain", store, base, bring(tmp_path / "bring plain", store, source)
    )
    assert (plain / "added_tokens.json").exists()
    dress(
        source,
        llama,
        end=str(AutoTokenizer.from_pretrained(llama).convert_ids_to_tokens(9)),
        template=TEMPLATE,
    )
    adapter = bring(tmp_path / "bring", store, source)
    assert (adapter / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    merged, job = merged_in(tmp_path / "merged", store, base, adapter)
    assert job.result.provenance["by"] == by
    assert "the adapter's own tokenizer goes into the merge" in told(job)
    assert not (merged / "added_tokens.json").exists()
    ours, theirs = AutoTokenizer.from_pretrained(merged), AutoTokenizer.from_pretrained(source)
    assert (ours.eos_token, ours.chat_template) == (theirs.eos_token, TEMPLATE)
    names = {
        p.name for p in (source).iterdir() if p.name.startswith(("tokenizer", "chat_template"))
    }
    assert all((merged / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_a_tokenizer_that_says_the_same_changes_nothing(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    for path in llama.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            text = path.read_text("utf-8")
            (source / path.name).write_text(
                json.dumps(json.loads(text)) if path.suffix == ".json" else text, "utf-8"
            )
    merged, job = merged_in(
        tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source)
    )
    assert "tokenizer" not in told(job)
    assert (merged / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_a_template_alone_replaces_the_template(llama: Path, tmp_path: Path, store: Store) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    (source / "chat_template.jinja").write_text(TEMPLATE)
    merged, job = merged_in(
        tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source)
    )
    assert (merged / "chat_template.jinja").read_text() == TEMPLATE
    assert (merged / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    assert "the adapter's own tokenizer goes into the merge" in told(job)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(
    llama: Path, tmp_path: Path, store: Store
) -> None:
    source = adapt(llama, tmp_path / "source", target_modules=["q_proj"])
    dress(source, llama, more=300)
    error = refused(tmp_path / "merged", store, llama, bring(tmp_path / "bring", store, source))
    assert "tokens, the base's embedding 384 rows" in error.fact
