"""Rows as tokens: what is counted, and what an edit has tokenised again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place

pytestmark = pytest.mark.scenario


def write_table(path: Path, format_: str, table: list[dict[str, str]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in table[0]], metadata={"format": format_})
    pq.write_table(pa.Table.from_pylist(table, schema=schema), path)
    return str(path)


def test_an_edited_row_has_its_own_shard_tokenised_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.cache.store import Store
    from olivebuild.ml.data import token_shards
    from olivebuild.ml.data.examples import Tokens
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.models import load
    from tests.scenarios.steps import job_in

    monkeypatch.setattr(token_shards, "SHARD", 8)
    monkeypatch.setattr(token_shards, "LARGEST", 32)
    job = job_in(tmp_path / "job", Store(tmp_path / "cache"))
    table = [
        {"prompt": f"I am {i} ", "completion": "glad" * (i % 5 + 1), "label": ""}
        for i in range(300)
    ]

    def encoded(length: int = 100) -> Any:
        encoder = Encoder(load.load_tokenizer(tiny_model), length)
        found = token_shards.token_rows(
            job,
            encoder,
            str(tiny_model),
            write_table(tmp_path / "train.parquet", "prompt", table),
            "completion",
        )
        single = Encoder(encoder.tokenizer, length)
        cut = 0
        for row, given in zip(found, table, strict=True):
            wanted = Tokens.of(single.encode("prompt", given))
            cut += wanted.flaw is not None
            assert row.ids.tolist() == wanted.ids.tolist()
            assert row.counted.tolist() == wanted.counted.tolist()
        assert found.truncated == cut
        assert sum(found.figures()["lengths"].values()) == len(found) == found.figures()["rows"]
        return found

    first = encoded()
    assert len(first.shards) > 20
    assert first.known == 0
    assert encoded().known == len(first.shards)
    table[150] = table[150] | {"prompt": "She was "}
    again = encoded()
    assert len(again.shards) - again.known <= 2
    table.insert(10, table[0] | {"prompt": "We were "})
    assert len(again.shards) + 1 - encoded().known <= 3
    short = encoded(6)
    assert short.known == 0
    assert short.truncated > 0
    # A damaged blob is tokenised again.
    for blob in (tmp_path / "cache/blobs").glob("??/*"):
        blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    assert encoded().known == 0


def test_what_is_counted(tiny_model: Path) -> None:
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.models import load

    encoder = Encoder(load.load_tokenizer(tiny_model), 1000)
    turns = [
        ("user", "I am glad"),
        ("assistant", "joy"),
        ("user", "I am afraid"),
        ("assistant", "fear"),
    ]
    chat = [{"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}]

    def counted(format_: str, table: list[dict[str, str]], loss: str) -> str:
        (row,) = encoder.tokens(format_, table, loss)
        return str(encoder.tokenizer.decode(row.ids[row.counted]))

    assert counted("messages", chat, "completion") == "fear<|end|>"
    assert counted("messages", chat, "turns") == "joy<|end|>fear<|end|>"
    assert counted("messages", chat, "all").count("<|user|>") == 2
    assert counted("text", [{"text": "a long night"}], "completion") == "a long night<|endoftext|>"
    assert (
        counted("prompt", [{"prompt": "I am ", "completion": "sad"}], "all")
        == "I am sad<|endoftext|>"
    )


def ends_in(place: Place, *parts: str) -> Any:
    data = json.loads(place.folder.joinpath("build", *parts).read_text())
    return data.get("model", data)["eos_token_id"]


def test_a_model_stops_where_its_adapter_was_taught_to(copied: Place) -> None:
    # <|end|> is in no configuration of the base: its rows end with it.
    assert (
        not (copied.folder / "tiny/generation_config.json").exists()
        or ends_in(copied, "../tiny/generation_config.json") == 2
    )
    assert ends_in(copied, "adapter/generation_config.json") == [5]
    assert ends_in(copied, "merged/generation_config.json") == [2, 5]
    assert ends_in(copied, "onnx-int4/genai_config.json") == [2, 5]
    # One that comes from elsewhere ends where the chat template ends answers, or where the recipe
    # says.
    shutil.copytree(
        copied.folder / "build/adapter",
        copied.folder / "elsewhere",
        ignore=shutil.ignore_patterns("generation_config.json"),
    )
    # One whose merge is the library's.
    shutil.copytree(copied.folder / "elsewhere", copied.folder / "odd")
    config = copied.folder / "odd/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"exclude_modules": ["lm_head"]}))
    more = (
        "  odd: {kind: adapter, source: odd}\n  odd-merged: {kind: merged, model: base, adapter: "
        "odd}\n"
    )
    more += "".join(
        f"  {name}: {{kind: adapter, source: elsewhere{stop}}}\n  {name}-merged: {{kind: merged, "
        f"model: base, adapter: {name}}}\n"
        for name, stop in (
            ("brought", ""),
            ("told", ', stop: ["<|user|>"]'),
            ("wrong", ', stop: ["I am"]'),
        )
    )
    copied.recipe.write_text(copied.recipe.read_text() + more)
    done = copied.build("brought-merged", "told-merged", "odd-merged")
    assert done.code == 0, done.err
    assert ends_in(copied, "brought-merged/generation_config.json") == [2, 5]
    assert ends_in(copied, "told-merged/generation_config.json") == [2, 3]
    assert ends_in(copied, "odd-merged/generation_config.json") == [2, 5]
    assert "merging with peft" in done.out
    # Nothing else differs.
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert copied.built("brought-merged", name) == copied.built("merged", name)
    done = copied.build("wrong-merged")
    assert done.code == 1
    assert "'I am' is 2 tokens, and an answer ends at one" in done.err
